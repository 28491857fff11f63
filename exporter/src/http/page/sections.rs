//! The parts of the page, from top to bottom.

use keyhole_proto::v1::{self, AccessLevel, DescribeResponse, QueryDescription, ReaderClass, View};
use maud::{Markup, html};
use tokio::time::Instant;

use super::asked::{Known, PATIENCE};
use super::reasons::{by_reason, name};
use super::words::{self, TEXT};
use super::{Facts, plot};
use crate::broker_client::BrokerError;
use crate::collector::Collector;
use crate::history::{Kept, LastRun, Standing};
use crate::sandbox::Layer;
use crate::self_metrics::broker::word;

/// Characters of a name of the broker's or the host's.
const NAME: usize = 60;
/// What is shown of a broker's lists, however long they are.
const LAYERS: usize = 96;
const READERS: usize = 12;
const QUERIES: usize = 250;

/// Whether the broker answers, and the state of all in one glance.
pub(super) fn status(facts: &Facts<'_>) -> Markup {
    let known = &facts.broker;
    let failing = facts.kept.collectors.values().filter(|last| last.standing == Standing::Failed).count();
    let own = facts.scraper.layers().iter().filter(|layer| !layer.in_force).count();
    let brokers = known.answer.as_ref().map_or(&[][..], |(broker, _)| &broker.layers);
    let readers = known.answer.as_ref().map_or(&[][..], |(broker, _)| &broker.readers);
    let unavailable = readers.iter().filter(|reader| !reader.available).count();
    let killed = readers.iter().filter(|reader| reader.seccomp_kills > 0).count();
    let missing = own + brokers.iter().filter(|layer| !layer.in_force).count();
    let (class, title) = match &known.error {
        Some(error) => ("bad", trouble(error).0),
        None if failing + missing + unavailable + killed > 0 => ("fair", "The broker answers"),
        None => ("good", "The broker answers"),
    };
    html! {
        section.status.(class) aria-labelledby="status" {
            h2 id="status" { (title) }
            @if let Some(error) = &known.error {
                p { code { (words::clean(&error.to_string(), TEXT)) } }
                p { (trouble(error).1) }
                @match &known.answer {
                    Some((_, at)) => p { "What follows is what it said " (ago(*at)) "." }
                    None => p { "It has not answered since this exporter started." }
                }
            }
            @if failing > 0 {
                p { (words::of(failing, "collector")) " failed when last asked: " a href="#collectors" { "which, and why" } "." }
            }
            @if missing > 0 {
                p { (words::of(missing, "sandbox layer")) " not in force: " a href="#sandbox" { "which, and why" } "." }
            }
            @if unavailable > 0 {
                p { (words::of(unavailable, "reader")) " unavailable: " a href="#readers" { "which" } "." }
            }
            @if killed > 0 {
                p { "Seccomp has killed readers: " a href="#readers" { "of which class" } ". Treat it as an attack until the broker's log has \
                    explained it." }
            }
            dl {
                @if let Some((broker, _)) = &known.answer {
                    (fact("Access level", &level_word(broker.access_level())))
                    (fact("/proc", &view_word(broker.proc_view())))
                    (fact("/sys", &view_word(broker.sys_view())))
                    (fact("Broker", &format!("{}, uid {}", words::clean(&broker.version, 24), broker.uid)))
                    @if known.error.is_none() && let Some(up) = up(broker) { (fact("Up for", &up)) }
                }
                (fact("Last scrape", &last_scrape(&facts.kept)))
            }
        }
    }
}

fn last_scrape(kept: &Kept) -> String {
    match kept.scrapes.back() {
        Some(past) if past.outcome.is_err() => format!("{}, gave nothing", ago(past.ended)),
        Some(past) => ago(past.ended),
        None => "none yet".into(),
    }
}

fn fact(name: &str, value: &str) -> Markup {
    html! { div { dt { (name) } dd { (value) } } }
}

/// What is wrong, and what to do about it.
fn trouble(error: &BrokerError) -> (&'static str, String) {
    match error {
        BrokerError::Unreachable { kind: Some(std::io::ErrorKind::PermissionDenied), .. } => (
            "The broker cannot be reached by this uid",
            "Every scrape is answered 503. The exporter must be a member of the group of the broker's socket, and may \
             have to search the directory that it lies in."
                .into(),
        ),
        BrokerError::Unreachable { .. } | BrokerError::Address { .. } => (
            "The broker is down",
            "Until it is back every scrape is answered 503. See that its container runs, and that both containers \
             mount the directory of its socket; its log says why it ended."
                .into(),
        ),
        BrokerError::Deadline => (
            "The broker does not answer",
            format!(
                "It was asked, and this page waited {} ms. If it stays so, its container hangs: its log and the metrics \
                 keyhole_broker_* say since when.",
                PATIENCE.as_millis()
            ),
        ),
        BrokerError::Refused { .. } => (
            "The broker refuses",
            "It runs, and does not answer this exporter. Its flag --allow-uid names who may ask; too many questions \
             at once are refused as well."
                .into(),
        ),
    }
}

