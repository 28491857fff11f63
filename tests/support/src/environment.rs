//! A private directory with the programs and a socket, and what is started in it.

use std::ffi::{OsStr, OsString};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;

use crate::{BROKER_UID, Broker, ChildProcess, EXPORTER_UID, Exporter, is_root, programs};

/// The node name of the exporters, in `NODE_NAME`.
pub const NODE_NAME: &str = "node-under-test";

/// A private directory with the programs in it, where the dedicated uids can reach them. Removed with its owner.
#[derive(Debug)]
pub struct Environment {
    dir: TempDir,
    logs: AtomicUsize,
}

impl Environment {
    /// One with all programs.
    pub fn new() -> Self {
        Self::with_programs(programs::PROGRAMS.map(|name| programs::all().join(name)))
    }

    pub fn with_programs(programs: impl IntoIterator<Item = PathBuf>) -> Self {
        let dir = tempfile::Builder::new().prefix("keyhole-test-").tempdir().expect("a temporary directory");
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        for program in programs {
            programs::link(&program, dir.path());
        }
        let environment = Self { dir, logs: AtomicUsize::new(0) };
        environment.create_socket_dir();
        environment
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir().join(name)
    }

    pub fn create_socket_dir(&self) {
        let dir = self.socket_dir();
        fs::create_dir(&dir).unwrap();
        if is_root() {
            chown(&dir, Some(BROKER_UID), Some(BROKER_UID)).unwrap();
        }
    }

    pub fn socket_dir(&self) -> PathBuf {
        self.path("run")
    }

    pub fn socket(&self) -> PathBuf {
        self.socket_dir().join("broker.sock")
    }

    /// Writes a file, and makes the directories above it.
    pub fn write(&self, name: &str, content: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Makes a FIFO that nobody writes to: to open it without O_NONBLOCK hangs.
    pub fn mkfifo(&self, name: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, path, 0o644.into()).unwrap();
    }

    /// The flags of a broker that reads `proc` and `sys` below this directory.
    pub fn fixture_flags(&self) -> [String; 3] {
        ["proc", "sys"].iter().for_each(|root| fs::create_dir_all(self.path(root)).unwrap());
        [
            format!("--path.procfs={}", self.path("proc").display()),
            format!("--path.sysfs={}", self.path("sys").display()),
            "--view=host".to_owned(),
        ]
    }

    /// A command of one of the programs, as `uid` when this is root; all uids share the socket's group.
    pub fn command(&self, program: &str, uid: u32) -> Command {
        let mut command = self.command_as_self(program);
        if is_root() {
            command.gid(BROKER_UID).uid(uid);
        }
        command
    }

    /// A command of one of the programs, as the user who runs the tests.
    pub fn command_as_self(&self, program: &str) -> Command {
        let mut command = Command::new(self.path(program));
        set_up(&mut command);
        command
    }

    /// As [`Environment::command`], started by another program that takes a command line, such as nsenter or prlimit; as
    /// root only.
    pub fn command_by(&self, starter: &[String], program: &str, uid: u32) -> Command {
        let [first, rest @ ..] = starter else { return self.command(program, uid) };
        let mut command = Command::new(first);
        command.args(rest).args(["setpriv", "--clear-groups"]);
        command.args([format!("--reuid={uid}"), format!("--regid={BROKER_UID}")]).arg(self.path(program));
        set_up(&mut command);
        command
    }

