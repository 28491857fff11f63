//! Which sysctls are per namespace, tried on the running kernel: what is read as one value for all is the same file in new
//! namespaces, and what is read as a namespace's own is another one there, or none.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};

use keyhole_policy::pattern::names;
use keyhole_policy::{Namespace, Root, TABLE};

/// The conntrack table of a network namespace is a copy that leads to the kernel's own variables in these.
const COPIED: [&str; 3] = [
    "sys/net/netfilter/nf_conntrack_buckets",
    "sys/net/netfilter/nf_conntrack_expect_max",
    "sys/net/netfilter/nf_conntrack_max",
];

fn sysctls() -> Vec<(Option<Namespace>, String)> {
    let of = |root| match root {
        Root::Proc => Some(None),
        Root::ProcIn(namespace) => Some(Some(namespace)),
        _ => None,
    };
    let sources =
        TABLE.iter().flat_map(|row| row.sources).filter(|source| source.pattern.starts_with("sys/"));
    let named = sources.filter_map(|source| Some((of(source.root)?, source.pattern)));
    named
        .flat_map(|(namespace, pattern)| {
            let mut paths = vec![String::new()];
            for component in pattern.split('/') {
                let join = |path: &String| {
                    let names = names(component).into_iter();
                    names.map(|name| format!("{path}/{name}")).collect::<Vec<_>>()
                };
                paths = paths.iter().flat_map(join).collect();
            }
            paths.into_iter().map(move |path| (namespace, path[1..].to_owned()))
        })
        .collect()
}

/// Inode and mode of each path that is there, seen from new namespaces; none if there can be none here.
fn seen(unshare: &[&str], paths: &[&str]) -> Option<BTreeMap<String, (String, String)>> {
    let mut command = Command::new(unshare.first().unwrap_or(&"env"));
    command.args(unshare.iter().skip(1)).args(["xargs", "stat", "--printf=%i %a %n\\n"]);
    let child =
        command.current_dir("/proc").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = child.spawn().ok()?;
    let mut input = child.stdin.take()?;
    let text = paths.join("\n");
    let writer = std::thread::spawn(move || _ = input.write_all(text.as_bytes()));
    let output = child.wait_with_output().ok()?;
    writer.join().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let line = |line: &str| {
        let mut fields = line.split(' ').map(str::to_owned);
        let (inode, mode) = (fields.next()?, fields.next()?);
        Some((fields.next()?, (inode, mode)))
    };
    let seen: BTreeMap<_, _> = text.lines().filter_map(line).collect();
    (!seen.is_empty()).then_some(seen)
}

#[test]
fn a_sysctl_has_the_kernels_value() {
    let sysctls = sysctls();
    let paths: Vec<&str> = sysctls.iter().map(|(_, path)| path.as_str()).collect();
    assert!(paths.len() > 400, "{}", paths.len());
    let here = seen(&[], &paths).expect("stat(1) prints files");
    for (flags, of) in [
        (&["--net"][..], Some(Namespace::Net)),
        (&["--ipc"], Some(Namespace::Ipc)),
        (&["--user", "--map-root-user"], Some(Namespace::User)),
        (&["--uts"], None),
        (&["--cgroup"], None),
    ] {
        let Some(there) = seen(&[&["unshare"], flags].concat(), &paths) else {
            println!("skipped: no {flags:?} for this user");
            continue;
        };
        for (namespace, path) in sysctls.iter().filter(|(_, path)| here.contains_key(path)) {
            let (inode, mode) = &here[path];
            let other = there.get(path);
            let is_same = other.is_some_and(|(other, _)| other == inode);
            match namespace {
                None if COPIED.contains(&path.as_str()) && of == Some(Namespace::Net) => {
                    // Written in the first namespace alone: a sign that there is one value.
                    assert_eq!(other.map(|(_, mode)| mode.as_str()), Some("444"), "{path}, {mode} here");
                }
                None => assert!(is_same, "{path} is another file after unshare {flags:?}"),
                Some(namespace) if Some(*namespace) == of => {
                    assert!(!is_same, "{path} is one for all, and not of the {} namespace", namespace.name());
                }
                Some(_) => {}
            }
        }
    }
}
