//! Whether a file is the same in every namespace, asked of the kernel that runs here.
//!
//! A row of access level `minimal` is answered from the procfs and sysfs of the reader's own container, so its files must
//! be the host's there too: the same files, with the same content. Of a sysctl it is known which namespaces have a value of
//! their own.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use keyhole_policy::pattern::names;
use keyhole_policy::{AccessLevel, Kind, Namespace, Query, Root, TABLE};
use support::expand;

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
fn a_sysctl_is_read_as_the_kernel_keeps_it() {
    let sysctls = sysctls();
    let paths: Vec<&str> = sysctls.iter().map(|(_, path)| path.as_str()).collect();
    assert!(paths.len() > 400, "{}", paths.len());
    let here = seen(&[], &paths).expect("stat(1) reports files");
    for (flags, of) in [
        (&["--net"][..], Some(Namespace::Net)),
        (&["--ipc"], Some(Namespace::Ipc)),
        (&["--user", "--map-root-user"], Some(Namespace::User)),
        (&["--uts"], None),
        (&["--cgroup"], None),
        (&["--time"], None),
        (&["--pid", "--fork"], None),
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

/// Rows of access level `minimal` that are about the reader's container on purpose.
const OWN: [Query; 2] = [Query::OwnMounts, Query::ProbeDirectories];

/// Files that each network namespace has, with content that is one for all.
const SAME_CONTENT: [&str; 1] = ["/proc/1/net/softnet_stat"];

/// Removes from a file's content what a namespace changes.
type Without = fn(&str) -> String;

/// What a namespace changes in a file that is otherwise the same, and why the row is `minimal` all the same.
const EXCEPTIONS: [(&str, Without); 2] = [
    // The last field is the newest pid of the reader's PID namespace: no collector reads it.
    ("/proc/loadavg", |text| text.rsplit_once(' ').map_or(text, |(averages, _)| averages).to_owned()),
    // A time namespace with an offset shifts it. A container has one only if its runtime was asked to make it.
    ("/proc/stat", |text| text.split_inclusive('\n').filter(|line| !line.starts_with("btime ")).collect()),
];

/// A shell that reads files: in the namespaces of this process, or in new ones, each with values of its own and with its
/// own procfs and sysfs mounted.
struct Shell {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Shell {
    /// Makes the namespaces visible: an offset of the clock, a host name, an interface, shared memory, a mount.
    const SET_UP: &str = "
        mount -t proc proc /proc && mount -t sysfs sysfs /sys && echo keyhole-test >/proc/sys/kernel/hostname || exit
        { echo keyhole-test >/proc/sys/kernel/domainname; ip link set lo up; ipcmk -M 4096; mount -t tmpfs tmpfs /mnt; } \
            >/dev/null 2>&1";

    const READ: &str = "
        echo ready
        while read -r path; do
            if [ -L \"$path\" ]; then
                echo \"link $(readlink \"$path\" | od -An -v -tx1 | tr -d ' \n')\"
            elif content=$(od -An -v -tx1 \"$path\" 2>/dev/null); then
                echo \"$(stat -c %i \"$path\") $(echo \"$content\" | tr -d ' \n')\"
            else
                echo none
            fi
        done";

    /// None where this user may not make such namespaces.
    fn start(namespaces: &[&str]) -> Option<Self> {
        let unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--net", "--ipc", "--uts"];
        let script = format!("{}\n{}", Self::SET_UP, Self::READ);
        Self::spawn(&[&unshare, namespaces].concat(), &script)
    }

    /// In the namespaces of this process. A program that reads has pipes, processes and open files that some files count:
    /// both sides read in the same way.
    fn here() -> Self {
        Self::spawn(&[], Self::READ).expect("a shell starts")
    }

    fn spawn(in_namespaces: &[&str], script: &str) -> Option<Self> {
        let mut command = Command::new("timeout");
        command.arg("300").args(in_namespaces).args(["sh", "-c", script]);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
        let (input, output) = (child.stdin.take()?, BufReader::new(child.stdout.take()?));
        let mut shell = Self { child, input, output };
        (shell.line() == "ready").then_some(shell)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("a line of the shell");
        line.trim_end_matches('\n').to_owned()
    }

    /// What the shell sees at a path.
    fn read(&mut self, path: &str) -> Option<Seen> {
        writeln!(self.input, "{path}").expect("the shell reads paths");
        let line = self.line();
        assert!(!line.is_empty(), "the shell ended at {path}");
        let (inode, content) = line.split_once(' ')?;
        let bytes = content.as_bytes().chunks(2).map(|digits| {
            let digits = std::str::from_utf8(digits).expect("hexadecimal digits");
            u8::from_str_radix(digits, 16).expect("hexadecimal digits")
        });
        Some(Seen::new(inode.parse().ok(), &bytes.collect::<Vec<u8>>()))
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        self.child.kill().expect("the shell can be killed");
        self.child.wait().expect("the shell ends");
    }
}

/// A file as one of the two sides sees it.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    /// None of a link.
    inode: Option<u64>,
    text: String,
}

impl Seen {
    fn new(inode: Option<u64>, bytes: &[u8]) -> Self {
        Self { inode, text: String::from_utf8_lossy(bytes).trim_end().to_owned() }
    }
}

/// A text's numbers, and what stands between them.
fn numbers_and_words(text: &str) -> (Vec<f64>, Vec<String>) {
    let (mut numbers, mut words) = (Vec::new(), vec![String::new()]);
    // A dot belongs to a number if digits follow it.
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
        let (mut word, mut after) = rest.split_at(end.max(first.len_utf8()));
        let fraction = after
            .strip_prefix('.')
            .map_or(0, |after| after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len()));
        let is_decimal = word.bytes().all(|byte| byte.is_ascii_digit());
        if is_decimal && fraction > 0 {
            (word, after) = rest.split_at(word.len() + 1 + fraction);
        }
        let is_hexadecimal = word.len() >= 8 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = match word.parse::<f64>() {
            Ok(number) if is_decimal => Some(number),
            _ if is_hexadecimal => u64::from_str_radix(word, 16).ok().map(|number| number as f64),
            _ => None,
        };
        match number {
            Some(number) => {
                numbers.push(number);
                words.push(String::new());
            }
            None => words.last_mut().expect("one word at least").push_str(word),
        }
        rest = after;
    }
    (numbers, words)
}

/// What is different about a file in the namespaces of `there`, if anything is.
///
/// It is read here, there and here again. A number that does not move must be the same there; one that moves must lie
/// between the two of here, in one attempt of several: a value of a namespace of its own does not.
fn difference(here: &mut Shell, there: &mut Shell, path: &str, without: Without) -> Option<String> {
    /// A gauge may rise and fall again between two reads.
    const ATTEMPTS: usize = 200;
    let mut unmatched: Option<(Vec<String>, BTreeSet<usize>)> = None;
    let mut last = String::new();
    for _ in 0..ATTEMPTS {
        let (before, seen, after) = (here.read(path)?, there.read(path), here.read(path)?);
        let Some(seen) = seen else {
            last = "it cannot be read there".to_owned();
            continue;
        };
        // Each procfs instance numbers its sysctls itself; another test compares them in one.
        let is_numbered = !path.starts_with("/proc/sys/") && !SAME_CONTENT.contains(&path);
        if is_numbered && seen.inode != before.inode {
            return Some(format!(
                "it is another file there: inode {:?}, here {:?}",
                seen.inode, before.inode
            ));
        }
        let [before, there, after] = [before, seen, after].map(|seen| without(&seen.text));
        if there == before || there == after {
            return None;
        }
        let begin = |text: &str| text.chars().take(200).collect::<String>();
        last = format!("{:?} there, {:?} and then {:?} here", begin(&there), begin(&before), begin(&after));
        let ((low, words), (numbers, words_there), (high, words_after)) =
            (numbers_and_words(&before), numbers_and_words(&there), numbers_and_words(&after));
        if words != words_there || words != words_after {
            continue;
        }
        let (known, open) = unmatched.get_or_insert_with(|| (words.clone(), (0..numbers.len()).collect()));
        if *known != words {
            unmatched = None;
            continue;
        }
        open.retain(|at| numbers[*at] < low[*at].min(high[*at]) || numbers[*at] > low[*at].max(high[*at]));
        if open.is_empty() {
            return None;
        }
    }
    let open = unmatched.map(|(_, open)| open.into_iter().map(|at| at.to_string()).collect::<Vec<_>>());
    Some(format!("numbers {} of {last}", open.unwrap_or_default().join(", ")))
}

/// The namespaces of the two shells. Only the first user namespace owns what lies below /proc and /sys, so a shell in
/// another one may not read all of it.
const SHELLS: [&[&str]; 2] = [
    &["--cgroup", "--time", "--boottime", "86400"],
    &["--user", "--map-root-user", "--cgroup", "--time", "--boottime", "86400"],
];

/// The files of the rows of access level `minimal` that this machine has.
fn minimal_files() -> Vec<String> {
    let rows =
        TABLE.iter().filter(|row| row.access_level == AccessLevel::Minimal && !OWN.contains(&row.query));
    let sources = rows.flat_map(|row| row.sources).filter(|source| source.kind != Kind::Entries);
    let files = sources.flat_map(|source| {
        let root = match source.root {
            Root::Proc => "/proc",
            Root::Sys => "/sys",
            // Read only if the reader is in the host's namespace.
            Root::ProcIn(_) => return Vec::new(),
            root => panic!("{root:?}: no test knows whether its files are the same in every namespace"),
        };
        let paths = expand(Path::new(root), source.pattern);
        paths.into_iter().map(|path| format!("{root}/{path}")).collect()
    });
    files.collect()
}

fn without(path: &str) -> fn(&str) -> String {
    EXCEPTIONS.iter().find(|(of, _)| *of == path).map_or(str::to_owned, |(_, without)| *without)
}

#[test]
fn a_file_that_needs_no_host_mount_is_the_hosts_in_every_namespace() {
    let files = minimal_files();
    assert!(files.len() > 100, "{}", files.len());
    let mut here = Shell::here();
    for namespaces in SHELLS {
        let Some(mut shell) = Shell::start(namespaces) else {
            println!("skipped: no {namespaces:?} for this user");
            continue;
        };
        let is_owner = !namespaces.contains(&"--user");
        let mut compared = 0;
        let mut different = Vec::new();
        for path in &files {
            if here.read(path).is_none() || (!is_owner && shell.read(path).is_none()) {
                continue;
            }
            compared += 1;
            different.extend(
                difference(&mut here, &mut shell, path, without(path)).map(|what| format!("{path}: {what}")),
            );
        }
        println!("{compared} of {} files are compared in {namespaces:?}", files.len());
        assert!(compared > 100, "{compared}");
        assert!(different.is_empty(), "in {namespaces:?}:\n{}", different.join("\n"));
    }
}

#[test]
fn a_file_of_a_namespace_is_detected() {
    let Some(mut shell) = SHELLS.iter().find_map(|namespaces| Shell::start(namespaces)) else {
        println!("skipped: no namespaces for this user");
        return;
    };
    let mut here = Shell::here();
    // By its inode, or by what it says.
    let namespaced = ["/proc/1/net/dev", "/proc/1/mountinfo", "/proc/sys/kernel/hostname"];
    let excepted = EXCEPTIONS.iter().map(|(path, _)| *path);
    for path in namespaced.into_iter().chain(excepted) {
        // The newest pid of `loadavg` begins again at the lowest now and then, and is between all others at that time.
        let is_detected = || difference(&mut here, &mut shell, path, str::to_owned).is_some();
        assert!(std::iter::repeat_with(is_detected).take(3).any(|detected| detected), "{path}");
    }
}

#[test]
fn numbers_are_separated_from_words() {
    let numbers = |text| numbers_and_words(text).0;
    assert_eq!(numbers("cpu0 12 0.5\n4.2: a1b 7kB -3"), [12.0, 0.5, 4.2, 3.0]);
    assert_eq!(numbers("0000001a 00000000 cafe"), [26.0, 0.0]);
    assert_eq!(numbers_and_words("a 1 b").1, ["a ", " b"]);
}
