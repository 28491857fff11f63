//! What the tests stand on: brokers with an intruder in them, as any uid, in a mount and a host name of their own.
#![allow(dead_code, reason = "each test uses its part")]

pub mod client;
pub mod pipes;

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use keyhole_attacks::STRANGER;
use tempfile::TempDir;

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

/// Runs `act` as PID 1 of a PID namespace with a /proc of its own: to a broker in it, this process is the machine's
/// root, and what it leaves behind ends with it. `test` is the test that calls.
pub fn alone(test: &str, act: impl FnOnce()) {
    const ALONE: &str = "KEYHOLE_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return act();
    }
    let output = Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "--mount-proc", "--kill-child"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--test-threads=1", "--nocapture"])
        .env(ALONE, "1")
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{errors}");
    print!("{said}");
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

    /// A broker on `ground`, as a uid, in a mount namespace and with a host name of its own, so that what goes through
    /// harms nobody; its log goes to a file of the ground.
    pub fn command(&self, ground: &Ground, uid: u32) -> Command {
        let mut command = Command::new(self.0.path().join("keyhole-broker"));
        command
            .arg(format!("--socket.path={}", ground.socket().display()))
            .arg(format!("--path.udev.data={}", ground.at("udev").display()))
            .args(["--allow-root", "--allow-capabilities", "--view=host"])
            .stdin(File::open(ground.at("own")).unwrap())
            .stdout(tcp_socket())
            .stderr(File::create(ground.at("log")).unwrap());
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
    /// Lays out files for a broker of a uid.
    pub fn new(broker: u32) -> Self {
        let dir = public_dir();
        let at = |name: &str| dir.path().join(name);
        for (name, owner, mode) in
            [("own", broker, 0o600), ("world", 0, 0o666), ("roots", 0, 0o644), ("strangers", STRANGER, 0o600)]
        {
            fs::write(at(name), "precious").unwrap();
            fs::set_permissions(at(name), Permissions::from_mode(mode)).unwrap();
            chown(at(name), Some(owner), Some(owner)).unwrap();
        }
        for (name, mode) in [("open", 0o777), ("run", 0o755), ("udev", 0o755)] {
            fs::create_dir(at(name)).unwrap();
            fs::set_permissions(at(name), Permissions::from_mode(mode)).unwrap();
            chown(at(name), Some(broker), Some(broker)).unwrap();
        }
        // An intruder may remove what is in a directory of its own: so is this one.
        chown(dir.path(), Some(broker), Some(broker)).unwrap();
        fs::write(at("run/beside"), "").unwrap();
        symlink("/etc/passwd", at("udev/leak")).unwrap();
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

    pub fn log(&self) -> String {
        fs::read_to_string(self.at("log")).unwrap()
    }

    /// Whether the broker has said which layers are in force: from then on all of them are.
    pub fn reported(&self) -> bool {
        self.log().contains("sysfs view=")
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
