//! The broker's tree of crates is a list: `broker/deny.toml`. cargo-deny refuses what is not on it; here nothing may be
//! on it that is not needed, so that the list is what a reader believes it to be.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// Crates, versions counted: it only falls.
const CRATES: usize = 74;

/// The lines of `cargo tree` for what goes into the broker or runs when it is built, for both architectures.
fn tree() -> BTreeSet<String> {
    let cargo = std::env::var_os("CARGO").expect("cargo runs the tests");
    let mut crates = BTreeSet::new();
    for target in ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"] {
        let arguments = [
            "tree",
            "--locked",
            "--offline",
            "-p",
            "keyhole-broker",
            "-e",
            "normal,build",
            "--prefix",
            "none",
        ];
        let mut command = Command::new(&cargo);
        let command =
            command.args(arguments).args(["--target", target]).current_dir(env!("CARGO_MANIFEST_DIR"));
        let output = command.output().expect("cargo runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).expect("cargo writes UTF-8");
        let words = |line: &str| line.split(' ').take(2).collect::<Vec<_>>().join(" ");
        crates.extend(text.lines().filter(|line| !line.is_empty()).map(words));
    }
    crates
}

fn names(crates: &BTreeSet<String>) -> BTreeSet<&str> {
    crates.iter().filter_map(|line| line.split(' ').next()).collect()
}

#[test]
fn the_brokers_list_of_crates_is_its_tree() {
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("broker/deny.toml");
    let list = std::fs::read_to_string(list).unwrap();
    let allowed = list.split("\nallow = [").nth(2).and_then(|rest| rest.split("\n]").next()).unwrap();
    let allowed: BTreeSet<&str> = allowed.split('"').skip(1).step_by(2).collect();
    let tree = tree();
    let missing: Vec<_> = names(&tree).difference(&allowed).copied().collect();
    let idle: Vec<_> = allowed.difference(&names(&tree)).copied().collect();
    assert!(missing.is_empty(), "not on broker/deny.toml's list, and needed: {missing:?}");
    assert!(idle.is_empty(), "on broker/deny.toml's list, and not needed: {idle:?}");
}

#[test]
fn the_brokers_tree_only_shrinks() {
    let tree = tree();
    assert!(tree.len() <= CRATES, "{} crates, and {CRATES} before: {tree:#?}", tree.len());
    assert!(tree.len() == CRATES, "{} crates: lower CRATES to it", tree.len());
}
