//! `cargo run --release`: starts a broker and an exporter on this host, for a first look, and stops both on Ctrl-C.
//!
//! As root the two run as the dedicated uids that a cluster would give them; else both run as the user. Arguments
//! after `--` go to the exporter: `cargo run --release -- --web.listen-address=127.0.0.1:9200`.
#![forbid(unsafe_code)]

use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, ToSocketAddrs as _};
use std::os::unix::ffi::OsStrExt as _;
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

/// What to run for another address.
const OTHER_ADDRESS: &str = "cargo run --release -- --web.listen-address=127.0.0.1:9200";

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
    if let Some(word) = arguments.first().filter(|word| !word.as_bytes().starts_with(b"-")) {
        return Err(format!(
            "{word:?} is no flag: what follows -- are flags of the exporter; commands such as query run beside it, as the line \
             ==> query will show"
        )
        .into());
    }
    // Whatever can fail is tried before the minutes that building takes.
    let address = address(&arguments)?;
    check_address(&arguments, &address)?;
    let mut home = Home::new()?;

    let binaries = tokio::select! {
        binaries = build() => binaries?,
        _ = interrupt.recv() => return Err("stopped while building".into()),
        _ = terminate.recv() => return Err("stopped while building".into()),
        _ = hangup.recv() => return Err("stopped while building".into()),
    };
    home.copy(&binaries)?;
    if home.prints_and_ends(&arguments).await? {
        return Ok(());
    }
    let mut broker = start_broker(&home, &arguments).await?;
    let mut exporter = start_exporter(&home, &arguments, &address).await?;
    println!("==> metrics    http://{address}/metrics");
    match home.query() {
        Some(query) => println!("==> query      {query}"),
        None => println!("==> query      needs setpriv(1) of util-linux: the broker does not answer root"),
    }
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

/// Builds the programs in the profile of this one, and shows cargo's progress; returns their directory.
async fn build() -> Result<PathBuf, Failure> {
    let this = std::env::current_exe()?;
    let directory = this.parent().ok_or("this program is in no directory")?.to_path_buf();
    let is_first = !PROGRAMS.iter().all(|program| directory.join(program).exists());
    let duration = if is_first { ": about three minutes the first time, on two cores" } else { "" };
    println!("==> build      {}{duration}", PROGRAMS.join(", "));
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let mut command = Command::new(&cargo);
    command.arg("build");
    command.args(PROGRAMS.into_iter().flat_map(|program| ["--package", program]));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null()).kill_on_drop(true);
    // What cargo set for this program: the build script of ring reads it, and would build ring once more.
    for (name, _) in std::env::vars_os() {
        if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|set| name.as_bytes().starts_with(set.as_bytes())) {
            command.env_remove(name);
        }
    }
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let status = command.status().await.map_err(|error| match error.kind() {
        ErrorKind::NotFound => {
            format!(
                "{} was not found: start this by `cargo run --release`, or put cargo on the PATH",
                cargo.display()
            )
        }
        _ => format!("cannot run {}: {error}", cargo.display()),
    })?;
    if !status.success() {
        return Err(format!("cargo build failed ({status}); its messages are above").into());
    }
    Ok(directory)
}

/// A temporary directory: copies of the programs, which the dedicated uids can reach even if the build directory is
/// closed to them, and the directory of the socket. Removed at the end.
struct Home {
    dir: tempfile::TempDir,
    /// Whether the programs get their dedicated uids.
    dedicated: bool,
}

