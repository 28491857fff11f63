//! Documents that are generated: each must be what the code says. `UPDATE_DOCUMENTS=1 cargo test --test documents`
//! rewrites them.

use std::fmt::Write as _;
use std::path::Path;

use keyhole_exporter::collector::{self, COLLECTORS, Collector};
use keyhole_exporter::exposition::Family;
use keyhole_exporter::self_metrics;
use keyhole_exporter::snapshot::{Content, Snapshot};
use keyhole_flags::{Flag, Program};
use keyhole_os::seccomp::Row;
use keyhole_policy::pattern::{is_wild, matches, overlap};
use keyhole_policy::{AccessLevel, Class, Row as PolicyRow, TABLE};

const GENERATED: &str = "<!-- Generated: UPDATE_DOCUMENTS=1 cargo test --test documents -->\n\n";

/// Compares a document with what the code says, or rewrites it.
fn hold(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name);
    if std::env::var_os("UPDATE_DOCUMENTS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == text, "docs/{name} is stale: UPDATE_DOCUMENTS=1 cargo test --test documents");
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;")
}

#[test]
fn the_list_of_metrics_is_fresh() {
    let mut text = format!(
        "{GENERATED}# Metrics\n\n\
         Every family, by collector. *Source* is the kernel file or system call it comes from.\n\
         *Access level* is about mounts and namespaces: `minimal` needs no host mount, `host` needs the host's\n\
         /proc and /sys. *Uid 0* beside it marks a file that only uid 0 may read, as at the access\n\
         level `root`. `exporter` marks what the exporter provides itself, at any access level. In names,\n\
         `<...>` stands for what varies; files are patterns as in [policy.md](policy.md). Of several files the\n\
         first is required, and the others complete the labels or the value.\n"
    );
    for collector in COLLECTORS {
        let state = if collector.default { "on" } else { "off" };
        let _ = write!(text, "\n## {} ({state} by default)\n\n{}\n\n", collector.name, collector.help);
        table(&mut text, &(collector.families)(), |family| level_of(collector, family));
    }
    text.push_str("\n## The exporter and its broker\n\n");
    let own: Vec<Family> = [collector::FAMILIES]
        .iter()
        .chain(self_metrics::FAMILIES)
        .flat_map(|rows| rows.iter().copied())
        .collect();
    table(&mut text, &own, |_| "exporter".to_owned());
    hold("metrics.md", &text);
}

fn table(text: &mut String, families: &[Family], level: impl Fn(&Family) -> String) {
    text.push_str("| family | type | labels | source | access level | help |\n|---|---|---|---|---|---|\n");
    for family in families {
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | `{}` | {} | {} |",
            family.name,
            family.kind.as_str(),
            family.labels.join(", "),
            family.source,
            level(family),
            cell(family.help),
        );
    }
}

/// The lowest access level at which the collector gets the first of a family's files, and whether only uid 0 may read it.
/// The others complete its labels.
fn level_of(collector: &Collector, family: &Family) -> String {
    let Some(required) = family.source.patterns().into_iter().next() else { return "exporter".to_owned() };
    let level = collector.rows(&required).map(|row| row.access_level).min();
    let level = level_name(level.unwrap_or_else(|| panic!("{}: no query reads {required}", family.name)));
    // Of the files that a wildcard in the name stands for, each is optional.
    let is_needed = !is_wild(required.rsplit('/').next().unwrap_or_default());
    let is_for_root = is_needed && files_for_root().any(|file| overlap(file, &required));
    format!("{level}{}", if is_for_root { ", uid 0" } else { "" })
}

fn level_name(level: AccessLevel) -> &'static str {
    match level {
        AccessLevel::Minimal => "minimal",
        AccessLevel::Host => "host",
    }
}

