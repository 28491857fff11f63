//! The sections of the page, from top to bottom.

use keyhole_proto::v1::{self, AccessLevel, DescribeResponse, QueryDescription, ReaderClass, View};
use maud::{Markup, html};
use tokio::time::Instant;

use super::broker_status::{BrokerStatus, DESCRIBE_TIMEOUT};
use super::format::{self, MAX_TEXT_CHARS};
use super::unavailable::{name, unavailable_by_reason};
use super::{PageData, plot};
use crate::broker_client::BrokerError;
use crate::collector::Instance;
use crate::sandbox::Layer;
use crate::scrape_history::{CollectorStatus, LastRun, ScrapeRecords};
use crate::self_metrics::broker::word;

/// The most characters that are shown of a name from the broker or the host.
const MAX_NAME_CHARS: usize = 60;
/// The most entries that are shown of each list of the broker.
const MAX_LAYERS: usize = 96;
const MAX_READERS: usize = 12;
const MAX_QUERIES: usize = 250;

/// A summary: whether the broker responds, and what needs attention.
pub(super) fn status(data: &PageData<'_>) -> Markup {
    let status = &data.broker;
    let failing =
        data.history.collectors.values().filter(|last| last.status == CollectorStatus::Failed).count();
    let exporter_layers = data.scraper.layers().iter().filter(|layer| !layer.in_force).count();
    let broker_layers = status.description.as_ref().map_or(&[][..], |(broker, _)| &broker.layers);
    let readers = status.description.as_ref().map_or(&[][..], |(broker, _)| &broker.readers);
    let unavailable = readers.iter().filter(|reader| !reader.available).count();
    let killed = readers.iter().filter(|reader| reader.seccomp_kills > 0).count();
    let missing = exporter_layers + broker_layers.iter().filter(|layer| !layer.in_force).count();
    let (class, title) = match &status.error {
        Some(error) => ("bad", error_advice(error).0),
        None if failing + missing + unavailable + killed > 0 => ("fair", "The broker responds"),
        None => ("good", "The broker responds"),
    };
    html! {
        section.status.(class) aria-labelledby="status" {
            h2 id="status" { (title) }
            @if let Some(error) = &status.error {
                p { code { (format::sanitize(&error.to_string(), MAX_TEXT_CHARS)) } }
                p { (error_advice(error).1) }
                @match &status.description {
                    Some((_, at)) => p { "The following is its last response, " (time_ago(*at)) "." }
                    None => p { "It has not responded since this exporter started." }
                }
            }
            @if failing > 0 {
                p { (format::plural(failing, "collector")) " failed in the last run: " a href="#collectors" { "details" } "." }
            }
            @if missing > 0 {
                p { (format::plural(missing, "sandbox layer")) " not in force: " a href="#sandbox" { "details" } "." }
            }
            @if unavailable > 0 {
                p { (format::plural(unavailable, "reader")) " unavailable: " a href="#readers" { "details" } "." }
            }
            @if killed > 0 {
                p { "Seccomp has killed readers: " a href="#readers" { "details" } ". Treat this as an attack until the broker's log \
                    explains it." }
            }
            dl {
                @if let Some((broker, _)) = &status.description {
                    (fact("Access level", &level_name(broker.access_level())))
                    (fact("/proc", &view_name(broker.proc_view())))
                    (fact("/sys", &view_name(broker.sys_view())))
                    (fact("Broker", &format!("{}, uid {}", format::sanitize(&broker.version, 24), broker.uid)))
                    @if status.error.is_none() && let Some(uptime) = uptime(broker) { (fact("Up for", &uptime)) }
                }
                (fact("Last scrape", &last_scrape(&data.history)))
            }
        }
    }
}

fn last_scrape(history: &ScrapeRecords) -> String {
    match history.scrapes.back() {
        Some(scrape) if scrape.outcome.is_err() => format!("{}, failed", time_ago(scrape.ended)),
        Some(scrape) => time_ago(scrape.ended),
        None => "none yet".into(),
    }
}

fn fact(name: &str, value: &str) -> Markup {
    html! { div { dt { (name) } dd { (value) } } }
}