impl Home {
    fn new() -> Result<Self, Failure> {
        let place = std::env::temp_dir();
        let cannot_use = |error: &dyn std::fmt::Display| {
            format!("cannot use {}: {error}: set TMPDIR to another directory", place.display())
        };
        let dir =
            tempfile::Builder::new().prefix("keyhole-").tempdir().map_err(|error| cannot_use(&error))?;
        let flags = rustix::fs::statvfs(dir.path())?.f_flag;
        if flags.contains(rustix::fs::StatVfsMountFlags::NOEXEC) {
            return Err(cannot_use(&"it is mounted noexec, and programs are started from it").into());
        }
        let socket_dir = dir.path().join("socket");
        fs::create_dir(&socket_dir)?;
        let dedicated = may_set_uids() && chown(&socket_dir, Some(BROKER), Some(BROKER)).is_ok();
        if dedicated {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711))?;
            fs::set_permissions(&socket_dir, fs::Permissions::from_mode(0o750))?;
        } else if rustix::process::geteuid().is_root() {
            println!("==> note       no capability to set uids: both programs run as root");
        }
        Ok(Self { dir, dedicated })
    }

    fn copy(&mut self, binaries: &Path) -> Result<(), Failure> {
        for name in PROGRAMS {
            fs::copy(binaries.join(name), self.dir.path().join(name)).map_err(|error| {
                format!(
                    "cannot copy {name} to {}: {error}: set TMPDIR to another directory",
                    self.dir.path().display()
                )
            })?;
        }
        Ok(())
    }

    /// Has the exporter check the flags, which alone knows them; whether they were such as --help, which it has answered.
    async fn prints_and_ends(&self, arguments: &[OsString]) -> Result<bool, Failure> {
        let mut command = self.command("keyhole-exporter", EXPORTER);
        let is_question = |argument: &OsString| {
            ["-h", "--help", "--help-long", "--help-man", "--version"]
                .iter()
                .any(|question| argument == question)
        };
        if arguments.iter().any(is_question) {
            let status = spawn(command.args(arguments))?.wait().await?;
            return if status.success() {
                Ok(true)
            } else {
                Err("the exporter refuses its flags: see above".into())
            };
        }
        command.args(arguments).arg("--version").stdout(Stdio::null()).stderr(Stdio::piped());
        let output = spawn(&mut command)?.wait_with_output().await?;
        if output.status.success() {
            return Ok(false);
        }
        let message = String::from_utf8_lossy(&output.stderr);
        let line = message.trim_end().lines().next_back().unwrap_or_default();
        let line = line.strip_prefix("keyhole-exporter: error: ").unwrap_or(line);
        Err(format!("the exporter refuses its flags: {line}").into())
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("socket/broker.sock")
    }

    /// A command that asks the broker. The broker answers the uids that the programs run as, and not root.
    fn query(&self) -> Option<String> {
        let program = self.dir.path().join("keyhole-exporter");
        let query = format!("{} --broker.socket={} query stat", program.display(), self.socket().display());
        if !self.dedicated {
            return Some(query);
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let has_setpriv = std::env::split_paths(&path).any(|directory| directory.join("setpriv").is_file());
        has_setpriv.then(|| format!("setpriv --reuid={EXPORTER} --regid={BROKER} --clear-groups {query}"))
    }

    /// A command that runs a program, as `uid` if this is root. Both programs share the broker's group.
    fn command(&self, name: &str, uid: u32) -> Command {
        let mut command = Command::new(self.dir.path().join(name));
        // In a process group of its own: Ctrl-C reaches this program alone, which then stops both in order.
        command.stdin(Stdio::null()).process_group(0).kill_on_drop(true).current_dir("/");
        if self.dedicated {
            command.gid(BROKER).uid(uid);
        }
        command
    }
}

/// Whether this process may start others as the dedicated uids: not as root of a container without capabilities.
fn may_set_uids() -> bool {
    use rustix::thread::CapabilitySet;
    let needed = CapabilitySet::SETUID | CapabilitySet::SETGID | CapabilitySet::KILL;
    rustix::process::geteuid().is_root()
        && rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(needed))
}

fn spawn(command: &mut Command) -> Result<Child, Failure> {
    let program = command.as_std().get_program().to_owned();
    command.spawn().map_err(|error| format!("cannot start {}: {error}", program.display()).into())
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
    if home.dedicated {
        command.arg(format!("--allow-uid={EXPORTER}"));
    } else if rustix::process::geteuid().is_root() {
        command.arg("--allow-root");
    }
    // Needed by collectors that are off unless they are named.
    if arguments.iter().any(|argument| argument.to_string_lossy().starts_with("--collector.process")) {
        command.arg("--allow-processes");
    }
    let mut broker = spawn(&mut command)?;
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
    let mut exporter = spawn(&mut command)?;
    wait_until("exporter", &mut exporter, async || is_ready(address).await.unwrap_or(false)).await?;
    println!("==> exporter   pid {}, ready", exporter.id().unwrap_or(0));
    Ok(exporter)
}

