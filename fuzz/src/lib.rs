//! Fuzz targets: one function each, any bytes in, a panic where a promise is broken.
//!
//! That nothing panics, hangs or runs out of memory is the least of it: each target states what must hold of what
//! comes out. `run.sh` builds the targets for libFuzzer and runs them; `tests/` replays what once fell.
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
pub use captures::capture;
pub use collectors::{collector, process_groups};
pub use flags::{broker_flags, exporter_flags, reader_arguments};
pub use parsers::{frames, go_regex, mountinfo, names, pattern, query, text, web_config};
pub use writers::{exposition, textfile};

/// A target: its name and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// Every target, sorted by name: one file of `fuzz_targets/` each.
pub const TARGETS: &[Target] = &[
    ("answer", answer),
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

    /// The names in a folder of this crate, without their endings.
    fn names(folder: &str) -> BTreeSet<String> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn past_failures_do_not_come_back() {
        let mut replayed = 0;
        for (target, run) in TARGETS {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions").join(target);
            for entry in fs::read_dir(folder).into_iter().flatten() {
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
