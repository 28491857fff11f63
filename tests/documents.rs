//! Documents that are generated: each must be what the code says. `UPDATE_DOCUMENTS=1 cargo test --test documents`
//! rewrites them.

use std::fmt::Write as _;
use std::path::Path;

use keyhole_exporter::collector::{self, COLLECTORS};
use keyhole_exporter::exposition::Family;
use keyhole_exporter::self_metrics;
use keyhole_os::seccomp::Row;
use keyhole_policy::{Pattern, Rung, TABLE};

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
        ("keyhole-exporter", keyhole_exporter::sandbox::SYSCALLS),
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
