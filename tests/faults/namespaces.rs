//! Mount, network and PID namespaces that belong to one test.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use keyhole_test_support::{ChildProcess, Environment, flag, run_to_end};

/// Mount, network and PID namespaces with their own procfs and sysfs, as a small host. They end with their owner.
pub struct Namespaces {
    _unshare: ChildProcess,
    /// PID 1 of them, by its pid outside.
    init: u32,
    dir: PathBuf,
}

impl Namespaces {
    /// Makes them below the environment's directory. `prepare` is shell code that runs in them, with the directory in `$dir`.
    pub fn new(environment: &Environment, proc_options: &str, prepare: &str) -> Self {
        let dir = environment.dir().join("namespaces");
        for directory in ["proc", "sys", "mnt"] {
            fs::create_dir_all(dir.join(directory)).unwrap();
        }
        let script = format!(
            "set -e; dir={dir}; mount -t proc -o rw,{proc_options} proc $dir/proc; \
             mount -t sysfs sysfs $dir/sys; ip link set lo up; {prepare}\necho ready; exec sleep 1000",
            dir = dir.display()
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--propagation=private"]);
        let unshare = start_ready(command.args(["sh", "-c", &script]));
        let children = format!("/proc/{0}/task/{0}/children", unshare.pid());
        let init = fs::read_to_string(children).unwrap().trim().parse().expect("one child");
        Self { _unshare: unshare, init, dir }
    }

    /// The command line that starts a program in them.
    pub fn starter(&self) -> Vec<String> {
        ["nsenter", "--mount", "--net", "--target", &self.init.to_string()].map(str::to_owned).into()
    }

    /// The command line that starts a program in the mount namespace alone.
    pub fn mounts_starter(&self) -> Vec<String> {
        ["nsenter", "--mount", "--target", &self.init.to_string()].map(str::to_owned).into()
    }

    /// The flags of a broker that reads them.
    pub fn flags(&self) -> Vec<OsString> {
        let (proc, sys) = (self.dir.join("proc"), self.dir.join("sys"));
        vec![flag("--path.procfs=", proc), flag("--path.sysfs=", sys), "--view=host".into()]
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Runs shell code in them to its end, and returns its output.
    pub fn run(&self, script: &str) -> String {
        let mut command = Command::new("nsenter");
        command.args(&self.starter()[1..]).args([
            "sh",
            "-ec",
            &format!("cd {}; {script}", self.dir.display()),
        ]);
        let output = run_to_end(command);
        assert!(output.status.success(), "{script}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Starts shell code in them that runs until its owner is dropped.
    pub fn start(&self, script: &str) -> ChildProcess {
        let mut command = Command::new("nsenter");
        let script = format!("cd {}; echo ready; {script}", self.dir.display());
        start_ready(command.args(&self.starter()[1..]).args(["sh", "-c", &script]).stderr(Stdio::null()))
    }

    /// Mounts a FUSE file system at a directory in them, which is made.
    pub fn fuse(&self, kind: &str, directory: &Path) -> ChildProcess {
        self.fuse_at(kind, &[directory])
    }

    /// The same at several directories, all of one process; see `fuse_server.py` for kinds.
    pub fn fuse_at<P: AsRef<Path>>(&self, kind: &str, directories: &[P]) -> ChildProcess {
        let mut command = Command::new("nsenter");
        command.args(&self.starter()[1..]).arg("python3");
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/faults/fuse_server.py"));
        start_ready(command.arg(kind).args(directories.iter().map(AsRef::as_ref)))
    }
}

/// Starts a program and waits until it prints "ready".
fn start_ready(command: &mut Command) -> ChildProcess {
    let mut process = ChildProcess::spawn(command.stdout(Stdio::piped()));
    let mut line = String::new();
    BufReader::new(process.child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n", "{command:?}");
    process
}
