//! Documents that are generated: each must be what the code says. `UPDATE_DOCUMENTS=1 cargo test --test documents`
//! rewrites them.

use std::fmt::Write as _;
use std::path::Path;

use keyhole_exporter::collector::{self, COLLECTORS};
use keyhole_exporter::exposition::Family;
use keyhole_exporter::self_metrics;
use keyhole_exporter::snapshot::{Content, Snapshot};
use keyhole_os::seccomp::Row;
use keyhole_policy::{Component, Pattern, Rung, TABLE};

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
         Every family, by collector. *Source* is the kernel file or system call it comes from. *Rung* is the least that the broker must be \
         given: `own` no host mount, `host` the host's /proc and /sys, `exporter` nothing of the host. In names and paths, `<...>` \
         stands for what varies.\n"
    );
    for collector in COLLECTORS {
        let state = if collector.default { "on" } else { "off" };
        let _ = write!(text, "\n## {} ({state} by default)\n\n{}\n\n", collector.name, collector.help);
        let queries: Vec<_> = collector.queries.iter().chain(collector.optional).collect();
        let rung = |family: &Family| rung_of(family, &queries);
        table(&mut text, collector.families, rung);
    }
    text.push_str("\n## The exporter and its broker\n\n");
    let own: Vec<Family> = [collector::FAMILIES]
        .iter()
        .chain(self_metrics::FAMILIES)
        .flat_map(|rows| rows.iter().copied())
        .collect();
    table(&mut text, &own, |_| "exporter");
    hold("metrics.md", &text);
}

fn table(text: &mut String, families: &[Family], rung: impl Fn(&Family) -> &'static str) {
    text.push_str("| family | type | labels | source | rung | help |\n|---|---|---|---|---|---|\n");
    for family in families {
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | `{}` | {} | {} |",
            family.name,
            family.kind.as_str(),
            family.labels.join(", "),
            family.source,
            rung(family),
            cell(family.help),
        );
    }
}

/// The rung of the query among the collector's own whose files a family's source is.
fn rung_of(family: &Family, queries: &[&keyhole_proto::v1::Query]) -> &'static str {
    let rows = || queries.iter().filter_map(|query| keyhole_policy::row(**query));
    let first = family.source.split(['/', ' ', ',']).next().unwrap_or_default();
    let roots = || rows().flat_map(|row| row.sources.iter().map(move |source| (row, source)));
    if !roots().any(|(_, source)| source.root.name() == first) {
        return "exporter";
    }
    // The source names a file as a person would; the row whose pattern begins most like it is the one meant.
    let alike =
        |pattern: &str| pattern.bytes().zip(family.source.bytes()).take_while(|(a, b)| a == b).count();
    let best = roots().max_by_key(|(_, source)| alike(&format!("{}/{}", source.root.name(), source.pattern)));
    match best.map(|(row, _)| row.rung) {
        Some(Rung::Host) => "host",
        _ => "own",
    }
}

#[test]
fn the_policy_table_is_fresh() {
    let mut text = format!(
        "{GENERATED}# What a broker may read\n\n\
         `keyhole-broker policy` prints the same. `*` is any run of bytes within one component of a path, `#` one or more digits, `{{a,b}}` \
         either.\n\n| query | rung | files | bytes a file | files at most |\n|---|---|---|---|---|\n"
    );
    for row in TABLE {
        let files: Vec<_> = row
            .sources
            .iter()
            .map(|source| {
                Pattern::parse(source.pattern).unwrap();
                format!("`{}/{}`", source.root.name(), source.pattern)
            })
            .collect();
        let rung = match row.rung {
            Rung::Own => "own",
            Rung::Host => "host",
        };
        let name = row.query.as_str_name();
        let _ = writeln!(
            text,
            "| {name} | {rung} | {} | {} | {} |",
            files.join("<br>"),
            row.file_bytes,
            row.entries
        );
    }
    hold("policy.md", &text);
}

#[test]
fn the_lists_of_system_calls_are_fresh() {
    let mut text = format!(
        "{GENERATED}# System calls\n\nWhat each process may still ask of the kernel once it is sealed; anything else ends it. Besides these, the \
         broker may make one `unlinkat`, where Landlock is in force: of its socket, by its folder's descriptor. A debug build may also `fcntl(F_GETFD)`.\n"
    );
    for (name, rows) in [
        ("keyhole-broker", keyhole_broker::sandbox::SYSCALLS),
        ("keyhole-broker before Linux 6.16: these as well", keyhole_broker::sandbox::PASSED),
        ("keyhole-exporter", keyhole_exporter::sandbox::SYSCALLS),
        ("keyhole-exporter query: these as well", keyhole_exporter::sandbox::QUERY_SYSCALLS),
    ] {
        let _ = write!(text, "\n## {name}\n\n| system call | arguments | why |\n|---|---|---|\n");
        // A row that only debug builds have would make the document depend on the build.
        for row in rows.iter().filter(|row| !row.reason.contains("debug build")) {
            let _ = writeln!(text, "| `{}` | {} | {} |", row.name, conditions(row), row.reason);
        }
    }
    hold("syscalls.md", &text);
}

fn conditions(row: &Row) -> String {
    let each = row.when.iter().map(|argument| match argument.mask {
        u32::MAX => format!("argument {} is {:#x}", argument.index, argument.value),
        mask => format!("argument {} & {mask:#x} is {:#x}", argument.index, argument.value),
    });
    let all: Vec<_> = each.collect();
    if all.is_empty() { "any".to_owned() } else { all.join(", ") }
}

