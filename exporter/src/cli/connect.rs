//! `connect`: standard input and output as a connection to the broker's socket, so that a gRPC client outside of a
//! container can use it: `kubectl exec -i ... -- /keyhole-exporter connect`.
//!
//! It passes bytes on and parses none. The client has the rights of this process's uid, and the broker's limits for it.

use std::io::{ErrorKind, IsTerminal as _, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::watchdog::{Watchdog, start_thread};
use super::{Failure, broker, enter_sandbox, runtime};
use crate::broker_client::BrokerClient;
use crate::options::Options;

/// How long a connection may be idle.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);
const BUFFER_BYTES: usize = 16 << 10;

/// Passes bytes on until both sides have ended.
pub(super) fn run(options: &Options) -> Result<(), Failure> {
    if std::io::stdin().is_terminal() || std::io::stdout().is_terminal() {
        let reason = "standard input and output are a terminal: a gRPC client must be at their other end; docs/queries.md has examples";
        return Err(Failure::Usage(reason.into()));
    }
    // Checks the path; the client itself is not needed.
    let socket = runtime()?.block_on(async {
        Ok::<_, Failure>(broker(options, BrokerClient::for_command)?.socket().to_owned())
    })?;
    let connect = || UnixStream::connect(&socket).and_then(|stream| Ok((stream.try_clone()?, stream)));
    let (from_broker, to_broker) =
        connect().map_err(|error| format!("cannot connect to {socket}: {error}"))?;
    let watchdog = Watchdog::default();
    enter_sandbox(Vec::new(), socket.into(), || {
        watchdog.start(IDLE_TIMEOUT, "connection to the broker")?;
        let watchdog = watchdog.clone();
        start_thread("send", move || send(to_broker, &watchdog))
    })?;
    let out = &mut std::io::stdout().lock();
    match copy(&mut watchdog.watch(from_broker), out) {
        // It begins with its settings.
        Ok(0) => Err("the broker closed the connection at once: this uid has too many connections to it (exporter, query and \
                      connect together), or is not in its --allow-uid"
            .into()),
        Ok(_) | Err(CopyError::Write(ErrorKind::BrokenPipe)) => Ok(()),
        Err(CopyError::Read(error) | CopyError::Write(error)) => {
            Err(format!("connection to the broker: {error}").into())
        }
    }
}

/// Sends standard input to the broker, and then its end. Does not return.
fn send(mut to_broker: UnixStream, watchdog: &Watchdog) {
    // An error of the broker ends the other direction, too, which reports it.
    let _ = copy(&mut watchdog.watch(std::io::stdin().lock()), &mut to_broker);
    let _ = to_broker.shutdown(Shutdown::Write);
    loop {
        // The sandbox allows the process to end, and not a thread.
        std::thread::park();
    }
}

/// Why copying ended early.
enum CopyError {
    Read(ErrorKind),
    Write(ErrorKind),
}

/// Copies until the end; returns the number of bytes. std::io::copy would use system calls that the sandbox forbids.
fn copy(from: &mut impl Read, to: &mut impl Write) -> Result<u64, CopyError> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut copied = 0;
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => return Ok(copied),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(CopyError::Read(error.kind())),
        };
        let bytes = buffer.get(..read).unwrap_or_default();
        copied += read as u64;
        to.write_all(bytes).and_then(|()| to.flush()).map_err(|error| CopyError::Write(error.kind()))?;
    }
}