/// Plots of what the last scrapes cost.
pub(super) fn cost(kept: &Kept) -> Markup {
    let scrapes = &kept.scrapes;
    let given = |of: fn(&crate::history::Given) -> f64| -> Vec<Option<f64>> {
        scrapes.iter().map(|past| past.outcome.as_ref().ok().map(of)).collect()
    };
    let time = |seconds: f64| words::milliseconds(std::time::Duration::from_secs_f64(seconds));
    let whole = |value: f64| words::count(value as u64);
    let lost: Vec<_> =
        scrapes.iter().rev().filter_map(|past| Some((past, past.outcome.as_ref().err()?))).collect();
    let took: Vec<_> =
        scrapes.iter().map(|past| past.outcome.is_ok().then_some(past.duration.as_secs_f64())).collect();
    html! {
        section aria-labelledby="cost" {
            h2 id="cost" { "What a scrape costs" }
            @if scrapes.is_empty() {
                p.none { "No scrape yet. It is measured from the first one on." }
            } @else {
                div.plots {
                    (plot::plot("Scrape time", &took, time))
                    (plot::plot("Read by the broker", &given(|given| given.reading.as_secs_f64()), time))
                    (plot::plot("Kernel text", &given(|given| given.bytes as f64), |value| words::bytes(value as u64)))
                    (plot::plot("Series", &given(|given| given.series as f64), whole))
                }
                @if let Some((last, error)) = lost.first() {
                    p.note { (words::of(lost.len(), "scrape")) " of the last " (scrapes.len()) " gave nothing, the last "
                        (ago(last.ended)) ": " code { (words::clean(error, TEXT)) } }
                }
            }
        }
    }
}

