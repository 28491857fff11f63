//! `describe`: prints the broker's version, access level and sandbox, and which queries are available or why not.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use keyhole_proto::v1::{AccessLevel, DescribeResponse, QueryDescription, View};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::flags::{FILTER, HEADERS, OUTPUT, SCRAPE_TIMEOUT};
use super::query::Format;
use super::query::table::{Cell, Column, Table};
use super::terminal::{self, Style, Terminal, escape_controls_in_json};
use super::{Failure, StopSignals, broker, enter_sandbox, runtime};
use crate::broker_client::BrokerClient;
use crate::options::Options;

/// Flags of `query` that are invalid here.
const QUERY_FLAGS: &[&str] = &["watch", "count", "from"];

/// The values of `--output` here.
pub(super) const FORMATS: &[&str] = &["table", "json"];

/// Requests the broker's description and prints it.
pub(super) fn run(options: &Options) -> Result<(), Failure> {
    let filter = FILTER.get(options);
    let format = Format::parse(&OUTPUT.get(options), FORMATS)?;
    if let Some(flag) = QUERY_FLAGS.iter().find(|flag| options.is_set(flag)) {
        return Err(Failure::Usage(format!("--{flag} is a flag of query, not of describe")));
    }
    let terminal = Terminal::detect();
    let description = runtime()?.block_on(describe(options))?;
    let matches_filter = |query: &&QueryDescription| {
        let text = format!("{} {}", query.query().as_str_name(), query.patterns.join(" "));
        filter.as_ref().is_none_or(|filter| filter.is_match(text.as_bytes()))
    };
    let queries: Vec<&QueryDescription> = description.queries.iter().filter(matches_filter).collect();
    let text = match format {
        Format::Json => to_json(&description, &queries)?,
        _ => to_table(&description, &queries, terminal, HEADERS.get(options)),
    };
    terminal::write_stdout(text.as_bytes()).map(drop)
}

async fn describe(options: &Options) -> Result<DescribeResponse, Failure> {
    let mut signals = StopSignals::listen()?;
    let broker = broker(options, BrokerClient::for_command)?;
    enter_sandbox(Vec::new(), broker.socket().into(), || Ok(()))?;
    tokio::select! {
        description = broker.describe(Instant::now() + SCRAPE_TIMEOUT.get(options)) => {
            description.map_err(|error| error.to_string().into())
        }
        stop = signals.next() => Err(Failure::Stopped(stop)),
    }
}

fn to_table(
    description: &DescribeResponse,
    queries: &[&QueryDescription],
    terminal: Terminal,
    head: bool,
) -> String {
    let mut about = Table::new(&[left(""), left("")]);
    let counters = description.counters.unwrap_or_default();
    let mut row = |name: &str, value: String| {
        about.row(vec![Cell::new(name, Style::Bold), Cell::plain(&value)]);
    };
    row("version", description.version.clone());
    row("uid", description.uid.to_string());
    let level = description.access_level();
    row("access level", format!("{}: {}", access_level(level), level_help(level)));
    row("/proc", view(description.proc_view()).to_owned() + view_help(description.proc_view()));
    row("/sys", view(description.sys_view()).to_owned());
    row("running for", uptime(description.start_time_ms));
    row(
        "reads",
        format!(
            "{}, in which {} queries did not end within their timeout",
            counters.reads, counters.stuck_queries
        ),
    );
    row(
        "refused",
        format!(
            "{} connections by uid, {} requests by rate limit",
            counters.refused_peers, counters.limited_requests
        ),
    );

    let mut layers = Table::new(&[left("PROCESS"), left("LAYER"), left("IN FORCE"), left("DETAIL")]);
    let mut process = "";
    for layer in &description.layers {
        // The process is named in the first of its rows only.
        let name = if layer.process == process { "" } else { &layer.process };
        process = &layer.process;
        layers.row(vec![
            Cell::plain(name),
            Cell::plain(&layer.name),
            yes_no(layer.in_force),
            Cell::plain(&layer.detail),
        ]);
    }

    let mut readers = Table::new(&[
        left("READER"),
        left("AVAILABLE"),
        right("STUCK"),
        right("DEATHS"),
        right("KILLED BY SECCOMP"),
        right("REPLACED"),
        right("REOPENED"),
    ]);
    for reader in &description.readers {
        let counts =
            [reader.stuck, reader.deaths, reader.seccomp_kills, reader.replacements, reader.reopenings];
        let mut row = vec![Cell::plain(&reader.name), yes_no(reader.available)];
        row.extend(counts.map(|count| Cell::plain(&count.to_string())));
        readers.row(row);
    }

    let mut table =
        Table::new(&[left("QUERY"), left("READER"), left("NEEDS"), left("AVAILABLE"), left("REASON, FILES")]);
    for query in queries {
        let why_not = if query.stuck {
            Some(Cell::new("a read of it has not returned from the kernel", Style::Bad))
        } else {
            (!query.reason.is_empty()).then(|| Cell::new(&query.reason, Style::Bad))
        };
        let patterns = query.patterns.iter().map(|pattern| Cell::new(pattern, Style::Dim));
        for (at, cell) in why_not.into_iter().chain(patterns).enumerate() {
            let mut row = match at {
                0 => vec![
                    Cell::plain(query.query().as_str_name()),
                    Cell::plain(&query.reader),
                    Cell::plain(access_level(query.access_level())),
                    yes_no(query.available && !query.stuck),
                ],
                _ => vec![Cell::plain(""); 4],
            };
            row.push(cell);
            table.row(row);
        }
    }
    let blocks = [
        about.lines(terminal, false, None),
        layers.lines(terminal, head, None),
        readers.lines(terminal, head, None),
        table.lines(terminal, head, None),
    ];
    blocks.map(|lines| lines.join("\n") + "\n").join("\n")
}

