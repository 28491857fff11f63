//! Namespaces of a test's own.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::common::{Home, flag};

/// Mount, network and PID namespaces with a procfs and a sysfs of theirs, as a small host. Gone with its owner.
pub struct World {
    _keeper: Kept,
    /// PID 1 in there.
    init: u32,
    dir: PathBuf,
}

impl World {
    /// Makes one below `home`; `prepare` is shell, run in it with `$world` for its directory and `$proc_options`.
    pub fn new(home: &Home, proc_options: &str, prepare: &str) -> Self {
        let dir = home.path().join("world");
        for directory in ["proc", "sys", "mnt"] {
            fs::create_dir_all(dir.join(directory)).unwrap();
        }
        let script = format!(
            "set -e; world={dir}; mount -t proc -o rw,{proc_options} proc $world/proc; \
             mount -t sysfs sysfs $world/sys; ip link set lo up; {prepare}\necho ready; exec sleep 1000",
            dir = dir.display()
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--propagation=private"]);
        let keeper = Kept::start(command.args(["sh", "-c", &script]));
        let children = format!("/proc/{0}/task/{0}/children", keeper.pid());
        let init = fs::read_to_string(children).unwrap().trim().parse().expect("one child");
        Self { _keeper: keeper, init, dir }
    }

    /// What starts a program in it.
    pub fn starter(&self) -> Vec<String> {
        ["nsenter", "--mount", "--net", "--target", &self.init.to_string()].map(str::to_owned).into()
    }

    /// What starts a program among its mounts alone.
    pub fn mounts_starter(&self) -> Vec<String> {
        ["nsenter", "--mount", "--target", &self.init.to_string()].map(str::to_owned).into()
    }

    /// The broker's flags for it.
    pub fn flags(&self) -> Vec<OsString> {
        let (proc, sys) = (self.dir.join("proc"), self.dir.join("sys"));
        vec![flag("--path.procfs=", proc), flag("--path.sysfs=", sys), "--view=host".into()]
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Runs shell in it to its end; gives its output.
    pub fn run(&self, script: &str) -> String {
        let mut command = Command::new("nsenter");
        command.args(&self.starter()[1..]).args([
            "sh",
            "-ec",
            &format!("cd {}; {script}", self.dir.display()),
        ]);
        let output = crate::common::finish(command);
        assert!(output.status.success(), "{script}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Starts shell in it that goes on until its owner is gone.
    pub fn start(&self, script: &str) -> Kept {
        let mut command = Command::new("nsenter");
        let script = format!("cd {}; echo ready; {script}", self.dir.display());
        Kept::start(command.args(&self.starter()[1..]).args(["sh", "-c", &script]).stderr(Stdio::null()))
    }

    /// Mounts a file system in user space at a directory of it, which is made.
    pub fn fuse(&self, kind: &str, directory: &Path) -> Kept {
        self.fuse_at(kind, &[directory])
    }

    /// The same at several directories, all of one process; see `fuse_server.py` for kinds.
    pub fn fuse_at<P: AsRef<Path>>(&self, kind: &str, directories: &[P]) -> Kept {
        let mut command = Command::new("nsenter");
        command.args(&self.starter()[1..]).arg("python3");
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/faults/fuse_server.py"));
        Kept::start(command.arg(kind).args(directories.iter().map(AsRef::as_ref)))
    }
}

/// A process of the test's own that said "ready", killed with its owner.
pub struct Kept(Child);

impl Kept {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the program starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let kept = Self(child);
        assert_eq!(line, "ready\n", "{command:?}");
        kept
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).expect("a process of ours");
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
