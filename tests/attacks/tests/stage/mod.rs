//! What the tests stand on: programs with an intruder in them, as any uid, in a mount namespace and with a host name of
//! their own.
#![allow(dead_code, reason = "each test uses its part")]

pub mod client;
#[path = "../../../common/forked.rs"]
mod forked;
pub mod pipes;
pub mod scraper;

use std::fs::{self, File, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use keyhole_attacks::STRANGER;
use tempfile::TempDir;

pub use forked::alone_as_init;

/// The longest that one attack may take, on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether what needs root can be tested.
pub fn root() -> bool {
    let is_root = rustix::process::getuid().is_root();
    if !is_root {
        assert!(!required(), "KEYHOLE_REQUIRE_ROOT is set, and this is not root");
        println!("skipped: needs root");
    }
    is_root
}

/// Whether a test that cannot run should fail.
pub fn required() -> bool {
    std::env::var_os("KEYHOLE_REQUIRE_ROOT").is_some()
}

/// The newest Landlock ABI of the running kernel; 0 without Landlock.
pub fn landlock_abi() -> i64 {
    const VERSION: u64 = 1;
    // SAFETY: with this flag and no attributes the call only tells a number.
    let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0usize, 0usize, VERSION) };
    abi.max(0)
}

/// Looks for something until it is there.
pub fn soon<T>(what: &str, mut find: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = find() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A child that is gone when the test is.
#[derive(Debug)]
pub struct Running(pub Child);

impl Running {
    pub fn pid(&self) -> i32 {
        self.0.id().cast_signed()
    }

    pub fn end(&mut self) -> ExitStatus {
        soon("an end", || self.0.try_wait().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A process of a uid, without capabilities, that does nothing for as long as the test runs.
pub fn sleeper(uid: u32) -> Running {
    let spawn = || {
        let mut command = Command::new("sleep");
        command.arg("600").env("SECRET", "1").stdin(Stdio::null()).process_group(0);
        Running(command.uid(uid).gid(uid).spawn().unwrap())
    };
    // Another uid loses them as it is taken; capabilities belong to a thread, and so root's are dropped on one.
    let of_root = || {
        assert!(keyhole_os::capabilities::drop_all().in_force);
        spawn()
    };
    match uid {
        0 => std::thread::scope(|scope| scope.spawn(of_root).join().unwrap()),
        _ => spawn(),
    }
}

/// The programs, where any uid may run them.
#[derive(Debug)]
pub struct Program(TempDir);

impl Program {
    pub fn new() -> Self {
        let dir = public_dir();
        // The last is the same as the one before, under a name that tells a zygote without a broker from one with it.
        for (built, name) in [
            (env!("CARGO_BIN_EXE_hostile-broker"), "keyhole-broker"),
            (env!("CARGO_BIN_EXE_hostile-exporter"), "keyhole-exporter"),
            (env!("CARGO_BIN_EXE_hostile-reader"), "keyhole-reader"),
            (env!("CARGO_BIN_EXE_hostile-reader"), "zygote"),
        ] {
            // By another process: a descriptor open for writing, inherited by a child of another test, would make the
            // program busy.
            let copied = Command::new("cp").arg(built).arg(dir.path().join(name)).status().unwrap();
            assert!(copied.success());
        }
        Self(dir)
    }

    /// The program of the zygote and its readers, of the machine's own files.
    pub fn reader(&self) -> Command {
        let mut command = Command::new(self.0.path().join("zygote"));
        command.args(["--path.procfs=/proc", "--path.sysfs=/sys"]);
        command
    }

    /// A broker on `ground`.
    pub fn broker(&self, ground: &Ground, uid: u32) -> Command {
        let mut command = self.with_log("keyhole-broker", ground, uid, "log");
        command
            .arg(format!("--socket.path={}", ground.socket().display()))
            .arg(format!("--path.udev.data={}", ground.at("udev").display()))
            .args(["--allow-root", "--allow-capabilities", "--view=host"]);
        command
    }

    /// An exporter on `ground`, with everything on that it opens files for.
    pub fn exporter(&self, ground: &Ground, uid: u32) -> Command {
        let mut command = self.with_log("keyhole-exporter", ground, uid, "exporter.log");
        command
            .arg(format!("--broker.socket={}", ground.socket().display()))
            .arg(format!("--collector.textfile.directory={}", ground.at("text").display()))
            .arg(format!("--web.config.file={}", ground.at("web/config.yml").display()))
            .arg("--web.listen-address=127.0.0.1:0");
        command
    }

    /// A program as a uid, in a mount namespace and with a host name of its own, so that what goes through harms nobody;
    /// its log goes to a file of the ground.
    fn with_log(&self, program: &str, ground: &Ground, uid: u32, log: &str) -> Command {
        let mut command = Command::new(self.0.path().join(program));
        command
            .stdin(File::open(ground.at("own")).unwrap())
            .stdout(tcp_socket())
            .stderr(File::create(ground.at(log)).unwrap());
        // SAFETY: the child makes system calls that take numbers or null and constant strings.
        unsafe { command.pre_exec(move || apart(uid)) };
        command
    }
}

/// Waits for the zygotes and readers whose broker has gone, which are this process's children when it is PID 1: without,
/// thousands of them would remain. Those that a test has started itself have another name.
pub fn reap_orphans() {
    let Ok(processes) = fs::read_dir("/proc") else { return };
    for process in processes.flatten() {
        let Ok(stat) = fs::read_to_string(process.path().join("stat")) else { continue };
        let Some((name, rest)) = stat.rsplit_once(')') else { continue };
        if name.ends_with("(keyhole-reader") && rest.starts_with(" Z 1 ") {
            let pid =
                process.file_name().to_string_lossy().parse().ok().and_then(rustix::process::Pid::from_raw);
            let _ = rustix::process::waitpid(pid, rustix::process::WaitOptions::NOHANG);
        }
    }
}

/// Takes the calling process into namespaces of its own, and makes it a uid.
fn apart(uid: u32) -> std::io::Result<()> {
    let checked = |result: i32| match result {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    };
    // SAFETY: these take numbers, null, and strings that live for ever; nothing of this process is changed for others.
    unsafe {
        checked(libc::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC))?;
        let private = libc::MS_REC | libc::MS_PRIVATE;
        checked(libc::mount(std::ptr::null(), c"/".as_ptr(), std::ptr::null(), private, std::ptr::null()))?;
        // Most hosts have it there; where the kernel does not, the attack on it finds nothing.
        libc::mount(
            c"none".as_ptr(),
            c"/sys/kernel/debug".as_ptr(),
            c"debugfs".as_ptr(),
            0,
            std::ptr::null(),
        );
        if uid != 0 {
            checked(libc::setgroups(0, std::ptr::null()))?;
            checked(libc::setgid(uid))?;
            checked(libc::setuid(uid))?;
        }
    }
    Ok(())
}

/// A TCP socket that is neither bound nor connected.
pub fn tcp_socket() -> Stdio {
    use rustix::net::{AddressFamily, SocketType, socket};
    Stdio::from(socket(AddressFamily::INET, SocketType::STREAM, None).unwrap())
}

/// A directory that any uid may search.
pub fn public_dir() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    dir
}

/// The files of one attack: see [`Host`] for what is there.
#[derive(Debug)]
pub struct Ground {
    dir: TempDir,
    _open_socket: UnixListener,
}

impl Ground {
    /// Lays out files for a process of a uid.
    pub fn new(uid: u32) -> Self {
        let dir = public_dir();
        let at = |name: &str| dir.path().join(name);
        let own = |path: PathBuf, owner: u32, mode: u32| {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            chown(path, Some(owner), Some(owner)).unwrap();
        };
        for (name, mode) in
            [("open", 0o777), ("run", 0o755), ("udev", 0o755), ("text", 0o755), ("web", 0o755)]
        {
            fs::create_dir(at(name)).unwrap();
            own(at(name), uid, mode);
        }
        for (name, owner, mode, text) in [
            ("own", uid, 0o600, "precious"),
            ("world", 0, 0o666, "precious"),
            ("roots", 0, 0o644, "precious"),
            ("strangers", STRANGER, 0o600, "precious"),
            ("run/beside", 0, 0o644, ""),
            ("udev/b8:0", uid, 0o644, "E:x=1\n"),
            ("text/x.prom", uid, 0o644, "x 1\n"),
            ("web/config.yml", uid, 0o600, ""),
            ("web/key.pem", uid, 0o600, "precious"),
        ] {
            fs::write(at(name), text).unwrap();
            own(at(name), owner, mode);
        }
        // An intruder may remove what is in a directory of its own: so is this one.
        chown(dir.path(), Some(uid), Some(uid)).unwrap();
        symlink("/etc/passwd", at("udev/leak")).unwrap();
        symlink("/etc/passwd", at("text/leak")).unwrap();
        let open_socket = UnixListener::bind(at("open.sock")).unwrap();
        fs::set_permissions(at("open.sock"), Permissions::from_mode(0o777)).unwrap();
        Self { dir, _open_socket: open_socket }
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn socket(&self) -> PathBuf {
        self.at("run/broker.sock")
    }

    /// Listens where the broker would, for its uid.
    pub fn listen(&self) -> UnixListener {
        let listener = UnixListener::bind(self.socket()).unwrap();
        let owner = fs::metadata(self.at("run")).unwrap().uid();
        chown(self.socket(), Some(owner), Some(owner)).unwrap();
        fs::set_permissions(self.socket(), Permissions::from_mode(0o660)).unwrap();
        listener
    }

    /// The broker's log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.at("log")).unwrap()
    }

    /// Whether the broker has said which layers are in force: from then on all of them are.
    pub fn reported(&self) -> bool {
        self.log().contains("sysfs view=")
    }

    /// The exporter's log.
    pub fn exporter_log(&self) -> String {
        fs::read_to_string(self.at("exporter.log")).unwrap()
    }

    /// Where the exporter listens, once it has said so: from then on every layer is in force.
    pub fn listening(&self) -> Option<SocketAddr> {
        let log = self.exporter_log();
        let line = log.lines().find(|line| line.contains(" msg=listening "))?;
        line.split(" address=").nth(1)?.split(' ').next()?.parse().ok()
    }
}

/// A cgroup that is gone when the test is; none where no cgroup2 is mounted to be written to.
#[derive(Debug)]
pub struct Cgroup(pub PathBuf);

impl Cgroup {
    pub fn new() -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let cgroup2 = mounts.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let path = fields.next()?;
            (fields.next()? == "cgroup2").then_some(path)
        });
        let path =
            Path::new(cgroup2.unwrap_or("/none")).join(format!("keyhole-attack-{}", std::process::id()));
        // Where it cannot be made the attacks on it find nothing, which is said.
        let _ = fs::create_dir(&path);
        Self(path)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}
