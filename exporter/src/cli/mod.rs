//! The command line.

use std::path::Path;
use std::time::SystemTime;

use crate::capture;
use crate::collector::{self, COLLECTORS, Context, Own};
use crate::exposition::Exposition;
use crate::options::Options;

/// Runs the program; gives the exit status.
pub fn main() -> std::process::ExitCode {
    let (options, words) = match Options::parse(&collector::flags(), std::env::args().skip(1)) {
        Ok(parsed) => parsed,
        Err(error) => {
            eprintln!("keyhole-exporter: error: {error}");
            return std::process::ExitCode::FAILURE;
        }
    };
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["replay", dir] => replay(Path::new(dir), &options),
        _ => std::process::ExitCode::FAILURE,
    }
}

fn replay(dir: &Path, options: &Options) -> std::process::ExitCode {
    let snapshot = match capture::read_tree(dir) {
        Ok(snapshot) => snapshot,
        Err(error) => {
            eprintln!("keyhole-exporter: error: {}: {error}", dir.display());
            return std::process::ExitCode::FAILURE;
        }
    };
    let own =
        Own { now: SystemTime::now(), node_name: None, timex: keyhole_os::timex(), text_files: Vec::new() };
    let enabled: Vec<_> =
        COLLECTORS.iter().copied().filter(|c| options.switch(collector::switch(c.name))).collect();
    let mut out = Exposition::new();
    collector::run(&enabled, &Context { snapshot: &snapshot, options, own: &own }, usize::MAX, &mut out);
    print!("{}", out.to_text());
    std::process::ExitCode::SUCCESS
}