fn with(flag: &str, value: impl AsRef<std::ffi::OsStr>) -> OsString {
    let mut argument = OsString::from(flag);
    argument.push(value);
    argument
}

const LISTEN_ADDRESS: &str = "--web.listen-address";

/// The addresses that the exporter is to listen on, as its arguments have them.
fn listen_addresses(arguments: &[OsString]) -> Vec<String> {
    let mut arguments = arguments.iter().map(|argument| argument.to_string_lossy());
    let mut addresses = Vec::new();
    while let Some(argument) = arguments.next() {
        match argument.strip_prefix(LISTEN_ADDRESS).map(|rest| rest.strip_prefix('=')) {
            Some(Some(address)) => addresses.push(address.to_owned()),
            Some(None) if argument == LISTEN_ADDRESS => {
                addresses.push(arguments.next().unwrap_or_default().into_owned());
            }
            _ => {}
        }
    }
    if addresses.is_empty() {
        addresses.push(ADDRESS.to_owned());
    }
    addresses
}

/// The address of the exporter on this host, from its arguments.
fn address(arguments: &[OsString]) -> Result<String, Failure> {
    let listen = listen_addresses(arguments).swap_remove(0);
    let port = listen.rsplit(':').next().unwrap_or_default();
    if !listen.contains(':') || port.parse::<u16>().is_ok_and(|port| port == 0) {
        return Err(format!("{LISTEN_ADDRESS}={listen}: name a port, as in {OTHER_ADDRESS}").into());
    }
    let anywhere = listen.starts_with(':') || listen.contains("0.0.0.0") || listen.contains("[::]");
    Ok(if anywhere { format!("127.0.0.1:{port}") } else { listen.replace("[127.0.0.1]", "127.0.0.1") })
}

/// Whether the exporter can listen on its addresses. The error says who does, as far as that can be seen.
fn check_address(arguments: &[OsString], address: &str) -> Result<(), Failure> {
    for listen in listen_addresses(arguments) {
        let listen = listen.replace("[127.0.0.1]", "127.0.0.1");
        let name = if listen.starts_with(':') { format!("[::]{listen}") } else { listen.clone() };
        let error = match TcpListener::bind(&*name) {
            Ok(_) => continue,
            Err(error) => error,
        };
        return Err(match error.kind() {
            ErrorKind::AddrInUse if is_keyhole(address) => format!(
                "a Keyhole already serves http://{address}/metrics: stop it, or choose another address: {OTHER_ADDRESS}"
            ),
            ErrorKind::AddrInUse => format!(
                "another program listens on {listen}: stop it, or choose another address: {OTHER_ADDRESS}"
            ),
            // A machine without IPv6: the exporter decides.
            ErrorKind::Unsupported | ErrorKind::AddrNotAvailable if listen.starts_with(':') => continue,
            _ => format!("cannot listen on {listen}: {error}: choose another address: {OTHER_ADDRESS}"),
        }
        .into());
    }
    Ok(())
}

/// Whether the page at an address is Keyhole's.
fn is_keyhole(address: &str) -> bool {
    const LONGEST_WAIT: Duration = Duration::from_secs(1);
    let page = || -> std::io::Result<String> {
        let addresses: Vec<SocketAddr> = address.to_socket_addrs()?.collect();
        let first = addresses.first().ok_or(ErrorKind::AddrNotAvailable)?;
        let mut stream = std::net::TcpStream::connect_timeout(first, LONGEST_WAIT)?;
        stream.set_read_timeout(Some(LONGEST_WAIT))?;
        stream.set_write_timeout(Some(LONGEST_WAIT))?;
        stream.write_all(
            format!("GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes(),
        )?;
        let mut page = Vec::new();
        let read = stream.take(64 << 10).read_to_end(&mut page);
        if page.is_empty() {
            read?;
        }
        Ok(String::from_utf8_lossy(&page).into_owned())
    };
    page().is_ok_and(|page| page.contains("Keyhole"))
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
