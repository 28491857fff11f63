//! `cargo run --release`: starts a broker and an exporter on this host, for a first look, and stops both on Ctrl-C.
//!
//! As root the two run as the dedicated uids that a cluster would give them; else both run as the user. Arguments
//! after `--` go to the exporter: `cargo run --release -- --web.listen-address=127.0.0.1:9200`.
#![forbid(unsafe_code)]

use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep, timeout};

/// The uids that the manifests use, and the group that the socket belongs to.
const BROKER: u32 = 64646;
const EXPORTER: u32 = 64647;

/// Where the exporter listens by default.
const ADDRESS: &str = "127.0.0.1:9100";

/// The programs. The broker starts the reader from its own directory.
const PROGRAMS: [&str; 3] = ["keyhole-broker", "keyhole-reader", "keyhole-exporter"];

/// The most time that each process may take to start, and to stop.
const START_TIMEOUT: Duration = Duration::from_secs(10);

type Failure = Box<dyn Error>;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.map_err(Failure::from).and_then(|runtime| runtime.block_on(run())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("keyhole: error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Failure> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();

    let binaries = build().await?;
    let home = Home::new(&binaries)?;
    let mut broker = start_broker(&home, &arguments).await?;
    let address = address(&arguments);
    let mut exporter = start_exporter(&home, &arguments, &address).await?;
    println!("==> metrics    http://{address}/metrics");
    println!("==> query      {}", home.query());
    println!("    stop with Ctrl-C");

    let ended = tokio::select! {
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
        _ = hangup.recv() => None,
        status = broker.wait() => Some(("broker", status?)),
        status = exporter.wait() => Some(("exporter", status?)),
    };
    stop("exporter", &mut exporter).await;
    stop("broker", &mut broker).await;
    match ended {
        None => Ok(()),
        Some((name, status)) => Err(format!("the {name} exited ({status}); its log is above").into()),
    }
}

/// Builds the programs in the profile of this one; returns their directory.
async fn build() -> Result<PathBuf, Failure> {
    println!("==> build      {}", PROGRAMS.join(", "));
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet"]);
    command.args(PROGRAMS.into_iter().flat_map(|program| ["--package", program]));
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let status =
        command.status().await.map_err(|error| format!("cargo build: {error}: is cargo on the PATH?"))?;
    if !status.success() {
        return Err("cargo build failed; its messages are above".into());
    }
    let this = std::env::current_exe()?;
    Ok(this.parent().ok_or("this program is in no directory")?.to_path_buf())
}

/// A temporary directory: copies of the programs, which the dedicated uids can reach even if the build directory is
/// closed to them, and the directory of the socket. Removed at the end.
struct Home {
    dir: tempfile::TempDir,
    root: bool,
}

impl Home {
    fn new(binaries: &Path) -> Result<Self, Failure> {
        let home = Self {
            dir: tempfile::Builder::new().prefix("keyhole-").tempdir()?,
            root: rustix::process::geteuid().is_root(),
        };
        let socket_dir = home.dir.path().join("socket");
        fs::create_dir(&socket_dir)?;
        for name in PROGRAMS {
            fs::copy(binaries.join(name), home.dir.path().join(name))
                .map_err(|error| format!("{name}: {error}"))?;
        }
        if home.root {
            fs::set_permissions(home.dir.path(), fs::Permissions::from_mode(0o711))?;
            fs::set_permissions(&socket_dir, fs::Permissions::from_mode(0o750))?;
            chown(&socket_dir, Some(BROKER), Some(BROKER))?;
        }
        Ok(home)
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("socket/broker.sock")
    }

    /// A command that asks the broker. The broker answers the uids that the programs run as, and not root.
    fn query(&self) -> String {
        let program = self.dir.path().join("keyhole-exporter");
        let query = format!("{} --broker.socket={} query stat", program.display(), self.socket().display());
        if self.root {
            format!("setpriv --reuid={EXPORTER} --regid={BROKER} --clear-groups {query}")
        } else {
            query
        }
    }

    /// A command that runs a program, as `uid` if this is root. Both programs share the broker's group.
    fn command(&self, name: &str, uid: u32) -> Command {
        let mut command = Command::new(self.dir.path().join(name));
        // In a process group of its own: Ctrl-C reaches this program alone, which then stops both in order.
        command.stdin(Stdio::null()).process_group(0).kill_on_drop(true).current_dir("/");
        if self.root {
            command.gid(BROKER).uid(uid);
        }
        command
    }
}

fn spawn(mut command: Command) -> Result<Child, Failure> {
    let program = command.as_std().get_program().to_owned();
    command.spawn().map_err(|error| {
        let program = program.display();
        format!("{program}: {error}: if that directory is mounted noexec, set TMPDIR to one that is not")
            .into()
    })
}

async fn start_broker(home: &Home, arguments: &[OsString]) -> Result<Child, Failure> {
    let socket = home.socket();
    let mut command = home.command("keyhole-broker", BROKER);
    command.arg(with("--socket.path=", &socket)).arg("--path.rootfs=/");
    for (flag, path) in [("--path.os-release=", "/etc/os-release"), ("--path.udev.data=", "/run/udev/data")] {
        if Path::new(path).exists() {
            command.arg(with(flag, path));
        }
    }
    if home.root {
        command.arg(format!("--allow-uid={EXPORTER}"));
    }
    // Needed by collectors that are off unless they are named.
    if arguments.iter().any(|argument| argument.to_string_lossy().starts_with("--collector.process")) {
        command.arg("--allow-processes");
    }
    let mut broker = spawn(command)?;
    wait_until("broker", &mut broker, async || {
        let mut probe = home.command("keyhole-broker", BROKER);
        probe.arg("probe").arg(with("--socket.path=", &socket)).stderr(Stdio::null());
        probe.status().await.is_ok_and(|status| status.success())
    })
    .await?;
    println!("==> broker     pid {}, {}", broker.id().unwrap_or(0), socket.display());
    Ok(broker)
}

async fn start_exporter(home: &Home, arguments: &[OsString], address: &str) -> Result<Child, Failure> {
    let mut command = home.command("keyhole-exporter", EXPORTER);
    command.arg(with("--broker.socket=", home.socket())).args(arguments);
    if !arguments.iter().any(|argument| argument.to_string_lossy().starts_with("--web.listen-address")) {
        command.arg(format!("--web.listen-address={address}"));
    }
    if std::env::var_os("NODE_NAME").is_none() {
        let name = rustix::system::uname();
        command.env("NODE_NAME", name.nodename().to_string_lossy().into_owned());
    }
    let mut exporter = spawn(command)?;
    wait_until("exporter", &mut exporter, async || is_ready(address).await.unwrap_or(false)).await?;
    println!("==> exporter   pid {}, ready", exporter.id().unwrap_or(0));
    Ok(exporter)
}

fn with(flag: &str, value: impl AsRef<std::ffi::OsStr>) -> OsString {
    let mut argument = OsString::from(flag);
    argument.push(value);
    argument
}

/// The address of the exporter on this host, from its arguments.
fn address(arguments: &[OsString]) -> String {
    const FLAG: &str = "--web.listen-address";
    let mut arguments = arguments.iter().map(|argument| argument.to_string_lossy());
    while let Some(argument) = arguments.next() {
        let listen = match argument.strip_prefix(FLAG).map(|rest| rest.strip_prefix('=')) {
            Some(Some(address)) => address.to_owned(),
            Some(None) if argument == FLAG => arguments.next().unwrap_or_default().into_owned(),
            _ => continue,
        };
        let port = listen.rsplit(':').next().unwrap_or_default();
        let anywhere = listen.starts_with(':') || listen.contains("0.0.0.0") || listen.contains("[::]");
        return if anywhere {
            format!("127.0.0.1:{port}")
        } else {
            listen.replace("[127.0.0.1]", "127.0.0.1")
        };
    }
    ADDRESS.to_owned()
}

/// Whether the exporter reports that it and its broker are ready.
async fn is_ready(address: &str) -> std::io::Result<bool> {
    let check = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET /-/ready HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut status = [0; 12];
        stream.read_exact(&mut status).await?;
        Ok(status.ends_with(b" 200"))
    };
    timeout(Duration::from_secs(1), check).await?
}

async fn wait_until(name: &str, child: &mut Child, ready: impl AsyncFn() -> bool) -> Result<(), Failure> {
    let deadline = Instant::now() + START_TIMEOUT;
    while !ready().await {
        if let Some(status) = child.try_wait()? {
            return Err(format!("the {name} did not start ({status}); its message is above").into());
        }
        if Instant::now() > deadline {
            return Err(format!(
                "the {name} was not ready within {} s; its log is above",
                START_TIMEOUT.as_secs()
            )
            .into());
        }
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Asks a process to stop, and kills it if it does not.
async fn stop(name: &str, child: &mut Child) {
    let Some(pid) = child.id().and_then(|id| rustix::process::Pid::from_raw(id as i32)) else { return };
    let sent = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    let ended = timeout(START_TIMEOUT, child.wait()).await;
    match (sent, ended) {
        (Ok(()), Ok(Ok(_))) => println!("==> stopped    {name}"),
        _ => println!("==> killed     {name}: it did not stop when asked"),
    }
}
