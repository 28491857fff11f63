//! Real binaries for black-box tests: a broker and exporters with private sockets and ports, each ended by its own
//! process id when its owner goes out of scope.
//!
//! As root the programs run as the uids that the manifests give them; else as the user. Whatever is waited for is
//! waited for with a deadline.
#![allow(dead_code, reason = "each test program uses its part")]

pub mod exposition;
pub mod filters;
pub mod forked;
pub mod http;
pub mod lacking;
pub mod usage;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use exposition::Exposition;
use http::Answer;

/// The uids that the manifests use, and the group that the socket belongs to.
pub const BROKER: u32 = 64646;
pub const EXPORTER: u32 = 64647;
/// A uid that no broker of these tests allows.
pub const STRANGER: u32 = 64648;

/// The programs: the broker starts the reader, which it looks for beside itself.
const PROGRAMS: [&str; 3] = ["keyhole-broker", "keyhole-reader", "keyhole-exporter"];

/// How long a process may take to start, to answer once it should, and to stop.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What the tests' exporters are told that the node is called.
pub const NODE_NAME: &str = "node-under-test";

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether a test that needs root can run: if not it says so, and fails where root was promised.
pub fn root_for(what: &str) -> bool {
    if is_root() {
        return true;
    }
    assert!(std::env::var_os("KEYHOLE_REQUIRE_ROOT").is_none(), "not root, which is needed to {what}");
    eprintln!("skipped: root is needed to {what}");
    false
}

/// The folder with the programs, built as this test was built, once a run.
pub fn binaries() -> &'static Path {
    static BINARIES: OnceLock<PathBuf> = OnceLock::new();
    BINARIES.get_or_init(|| {
        let mut build = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
        build.current_dir(env!("CARGO_MANIFEST_DIR"));
        build.args(["build", "--quiet"]);
        build.args(PROGRAMS.into_iter().flat_map(|program| ["--package", program]));
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        assert!(build.status().expect("cargo runs").success(), "cargo build of the programs failed");
        let this = std::env::current_exe().expect("this test is a file");
        let profile = this.ancestors().nth(2).expect("this test lies in target/<profile>/deps");
        for program in PROGRAMS {
            assert!(profile.join(program).is_file(), "{program} is not in {}", profile.display());
        }
        profile.to_path_buf()
    })
}

/// A private folder with the programs in it, where the dedicated uids can reach them. Removed at the end.
pub struct Home {
    dir: tempfile::TempDir,
}

impl Home {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("keyhole-test-").tempdir().expect("a temporary folder");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let home = Self { dir };
        for program in PROGRAMS {
            let (from, to) = (binaries().join(program), home.path().join(program));
            // A link costs nothing; across file systems a copy is needed.
            fs::hard_link(&from, &to).or_else(|_| fs::copy(&from, &to).map(drop)).expect(program);
        }
        home.make_socket_dir();
        home
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn make_socket_dir(&self) {
        let sockets = self.socket_dir();
        fs::create_dir(&sockets).unwrap();
        fs::set_permissions(&sockets, fs::Permissions::from_mode(0o750)).unwrap();
        if is_root() {
            chown(&sockets, Some(BROKER), Some(BROKER)).unwrap();
        }
    }

    pub fn socket_dir(&self) -> PathBuf {
        self.path().join("socket")
    }

    pub fn socket(&self) -> PathBuf {
        self.socket_dir().join("broker.sock")
    }

    /// A command of one of the programs, as `uid` when this is root; both uids share the socket's group.
    pub fn command(&self, program: &str, uid: u32) -> Command {
        let mut command = Command::new(self.path().join(program));
        command.stdin(Stdio::null()).stdout(Stdio::null()).current_dir("/");
        command.env_remove("KEYHOLE_BROKER_SOCKET").env("NODE_NAME", NODE_NAME);
        if is_root() {
            command.gid(BROKER).uid(uid);
        }
        command
    }

    /// The same, started by another program that takes a command line, such as nsenter or prlimit; as root only.
    fn command_by(&self, starter: &[String], program: &str, uid: u32) -> Command {
        let [first, rest @ ..] = starter else { return self.command(program, uid) };
        let mut command = Command::new(first);
        command.args(rest).args(["setpriv", "--clear-groups"]);
        command.args([format!("--reuid={uid}"), format!("--regid={BROKER}")]).arg(self.path().join(program));
        command.stdin(Stdio::null()).stdout(Stdio::null()).current_dir("/");
        command.env_remove("KEYHOLE_BROKER_SOCKET").env("NODE_NAME", NODE_NAME);
        command
    }

    /// Starts a broker over the roots that the flags name and waits until it serves.
    pub fn start_broker(&self, flags: &[OsString]) -> Running {
        self.start_broker_by(&[], flags)
    }

    pub fn start_broker_by(&self, starter: &[String], flags: &[OsString]) -> Running {
        self.start_broker_of(self.command_by(starter, "keyhole-broker", BROKER), flags)
    }

