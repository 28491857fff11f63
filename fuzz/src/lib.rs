//! Fuzz targets: one function each, which takes any bytes and panics if a property does not hold.
//!
//! Besides the absence of panics, hangs and excessive memory use, each target checks properties of the output. `run.sh`
//! builds the targets for libFuzzer and runs them; the test here replays the inputs of `regressions/`.
#![forbid(unsafe_code)]

mod answers;
mod captures;
mod collectors;
mod flags;
pub mod input;
mod parsers;
pub mod seeds;
mod writers;

pub use answers::answer;
pub use captures::{archive, capture};
pub use collectors::{collector, process_groups};
pub use flags::{broker_flags, exporter_flags, reader_arguments};
pub use parsers::{frames, go_regex, mountinfo, names, pattern, query, text, web_config};
pub use writers::{exposition, textfile};

/// A target: its name and its function.
pub type Target = (&'static str, fn(&[u8]));

/// Every target, sorted by name: one file of `fuzz_targets/` each.
pub const TARGETS: &[Target] = &[
    ("answer", answer),
    ("archive", archive),
    ("broker_flags", broker_flags),
    ("capture", capture),
    ("collector", collector),
    ("exporter_flags", exporter_flags),
    ("exposition", exposition),
    ("frames", frames),
    ("go_regex", go_regex),
    ("mountinfo", mountinfo),
    ("names", names),
    ("pattern", pattern),
    ("process_groups", process_groups),
    ("query", query),
    ("reader_arguments", reader_arguments),
    ("text", text),
    ("textfile", textfile),
    ("web_config", web_config),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::TARGETS;

    /// The names in a directory of this crate, without their endings.
    fn names(directory: &str) -> BTreeSet<String> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
        let entries = fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn no_regression_fails() {
        let mut replayed = 0;
        for (target, run) in TARGETS {
            let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions").join(target);
            for entry in fs::read_dir(directory).into_iter().flatten() {
                run(&fs::read(entry.unwrap().path()).unwrap());
                replayed += 1;
            }
        }
        assert!(replayed > 0);
    }

    #[test]
    fn every_target_has_its_file_and_is_run() {
        let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
        let mut files = names("fuzz_targets");
        assert!(files.remove("seeds"));
        assert_eq!(files, targets);
        assert!(names("regressions").is_subset(&targets));
        let script = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("run.sh")).unwrap();
        let all = script.split("all=(").nth(1).and_then(|rest| rest.split(')').next()).unwrap();
        assert_eq!(all.split(' ').map(str::to_owned).collect::<BTreeSet<_>>(), targets);
    }
}