#[test]
fn the_policy_table_is_fresh() {
    let mut text = format!(
        "{GENERATED}# What the readers may read\n\n\
         `keyhole-broker policy` prints the same, without the marks for uid 0. *Access level* is about mounts\n\
         and namespaces: `minimal` queries have the host's values without a host mount, `host` queries need\n\
         the host's /proc and /sys. It is not about file modes: files marked *uid 0* are refused to any other\n\
         uid (kernels differ in a few), and the access level `root` is `host` with them. *Class* names the\n\
         readers that open the files: a reader serves one class. *Default* marks\n\
         the queries that `--queries=default` allows; `all`, the default of the flag,\n\
         allows every query. In patterns, `*` is any run of bytes within one component of a path, `#` is one\n\
         or more digits, `%` is any number of digits or none, and `{{a,b}}` is one of the alternatives.\n\n\
         | query | access level | class | default | files | bytes per file | files at most |\n\
         |---|---|---|---|---|---|---|\n"
    );
    for row in TABLE {
        let files: Vec<_> =
            row.sources.iter().map(|source| format!("`{}/{}`", source.root.name(), source.pattern)).collect();
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} |",
            row.query.as_str_name(),
            level_name(row.access_level),
            row.class.name(),
            if row.default { "yes" } else { "no" },
            files.join("<br>")
                + &root_files(row).map_or(String::new(), |files| format!("<br>uid 0: {files}")),
            row.file_bytes,
            row.entries
        );
    }
    hold("policy.md", &text);
}

/// The files that only uid 0 may read, as patterns that begin with the name of a root.
fn files_for_root() -> impl Iterator<Item = &'static str> {
    include_str!("../policy/root_files.txt").lines().filter(|line| !line.starts_with('#'))
}

#[test]
fn every_file_that_is_listed_as_one_for_uid_0_is_in_the_table() {
    let is_read = |file: &&str| TABLE.iter().any(|row| collector::has_source(row, file));
    let unread: Vec<_> = files_for_root().filter(|file| !is_read(file)).collect();
    assert!(unread.is_empty(), "no row reads {unread:?}");
    assert!(files_for_root().count() > 0);
}

/// The files of a row that only uid 0 may read, if it has any.
fn root_files(row: &PolicyRow) -> Option<String> {
    let of_row = files_for_root().filter(|file| collector::has_source(row, file));
    let files: Vec<String> = of_row.map(|file| format!("`{file}`")).collect();
    (!files.is_empty()).then(|| files.join(", "))
}

/// What stands before the lists of system calls.
const SYSCALLS: &str = "\
# System calls

The system calls that each process may still make once it is sandboxed. Any other call kills the process.
A debug build also allows `fcntl(F_GETFD)`. Rows with the same name are alternatives: a call is allowed
when one of them matches. Where x86_64 and aarch64 differ, this page shows x86_64.

The broker starts a zygote, and the zygote forks the readers. A reader inherits the zygote's filter and
adds its own, so it can make only the calls that both lists allow.
";

/// The rows of [`keyhole_broker::sandbox::DescriptorRules`], which depend on numbers that descriptors have at run time.
const PINNED: [[&str; 3]; 3] = [
    ["pread64", "argument 0 is its own /proc/thread-self/status", "the check that the sandbox holds"],
    [
        "unlinkat",
        "argument 0 is the socket's directory, argument 2 is 0x0",
        "to remove the socket; only where Landlock is in force",
    ],
    [
        "newfstatat",
        "argument 0 is the socket's directory, argument 3 is 0x100",
        "whether the socket is still its own; only where Landlock is in force",
    ],
];

