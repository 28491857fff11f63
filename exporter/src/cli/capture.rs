//! `capture DIR`: writes the broker's responses to every query to a directory, or with `-` as a tar archive to standard
//! output.

use std::io::{BufWriter, IsTerminal as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use keyhole_policy::TABLE;
use keyhole_proto::v1::{Outcome, Query};
use tokio::time::Instant;

use super::terminal::{Progress, escape_controls, print_error};
use super::watchdog::Watchdog;
use super::{Failure, StopSignal, StopSignals, broker, enter_sandbox, local, print, runtime};
use crate::broker_client::BrokerClient;
use crate::capture::{self, CaptureInfo, INDEX_DIR, WriteError, Written};
use crate::collector::in_parentheses;
use crate::http::plural;
use crate::options::Options;
use crate::self_metrics::VERSION;
use crate::snapshot::{Content, Snapshot, is_answered};

/// The timeout of reading all queries.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How long standard output may take nothing.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// Reads all queries and writes the responses to `dir`.
pub(super) fn run(dir: &Path, options: &Options) -> Result<(), Failure> {
    // Check this before the host is read.
    capture::check_target(dir).map_err(|error| error.to_string())?;
    let node_name = local()?.nodes_name();
    let mut progress = Progress::new();
    let (snapshot, written) = runtime()?.block_on(async {
        // From here on a signal stops the command, without partial output.
        let mut signals = StopSignals::listen()?;
        let broker = broker(options, BrokerClient::for_command)?;
        let (snapshot, about) = tokio::select! {
            read = read(&broker, node_name, &mut progress) => read?,
            stop = signals.next() => return Err(Failure::Stopped(stop)),
        };
        let files = snapshot.files().filter(|(_, content)| matches!(content, Content::Bytes { .. })).count();
        progress.step(&format!("writing {} to {}", plural(files, "file"), dir.display()));
        write(Arc::new(snapshot), about, dir, &mut signals).await
    })?;
    drop(progress);
    let place = dir.display().to_string();
    print(&summary(&snapshot, written, &place, &place))?;
    status(&snapshot)
}

/// Reads all queries and writes the responses as an archive to standard output. A signal ends the process.
pub(super) fn to_stdout(options: &Options) -> Result<(), Failure> {
    if std::io::stdout().is_terminal() {
        let reason =
            "standard output is a terminal: write the archive to a file, as in `capture - > node.tar`";
        return Err(Failure::Usage(reason.into()));
    }
    let node_name = local()?.nodes_name();
    let mut progress = Progress::new();
    let (snapshot, about, watchdog) = runtime()?.block_on(async {
        let broker = broker(options, BrokerClient::for_command)?;
        let watchdog = Watchdog::default();
        let start = || watchdog.start(WRITE_TIMEOUT, "standard output");
        enter_sandbox(Vec::new(), broker.socket().into(), start)?;
        let (snapshot, about) = read(&broker, node_name, &mut progress).await?;
        Ok::<_, Failure>((snapshot, about, watchdog))
    })?;
    progress.step("writing a tar archive to standard output");
    let out = BufWriter::with_capacity(64 << 10, watchdog.watch(std::io::stdout().lock()));
    let written = capture::write_archive(&snapshot, &about, out).map_err(|error| error.to_string())?;
    drop(progress);
    summary(&snapshot, written, "standard output", "FILE").lines().for_each(print_error);
    status(&snapshot)
}

/// Partial failure if a query that the broker may answer was not answered as a whole.
fn status(snapshot: &Snapshot) -> Result<(), Failure> {
    // What this broker may never read is listed, and no failure: a capture always asks for everything.
    let is_beyond_reach =
        |outcome| matches!(outcome, Outcome::NotPermitted | Outcome::Denied | Outcome::ContainerView);
    let is_missing = |outcome| !is_answered(outcome) && !is_beyond_reach(outcome);
    let is_partial = snapshot.reports().any(|(_, report)| is_missing(report.outcome));
    if is_partial { Err(Failure::Partial) } else { Ok(()) }
}

async fn read(
    broker: &BrokerClient,
    node_name: String,
    progress: &mut Progress,
) -> Result<(Snapshot, CaptureInfo), Failure> {
    let deadline = Instant::now() + TIMEOUT;
    let description = broker.describe(deadline).await.map_err(|error| error.to_string())?;
    let queries: Vec<Query> = TABLE.iter().map(|row| row.query).collect();
    progress.step(&format!("reading {} queries from the broker at {}", queries.len(), broker.socket()));
    let time = SystemTime::now();
    let mut ended = 0;
    let mut on_query_end = |query: Query| {
        ended += 1;
        progress.part(&format!(
            "reading: {ended} of {} queries, last {}",
            queries.len(),
            query.as_str_name()
        ));
    };
    let mut snapshot = broker
        .read_with_progress(&queries, deadline, &mut on_query_end)
        .await
        .map_err(|error| error.to_string())?;
    snapshot.add_reasons(&description);
    let versions = format!("exporter {VERSION}, broker {}", description.version);
    Ok((snapshot, CaptureInfo { time, node_name, versions }))
}

/// Writes on a separate thread, so that signals are handled meanwhile.
async fn write(
    snapshot: Arc<Snapshot>,
    about: CaptureInfo,
    dir: &Path,
    signals: &mut StopSignals,
) -> Result<(Arc<Snapshot>, Written), Failure> {
    let stop_requested = Arc::new(AtomicBool::new(false));
    let (snapshot_there, stop_requested_there, dir) =
        (snapshot.clone(), stop_requested.clone(), dir.to_owned());
    let mut writing = tokio::task::spawn_blocking(move || {
        capture::write_unless_stopped(&snapshot_there, &about, &dir, &|| {
            stop_requested_there.load(Ordering::Relaxed)
        })
    });
    let mut stopped: Option<StopSignal> = None;
    let written = loop {
        tokio::select! {
            written = &mut writing => break written,
            stop = signals.next() => {
                stopped = Some(stop);
                stop_requested.store(true, Ordering::Relaxed);
            }
        }
    };
    match (written.map_err(|error| format!("cannot write: {error}"))?, stopped) {
        (Ok(written), _) => Ok((snapshot, written)),
        (Err(WriteError::Stopped), Some(stop)) => Err(Failure::Stopped(stop)),
        (Err(error), _) => Err(error.to_string().into()),
    }
}

/// What was written to `place`, and how to read it from `path`.
fn summary(snapshot: &Snapshot, written: Written, place: &str, path: &str) -> String {
    format!(
        "{place}: {} of the host ({} KiB), {}, and {} in {INDEX_DIR}/\n{}{}{}It contains names of devices, addresses and mounts: check it before you share it.\n\
         keyhole-exporter replay {path} prints its metrics.\n",
        plural(written.files, "file"),
        written.bytes.div_ceil(1024),
        plural(written.links, "symbolic link"),
        plural(written.index_files, "index file"),
        unreadable(snapshot),
        unanswered(snapshot),
        not_permitted(snapshot)
    )
}

/// The queries with missing data, by reason.
fn unanswered(snapshot: &Snapshot) -> String {
    const REASONS: &[(Outcome, &str)] = &[
        (Outcome::Denied, "permission denied by the kernel"),
        (Outcome::ContainerView, "data of a container, not of the host"),
        (Outcome::Truncated, "cut by a limit"),
        (Outcome::TimedOut, "timed out"),
        (Outcome::Stuck, "stuck in the kernel"),
        (Outcome::Failed, "reader died"),
    ];
    let line = |(outcome, reason): &(Outcome, &str)| {
        let matching = snapshot.reports().filter(|(_, report)| report.outcome == *outcome);
        let names: Vec<&str> = matching.map(|(query, _)| query.as_str_name()).collect();
        (!names.is_empty()).then(|| format!("{reason}: {}\n", names.join(", ")))
    };
    REASONS.iter().filter_map(line).collect()
}

/// The number of files for which the capture has an error number instead of their content.
fn unreadable(snapshot: &Snapshot) -> String {
    match snapshot.files().filter(|(_, content)| matches!(content, Content::Errno(_))).count() {
        0 => String::new(),
        files => format!(
            "{} of the host could not be read: {INDEX_DIR}/files has the error number of each\n",
            plural(files, "file")
        ),
    }
}

/// The queries that the broker's flags do not permit, with the flag to add if the broker names it.
fn not_permitted(snapshot: &Snapshot) -> String {
    let left_out = snapshot.reports().filter(|(_, report)| report.outcome == Outcome::NotPermitted);
    let lines: String = left_out
        .map(|(query, _)| {
            let reason = in_parentheses(&escape_controls(snapshot.reason(query).unwrap_or_default(), false));
            format!("  {}{reason}\n", query.as_str_name())
        })
        .collect();
    if lines.is_empty() { lines } else { format!("not permitted by the broker's flags:\n{lines}") }
}