/// The title and the advice for an error.
fn error_advice(error: &BrokerError) -> (&'static str, String) {
    match error {
        BrokerError::Unreachable { kind: Some(std::io::ErrorKind::PermissionDenied), .. } => (
            "The broker cannot be reached by this uid",
            "Every scrape fails with 503. The exporter must be a member of the group of the broker's socket and needs \
             search permission on its directory."
                .into(),
        ),
        BrokerError::Unreachable { .. } | BrokerError::Address { .. } => (
            "The broker is down",
            "Until it is back every scrape fails with 503. Check that its container runs and that both containers \
             mount the directory of its socket. Its log says why it ended."
                .into(),
        ),
        BrokerError::Deadline => (
            "The broker does not respond",
            format!(
                "This page waited {} ms for it. If this persists, its container hangs: its log and the metrics \
                 keyhole_broker_* say since when.",
                DESCRIBE_TIMEOUT.as_millis()
            ),
        ),
        BrokerError::Refused { .. } => (
            "The broker refuses requests",
            "It runs and refuses this exporter. Its flag --allow-uid lists the uids that may connect; too many requests \
             at once are refused as well."
                .into(),
        ),
    }
}

/// Plots of the cost of the last scrapes.
pub(super) fn cost(history: &ScrapeRecords) -> Markup {
    let scrapes = &history.scrapes;
    let values = |value: fn(&crate::scrape_history::ScrapeTotals) -> f64| -> Vec<Option<f64>> {
        scrapes.iter().map(|scrape| scrape.outcome.as_ref().ok().map(value)).collect()
    };
    let time = |seconds: f64| format::milliseconds(std::time::Duration::from_secs_f64(seconds));
    let whole = |value: f64| format::count(value as u64);
    let failed: Vec<_> =
        scrapes.iter().rev().filter_map(|scrape| Some((scrape, scrape.outcome.as_ref().err()?))).collect();
    let durations: Vec<_> = scrapes
        .iter()
        .map(|scrape| scrape.outcome.is_ok().then_some(scrape.duration.as_secs_f64()))
        .collect();
    html! {
        section aria-labelledby="cost" {
            h2 id="cost" { "Scrape cost" }
            @if scrapes.is_empty() {
                p.none { "No scrape yet." }
            } @else {
                div.plots {
                    (plot::plot("Scrape time", &durations, time))
                    (plot::plot("Read by the broker", &values(|totals| totals.read_duration.as_secs_f64()), time))
                    (plot::plot("Kernel text", &values(|totals| totals.bytes as f64), |value| format::bytes(value as u64)))
                    (plot::plot("Series", &values(|totals| totals.series as f64), whole))
                }
                @if let Some((last, error)) = failed.first() {
                    p.note { (format::plural(failed.len(), "scrape")) " of the last " (scrapes.len()) " failed, most recently "
                        (time_ago(last.ended)) ": " code { (format::sanitize(error, MAX_TEXT_CHARS)) } }
                }
            }
        }
    }
}

