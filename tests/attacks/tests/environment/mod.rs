//! Programs with an intruder in them, as any uid, in a mount namespace and with a host name of their own, and the files
//! that they are started with.
#![allow(dead_code, reason = "each test uses some of it")]

pub mod client;
pub mod pipes;
pub mod scraper;

use std::fs::{self, File, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use keyhole_attacks::OTHER_UID;
pub use keyhole_test_support::ChildProcess;
use tempfile::TempDir;

pub use keyhole_test_support::fork::as_init;
use keyhole_test_support::{listening_address, programs, root_for, wait_for_within};

/// The longest that one attack may take, on a machine that is busy with others.
pub const ATTACK_TIMEOUT: Duration = Duration::from_secs(60);

/// Whether processes can be started as other uids.
pub fn root() -> bool {
    root_for("start processes as other uids")
}

/// Polls until there is something.
pub fn wait_for<T>(what: &str, find: impl FnMut() -> Option<T>) -> T {
    wait_for_within(ATTACK_TIMEOUT, what, find)
}

/// The exit status of a process that ends by itself.
pub fn end(process: &mut ChildProcess) -> ExitStatus {
    process.wait_within(ATTACK_TIMEOUT)
}

/// A process of a uid, without capabilities, that does nothing for as long as the test runs.
pub fn sleeper(uid: u32) -> ChildProcess {
    let spawn = || {
        let mut command = Command::new("sleep");
        command.arg("600").env("SECRET", "1").stdin(Stdio::null()).process_group(0);
        ChildProcess::spawn(command.uid(uid).gid(uid))
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

/// The hostile programs, where any uid may run them.
#[derive(Debug)]
pub struct Programs(TempDir);

impl Programs {
    pub fn new() -> Self {
        let dir = public_dir();
        // The last is the same as the one before, under a name that distinguishes a zygote without a broker.
        for (built, name) in [
            (env!("CARGO_BIN_EXE_hostile-broker"), "keyhole-broker"),
            (env!("CARGO_BIN_EXE_hostile-exporter"), "keyhole-exporter"),
            (env!("CARGO_BIN_EXE_hostile-reader"), "keyhole-reader"),
            (env!("CARGO_BIN_EXE_hostile-reader"), "zygote"),
        ] {
            // Not a link: an attack may change the file.
            programs::copy(Path::new(built), &dir.path().join(name));
        }
        Self(dir)
    }

    /// The program of the zygote and its readers, of the machine's own files.
    pub fn reader(&self) -> Command {
        let mut command = Command::new(self.0.path().join("zygote"));
        command.args(["--path.procfs=/proc", "--path.sysfs=/sys"]);
        command
    }

    /// A broker on `fixture`.
    pub fn broker(&self, fixture: &Fixture, uid: u32) -> Command {
        let mut command = self.with_log("keyhole-broker", fixture, uid, "log");
        command
            .arg(format!("--socket.path={}", fixture.socket().display()))
            .arg(format!("--path.udev.data={}", fixture.at("udev").display()))
            .args(["--allow-root", "--allow-capabilities", "--view=host"]);
        command
    }

    /// An exporter on `fixture`, with everything on that it opens files for.
    pub fn exporter(&self, fixture: &Fixture, uid: u32) -> Command {
        let mut command = self.with_log("keyhole-exporter", fixture, uid, "exporter.log");
        command
            .arg(format!("--broker.socket={}", fixture.socket().display()))
            .arg(format!("--collector.textfile.directory={}", fixture.at("text").display()))
            .arg(format!("--web.config.file={}", fixture.at("web/config.yml").display()))
            .arg("--web.listen-address=127.0.0.1:0");
        command
    }

    /// A program as a uid, in a mount namespace and with a host name of its own, so that a successful attack does no harm.
    /// Its log goes to a file of the fixture.
    fn with_log(&self, program: &str, fixture: &Fixture, uid: u32, log: &str) -> Command {
        let mut command = Command::new(self.0.path().join(program));
        command
            .stdin(File::open(fixture.at("own")).unwrap())
            .stdout(tcp_socket())
            .stderr(File::create(fixture.at(log)).unwrap());
        // SAFETY: the child makes system calls that take numbers or null and constant strings.
        unsafe { command.pre_exec(move || unshare(uid)) };
        command
    }
}

/// Reaps the zygotes and readers whose broker has ended, which are this process's children when it is PID 1. Otherwise
/// thousands of zombies would remain. Those that a test has started itself have another name.
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

/// Moves the calling process into namespaces of its own, and changes its uid.
fn unshare(uid: u32) -> std::io::Result<()> {
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
pub struct Fixture {
    dir: TempDir,
    _open_socket: UnixListener,
}

impl Fixture {
    /// Makes the files for a process of a uid.
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
            ("other_uid", OTHER_UID, 0o600, "precious"),
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

    /// Whether the broker has logged which layers are in force: from then on all of them are.
    pub fn reported(&self) -> bool {
        self.log().contains("sysfs view=")
    }

    /// The exporter's log.
    pub fn exporter_log(&self) -> String {
        fs::read_to_string(self.at("exporter.log")).unwrap()
    }

    /// The exporter's address, once it has logged it: from then on every layer is in force.
    pub fn listening(&self) -> Option<SocketAddr> {
        listening_address(&self.exporter_log())
    }
}

/// A cgroup that is removed when this is dropped; none where no writable cgroup2 is mounted.
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
        // Where it cannot be made the attacks on it find nothing, and report that.
        let _ = fs::create_dir(&path);
        Self(path)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}
