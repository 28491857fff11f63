//! `capture DIR`: what the broker answers to every query, as a directory.

use std::path::Path;
use std::time::{Duration, SystemTime};

use keyhole_policy::TABLE;
use keyhole_proto::v1::Query;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use super::{Failure, print, runtime, socket};
use crate::broker_client::BrokerClient;
use crate::capture::{self, About};
use crate::options::Options;
use crate::own::OwnSource;
use crate::self_metrics::VERSION;
use crate::snapshot::{Content, Snapshot};

/// How long the broker may take for everything it has.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Asks the broker for everything and writes it to `dir`.
pub(super) fn run(dir: &Path, options: &Options) -> Result<(), Failure> {
    let socket = socket(options);
    let (snapshot, about) = runtime()?.block_on(async {
        // From here on Ctrl-C ends the reading, and never the writing half-way.
        let interrupted = signal(SignalKind::interrupt());
        let mut interrupted = interrupted.map_err(|error| format!("cannot wait for signals: {error}"))?;
        tokio::select! {
            read = read(&socket, options) => read,
            _ = interrupted.recv() => Err("interrupted; nothing was written".into()),
        }
    })?;
    capture::write(&snapshot, &about, dir).map_err(|error| error.to_string())?;
    print(&summary(&snapshot, dir))
}

async fn read(socket: &str, options: &Options) -> Result<(Snapshot, About), Failure> {
    let broker = BrokerClient::new(socket).map_err(|error| error.to_string())?;
    let deadline = Instant::now() + TIMEOUT;
    let description = broker.describe(deadline).await.map_err(|error| error.to_string())?;
    let queries: Vec<Query> = TABLE.iter().map(|row| row.query).collect();
    let time = SystemTime::now();
    let snapshot = broker.read(&queries, deadline).await.map_err(|error| error.to_string())?;
    let node_name = OwnSource::new(options).nodes_name();
    let versions = format!("exporter {VERSION}, broker {}", description.version);
    Ok((snapshot, About { time, node_name, versions }))
}

fn summary(snapshot: &Snapshot, dir: &Path) -> String {
    let texts = snapshot.files().filter(|(_, content)| matches!(content, Content::Bytes { .. })).count();
    let bytes: u64 = snapshot.reports().map(|(_, report)| report.bytes).sum();
    format!(
        "{}: {texts} files, {} KiB\nIt names devices, addresses and mounts: look through it before you share it.\n\
         keyhole-exporter replay {} prints its metrics.\n",
        dir.display(),
        bytes.div_ceil(1024),
        dir.display()
    )
}