#[test]
fn the_flags_are_fresh() {
    let text = format!(
        "{GENERATED}# Flags\n\n## keyhole-broker\n\n```text\n{}```\n\n## keyhole-exporter\n\n```text\n{}```\n",
        keyhole_broker::help(),
        keyhole_exporter::cli::help::text()
    );
    hold("flags.md", &text);
}

#[test]
fn the_manual_pages_are_fresh() {
    for (name, help) in [
        ("man/keyhole-broker.1", keyhole_broker::help().to_owned()),
        ("man/keyhole-exporter.1", keyhole_exporter::cli::help::text()),
    ] {
        let page = keyhole_exporter::cli::man::page(&help);
        hold(name, &format!(".\\\" Generated: UPDATE_DOCUMENTS=1 cargo test --test documents\n{page}"));
    }
}

/// What stands before the queries themselves.
const ASKING: &str = "\
# Queries, for gRPC clients

Each query of [the contract](../proto/keyhole/v1/broker.proto) with the files it reads, the least rung at which it is answered, its limits, and
the beginning of an answer, from the tree in `tests/golden/host`. [policy.md](policy.md) has the same limits as one table; `keyhole-exporter describe`
tells what a running broker answers, and why not.

## Asking

The socket lets in the broker's own uid and those of `--allow-uid`. It answers 20 requests a second to each uid, 40 at once; beyond that
`RESOURCE_EXHAUSTED`. One read runs at a time, a query that takes longer than 2 s ends as `OUTCOME_TIMED_OUT`, and a read ends after 30 s.

With [grpcurl](https://github.com/fullstorydev/grpcurl), which needs the contract from the repository's folder `proto/`:

```console
$ grpcurl -plaintext -unix -authority localhost -import-path proto -proto keyhole/v1/broker.proto /run/keyhole/broker.sock keyhole.v1.Broker/Describe
$ grpcurl -plaintext -unix -authority localhost -import-path proto -proto keyhole/v1/broker.proto -d '{\"queries\": [\"QUERY_LOADAVG\"]}' /run/keyhole/broker.sock keyhole.v1.Broker/Read
```

A broker built with `--features reflection` tells the contract itself, so that `grpcurl -plaintext -unix -authority localhost /run/keyhole/broker.sock list`
works. The shipped one does not: a reflection request holds strings.

With Python's grpcio, whose classes `python -m grpc_tools.protoc -Iproto --python_out=. --grpc_python_out=. keyhole/v1/broker.proto` writes:

```python
import grpc
from keyhole.v1 import broker_pb2, broker_pb2_grpc

# grpcio would name the socket's path as the authority, which HTTP/2 servers refuse.
options = [(\"grpc.default_authority\", \"localhost\")]
with grpc.insecure_channel(\"unix:/run/keyhole/broker.sock\", options=options) as channel:
    broker = broker_pb2_grpc.BrokerStub(channel)
    request = broker_pb2.ReadRequest(queries=[broker_pb2.QUERY_LOADAVG])
    for part in broker.Read(request, timeout=10):
        for file in part.files:
            print(file.path, file.text)
```

`grpc.health.v1.Health/Check` answers for the service `keyhole.v1.Broker` and for the empty name.

## The queries
";

#[test]
fn the_queries_are_fresh() {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/host/tree");
    let host = keyhole_exporter::capture::read_tree(&tree).unwrap();
    let mut text = format!("{GENERATED}{ASKING}");
    for row in TABLE {
        let rung = match row.rung {
            Rung::Own => "own",
            Rung::Host => "host",
        };
        let name = row.query.as_str_name();
        let _ = write!(
            text,
            "\n### {name}\n\n{} Rung `{rung}`; at most {} bytes a file, {} files.\n\n",
            comment_of(name),
            row.file_bytes,
            row.entries
        );
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

/// What the contract says of a query: the comment lines before it.
fn comment_of(query: &str) -> String {
    let lines: Vec<&str> = keyhole_proto::BROKER_PROTO.lines().map(str::trim).collect();
    let at = lines
        .iter()
        .position(|line| line.starts_with(&format!("{query} = ")))
        .expect("a value of the contract");
    let comments = lines[..at].iter().rev().map_while(|line| line.strip_prefix("// "));
    let mut comments: Vec<&str> = comments.collect();
    comments.reverse();
    comments.join(" ")
}

/// The beginning of the first file, link or errno of a query that the tree has.
fn example(row: &keyhole_policy::Row, host: &Snapshot) -> Option<String> {
    /// Enough to see what it looks like.
    const LINES: usize = 3;
    const WIDTH: usize = 110;
    let of_row = |path: &[u8]| {
        let path = String::from_utf8_lossy(path).into_owned();
        let below = |source: &keyhole_policy::Source| {
            let rest = path.strip_prefix(source.root.name())?.strip_prefix('/')?;
            Some(matches(&Pattern::parse(source.pattern).unwrap(), rest))
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

fn matches(pattern: &Pattern, path: &str) -> bool {
    let names: Vec<&str> = path.split('/').collect();
    let one = |(component, name): (&Component, &&str)| match component {
        Component::Fixed(names) => names.iter().any(|fixed| fixed == name),
        Component::Wild(wild) => wild.matches(name.as_bytes()),
    };
    pattern.components().len() == names.len() && pattern.components().iter().zip(&names).all(one)
}
