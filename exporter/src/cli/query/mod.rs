//! `query [COLLECTOR...]`: metrics as a table, as JSON, as the text format, or the kernel's own text; once or again and
//! again, of the broker or of a saved capture.

mod choice;
mod frame;
mod json;
mod rates;
mod raw;
pub(super) mod table;
mod watch;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use keyhole_proto::v1::DescribeResponse;
use tokio::sync::OnceCell;
use tokio::time::Instant;

pub(super) use self::choice::{Choice, Format};
pub(super) use self::frame::Frame;
use self::rates::Rates;
use super::screen::{self, Screen, complain};
use super::{Failure, Stops, runtime, socket};
use crate::broker_client::BrokerClient;
use crate::budget::Budget;
use crate::capture;
use crate::collector::tasks::processgroups::ProcessGroups;
use crate::options::Options;
use crate::own::OwnSource;
use crate::sandbox::{self, QUERY_SYSCALLS, SealOptions};
use crate::snapshot::Snapshot;

/// Shows what the flags and `names` choose.
pub(super) fn run(names: &[&str], options: Options) -> Result<(), Failure> {
    let choice = Choice::new(names, &options)?;
    match options.text("from") {
        "" => runtime()?.block_on(of_broker(choice, &options)),
        dir => {
            let frame = of_capture(Path::new(dir), &choice, &options)?;
            ended(&frame)
        }
    }
}

/// Shows a saved capture, or any tree with `proc/` and `sys/`.
pub(super) fn of_capture(dir: &Path, choice: &Choice, options: &Options) -> Result<Frame, Failure> {
    if choice.interval.is_some() {
        return Err(Failure::Usage(
            "--watch and --from exclude each other: what is saved does not change".into(),
        ));
    }
    let screen = Screen::find();
    let groups = ProcessGroups::new(options)?;
    // What it is asked before the seal does not depend on the capture.
    let own = OwnSource::new(options).with_process_groups(groups);
    seal(&own, dir.into(), PathBuf::new())?;
    let saved = capture::read(dir).map_err(|error| {
        let advice = match error.kind() {
            ErrorKind::PermissionDenied => {
                "run it as the owner of the files: it gives up root's right to read them before it reads"
            }
            _ => "give a capture or a tree with proc/",
        };
        format!("cannot read {}: {error}; {advice}", dir.display())
    })?;
    let own = own.of_capture(saved.about).now();
    let frame = Frame::new(choice, &saved.snapshot, options, &own, None);
    screen::write(&frame.render(choice, screen, None))?;
    Ok(frame)
}

/// Says what is missing, and ends.
fn ended(frame: &Frame) -> Result<(), Failure> {
    frame.complain();
    if frame.is_whole() { Ok(()) } else { Err(Failure::Partial) }
}

async fn of_broker(choice: Choice, options: &Options) -> Result<(), Failure> {
    let screen = Screen::find();
    let mut stops = Stops::listen()?;
    let broker =
        BrokerClient::for_command(&socket(options)).map_err(|error| Failure::Usage(error.to_string()))?;
    let broker = broker.with_max_response_bytes(Budget::new(options).answer);
    let own = OwnSource::new(options).with_process_groups(ProcessGroups::new(options)?);
    seal(&own, PathBuf::new(), broker.socket().into())?;
    let asked = Asked { choice, options, broker, own, screen, description: OnceCell::new() };
    match asked.choice.interval {
        Some(interval) => watch::run(&asked, interval, &mut stops).await,
        None => {
            let mut none = Rates::default();
            let frame = tokio::select! {
                frame = asked.frame(&mut none) => frame?,
                stop = stops.next() => return Err(Failure::Stopped(stop)),
            };
            screen::write(&frame.render(&asked.choice, screen, None))?;
            ended(&frame)
        }
    }
}

/// Parsers see what others shaped: from here on there is nothing to be gained from them.
fn seal(own: &OwnSource, saved: PathBuf, broker_socket: PathBuf) -> Result<(), Failure> {
    let (mut readable, _) = own.text_directories();
    if !saved.as_os_str().is_empty() {
        readable.push(saved);
    }
    let layers = sandbox::seal(&SealOptions { readable, broker_socket, also: QUERY_SYSCALLS })?;
    for layer in layers.iter().filter(|layer| !layer.in_force) {
        tracing::debug!(layer = layer.name, detail = layer.detail, "sandbox layer MISSING");
    }
    Ok(())
}

/// What is asked of a broker, once or again.
struct Asked<'o> {
    choice: Choice,
    options: &'o Options,
    broker: BrokerClient,
    own: OwnSource,
    screen: Screen,
    /// What the broker said of itself, once a query was found that it does not answer.
    description: OnceCell<DescribeResponse>,
}

impl Asked<'_> {
    /// Asks the broker, and makes of its answer what is to be shown.
    async fn frame(&self, rates: &mut Rates) -> Result<Frame, String> {
        let deadline = Instant::now() + self.options.duration("scrape.timeout").max(Duration::from_millis(1));
        let mut snapshot = match &self.choice.queries[..] {
            // What the exporter knows by itself (text files, the clock) needs no broker.
            [] => Snapshot::default(),
            queries => self.broker.read(queries, deadline).await.map_err(|error| error.to_string())?,
        };
        if snapshot.needs_reasons() {
            let describe = || self.broker.describe(deadline);
            // Without it the outcome is shown all the same, and the reason is not.
            if let Ok(description) = self.description.get_or_try_init(describe).await {
                snapshot.add_reasons(description);
            }
        }
        Ok(Frame::new(&self.choice, &snapshot, self.options, &self.own.now(), Some(rates)))
    }
}

/// Lines on standard error, each once.
fn tell(lines: &[String]) {
    lines.iter().for_each(|line| complain(line));
}