    pub fn start_broker_of(&self, mut command: Command, flags: &[OsString]) -> Running {
        command.arg(flag("--socket.path=", self.socket())).args(flags);
        if is_root() {
            command.arg(format!("--allow-uid={EXPORTER}"));
        }
        let mut broker = Running::start(command, self.log());
        broker.wait_for("serve", || {
            let mut probe = self.command("keyhole-broker", BROKER);
            probe.arg("probe").arg(flag("--socket.path=", self.socket())).stderr(Stdio::null());
            probe.status().is_ok_and(|status| status.success()).then_some(())
        });
        broker
    }

    /// Starts an exporter on a free port of 127.0.0.1 and waits until it listens.
    pub fn start_exporter<S: AsRef<OsStr>>(&self, flags: &[S]) -> Exporter {
        self.start_exporter_as(EXPORTER, flags)
    }

    pub fn start_exporter_as<S: AsRef<OsStr>>(&self, uid: u32, flags: &[S]) -> Exporter {
        self.start_exporter_of(self.command("keyhole-exporter", uid), flags)
    }

    pub fn start_exporter_by<S: AsRef<OsStr>>(&self, starter: &[String], flags: &[S]) -> Exporter {
        self.start_exporter_of(self.command_by(starter, "keyhole-exporter", EXPORTER), flags)
    }

    pub fn start_exporter_of<S: AsRef<OsStr>>(&self, mut command: Command, flags: &[S]) -> Exporter {
        command.arg(flag("--broker.socket=", self.socket()));
        command.arg("--web.listen-address=127.0.0.1:0").args(flags);
        let mut process = Running::start(command, self.log());
        let log = process.log.clone();
        let address = process.wait_for("listen", || {
            // It chose the port itself, so no other process can have it, and its log tells which.
            let log = fs::read_to_string(&log).unwrap_or_default();
            let line = log.lines().find(|line| line.contains(" msg=listening "))?.to_owned();
            line.split(" address=").nth(1)?.split(' ').next()?.parse().ok()
        });
        Exporter { process, address }
    }

    fn log(&self) -> PathBuf {
        static LOGS: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let number = LOGS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.path().join(format!("{number}.log"))
    }
}

/// Runs a command that should end by itself soon.
pub fn finish(mut command: Command) -> Output {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let pid = Pid::from_child(&child);
    let (done, ended) = std::sync::mpsc::channel::<()>();
    let watch = std::thread::spawn(move || {
        let late = ended.recv_timeout(PATIENCE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout);
        if late {
            // Not waited for yet, so the id is still its own.
            let _ = kill_process(pid, Signal::KILL);
        }
        late
    });
    let output = child.wait_with_output().expect("the program's output");
    drop(done);
    assert!(!watch.join().unwrap(), "{command:?} did not end within {PATIENCE:?}: {output:?}");
    output
}

/// A process of this test's, killed when it goes out of scope.
pub struct Running {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Running {
    fn start(mut command: Command, log: PathBuf) -> Self {
        command.stderr(fs::File::create(&log).expect("a log file"));
        let name = Path::new(command.get_program()).file_name().unwrap().to_string_lossy().into_owned();
        Self { child: command.spawn().expect("the program starts"), name, log }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Asks until there is an answer.
    fn wait_for<T>(&mut self, what: &str, ask: impl Fn() -> Option<T>) -> T
    where
        Self: Sized,
    {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(answer) = ask() {
                return answer;
            }
            let ended = self.child.try_wait().expect("the child is ours");
            assert!(ended.is_none(), "the {} did not start to {what}: {ended:?}", self.name);
            assert!(Instant::now() < deadline, "the {} did not {what} in time", self.name);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it as a crash would.
    pub fn kill(mut self) {
        self.child.kill().expect("a running process");
        self.child.wait().expect("a child");
    }

    /// Asks it to stop and gives its exit status.
    pub fn terminate(&mut self) -> ExitStatus {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("a running process");
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("the child is ours") {
                return status;
            }
            assert!(Instant::now() < deadline, "the {} did not stop on SIGTERM", self.name);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("the child is ours").is_none()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both do nothing when it has ended already: its id may be another's by then.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("---- log of the {} ----\n{}", self.name, self.log());
        }
    }
}

/// A running exporter.
pub struct Exporter {
    pub process: Running,
    pub address: SocketAddr,
}

impl Exporter {
    pub fn get(&self, path: &str) -> Answer {
        http::get(self.address, path, &[])
    }

    /// A scrape as Prometheus makes one with this timeout.
    pub fn metrics(&self, timeout_seconds: &str) -> Answer {
        http::get(self.address, "/metrics", &[("X-Prometheus-Scrape-Timeout-Seconds", timeout_seconds)])
    }

    /// A scrape that must succeed and be well formed.
    pub fn scrape(&self) -> Exposition {
        let answer = self.metrics("10");
        assert_eq!(answer.status, 200, "{}", answer.text());
        Exposition::parse(&answer.body).unwrap_or_else(|error| panic!("{error}"))
    }
}

/// What tells a broker to read this host, as far as this user may.
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