#[test]
fn the_lists_of_system_calls_are_fresh() {
    use keyhole_reader::sandbox::{ZYGOTE, reader_syscalls};
    let mut text = format!("{GENERATED}{SYSCALLS}");
    let broker = calls(keyhole_broker::sandbox::SYSCALLS);
    let pinned = PINNED.map(|row| row.map(str::to_owned));
    section(&mut text, "## keyhole-broker", &[&broker[..], &pinned[..]].concat());
    let passed = calls(keyhole_broker::sandbox::PASSED_DESCRIPTOR_SYSCALLS);
    section(&mut text, "## keyhole-broker before Linux 6.16: these as well", &passed);
    section(&mut text, "## keyhole-broker probe", &calls(keyhole_broker::probe::PROBE_SYSCALLS));
    section(&mut text, "## keyhole-reader: the zygote", &calls(ZYGOTE));
    text.push_str(
        "\n## keyhole-reader: the readers\n\nEach class of queries has readers of its own. \
         [policy.md](policy.md) lists the queries of each class.\n\n| class | system calls | rows |\n|---|---|---|\n",
    );
    for class in Class::ALL {
        let rows = calls(&reader_syscalls(class));
        let names: std::collections::BTreeSet<&str> = rows.iter().map(|[name, ..]| name.as_str()).collect();
        let _ = writeln!(text, "| {} | {} | {} |", class.name(), names.len(), rows.len());
    }
    for class in Class::ALL {
        section(&mut text, &format!("### Class {}", class.name()), &calls(&reader_syscalls(class)));
    }
    section(&mut text, "## keyhole-exporter", &calls(keyhole_exporter::sandbox::SYSCALLS));
    let query = calls(keyhole_exporter::sandbox::QUERY_SYSCALLS);
    section(&mut text, "## keyhole-exporter query: these as well", &query);
    hold("syscalls.md", &text);
}

/// The broker's filter holds the rows of [`PINNED`] and no others beside its list.
#[test]
fn the_rows_that_depend_on_descriptors_are_all_documented() {
    use keyhole_broker::sandbox::{DescriptorRules, SYSCALLS, syscalls};
    let thread = keyhole_os::ThreadStatus::open().unwrap();
    let dir: std::os::fd::OwnedFd = std::fs::File::open("/").unwrap().into();
    let number = |name: &str| match name {
        "pread64" => libc::SYS_pread64,
        "unlinkat" => libc::SYS_unlinkat,
        "newfstatat" => libc::SYS_newfstatat,
        other => panic!("{other} has no number here"),
    };
    for (dir, documented) in [(Some(&dir), &PINNED[..]), (None, &PINNED[..1])] {
        let rules = DescriptorRules::new(&thread, dir);
        let rules = syscalls(&rules);
        let numbers: Vec<i64> = rules[SYSCALLS.len()..].iter().map(|rule| rule.number).collect();
        assert_eq!(numbers, documented.iter().map(|[name, ..]| number(name)).collect::<Vec<_>>());
    }
}

fn section(text: &mut String, title: &str, rows: &[[String; 3]]) {
    let _ = write!(text, "\n{title}\n\n| system call | arguments | why |\n|---|---|---|\n");
    for [name, arguments, why] in rows {
        let _ = writeln!(text, "| `{name}` | {arguments} | {why} |");
    }
}

/// Name, arguments and reason of each row. A row that only debug builds have would make the document depend on the
/// build.
fn calls(rows: &[Row]) -> Vec<[String; 3]> {
    let released = rows.iter().filter(|row| !row.reason.contains("debug build"));
    released.map(|row| [row.name.to_owned(), conditions(row), row.reason.to_owned()]).collect()
}

fn conditions(row: &Row) -> String {
    const NUMBER: u64 = u32::MAX as u64;
    let each = row.when.iter().map(|argument| match argument.mask {
        NUMBER => format!("argument {} is {:#x}", argument.index, argument.value),
        u64::MAX => format!("argument {} is null", argument.index),
        mask => format!("argument {} & {mask:#x} is {:#x}", argument.index, argument.value),
    });
    let all: Vec<_> = each.collect();
    if all.is_empty() { "any".to_owned() } else { all.join(", ") }
}

/// The programs that have flags.
fn programs() -> [&'static Program; 2] {
    [&keyhole_broker::flags::PROGRAM, &keyhole_exporter::cli::flags::PROGRAM]
}

/// What stands before the flags.
const FLAGS: &str = "\
# Flags

The broker and the exporter read flags in the same way, which is node_exporter's: `--name=value` or
`--name value`, and `--name` or `--no-name` for a switch. `completions SHELL` prints completions for
a shell, and `--help-man` prints a manual page.

