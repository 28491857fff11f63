//! Processes that end with their test, and waiting with a deadline.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::usage::descendants;

/// How long a process may take to start, to answer and to stop.
pub const TIMEOUT: Duration = Duration::from_secs(20);

const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Polls until there is something; panics when there is nothing within [`TIMEOUT`].
pub fn wait_for<T>(what: &str, find: impl FnMut() -> Option<T>) -> T {
    wait_for_within(TIMEOUT, what, find)
}

/// As [`wait_for`], with another timeout.
pub fn wait_for_within<T>(timeout: Duration, what: &str, mut find: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(found) = find() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {timeout:?} in vain for {what}");
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Polls until the condition holds; panics when it does not within [`TIMEOUT`].
pub fn wait_until(condition: &str, mut holds: impl FnMut() -> bool) {
    wait_for(condition, || holds().then_some(()));
}

/// Runs a command that should end by itself, and returns its output; kills it and panics after [`TIMEOUT`].
pub fn run_to_end(mut command: Command) -> Output {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let pid = Pid::from_child(&child);
    let (done, ended) = mpsc::channel::<()>();
    let watch = std::thread::spawn(move || {
        let timed_out = ended.recv_timeout(TIMEOUT) == Err(mpsc::RecvTimeoutError::Timeout);
        if timed_out {
            // Not waited for yet, so the id is still its own.
            let _ = kill_process(pid, Signal::KILL);
        }
        timed_out
    });
    let output = child.wait_with_output().expect("the program's output");
    drop(done);
    assert!(!watch.join().unwrap(), "{command:?} did not end within {TIMEOUT:?}: {output:?}");
    output
}

/// A child process, killed when it goes out of scope. Its log is part of what a failed test prints.
#[derive(Debug)]
pub struct ChildProcess {
    pub child: Child,
    name: String,
    log: Option<PathBuf>,
}

impl ChildProcess {
    /// Spawns a command whose output goes where the command says.
    pub fn spawn(command: &mut Command) -> Self {
        let name = Path::new(command.get_program()).file_name().unwrap().to_string_lossy().into_owned();
        let child = command.spawn().unwrap_or_else(|error| panic!("{name}: {error}"));
        Self { child, name, log: None }
    }

    /// Spawns a command whose standard error is a file.
    pub fn spawn_with_log(command: &mut Command, log: PathBuf) -> Self {
        command.stderr(File::create(&log).expect("a log file"));
        let mut process = Self::spawn(command);
        process.log = Some(log);
        process
    }

    /// Spawns a command whose standard error is read line by line.
    pub fn spawn_with_lines(command: &mut Command) -> (Self, Lines) {
        let mut process = Self::spawn(command.stderr(Stdio::piped()));
        let log = BufReader::new(process.child.stderr.take().expect("it was piped"));
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || log.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        (process, Lines(lines))
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to its log; empty for one without a log file.
    pub fn log(&self) -> String {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        self.log.as_ref().map(read).unwrap_or_default()
    }

    /// Its pid, and those of every process that it has started and those have.
    pub fn pids(&self) -> Vec<u32> {
        [vec![self.pid()], descendants(self.pid())].concat()
    }

    /// Polls its log until there is something in it; panics when the process ends before, or after [`TIMEOUT`].
    pub fn wait_for_log<T>(&mut self, what: &str, find: impl Fn(&str) -> Option<T>) -> T {
        wait_for(&format!("{what} in the log of {}", self.name.clone()), || {
            let is_running = self.is_running();
            let log = self.log();
            let found = find(&log);
            assert!(found.is_some() || is_running, "{} ended before {what}: {log}", self.name);
            found
        })
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("a process of ours");
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait();
    }

    /// Asks it to stop, and returns its exit status.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        self.wait_within(TIMEOUT)
    }

    pub fn wait_within(&mut self, timeout: Duration) -> ExitStatus {
        wait_for_within(timeout, &format!("the end of {}", self.name), || {
            self.child.try_wait().expect("the child is ours")
        })
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("the child is ours").is_none()
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        // Both do nothing when it has ended already: its id may be another's by then.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if self.log.is_some() && std::thread::panicking() {
            eprintln!("---- log of {} ----\n{}", self.name, self.log());
        }
    }
}

/// The lines that a process writes to standard error.
#[derive(Debug)]
pub struct Lines(mpsc::Receiver<String>);

impl Lines {
    /// The next line that contains `part`; panics when there is none within [`TIMEOUT`].
    pub fn next_with(&mut self, part: &str) -> String {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.0.recv_timeout(left);
            let line = line.unwrap_or_else(|_| panic!("no line with {part:?} within {TIMEOUT:?}"));
            if line.contains(part) {
                return line;
            }
        }
    }

    /// The lines until there is none for this long, or the process has ended.
    pub fn until_silent(&mut self, silence: Duration) -> Vec<String> {
        std::iter::from_fn(|| self.0.recv_timeout(silence).ok()).collect()
    }
}