    /// The broker's command with its socket, as the broker's uid.
    pub fn broker_command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = self.command("keyhole-broker", BROKER_UID);
        command.arg(flag("--socket.path=", self.socket())).args(arguments);
        command
    }

    /// The same as the user who runs the tests.
    pub fn broker_command_as_self<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = self.command_as_self("keyhole-broker");
        command.arg(flag("--socket.path=", self.socket())).args(arguments);
        command
    }

    /// Starts a broker that allows the exporter's uid, and waits until it serves.
    pub fn start_broker<S: AsRef<OsStr>>(&self, flags: &[S]) -> Broker {
        self.start_broker_by(&[], flags)
    }

    pub fn start_broker_by<S: AsRef<OsStr>>(&self, starter: &[String], flags: &[S]) -> Broker {
        self.start_broker_from(self.command_by(starter, "keyhole-broker", BROKER_UID), flags)
    }

    /// Adds the flags to a command of a broker, and starts it.
    pub fn start_broker_from<S: AsRef<OsStr>>(&self, mut command: Command, flags: &[S]) -> Broker {
        command.arg(flag("--socket.path=", self.socket())).args(flags);
        if is_root() {
            command.arg(format!("--allow-uid={EXPORTER_UID}"));
        }
        self.run_broker(command)
    }

    /// Runs a command of a broker that logs at level info, and waits until it serves.
    pub fn run_broker(&self, mut command: Command) -> Broker {
        let mut process = ChildProcess::spawn_with_log(&mut command, self.new_log());
        // The last line before it accepts.
        process.wait_for_log("a start", |log| log.contains("sysfs view=").then_some(()));
        Broker { process, socket: self.socket() }
    }

    /// Spawns a broker whose log goes elsewhere, and does not wait.
    pub fn spawn_broker(&self, mut command: Command, stderr: impl Into<Stdio>) -> Broker {
        Broker { process: ChildProcess::spawn(command.stderr(stderr)), socket: self.socket() }
    }

    /// What `keyhole-broker probe` reports, run by a uid.
    pub fn probe(&self, uid: u32) -> Output {
        let mut command = self.command("keyhole-broker", uid);
        crate::run_to_end({
            command.arg(flag("--socket.path=", self.socket())).arg("probe");
            command
        })
    }

    /// Starts an exporter on a free port of 127.0.0.1 and waits until it listens.
    pub fn start_exporter<S: AsRef<OsStr>>(&self, flags: &[S]) -> Exporter {
        self.start_exporter_as(EXPORTER_UID, flags)
    }

    pub fn start_exporter_as<S: AsRef<OsStr>>(&self, uid: u32, flags: &[S]) -> Exporter {
        self.start_exporter_from(self.command("keyhole-exporter", uid), flags)
    }

    pub fn start_exporter_by<S: AsRef<OsStr>>(&self, starter: &[String], flags: &[S]) -> Exporter {
        self.start_exporter_from(self.command_by(starter, "keyhole-exporter", EXPORTER_UID), flags)
    }

    /// Adds the flags to a command of an exporter, and starts it.
    pub fn start_exporter_from<S: AsRef<OsStr>>(&self, mut command: Command, flags: &[S]) -> Exporter {
        command.arg(flag("--broker.socket=", self.socket()));
        command.arg("--web.listen-address=127.0.0.1:0").args(flags);
        Exporter::from_process(ChildProcess::spawn_with_log(&mut command, self.new_log()))
    }

    fn new_log(&self) -> PathBuf {
        self.path(format!("{}.log", self.logs.fetch_add(1, Ordering::Relaxed)))
    }
}

impl Default for Environment {
    fn default() -> Self {
        Self::new()
    }
}

/// The standard streams and the variables of every program.
fn set_up(command: &mut Command) {
    command.stdin(Stdio::null()).stdout(Stdio::null()).current_dir("/");
    command.env_remove("KEYHOLE_BROKER_SOCKET").env("NODE_NAME", NODE_NAME);
}

/// The flags of a broker that reads this host, as far as this user may.
pub fn this_host() -> Vec<OsString> {
    let mut flags = vec!["--path.rootfs=/".into()];
    if Path::new("/etc/os-release").exists() {
        flags.push("--path.os-release=/etc/os-release".into());
    }
    let kthreadd = fs::read_to_string("/proc/2/stat").is_ok_and(|stat| stat.starts_with("2 (kthreadd) "));
    if !kthreadd {
        // Inside a container the "host" that these tests compare with is the container.
        flags.push("--view=host".into());
    }
    flags
}

/// A flag with a value that may be any path.
pub fn flag(name: &str, value: impl AsRef<OsStr>) -> OsString {
    let mut flag = OsString::from(name);
    flag.push(value);
    flag
}