- A value that begins with `-` must follow the `=`: `--name=-1`. In `--name --other` the value is
  missing, which is an error. A single `-` is a value.
- A flag that its help calls repeatable has the values of all its occurrences. Any other flag can be
  given once; a second time is an error, also with the same value, with another name of the flag,
  and for `--name --no-name`.
- A duration has units: `5s`, `1m30s`, `250ms`, `1d`, `2w`; a year is the longest. If a flag takes a
  narrower range, its help has it, and other values are errors. The value of `--watch` follows the
  `=` and may be a bare number of seconds.
- A path that a flag needs is not empty, and that of a socket has 107 bytes at most. The broker
  accepts paths in any encoding, the exporter only in UTF-8.

## Environment variables

The variable of `--log.level` is `KEYHOLE_LOG_LEVEL`. Both programs have the same prefix, so that
one environment can serve both containers: a variable that both read has the same meaning for both,
and each program ignores those that only the other one reads.

The command line overrides the environment, and the environment overrides the defaults. The variable
of a flag that is on the command line is not looked at, nor is any variable by `--help`,
`--help-man`, `--version` and `completions`. Any other variable with an invalid value is an error.
A variable that is set and empty has no effect.

No variable decides what the readers read, whom the broker answers or what privileges it has: these
flags are set on the command line only, where a manifest or a unit shows them. If the variable of
such a flag is set, or if a variable is probably misspelled, the program logs a warning and goes on
without it, also for commands such as `query` and `probe`.

The broker copies only the variables with this prefix. It overwrites its environment with zeros
before it reads any flag.

";

#[test]
fn the_flags_are_fresh() {
    let [broker, exporter] = programs();
    let mut text = format!("{GENERATED}{FLAGS}| variable | program | flag |\n|---|---|---|\n");
    // The switches and flags of collectors are many, and follow the rule.
    let listed = |flag: &&Flag| !flag.help.is_empty() && !flag.name.starts_with("collector.");
    let of_broker = broker.flags_in_environment();
    let of_exporter = exporter.flags_in_environment();
    let both: Vec<&Flag> = of_broker.iter().chain(&of_exporter).filter(listed).collect();
    for (place, flag) in both.iter().enumerate() {
        let same = |other: &Flag| other.name == flag.name;
        if both[..place].iter().any(|other| same(other)) {
            continue;
        }
        let readers = [("broker", &of_broker), ("exporter", &of_exporter)];
        let readers = readers.iter().filter(|(_, flags)| flags.iter().any(same)).map(|(name, _)| *name);
        let readers: Vec<_> = readers.collect();
        let variable = flag.variable().unwrap_or_default();
        let _ = writeln!(text, "| `{variable}` | {} | `--{}` |", readers.join(", "), flag.name);
    }
    text.push_str("| `KEYHOLE_COLLECTOR_CPU` and so on | exporter | `--collector.cpu` and so on |\n");
    for program in [broker, exporter] {
        let _ = write!(text, "\n## {}\n\n```text\n{}```\n", program.name, program.help());
    }
    hold("flags.md", &text);
}

#[test]
fn a_variable_that_both_programs_read_means_the_same_to_both_and_no_other_is_taken_for_misspelled() {
    let [broker, exporter] = programs();
    let mut shared = 0;
    for flag in broker.flags_in_environment().into_iter().filter(|flag| flag.variable().is_some()) {
        let same =
            exporter.flags_in_environment().into_iter().find(|other| other.variable() == flag.variable());
        if let Some(same) = same {
            shared += 1;
            assert_eq!((same.name, same.kind, same.help), (flag.name, flag.kind, flag.help));
        }
    }
    assert_eq!(shared, 2, "log.level and log.format");
    for (one, other) in [(broker, exporter), (exporter, broker)] {
        let names: Vec<String> = one.flags_in_environment().iter().filter_map(Flag::variable).collect();
        let unused = other.unused_variables(names.into_iter().map(Into::into));
        // That the host's paths are flags of both is worth the broker's warning.
        let unused: Vec<_> =
            unused.iter().filter(|unused| !unused.variable.starts_with("KEYHOLE_PATH_")).collect();
        assert!(unused.is_empty(), "{}: {unused:?}", other.name);
    }
}