/// The access levels, and the unavailable queries by reason.
pub(super) fn coverage(status: &BrokerStatus) -> Markup {
    let Some((broker, _)) = &status.description else {
        return html! {
            section aria-labelledby="data" {
                h2 id="data" { "Available data" }
                p.none { "Unknown until the broker responds." }
            }
        };
    };
    let queries: Vec<&QueryDescription> = broker.queries.iter().take(MAX_QUERIES).collect();
    let available = queries.iter().filter(|query| query.available).count();
    let stuck: Vec<_> = queries.iter().filter(|query| query.stuck).map(|query| name(query)).collect();
    let current = broker.access_level();
    html! {
        section aria-labelledby="data" {
            h2 id="data" { "Available data" }
            p { "The broker can answer " b { (available) " of " (queries.len()) } " fixed queries on this node. Which \
                ones depends on its access level, its flags and the kernel." }
            div.scroll {
                table.levels {
                    caption { "Access levels" }
                    thead { tr { th scope="col" { "Access level" } th scope="col" { "Data" } th.number scope="col" { "Available" } } }
                    tbody {
                        @for (level, data) in ACCESS_LEVELS {
                            @let needing = || queries.iter().filter(|query| query.access_level() == level);
                            tr aria-current=[(level == current).then_some("true")] {
                                th scope="row" { (level_name(level)) @if level == current { " " span.tag { "current" } } }
                                td { (data) }
                                td.number {
                                    @match needing().count() {
                                        0 => "–",
                                        all => { (needing().filter(|query| query.available).count()) " of " (all) }
                                    }
                                }
                            }
                        }
                    }
                }
            }
            @if !stuck.is_empty() {
                h3.bad { "Stuck in the kernel" }
                p { "A read of these queries has not returned from the kernel. Other queries are not affected." }
                (chips(&stuck))
            }
            h3 { "Unavailable queries" }
            @if available == queries.len() {
                p.none { "None: every query is available." }
            } @else {
                dl.reasons {
                    @for (reason, names) in unavailable_by_reason(&queries, current) {
                        div {
                            dt { (reason.summary) @if !reason.advice.is_empty() { small { (reason.advice) } } }
                            dd { (chips(&names)) }
                        }
                    }
                }
            }
            details {
                summary { (available) " available queries" }
                (chips(&queries.iter().filter(|query| query.available).map(|query| name(query)).collect::<Vec<_>>()))
            }
        }
    }
}

const ACCESS_LEVELS: [(AccessLevel, &str); 3] = [
    (
        AccessLevel::Minimal,
        "Data that is the same in every container: CPU, memory, disks, pressure, sensors. No host mount.",
    ),
    (
        AccessLevel::Host,
        "The host's network, file systems and control groups as well, from its /proc and /sys, read-only.",
    ),
    (AccessLevel::Root, "Also the few files that only uid 0 may read, without any capability."),
];

fn chips(names: &[String]) -> Markup {
    html! { ul.chips { @for name in names { li { (name) } } } }
}