/// The access levels, and each query that cannot be answered, by its reason.
pub(super) fn view(known: &Known) -> Markup {
    let Some((broker, _)) = &known.answer else {
        return html! {
            section aria-labelledby="view" {
                h2 id="view" { "What this node shows" }
                p.none { "Not known until the broker answers." }
            }
        };
    };
    let queries: Vec<&QueryDescription> = broker.queries.iter().take(QUERIES).collect();
    let available = queries.iter().filter(|query| query.available).count();
    let stuck: Vec<_> = queries.iter().filter(|query| query.stuck).map(|query| name(query)).collect();
    let here = broker.access_level();
    html! {
        section aria-labelledby="view" {
            h2 id="view" { "What this node shows" }
            p { "The broker can answer " b { (available) " of " (queries.len()) } " fixed queries here. Which ones is a \
                matter of its access level, of its flags, and of this kernel." }
            div.scroll {
                table.levels {
                    caption { "Access levels" }
                    thead { tr { th scope="col" { "Access level" } th scope="col" { "Shows" } th.number scope="col" { "Answered" } } }
                    tbody {
                        @for (level, shows) in LEVELS {
                            @let needing = || queries.iter().filter(|query| query.access_level() == level);
                            tr aria-current=[(level == here).then_some("true")] {
                                th scope="row" { (level_word(level)) @if level == here { " " span.tag { "here" } } }
                                td { (shows) }
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
                h3.bad { "Asleep in the kernel" }
                p { "A read has not returned yet. The others go on; these are asked again once it has." }
                (chips(&stuck))
            }
            h3 { "Cannot be shown, and why" }
            @if available == queries.len() {
                p.none { "Nothing: every query can be answered." }
            } @else {
                dl.reasons {
                    @for (reason, names) in by_reason(&queries, here) {
                        div {
                            dt { (reason.what) @if !reason.advice.is_empty() { small { (reason.advice) } } }
                            dd { (chips(&names)) }
                        }
                    }
                }
            }
            details {
                summary { "The " (available) " queries that can be answered" }
                (chips(&queries.iter().filter(|query| query.available).map(|query| name(query)).collect::<Vec<_>>()))
            }
        }
    }
}

const LEVELS: [(AccessLevel, &str); 3] = [
    (
        AccessLevel::Minimal,
        "What is the same in every container: CPU, memory, disks, pressure, sensors. No host mount.",
    ),
    (
        AccessLevel::Host,
        "The host's network, file systems and control groups as well, by its /proc and /sys, read-only.",
    ),
    (AccessLevel::Root, "The few files that only uid 0 may read, still without a capability."),
];

fn chips(names: &[String]) -> Markup {
    html! { ul.chips { @for name in names { li { (name) } } } }
}

/// The readers of each class: whether they can be asked, and what became of them.
pub(super) fn readers(known: &Known) -> Markup {
    let readers = known.answer.as_ref().map_or(&[][..], |(broker, _)| &broker.readers);
    let count = |count: u64| html! { td.number { (words::count(count)) } };
    let state = |reader: &ReaderClass| {
        html! {
            td {
                @if reader.available { span.yes { "available" } } @else { span.no { "unavailable" } }
                @if reader.seccomp_kills > 0 {
                    " " small { (words::count(reader.seccomp_kills)) " killed by seccomp" }
                }
            }
        }
    };
    html! {
        section aria-labelledby="readers" {
            h2 id="readers" { "Readers" }
            @if readers.is_empty() {
                p.none { "Not known until the broker answers." }
            } @else {
                p { "Processes that read kernel files for the broker, one class for each kind of file. One that does not \
                    return from the kernel is replaced; one that makes a system call that it must not is killed." }
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
                            @for reader in readers.iter().take(READERS) {
                                tr {
                                    th scope="row" { (words::clean(&reader.name, NAME)) }
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

/// A layer as it is shown: its name, whether it is in force, and the details.
type Row = (String, bool, String);

/// The layers of every process, in the order of the broker's answer; processes with the same layers are one.
fn layers_by_process(broker: &[v1::Layer], own: &[Layer]) -> Vec<(Vec<String>, Vec<Row>)> {
    let of_broker = broker.iter().take(LAYERS).map(|layer| {
        let row = (words::clean(&layer.name, NAME), layer.in_force, words::clean(&layer.detail, TEXT));
        (words::clean(&layer.process, NAME), row)
    });
    let own = own.iter().map(|layer| {
        ("exporter".to_owned(), (layer.name.to_owned(), layer.in_force, words::clean(&layer.detail, TEXT)))
    });
    let mut processes: Vec<(Vec<String>, Vec<Row>)> = Vec::new();
    for (process, row) in of_broker.chain(own) {
        match processes.last_mut() {
            Some((names, rows)) if *names == [&*process] => rows.push(row),
            _ => processes.push((vec![process], vec![row])),
        }
    }
    let mut alike: Vec<(Vec<String>, Vec<Row>)> = Vec::new();
    for (mut names, rows) in processes {
        match alike.iter_mut().find(|(_, others)| *others == rows) {
            Some((others, _)) => others.append(&mut names),
            None => alike.push((names, rows)),
        }
    }
    alike
}

/// The sandbox layers of every process on the broker's side, and the exporter's own.
pub(super) fn sandbox(known: &Known, own: &[Layer]) -> Markup {
    let broker = known.answer.as_ref().map_or(&[][..], |(broker, _)| &broker.layers);
    let processes = layers_by_process(broker, own);
    html! {
        section aria-labelledby="sandbox" {
            h2 id="sandbox" { "Sandbox" }
            @if processes.is_empty() {
                p.none { "No layer was asked for, and the broker's are not known." }
            } @else {
                div.scroll {
                    table.layers {
                        caption { "Layers in force, as each process found them when it sealed itself" }
                        thead { tr { th scope="col" { "Process" } th scope="col" { "Layer" } th scope="col" { "State" } } }
                        @for (names, layers) in &processes {
                            tbody {
                                @for (at, (name, in_force, detail)) in layers.iter().enumerate() {
                                    tr {
                                        @if at == 0 {
                                            th scope="rowgroup" rowspan=(layers.len()) {
                                                @for name in names { div { (name) } }
                                            }
                                        }
                                        td { code { (name) } }
                                        td {
                                            @if *in_force { span.yes { "in force" } } @else { span.no { "missing" } }
                                            " " small { (detail) }
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

/// Each collector: what it gave, what that took, and what it last failed with.
pub(super) fn collectors(enabled: &[&'static Collector], kept: &Kept) -> Markup {
    let last = |collector: &&'static Collector| Some((collector.name, kept.collectors.get(collector.name)?));
    let mut ran: Vec<(&str, &LastRun)> = enabled.iter().filter_map(last).collect();
    ran.sort_by_key(|(name, last)| (last.standing != Standing::Failed, *name));
    let empty = |last: &LastRun| last.series == 0 && last.failure.is_none() && last.skipped == 0;
    let (nothing, shown): (Vec<_>, Vec<_>) = ran.into_iter().partition(|(_, last)| empty(last));
    let mut waiting: Vec<String> = enabled
        .iter()
        .filter(|collector| !kept.collectors.contains_key(collector.name))
        .map(|collector| collector.name.to_owned())
        .collect();
    waiting.sort_unstable();
    let longest = shown.iter().map(|(_, last)| last.duration).max().unwrap_or_default().as_secs_f64();
    let share = |last: &LastRun| 100.0 * last.duration.as_secs_f64() / longest.max(1e-9);
    let series: usize = shown.iter().map(|(_, last)| last.series).sum();
    html! {
        section aria-labelledby="collectors" {
            h2 id="collectors" { "Collectors" }
            @if !shown.is_empty() {
                p { (words::of(shown.len(), "collector")) " gave " (words::count(series as u64)) " series when they last ran. The time is \
                    what it took to turn kernel text into samples." }
                div.scroll {
                    table.collectors {
                        caption { "Collectors that gave series or failed" }
                        thead { tr { th scope="col" { "Collector" } th.number scope="col" { "Series" } th.number scope="col" { "Time" } th.wide aria-hidden="true" {} } }
                        tbody {
                            @for (name, last) in &shown {
                                tr.failed[last.standing == Standing::Failed] {
                                    th scope="row" { (name) (failure(last)) (skipped(last)) }
                                    td.number { (words::count(last.series as u64)) }
                                    td.number { (words::milliseconds(last.duration)) }
                                    td.wide aria-hidden="true" {
                                        svg.bar viewBox="0 0 100 4" preserveAspectRatio="none" { path d=(format!("M0 0h{:.1}v4H0z", share(last))) {} }
                                    }
                                }
                            }
                        }
                    }
                }
            }
            @if kept.written.duplicates > 0 {
                p.note { (words::of(kept.written.duplicates, "sample")) " left out, since a series of the same name and labels was there:"
                    @for series in &kept.written.duplicate_series { " " code { (words::clean(series, TEXT)) } } }
            }
            @if !nothing.is_empty() {
                details {
                    summary { (words::of(nothing.len(), "collector")) " found nothing of their kind here" }
                    (chips(&nothing.iter().map(|(name, _)| (*name).to_owned()).collect::<Vec<_>>()))
                }
            }
            @if !waiting.is_empty() {
                details {
                    summary { (words::of(waiting.len(), "collector")) " not asked yet" }
                    (chips(&waiting))
                }
            }
        }
    }
}

fn failure(last: &LastRun) -> Markup {
    let Some((at, error)) = &last.failure else { return html! {} };
    let error = words::clean(error, TEXT);
    match last.standing {
        Standing::Failed => html! { " " span.no { "fails" } small { (error) } },
        _ => html! { small { "failed " (ago(*at)) ": " (error) } },
    }
}

/// The items that a collector left out when it last ran.
fn skipped(last: &LastRun) -> Markup {
    html! {
        @if last.skipped > 0 {
            details {
                summary { (words::of(last.skipped, "item")) " left out" }
                @for item in &last.skipped_items { small { (words::clean(item, TEXT)) } }
                @if last.skipped > last.skipped_items.len() { small { "Only the first are named; " code { "keyhole-exporter query" } " names the others." } }
            }
        }
    }
}

/// What Prometheus needs to know, to be copied.
pub(super) fn config(facts: &Facts<'_>) -> Markup {
    let target = &facts.target;
    let mut config = String::from("scrape_configs:\n  - job_name: node-exporter\n");
    if target.https {
        config.push_str("    scheme: https\n");
    }
    if facts.metrics != "/metrics" {
        // A path may hold anything; a string of JSON is one of YAML.
        let path = serde_json::Value::from(facts.metrics);
        config.push_str(&format!("    metrics_path: {path}\n"));
    }
    config.push_str(&format!("    static_configs:\n      - targets: [\"{}\"]\n", target.authority));
    let rows = config.lines().count();
    html! {
        section aria-labelledby="config" {
            h2 id="config" { "Scrape it" }
            p { label for="yaml" { "For " code { "prometheus.yml" } ", with the address that this page was asked at" }
                ": click into it, then " kbd { "Ctrl" } " " kbd { "A" } ", " kbd { "Ctrl" } " " kbd { "C" } "." }
            textarea id="yaml" readonly rows=(rows) wrap="off" spellcheck="false" autocomplete="off" { (config) }
        }
    }
}

fn ago(at: Instant) -> String {
    match at.elapsed() {
        passed if passed.as_secs() == 0 => "just now".into(),
        passed => format!("{} ago", words::span(passed)),
    }
}

fn up(broker: &DescribeResponse) -> Option<String> {
    let started =
        std::time::UNIX_EPOCH.checked_add(std::time::Duration::from_millis(broker.start_time_ms))?;
    Some(words::span(started.elapsed().ok()?))
}

fn level_word(level: AccessLevel) -> String {
    word(level.as_str_name(), "ACCESS_LEVEL_")
}

fn view_word(view: View) -> String {
    match view {
        View::Host => "the host's".into(),
        View::Container => "a container's own".into(),
        View::Hidden => "the host's, with others' processes hidden".into(),
        View::Unspecified => "not told".into(),
    }
}
