//! The crates of the broker and of the reader are lists: `broker/deny.toml` and `reader/deny.toml`. cargo-deny refuses
//! what is not on them; here nothing may be on a list that is not needed, so that a list is exact.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// Crates of others in the broker's tree, each version counted: it only falls.
const BROKER_CRATES: usize = 64;

/// Crates of others that may be linked into the reader. Macros do not count: they run when it is built.
const READER_LINKED: usize = 10;

/// What `cargo tree` prints of a package for both architectures: name and version, a line a crate.
fn tree(package: &str, edges: &str) -> BTreeSet<String> {
    let cargo = std::env::var_os("CARGO").expect("cargo runs the tests");
    let mut crates = BTreeSet::new();
    for target in ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"] {
        let mut command = Command::new(&cargo);
        command.args(["tree", "--locked", "--offline", "--prefix", "none"]);
        command.args(["-p", package, "-e", edges, "--target", target]);
        let output = command.current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("cargo runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).expect("cargo writes UTF-8");
        let words = |line: &str| line.split(' ').take(2).collect::<Vec<_>>().join(" ");
        crates.extend(text.lines().filter(|line| !line.is_empty()).map(words));
    }
    crates
}

/// What goes into a program or runs when it is built.
fn built(package: &str) -> BTreeSet<String> {
    tree(package, "normal,build")
}

fn names(crates: &BTreeSet<String>) -> BTreeSet<&str> {
    crates.iter().filter_map(|line| line.split(' ').next()).collect()
}

/// Holds a program's list against its tree.
fn list_is_tree(directory: &str) {
    let file = format!("{directory}/deny.toml");
    let list = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(&file)).unwrap();
    let allowed = list.split("\nallow = [").nth(2).and_then(|rest| rest.split("\n]").next()).unwrap();
    let allowed: BTreeSet<&str> = allowed.split('"').skip(1).step_by(2).collect();
    let tree = built(&format!("keyhole-{directory}"));
    let missing: Vec<_> = names(&tree).difference(&allowed).copied().collect();
    let idle: Vec<_> = allowed.difference(&names(&tree)).copied().collect();
    assert!(missing.is_empty(), "not on {file}'s list, and needed: {missing:?}");
    assert!(idle.is_empty(), "on {file}'s list, and not needed: {idle:?}");
}

#[test]
fn the_brokers_list_of_crates_is_its_tree() {
    list_is_tree("broker");
}

#[test]
fn the_readers_list_of_crates_is_its_tree() {
    list_is_tree("reader");
}

#[test]
fn the_brokers_tree_only_shrinks() {
    let mut tree = built("keyhole-broker");
    tree.retain(|line| !line.starts_with("keyhole-"));
    assert!(tree.len() <= BROKER_CRATES, "{} crates, and {BROKER_CRATES} before: {tree:#?}", tree.len());
    assert!(tree.len() == BROKER_CRATES, "{} crates: lower BROKER_CRATES to it", tree.len());
}

#[test]
fn the_reader_links_at_most_ten_crates_of_others() {
    let linked = tree("keyhole-reader", "normal,no-proc-macro");
    let (ours, others): (BTreeSet<_>, BTreeSet<_>) =
        linked.into_iter().partition(|line| line.starts_with("keyhole-"));
    // Were these missing, the edges would not be those that are linked.
    assert_eq!(names(&ours), BTreeSet::from(["keyhole-os", "keyhole-policy", "keyhole-reader"]));
    assert!(names(&others).contains("rustix"), "{others:?}");
    assert!(others.len() <= READER_LINKED, "{} crates, at most {READER_LINKED}: {others:#?}", others.len());
}

#[test]
fn the_support_of_tests_is_in_no_program() {
    for program in ["keyhole-broker", "keyhole-reader", "keyhole-exporter", "keyhole"] {
        let tree = built(program);
        assert!(names(&tree).contains(program), "{tree:?}");
        assert!(!names(&tree).contains("keyhole-test-support"), "{program}");
    }
    assert!(names(&tree("keyhole-broker", "dev")).contains("keyhole-test-support"), "the name is right");
}
