//! `query [COLLECTOR...]`: prints metrics as a table, JSON or the text format, or kernel text; once or repeatedly, from
//! the broker or from a capture.

mod json;
mod options;
mod rates;
mod raw;
mod result;
pub(super) mod table;
mod watch;

use std::io::{ErrorKind, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use keyhole_proto::v1::DescribeResponse;
use tokio::sync::OnceCell;
use tokio::time::Instant;

pub(super) use self::options::{Format, QueryOptions};
use self::rates::Rates;
pub(super) use self::result::QueryResult;
use super::flags::{FROM, SCRAPE_TIMEOUT};
use super::terminal::{self, Terminal, print_error};
use super::{Failure, STREAM, StopSignals, broker, local, runtime};
use crate::broker_client::BrokerClient;
use crate::capture::{self, Source};
use crate::collector::Instance;
use crate::local::LocalSource;
use crate::options::Options;
use crate::snapshot::Snapshot;

/// Runs `query` with the flags and the collectors `names`.
pub(super) fn run(names: &[&str], options: Options) -> Result<(), Failure> {
    let query = QueryOptions::new(names, &options)?;
    match &*FROM.get(&options) {
        // An unset variable of a script must not turn a query of a directory into one of this host.
        "" if options.is_set(FROM.row.name) => {
            Err(Failure::Usage("--from is empty: name the directory or archive that capture wrote".into()))
        }
        "" => runtime()?.block_on(query_broker(query, &options)),
        path => {
            let result = query_capture(path, &query)?;
            finish(&result)
        }
    }
}

/// The directories of a host, of which a tree has at least one.
const TREE_ROOTS: [&str; 5] = ["proc", "sys", "etc", "usr", "udev"];

/// Prints the metrics of a capture, or of any tree that has one of [`TREE_ROOTS`]; of `-`, of an archive on standard input.
pub(super) fn query_capture(path: &str, query: &QueryOptions) -> Result<QueryResult, Failure> {
    if query.watch_interval.is_some() {
        return Err(Failure::Usage(
            "--watch and --from exclude each other: a capture does not change".into(),
        ));
    }
    let terminal = Terminal::detect();
    // Read before the sandbox; it does not depend on the capture.
    let local = local()?;
    const PASS_A_TREE: &str = "pass a capture: a directory with the proc/, sys/, etc/, usr/ or udev/ of a host, or the archive that \
                               capture - wrote";
    let cannot_read = |error: std::io::Error| {
        let advice = match error.kind() {
            ErrorKind::PermissionDenied => {
                "run this as the owner of the files: it drops root's capabilities before it reads"
            }
            _ => PASS_A_TREE,
        };
        format!("cannot read {path}: {error}; {advice}")
    };
    let source = open(path)?.map_err(cannot_read)?;
    let (is_archive, dir) = match &source {
        Source::Directory(dir) => (false, dir.clone()),
        Source::Archive(_) => (true, PathBuf::new()),
    };
    enter_sandbox(&query.collectors, dir.clone(), PathBuf::new())?;
    let mut saved = capture::read(source).map_err(cannot_read)?;
    // A wrong directory would have nothing to print; but a collector of text files needs its own directory alone.
    let is_tree =
        is_archive || saved.about.is_some() || TREE_ROOTS.iter().any(|root| dir.join(root).is_dir());
    if !is_tree && query.collectors.iter().all(|collector| collector.directories().is_empty()) {
        return Err(format!("cannot read {path}: it has no files of a host; {PASS_A_TREE}").into());
    }
    let local = local.from_capture(saved.about).now();
    // A capture has the files of every query, and raw output prints all files of a snapshot.
    if query.format == Format::Raw {
        saved.snapshot.keep(&query.queries);
    }
    let result = QueryResult::new(query, &saved.snapshot, &local, None);
    terminal::write_stdout(&result.render(query, terminal, None))?;
    Ok(result)
}

/// Opens a capture; the inner error is of the system.
fn open(path: &str) -> Result<std::io::Result<Source>, Failure> {
    if path.is_empty() {
        return Err(Failure::Usage(
            "the path is empty: name the directory or archive that capture wrote".into(),
        ));
    }
    if path != STREAM {
        return Ok(capture::open(Path::new(path)));
    }
    if std::io::stdin().is_terminal() {
        let reason = "standard input is a terminal: pass an archive to it, as in `replay - < node.tar`";
        return Err(Failure::Usage(reason.into()));
    }
    Ok(Ok(Source::Archive(Box::new(std::io::stdin().lock()))))
}

/// Prints errors; returns the exit status.
fn finish(result: &QueryResult) -> Result<(), Failure> {
    result.print_errors();
    result.status()
}

async fn query_broker(query: QueryOptions, options: &Options) -> Result<(), Failure> {
    let terminal = Terminal::detect();
    let mut signals = StopSignals::listen()?;
    let broker = broker(options, BrokerClient::for_command)?;
    let local = local()?;
    enter_sandbox(&query.collectors, PathBuf::new(), broker.socket().into())?;
    let broker_query = BrokerQuery {
        query,
        timeout: SCRAPE_TIMEOUT.get(options),
        broker,
        local,
        terminal,
        description: OnceCell::new(),
    };
    match broker_query.query.watch_interval {
        Some(interval) => watch::run(&broker_query, interval, &mut signals).await,
        None => {
            let mut none = Rates::default();
            let result = tokio::select! {
                result = broker_query.result(&mut none) => result?,
                stop = signals.next() => return Err(Failure::Stopped(stop)),
            };
            terminal::write_stdout(&result.render(&broker_query.query, terminal, None))?;
            finish(&result)
        }
    }
}

/// Enters the sandbox before untrusted input is parsed.
fn enter_sandbox(
    collectors: &[Instance],
    capture_dir: PathBuf,
    broker_socket: PathBuf,
) -> Result<(), Failure> {
    let directories = collectors.iter().flat_map(Instance::directories);
    let mut readable: Vec<PathBuf> = directories.filter(|path| path.is_dir()).cloned().collect();
    if !capture_dir.as_os_str().is_empty() {
        readable.push(capture_dir);
    }
    super::enter_sandbox(readable, broker_socket, || Ok(()))
}

/// A query to a broker, which may be repeated.
struct BrokerQuery {
    query: QueryOptions,
    timeout: Duration,
    broker: BrokerClient,
    local: LocalSource,
    terminal: Terminal,
    /// The broker's description, requested once if a query was not answered.
    description: OnceCell<DescribeResponse>,
}

impl BrokerQuery {
    /// Reads from the broker and runs the collectors.
    async fn result(&self, rates: &mut Rates) -> Result<QueryResult, String> {
        let deadline = Instant::now() + self.timeout.max(Duration::from_millis(1));
        let mut snapshot = match &self.query.queries[..] {
            // Collectors of local data (textfiles, the clock) need no broker.
            [] => Snapshot::default(),
            queries => self.broker.read(queries, deadline).await.map_err(|error| error.to_string())?,
        };
        if snapshot.needs_reasons() {
            let describe = || self.broker.describe(deadline);
            // Without a description only the reasons are missing.
            if let Ok(description) = self.description.get_or_try_init(describe).await {
                snapshot.add_reasons(description);
            }
        }
        Ok(QueryResult::new(&self.query, &snapshot, &self.local.now(), Some(rates)))
    }
}

/// Prints lines on standard error.
fn print_lines(lines: &[String]) {
    lines.iter().for_each(|line| print_error(line));
}