fn to_json(description: &DescribeResponse, queries: &[&QueryDescription]) -> Result<String, Failure> {
    let counters = description.counters.unwrap_or_default();
    let layers: Vec<Value> = description
        .layers
        .iter()
        .map(|layer| {
            json!({
                "process": layer.process,
                "name": layer.name,
                "in_force": layer.in_force,
                "detail": layer.detail,
            })
        })
        .collect();
    let readers: Vec<Value> = description
        .readers
        .iter()
        .map(|reader| {
            json!({
                "name": reader.name,
                "available": reader.available,
                "stuck": reader.stuck,
                "deaths": reader.deaths,
                "seccomp_kills": reader.seccomp_kills,
                "replacements": reader.replacements,
                "reopenings": reader.reopenings,
            })
        })
        .collect();
    let queries: Vec<Value> = queries
        .iter()
        .map(|query| {
            json!({
                "name": query.query().as_str_name(),
                "patterns": query.patterns,
                "access_level": access_level(query.access_level()),
                "reader": query.reader,
                "available": query.available,
                "outcome": query.outcome().as_str_name(),
                "reason": query.reason,
                "stuck": query.stuck,
            })
        })
        .collect();
    let object = json!({
        "version": description.version,
        "uid": description.uid,
        "access_level": access_level(description.access_level()),
        "proc_view": view(description.proc_view()),
        "sys_view": view(description.sys_view()),
        "start_time_ms": description.start_time_ms,
        "counters": {
            "connections": counters.connections,
            "refused_peers": counters.refused_peers,
            "late_handshakes": counters.late_handshakes,
            "reads": counters.reads,
            "limited_requests": counters.limited_requests,
            "stuck_queries": counters.stuck_queries,
            "readers_stuck": counters.readers_stuck,
            "failed_accepts": counters.failed_accepts,
            "log_lines_dropped": counters.log_lines_dropped,
        },
        "layers": layers,
        "readers": readers,
        "queries": queries,
    });
    let text = serde_json::to_string_pretty(&object).map_err(|error| error.to_string())?;
    Ok(escape_controls_in_json(&text) + "\n")
}

const fn left(title: &'static str) -> Column {
    Column { title, right: false }
}

const fn right(title: &'static str) -> Column {
    Column { title, right: true }
}

fn yes_no(yes: bool) -> Cell {
    if yes { Cell::new("yes", Style::Good) } else { Cell::new("no", Style::Bad) }
}

fn access_level(level: AccessLevel) -> &'static str {
    match level {
        AccessLevel::Minimal => "minimal",
        AccessLevel::Host => "host",
        AccessLevel::Root => "root",
        AccessLevel::Unspecified => "unknown",
    }
}

fn level_help(level: AccessLevel) -> &'static str {
    match level {
        AccessLevel::Minimal => "no host mount; data that is the same in every container",
        AccessLevel::Host => "the host's /proc and /sys, as an ordinary uid",
        AccessLevel::Root => "the host's /proc and /sys, including files that only uid 0 may read",
        AccessLevel::Unspecified => "the broker is newer than this program",
    }
}

fn view(view: View) -> &'static str {
    match view {
        View::Host => "host",
        View::Container => "container",
        View::Hidden => "host, with the processes of others hidden from the broker's uid (hidepid)",
        View::Unspecified => "unknown",
    }
}

/// Advice for a view that is probably a mistake.
fn view_help(view: View) -> &'static str {
    match view {
        View::Container => {
            ": in a pod, mount the host's; in an OS container (LXC) that is to be monitored as a host, set --view=host for the broker"
        }
        View::Hidden => {
            ": mount it without hidepid, or with hidepid=1 or 2 and gid= of a group of the broker's (with hidepid=4 the kernel \
             ignores gid=)"
        }
        View::Host | View::Unspecified => "",
    }
}

fn uptime(start_time_ms: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = now.saturating_sub(Duration::from_millis(start_time_ms)).as_secs();
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}