#[test]
fn the_manual_pages_are_fresh() {
    for program in programs() {
        let page = program.man_page();
        let text = format!(".\\\" Generated: UPDATE_DOCUMENTS=1 cargo test --test documents\n{page}");
        hold(&format!("man/{}.1", program.name), &text);
    }
}

/// What stands before the queries themselves.
const ASKING: &str = "\
# Queries, for gRPC clients

For each query of the [gRPC API](../proto/keyhole/v1/broker.proto): the files it reads, its access
level, the class of its readers, its limits, and the beginning of an answer, from the tree in
`tests/golden/host`. [policy.md](policy.md) has the same as one table, and explains access levels.
`keyhole-exporter describe` prints which queries a running broker answers, and why not the others.

## How to query

The socket accepts the broker's own uid and those of `--allow-uid`. The broker answers 20 requests a
second of each uid, with a burst of 40; beyond that it returns `RESOURCE_EXHAUSTED`. One read runs at
a time and ends after 30 s.

If the read of a file takes longer than 2 s, or a query longer than 10 s, its reader is stuck, and
another reader answers the rest of the query: the file then has errno 115 (`EINPROGRESS`). A query
that cannot be repeated ends as `OUTCOME_TIMED_OUT`. A query ends as `OUTCOME_STUCK` if its class has
no free reader, or if nothing could be read of it, since another reader hangs in its files.

