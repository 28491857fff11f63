//! The reader's program, for tests of packages whose build does not bring it: a broker looks for it beside itself.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The reader beside a broker that cargo built for this test.
///
/// It is built once a run: the tests of one package do not build another package's program, and an old one may lie there.
pub fn beside(broker: &Path) -> &'static Path {
    static READER: OnceLock<PathBuf> = OnceLock::new();
    READER.get_or_init(|| {
        let mut build = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
        build.current_dir(env!("CARGO_MANIFEST_DIR"));
        build.args(["build", "--quiet", "--package", "keyhole-reader"]);
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        assert!(build.status().expect("cargo runs").success(), "cargo build of keyhole-reader failed");
        let reader = broker.with_file_name("keyhole-reader");
        assert!(reader.is_file(), "{} is missing: was the test built in another profile?", reader.display());
        reader
    })
}
