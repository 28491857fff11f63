//! `seeds OUT TREE... -- TEXT...`: writes inputs to begin with, and fails when a collector's reach no sample.

use std::path::Path;
use std::process::ExitCode;

// The instrumentation wants its runtime, which comes with a target.
libfuzzer_sys::fuzz_target!(|_data: &[u8]| ());

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut parts = arguments.split(|argument| argument == "--");
    let (trees, texts) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let Some((out, trees)) = trees.split_first().filter(|(_, trees)| !trees.is_empty()) else {
        eprintln!("usage: seeds OUT TREE... -- TEXT...");
        return ExitCode::FAILURE;
    };
    let paths = |words: &'_ [String]| words.iter().map(|word| Path::new(word).to_owned()).collect::<Vec<_>>();
    let (trees, texts) = (paths(trees), paths(texts));
    let trees: Vec<&Path> = trees.iter().map(AsRef::as_ref).collect();
    let texts: Vec<&Path> = texts.iter().map(AsRef::as_ref).collect();
    match keyhole_fuzz::seeds::write(&trees, &texts, Path::new(out)) {
        Ok(summary) if summary.silent.is_empty() => {
            println!("{} seeds", summary.seeds);
            ExitCode::SUCCESS
        }
        Ok(summary) => {
            eprintln!("seeds: these collectors give no sample of any seed: {}", summary.silent.join(", "));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("seeds: {error}");
            ExitCode::FAILURE
        }
    }
}