/// The readers of each class: whether one is available, and how many were stuck, died or were replaced.
pub(super) fn readers(status: &BrokerStatus) -> Markup {
    let readers = status.description.as_ref().map_or(&[][..], |(broker, _)| &broker.readers);
    let count = |count: u64| html! { td.number { (format::count(count)) } };
    let state = |reader: &ReaderClass| {
        html! {
            td {
                @if reader.available { span.yes { "available" } } @else { span.no { "unavailable" } }
                @if reader.seccomp_kills > 0 {
                    " " small { (format::count(reader.seccomp_kills)) " killed by seccomp" }
                }
            }
        }
    };
    html! {
        section aria-labelledby="readers" {
            h2 id="readers" { "Readers" }
            @if readers.is_empty() {
                p.none { "Unknown until the broker responds." }
            } @else {
                p { "Processes that read kernel files for the broker, one class for each kind of file. A reader that does not \
                    return from the kernel is replaced; one that makes a forbidden system call is killed." }
                div.scroll {
                    table.readers {
                        caption { "Readers by class" }
                        thead {
                            tr {
                                th scope="col" { "Class" }
                                th scope="col" { "State" }
                                @for title in ["Stuck", "Deaths", "Replaced", "Reopened"] {
                                    th.number scope="col" { (title) }
                                }
                            }
                        }
                        tbody {
                            @for reader in readers.iter().take(MAX_READERS) {
                                tr {
                                    th scope="row" { (format::sanitize(&reader.name, MAX_NAME_CHARS)) }
                                    (state(reader))
                                    (count(reader.stuck))
                                    (count(reader.deaths))
                                    (count(reader.replacements))
                                    (count(reader.reopenings))
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A layer: its name, whether it is in force, and details.
type Row = (String, bool, String);

/// The layers of every process, in the order of the broker's response; processes with equal layers are merged.
fn layers_by_process(broker: &[v1::Layer], exporter_layers: &[Layer]) -> Vec<(Vec<String>, Vec<Row>)> {
    let broker_layers = broker.iter().take(MAX_LAYERS).map(|layer| {
        let row = (
            format::sanitize(&layer.name, MAX_NAME_CHARS),
            layer.in_force,
            format::sanitize(&layer.detail, MAX_TEXT_CHARS),
        );
        (format::sanitize(&layer.process, MAX_NAME_CHARS), row)
    });
    let exporter_layers = exporter_layers.iter().map(|layer| {
        (
            "exporter".to_owned(),
            (layer.name.to_owned(), layer.in_force, format::sanitize(&layer.detail, MAX_TEXT_CHARS)),
        )
    });
    let mut processes: Vec<(Vec<String>, Vec<Row>)> = Vec::new();
    for (process, row) in broker_layers.chain(exporter_layers) {
        match processes.last_mut() {
            Some((names, rows)) if *names == [&*process] => rows.push(row),
            _ => processes.push((vec![process], vec![row])),
        }
    }
    let mut merged: Vec<(Vec<String>, Vec<Row>)> = Vec::new();
    for (mut names, rows) in processes {
        match merged.iter_mut().find(|(_, others)| *others == rows) {
            Some((others, _)) => others.append(&mut names),
            None => merged.push((names, rows)),
        }
    }
    merged
}

/// The sandbox layers of the broker's processes and of the exporter.
pub(super) fn sandbox(status: &BrokerStatus, exporter_layers: &[Layer]) -> Markup {
    let broker = status.description.as_ref().map_or(&[][..], |(broker, _)| &broker.layers);
    let processes = layers_by_process(broker, exporter_layers);
    html! {
        section aria-labelledby="sandbox" {
            h2 id="sandbox" { "Sandbox" }
            @if processes.is_empty() {
                p.none { "The exporter has no layers, and those of the broker are unknown." }
            } @else {
                div.scroll {
                    table.layers {
                        caption { "Sandbox layers, as each process found them when it entered its sandbox" }
                        thead { tr { th scope="col" { "Process" } th scope="col" { "Layer" } th scope="col" { "State" } } }
                        @for (names, layers) in &processes {
                            tbody {
                                @for (at, (name, in_force, fact)) in layers.iter().enumerate() {
                                    tr {
                                        @if at == 0 {
                                            th scope="rowgroup" rowspan=(layers.len()) {
                                                @for name in names { div { (name) } }
                                            }
                                        }
                                        td { code { (name) } }
                                        td {
                                            @if *in_force { span.yes { "in force" } } @else { span.no { "missing" } }
                                            " " small { (fact) }
                                        }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Each collector: its series, its duration and its last failure.
pub(super) fn collectors(enabled: &[Instance], history: &ScrapeRecords) -> Markup {
    let names = enabled.iter().map(|collector| collector.row.name);
    let last = |name| Some((name, history.collectors.get(name)?));
    let mut ran: Vec<(&str, &LastRun)> = names.clone().filter_map(last).collect();
    ran.sort_by_key(|(name, last)| (last.status != CollectorStatus::Failed, *name));
    let empty = |last: &LastRun| last.series == 0 && last.failure.is_none() && last.skipped == 0;
    let (without_data, with_results): (Vec<_>, Vec<_>) = ran.into_iter().partition(|(_, last)| empty(last));
    let mut not_run: Vec<String> =
        names.filter(|name| !history.collectors.contains_key(name)).map(str::to_owned).collect();
    not_run.sort_unstable();
    let longest = with_results.iter().map(|(_, last)| last.duration).max().unwrap_or_default().as_secs_f64();
    let share = |last: &LastRun| 100.0 * last.duration.as_secs_f64() / longest.max(1e-9);
    let series: usize = with_results.iter().map(|(_, last)| last.series).sum();
    html! {
        section aria-labelledby="collectors" {
            h2 id="collectors" { "Collectors" }
            @if !with_results.is_empty() {
                p { (format::plural(with_results.len(), "collector")) " returned " (format::count(series as u64)) " series in the last run. The time is \
                    spent on turning kernel text into samples." }
                div.scroll {
                    table.collectors {
                        caption { "Collectors that returned series or failed" }
                        thead { tr { th scope="col" { "Collector" } th.number scope="col" { "Series" } th.number scope="col" { "Time" } th.wide aria-hidden="true" {} } }
                        tbody {
                            @for (name, last) in &with_results {
                                tr.failed[last.status == CollectorStatus::Failed] {
                                    th scope="row" { (name) (failure(last)) (skipped(last)) }
                                    td.number { (format::count(last.series as u64)) }
                                    td.number { (format::milliseconds(last.duration)) }
                                    td.wide aria-hidden="true" {
                                        svg.bar viewBox="0 0 100 4" preserveAspectRatio="none" { path d=(format!("M0 0h{:.1}v4H0z", share(last))) {} }
                                    }
                                }
                            }
                        }
                    }
                }
            }
            @if history.written.duplicates > 0 {
                p.note { (format::plural(history.written.duplicates, "sample")) " dropped as duplicates of a series with the same name and labels:"
                    @for series in &history.written.duplicate_series { " " code { (format::sanitize(series, MAX_TEXT_CHARS)) } } }
            }
            @if !without_data.is_empty() {
                details {
                    summary { (format::plural(without_data.len(), "collector")) " without data on this node" }
                    (chips(&without_data.iter().map(|(name, _)| (*name).to_owned()).collect::<Vec<_>>()))
                }
            }
            @if !not_run.is_empty() {
                details {
                    summary { (format::plural(not_run.len(), "collector")) " not run yet" }
                    (chips(&not_run))
                }
            }
        }
    }
}

fn failure(last: &LastRun) -> Markup {
    let Some((at, error)) = &last.failure else { return html! {} };
    let error = format::sanitize(error, MAX_TEXT_CHARS);
    match last.status {
        CollectorStatus::Failed => html! { " " span.no { "fails" } small { (error) } },
        _ => html! { small { "last failed " (time_ago(*at)) ": " (error) } },
    }
}

/// The items that a collector skipped in its last run.
fn skipped(last: &LastRun) -> Markup {
    html! {
        @if last.skipped > 0 {
            details {
                summary { (format::plural(last.skipped, "item")) " skipped" }
                @for item in &last.skipped_items { small { (format::sanitize(item, MAX_TEXT_CHARS)) } }
                @if last.skipped > last.skipped_items.len() { small { "Only the first are listed; " code { "keyhole-exporter query" } " lists more." } }
            }
        }
    }
}

/// A scrape configuration to copy.
pub(super) fn config(data: &PageData<'_>) -> Markup {
    let target = &data.target;
    let mut config = String::from("scrape_configs:\n  - job_name: node-exporter\n");
    if target.https {
        config.push_str("    scheme: https\n");
    }
    if data.metrics != "/metrics" {
        // A path may contain any character; a JSON string is a YAML string.
        let path = serde_json::Value::from(data.metrics);
        config.push_str(&format!("    metrics_path: {path}\n"));
    }
    config.push_str(&format!("    static_configs:\n      - targets: [\"{}\"]\n", target.authority));
    let rows = config.lines().count();
    html! {
        section aria-labelledby="config" {
            h2 id="config" { "Scrape configuration" }
            p { label for="yaml" { "For " code { "prometheus.yml" } ", with the address that you used for this page" }
                ". To copy: click into it, then " kbd { "Ctrl" } " " kbd { "A" } ", " kbd { "Ctrl" } " " kbd { "C" } "." }
            textarea id="yaml" readonly rows=(rows) wrap="off" spellcheck="false" autocomplete="off" { (config) }
        }
    }
}

fn time_ago(at: Instant) -> String {
    match at.elapsed() {
        elapsed if elapsed.as_secs() == 0 => "just now".into(),
        elapsed => format!("{} ago", format::duration(elapsed)),
    }
}

fn uptime(broker: &DescribeResponse) -> Option<String> {
    let started =
        std::time::UNIX_EPOCH.checked_add(std::time::Duration::from_millis(broker.start_time_ms))?;
    Some(format::duration(started.elapsed().ok()?))
}

fn level_name(level: AccessLevel) -> String {
    word(level.as_str_name(), "ACCESS_LEVEL_")
}

fn view_name(view: View) -> String {
    match view {
        View::Host => "the host's".into(),
        View::Container => "a container's own".into(),
        View::Hidden => "the host's, with processes of other users hidden".into(),
        View::Unspecified => "unknown".into(),
    }
}