In Kubernetes the socket is in a volume of the pod. `keyhole-exporter connect` connects its standard
input and output to it, so that [socat](http://www.dest-unreach.org/socat/) can offer any client a
socket of your own. You need the right to exec; the client has the rights of the exporter. NODE is the
node to query:

```console
$ pod=$(kubectl -n keyhole get pods --field-selector spec.nodeName=NODE --output name)
$ socat UNIX-LISTEN:broker.sock,fork,mode=600 EXEC:\"kubectl -n keyhole exec -i $pod -c exporter -- /keyhole-exporter connect\"
```

Each client is a connection of its own. It ends after five seconds without a request, and later after
ten minutes without a byte. A uid has four connections at most, which the exporter, `query` and
`connect` share, as they share its requests: close what you do not use. In the examples below, write
`broker.sock` for the socket.

With [grpcurl](https://github.com/fullstorydev/grpcurl), from the repository's directory:

```console
$ grpcurl -plaintext -unix -authority localhost -import-path proto -proto keyhole/v1/broker.proto /run/keyhole/broker.sock keyhole.v1.Broker/Describe
$ grpcurl -plaintext -unix -authority localhost -import-path proto -proto keyhole/v1/broker.proto -d '{\"queries\": [\"QUERY_LOADAVG\"]}' /run/keyhole/broker.sock keyhole.v1.Broker/Read
```

A broker built with `--features reflection` describes its API itself, so that
`grpcurl -plaintext -unix -authority localhost /run/keyhole/broker.sock list` works. The released one
does not, since a reflection request contains strings.

With Python's grpcio, whose classes `python -m grpc_tools.protoc -Iproto --python_out=. --grpc_python_out=. keyhole/v1/broker.proto` writes:

```python
import grpc
from keyhole.v1 import broker_pb2, broker_pb2_grpc

# grpcio would name the socket's path as the authority, which HTTP/2 servers refuse.
options = [(\"grpc.default_authority\", \"localhost\")]
with grpc.insecure_channel(\"unix:/run/keyhole/broker.sock\", options=options) as channel:
    broker = broker_pb2_grpc.BrokerStub(channel)
    request = broker_pb2.ReadRequest(queries=[broker_pb2.QUERY_LOADAVG])
    # Chunks: a long file is in several of them.
    for chunk in broker.Read(request, timeout=10):
        for file in chunk.files:
            print(file.path, file.text)
```

`grpc.health.v1.Health/Check` answers for the service `keyhole.v1.Broker`, for the empty name, and for `keyhole.v1.Broker/CLASS` of each class of readers that is used.

## The queries
";

#[test]
fn the_queries_are_fresh() {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/host/tree");
    let host = keyhole_exporter::capture::read_tree(&tree).unwrap();
    let mut text = format!("{GENERATED}{ASKING}");
    for row in TABLE {
        let name = row.query.as_str_name();
        let _ = write!(
            text,
            "\n### {name}\n\n{} Access level `{}`, class `{}`; at most {} bytes per file, {} {}.\n\n",
            comment_of(name),
            level_name(row.access_level),
            row.class.name(),
            row.file_bytes,
            row.entries,
            if row.entries == 1 { "file" } else { "files" }
        );
        if let Some(files) = root_files(row) {
            let _ = write!(text, "Only uid 0 may read {files}.\n\n");
        }
        for source in row.sources {
            let _ = writeln!(text, "- `{}/{}`", source.root.name(), source.pattern);
        }
        match example(row, &host) {
            Some(example) => {
                let _ = write!(text, "\n```text\n{example}```\n");
            }
            None => text.push_str("\nThe tree has none of them.\n"),
        }
    }
    hold("queries.md", &text);
}

/// What the API says of a query: the comment lines before it.
fn comment_of(query: &str) -> String {
    let lines: Vec<&str> = keyhole_proto::BROKER_PROTO.lines().map(str::trim).collect();
    let at =
        lines.iter().position(|line| line.starts_with(&format!("{query} = "))).expect("a value of the API");
    let comments = lines[..at].iter().rev().map_while(|line| line.strip_prefix("// "));
    let mut comments: Vec<&str> = comments.collect();
    comments.reverse();
    comments.join(" ")
}

/// The beginning of the first file, link or errno of a query that the tree has.
fn example(row: &PolicyRow, host: &Snapshot) -> Option<String> {
    /// Enough to see what it looks like.
    const LINES: usize = 3;
    const WIDTH: usize = 110;
    let of_row = |path: &[u8]| {
        let path = String::from_utf8_lossy(path).into_owned();
        let below = |source: &keyhole_policy::Source| {
            let rest = path.strip_prefix(source.root.name())?.strip_prefix('/')?;
            Some(matches(source.pattern.as_bytes(), rest.as_bytes()))
        };
        row.sources.iter().any(|source| below(source).unwrap_or(false))
    };
    let (path, content) =
        host.files().find(|(path, content)| of_row(path) && !matches!(content, Content::Errno(_)))?;
    let path = String::from_utf8_lossy(path);
    let Content::Bytes { bytes, .. } = content else {
        return Some(match content {
            Content::Link(target) => format!("{path}: link to {}\n", String::from_utf8_lossy(target)),
            Content::Entries(entries) => format!("{path}: {entries} entries\n"),
            _ => return None,
        });
    };
    let whole = String::from_utf8_lossy(bytes);
    let mut text = format!("{path}:\n");
    for line in whole.lines().take(LINES) {
        let cut: String = line.chars().take(WIDTH).collect();
        let more = if cut.len() < line.len() { "..." } else { "" };
        let _ = writeln!(text, "{}{more}", cut.trim_end());
    }
    if whole.lines().count() > LINES {
        text.push_str("...\n");
    }
    Some(text)
}

/// Every Rust file of the project below `dir`, with its module's name: `text` for `text.rs` and for `text/mod.rs`.
fn modules(dir: &Path, found: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            if !name.starts_with('.') && name != "target" {
                modules(&path, found);
            }
        } else if let Some(stem) = name.strip_suffix(".rs") {
            let parent = path.parent().and_then(Path::file_name).unwrap().to_str().unwrap();
            let module = if ["mod", "main", "tests", "lib"].contains(&stem) { parent } else { stem };
            found.push((module.to_owned(), std::fs::read_to_string(&path).unwrap()));
        }
    }
}

