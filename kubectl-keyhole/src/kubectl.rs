//! Runs kubectl: within a deadline, with its output bounded, and ended together with what it has started.

use std::ffi::OsString;
use std::io;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::time::timeout;

use crate::explain;

/// The program in Keyhole's image.
const EXPORTER: &str = "/keyhole-exporter";
const CONTAINER: &str = "exporter";

/// The most of standard error that is kept; the rest is read and dropped.
const STDERR_LIMIT: u64 = 64 << 10;

/// How kubectl is run.
#[derive(Debug, Clone)]
pub struct Kubectl {
    pub program: OsString,
    /// Flags before all others: `--context=prod`.
    pub flags: Vec<String>,
    pub namespace: String,
    /// The deadline of each run.
    pub timeout: Duration,
}

/// What a run printed, and its exit status; none after a signal.
#[derive(Debug)]
pub struct Output {
    pub status: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Kubectl {
    /// Runs kubectl to its end. The error is one line.
    pub async fn run(&self, arguments: &[&str], limit: usize) -> Result<Output, String> {
        self.run_within(self.timeout, arguments, limit).await
    }

    async fn run_within(
        &self,
        deadline: Duration,
        arguments: &[&str],
        limit: usize,
    ) -> Result<Output, String> {
        let mut process = self.start(arguments)?;
        let mut stdout = process.take_stdout();
        let mut stderr_text = String::new();
        let all = async {
            let stderr = read_stderr(process.stderr.take(), &mut stderr_text);
            let read = async { read_bounded(&mut stdout, limit).await };
            // Nothing of the rest matters once there is too much.
            let (read, ()) = tokio::try_join!(read, async {
                stderr.await;
                Ok(())
            })?;
            Ok::<_, String>((read, process.wait().await?))
        };
        match timeout(deadline, all).await {
            Ok(done) => {
                let (stdout, status) = done?;
                Ok(Output { status, stdout, stderr: stderr_text })
            }
            Err(_) => Err(timed_out(deadline, &stderr_text)),
        }
    }

    /// Runs the exporter in a pod to its end.
    pub async fn exec(
        &self,
        pod: &str,
        arguments: &[&str],
        limit: usize,
        longer: Duration,
    ) -> Result<Output, String> {
        self.run_within(self.timeout + longer, &exec_arguments(pod, arguments), limit).await
    }

    /// Starts the exporter in a pod.
    pub fn start_exec(&self, pod: &str, arguments: &[&str]) -> Result<Process, String> {
        self.start(&exec_arguments(pod, arguments))
    }

    fn start(&self, arguments: &[&str]) -> Result<Process, String> {
        let mut command = Command::new(&self.program);
        let [first, rest @ ..] = arguments else { return Err("no command of kubectl".into()) };
        command.arg(first).args(&self.flags).arg(format!("--namespace={}", self.namespace)).args(rest);
        // In a process group of its own: what it starts, such as a program for credentials, is ended with it.
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().map_err(|error| {
            let program = self.program.to_string_lossy();
            match error.kind() {
                io::ErrorKind::NotFound => {
                    format!("{program} was not found: install kubectl, or set KUBECTL to its path")
                }
                _ => format!("cannot run {program}: {error}: install kubectl, or set KUBECTL to its path"),
            }
        })?;
        Ok(Process { stdout: child.stdout.take(), stderr: child.stderr.take(), child, has_ended: false })
    }
}

fn exec_arguments<'a>(pod: &'a str, arguments: &[&'a str]) -> Vec<&'a str> {
    [&["exec", pod, "--container", CONTAINER, "--", EXPORTER][..], arguments].concat()
}

/// The error of a run that did not end in time; `stderr` may have the question that kubectl waits for an answer to.
pub fn timed_out(deadline: Duration, stderr: &str) -> String {
    let last = match explain::last_line(stderr) {
        Some(line) => format!("; its last message: {line}"),
        None => String::new(),
    };
    format!("no answer within {deadline:?}: try again, or with a longer --timeout{last}")
}

/// A running kubectl; killed with what it has started when it is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    pub stdout: Option<ChildStdout>,
    pub stderr: Option<ChildStderr>,
    has_ended: bool,
}

impl Process {
    /// Its standard output, once.
    pub fn take_stdout(&mut self) -> impl AsyncRead + Unpin + use<> {
        self.stdout.take().expect("standard output is a pipe, and taken once")
    }

    /// Waits for its end; call it after its output has ended.
    pub async fn wait(&mut self) -> Result<Option<i32>, String> {
        let status = self.child.wait().await.map_err(|error| format!("kubectl: {error}"))?;
        self.has_ended = true;
        Ok(status.code())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Not waited for yet, so that its number, which is the group's, is still its own.
        let pid = self.child.id().filter(|_| !self.has_ended);
        if let Some(pid) = pid.and_then(|id| Pid::from_raw(id.cast_signed())) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

/// Reads to the end; an error if there is more than `limit`.
async fn read_bounded(from: &mut (impl AsyncRead + Unpin), limit: usize) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    from.take(limit as u64 + 1).read_to_end(&mut bytes).await.map_err(|error| format!("kubectl: {error}"))?;
    if bytes.len() > limit { Err(too_large(limit)) } else { Ok(bytes) }
}

/// The error for output that is larger than anything that Keyhole prints.
pub fn too_large(limit: usize) -> String {
    format!("it printed more than {} MiB, and was stopped", limit >> 20)
}

/// Reads to the end, and keeps the first part.
pub async fn read_stderr(from: Option<ChildStderr>, text: &mut String) {
    let Some(mut from) = from else { return };
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut part).await {
        let room = (STDERR_LIMIT as usize).saturating_sub(bytes.len());
        bytes.extend_from_slice(&part[..count.min(room)]);
        if room > 0 {
            *text = String::from_utf8_lossy(&bytes).into_owned();
        }
    }
}
