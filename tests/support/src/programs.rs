//! The programs that tests start: built as the tests were, or those of a directory that `KEYHOLE_BINARIES` names.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The broker starts the reader, which it looks for beside itself.
pub const PROGRAMS: [&str; 3] = ["keyhole-broker", "keyhole-reader", "keyhole-exporter"];

/// The directory with all programs, built once for each test program that asks.
pub fn all() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        let directory = target_directory();
        build(&PROGRAMS, &directory);
        directory
    })
}

/// A broker that cargo built for the calling test (its `CARGO_BIN_EXE_keyhole-broker`) and the reader beside it. The
/// tests of one package do not build another package's program, and an old reader may lie there, so it is built once.
pub fn broker_and_reader(broker: &str) -> [PathBuf; 2] {
    static READER: OnceLock<PathBuf> = OnceLock::new();
    if let Some(directory) = std::env::var_os("KEYHOLE_BINARIES") {
        return ["keyhole-broker", "keyhole-reader"].map(|name| Path::new(&directory).join(name));
    }
    let broker = PathBuf::from(broker);
    let reader = READER.get_or_init(|| {
        build(&["keyhole-reader"], broker.parent().expect("the broker lies in a directory"));
        broker.with_file_name("keyhole-reader")
    });
    [broker.clone(), reader.clone()]
}

/// The directory in which cargo puts programs of the profile that this test was built with.
fn target_directory() -> PathBuf {
    let this = std::env::current_exe().expect("this test is a file");
    this.ancestors().nth(2).expect("this test lies in target/<profile>/deps").to_path_buf()
}

fn build(programs: &[&str], directory: &Path) {
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    build.current_dir(env!("CARGO_MANIFEST_DIR")).args(["build", "--quiet"]);
    build.args(programs.iter().flat_map(|program| ["--package", program]));
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    // What cargo set for this test: the build script of ring reads it, so that ring and all that depends on it would be
    // built again, here and in the next build after the test.
    for (name, _) in std::env::vars_os() {
        if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|set| name.as_bytes().starts_with(set.as_bytes())) {
            build.env_remove(name);
        }
    }
    assert!(build.status().expect("cargo runs").success(), "cargo build of {programs:?} failed");
    for program in programs {
        let path = directory.join(program);
        assert!(path.is_file(), "{} is missing: was the test built in another profile?", path.display());
    }
}

/// Puts a program in a directory under its own name. A link costs nothing; across file systems a copy is needed.
pub fn link(program: &Path, directory: &Path) {
    let to = directory.join(program.file_name().expect("a program has a name"));
    if std::fs::hard_link(program, &to).is_err() {
        copy(program, &to);
    }
}

/// Copies a program, by another process: a descriptor open for writing, inherited by a child of another test, would make
/// the program busy.
pub fn copy(program: &Path, to: &Path) {
    let copied = Command::new("cp").arg(program).arg(to).status().expect("cp runs");
    assert!(copied.success(), "cp {}", program.display());
}