/// Whether a Rust file has a test of this name.
fn has_test(text: &str, name: &str) -> bool {
    let Some(at) = text.find(&format!("fn {name}(")) else { return false };
    let before = text[..at].trim_end_matches("async ").trim_end();
    // Properties stand in proptest!, where attributes are the same.
    before.ends_with("#[test]") || before.ends_with("#[tokio::test]") || before.ends_with(")]")
}

#[test]
fn every_difference_names_an_existing_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = Vec::new();
    modules(root, &mut all);
    let exists = |reference: &str| match reference.split_once("::") {
        Some((module, name)) => all.iter().any(|(of, text)| of == module && has_test(text, name)),
        None => root.join(reference).is_file(),
    };
    let document = std::fs::read_to_string(root.join("docs/compatibility.md")).unwrap();
    let mut statements: Vec<String> = Vec::new();
    for line in document.lines() {
        let text = line.trim_start();
        let is_head = text.ends_with("| test |") || text.starts_with("|---");
        if is_head {
            continue;
        }
        if text.starts_with("| ") || text.starts_with("- ") {
            statements.push(text.to_owned());
        } else if line.starts_with("  ")
            // What follows a point's own table or points is the last point's still.
            && let Some(last) = statements.iter_mut().rfind(|statement| statement.starts_with("- "))
        {
            last.push(' ');
            last.push_str(text);
        }
    }
    assert!(statements.len() > 180, "{}", statements.len());
    for statement in statements {
        let mut names = statement.split('`').skip(1).step_by(2);
        let is_reference = |name: &&str| {
            let is_path = name.starts_with("tests/") && !name.contains(' ');
            is_path
                || name
                    .split_once("::")
                    .is_some_and(|(module, test)| !module.is_empty() && test.contains('_'))
        };
        // A row has them in its last cell, a point anywhere.
        let named: Vec<&str> = match statement.strip_suffix(" |") {
            Some(row) => row.rsplit(" | ").next().unwrap().split('`').skip(1).step_by(2).collect(),
            None => names.by_ref().filter(is_reference).collect(),
        };
        assert!(!named.is_empty(), "no test holds this; name one: {statement}");
        for name in named {
            assert!(exists(name), "there is no test {name}, which should hold: {statement}");
        }
    }
}

#[test]
fn what_is_absent_is_no_family() {
    let own = self_metrics::FAMILIES.iter().copied().flatten().copied();
    let families = COLLECTORS.iter().flat_map(|collector| (collector.families)()).chain(own);
    for family in families {
        let absent =
            ["node_network_altnames_info", "node_selinux_config_mode", "node_btrfs_device_unused_bytes"];
        assert!(!absent.contains(&family.name) && !family.name.starts_with("go_"), "{}", family.name);
    }
}

/// Reads a file of the repository.
fn repository_file(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

#[test]
fn every_test_directory_has_a_row_in_its_readme_and_every_step_there_exists() {
    let readme = repository_file("tests/README.md");
    let rows: Vec<Vec<&str>> = readme
        .lines()
        .filter(|line| line.starts_with("| "))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let places: String = rows.iter().map(|row| row[0]).collect();
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    for entry in std::fs::read_dir(tests).unwrap() {
        let entry = entry.unwrap();
        let slash = if entry.file_type().unwrap().is_dir() { "/" } else { "`" };
        let name = format!("`{}{slash}", entry.file_name().to_str().unwrap());
        assert!(name == "`README.md`" || places.contains(&name), "no row in tests/README.md for {name}");
    }
    let run = repository_file(".ci/run");
    let last_cells = rows.iter().filter(|row| row.len() >= 4).map(|row| row[row.len() - 1]);
    let steps: Vec<&str> = last_cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    assert!(steps.len() > 20, "{steps:?}");
    for step in steps {
        assert!(
            ["step", "by_name"].iter().any(|word| run.contains(&format!("{word} {step} "))),
            "tests/README.md names the step {step}, and .ci/run has none"
        );
    }
}

/// What stands before the source files.
const SOURCE_FILES: &str = "\
# Source files

Every source file of every crate, with the first sentence of its documentation.
[ARCHITECTURE.md](../ARCHITECTURE.md) explains how they work together, and
[tests/README.md](../tests/README.md) lists the tests in other directories.
";

/// The directories of source files, in the order of the document. Fuzz targets of one line are not listed.
const SOURCE_DIRECTORIES: [&str; 15] = [
    "proto/src",
    "proto/gen/src",
    "policy/src",
    "os/src",
    "rate/src",
    "log/src",
    "flags/src",
    "reader/src",
    "broker/src",
    "exporter/src",
    "kubectl-keyhole/src",
    "deploy/local",
    "tests/support/src",
    "tests/attacks/src",
    "fuzz/src",
];

#[test]
fn the_list_of_source_files_is_fresh() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut text = format!("{GENERATED}{SOURCE_FILES}");
    for directory in SOURCE_DIRECTORIES {
        let _ = write!(text, "\n## {directory}\n\n| file | |\n|---|---|\n");
        let mut files = Vec::new();
        source_files(&root.join(directory), "", &mut files);
        files.sort();
        for (name, content) in files {
            let sentence =
                first_sentence(&content).unwrap_or_else(|| panic!("{directory}/{name}: no //! line"));
            let _ = writeln!(text, "| `{name}` | {} |", sentence.replace('|', "\\|"));
        }
    }
    hold("source-files.md", &text);
}

#[test]
fn every_crate_is_in_the_list_of_source_files() {
    let manifest = repository_file("Cargo.toml");
    let members = manifest.lines().find(|line| line.starts_with("members = ")).expect("a workspace");
    let members: Vec<&str> = members.split('"').skip(1).step_by(2).collect();
    assert!(members.len() > 10, "{members:?}");
    for member in members {
        let directory = format!("{member}/src");
        assert!(SOURCE_DIRECTORIES.contains(&&*directory), "{directory}");
    }
}

/// Every Rust file below `dir`, by its path below it; generated code is left out.
fn source_files(dir: &Path, below: &str, found: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = format!("{below}{}", path.file_name().unwrap().to_str().unwrap());
        if path.is_dir() {
            if name != "generated" {
                source_files(&path, &format!("{name}/"), found);
            }
        } else if name.ends_with(".rs") {
            found.push((name, std::fs::read_to_string(&path).unwrap()));
        }
    }
}

/// The first sentence of a file's `//!` lines, with links to items as plain code.
fn first_sentence(content: &str) -> Option<String> {
    let lines = content.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim);
    let paragraph: Vec<&str> = lines.take_while(|line| !line.is_empty()).collect();
    let paragraph = paragraph.join(" ").replace("[`", "`").replace("`]", "`");
    let is_code = |at: usize| paragraph[..at].matches('`').count() % 2 == 1;
    let end = paragraph.match_indices(". ").find(|(at, _)| !is_code(*at));
    let end = end.map_or(paragraph.len(), |(at, _)| at + 1);
    (end > 0).then(|| paragraph[..end].to_owned())
}

/// ARCHITECTURE.md has a row for each file and directory of the programs' sources.
#[test]
fn every_source_file_has_a_row_in_the_architecture() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = std::fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let mut missing = Vec::new();
    for program in ["reader", "broker", "exporter"] {
        let heading = format!("\n### Inside the {program}\n");
        let section = document.split_once(&heading).expect("a section of the program").1;
        let rows: Vec<&str> = section.lines().skip(1).take_while(|line| !line.starts_with('#')).collect();
        let first_cells: String = rows.iter().filter_map(|row| row.split(" | ").next()).collect();
        for entry in std::fs::read_dir(root.join(program).join("src")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            // A directory beside a file of its name holds the rest of that module.
            let has_row = first_cells.contains(&format!("`{name}`"))
                || first_cells.contains(&format!("`{name}/"))
                || first_cells.contains(&format!("`{name}.rs`"));
            if !has_row {
                missing.push(format!("{program}/src/{name}"));
            }
        }
    }
    assert!(missing.is_empty(), "no row in ARCHITECTURE.md: {missing:?}");
}
