//! `keyhole-exporter query` against a real broker, as the uid of `kubectl exec`.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};

use keyhole_test_support::{
    BROKER_UID, DENIED_UID, EXPORTER_UID, Environment, flag, root_for, run_to_end, this_host,
};

/// Runs a query as the exporter's uid.
fn query(environment: &Environment, arguments: &[&str]) -> Output {
    let mut command = environment.command("keyhole-exporter", EXPORTER_UID);
    command.arg(flag("--broker.socket=", environment.socket())).args(arguments);
    run_to_end(command)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn every_collector_answers_within_the_seal_from_the_broker_and_from_a_capture() {
    let environment = Environment::new();
    let _broker = environment.start_broker(&this_host());
    let names: Vec<&str> =
        keyhole_exporter::collector::COLLECTORS.iter().map(|collector| collector.name).collect();
    for format in ["table", "json", "prom", "raw"] {
        let output = query(&environment, &[&["query", "-o", format][..], &names].concat());
        // Some cannot be read at this access level; a call that the sandbox does not allow would have killed it.
        assert!(matches!(output.status.code(), Some(0 | 3)), "{format}: {output:?}");
        assert!(text(&output.stdout).contains("load"), "{format}");
    }
    // What the exporter's uid may write to.
    let saved = environment.dir().join("saved");
    fs::create_dir(&saved).unwrap();
    fs::set_permissions(&saved, fs::Permissions::from_mode(0o777)).unwrap();
    let tree = saved.join("tree").display().to_string();
    let captured = query(&environment, &["capture", &tree]);
    assert!(matches!(captured.status.code(), Some(0 | 3)), "{captured:?}");
    let host = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/host/tree");
    let of_this_user = |from: &str| {
        let mut command = std::process::Command::new(environment.dir().join("keyhole-exporter"));
        command.args(["query", "--from", from]).args(&names).stdin(Stdio::null()).current_dir("/");
        run_to_end(command)
    };
    for output in
        [query(&environment, &[&["query", "--from", &tree][..], &names].concat()), of_this_user(host)]
    {
        assert!(matches!(output.status.code(), Some(0 | 3)), "{output:?}");
        assert!(text(&output.stdout).starts_with("METRIC"), "{output:?}");
        assert!(!output.stdout.iter().any(|byte| byte.is_ascii_control() && *byte != b'\n'));
    }
    if root_for("read a capture that is another's") {
        // The sandbox drops root's right to read everything, and reports it.
        let output = of_this_user(&tree);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(text(&output.stderr).contains("run this as the owner of the files"), "{output:?}");
    }
}

#[test]
fn a_watch_shows_rates_of_counters_and_handles_a_reset() {
    let environment = Environment::new();
    let proc = environment.dir().join("proc");
    let net = proc.join("1/net");
    fs::create_dir_all(&net).unwrap();
    fs::create_dir(environment.dir().join("sys")).unwrap();
    let line = |bytes: u64| format!("{COLUMNS} eth0: {bytes:8} 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n");
    fs::write(net.join("dev"), line(1_000_000)).unwrap();
    for dir in [environment.dir().join("sys"), proc.clone(), proc.join("1"), net.clone()] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::set_permissions(net.join("dev"), fs::Permissions::from_mode(0o644)).unwrap();
    let flags: [OsString; 3] = [
        flag("--path.procfs=", &proc),
        flag("--path.sysfs=", environment.dir().join("sys")),
        "--view=host".into(),
    ];
    let _broker = environment.start_broker(&flags);
    let mut command = environment.command("keyhole-exporter", EXPORTER_UID);
    command.arg(flag("--broker.socket=", environment.socket()));
    command.args(["query", "netdev", "--watch=0.2", "-o", "json", "--filter=receive_bytes"]);
    let mut child = Child(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines().map_while(Result::ok);
    let first = lines.next().expect("a first reading");
    assert_eq!((number(&first, "value"), number(&first, "rate")), (Some(1_000_000.0), None));
    for (bytes, risen) in [(3_000_000, 2_000_000.0), (500_000, 500_000.0)] {
        // In place and in one write, as the kernel changes it: the broker has the file open.
        let file = fs::OpenOptions::new().write(true).open(net.join("dev")).unwrap();
        file.write_all_at(line(bytes).as_bytes(), 0).unwrap();
        let changed = lines.by_ref().take(50).find(|line| number(line, "value") == Some(bytes as f64));
        let rate = number(&changed.expect("the new number within 10 s"), "rate").expect("a rate");
        // How long 0.2 s were depends on the machine; they were hardly shorter, and no test takes a minute.
        assert!((risen / 60.0..risen / 0.1).contains(&rate), "{bytes}: {rate} a second");
        let next = lines.next().expect("a next reading");
        assert_eq!(number(&next, "rate"), Some(0.0), "{next}");
    }
}

/// The first lines of net/dev.
const COLUMNS: &str = "Inter-|   Receive                           |  Transmit\n \
    face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo colls carrier compressed\n";

/// A process that is ended with the test.
struct Child(std::process::Child);

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A number of the one metric in a line of JSON.
fn number(line: &str, key: &str) -> Option<f64> {
    let after = line.split(&format!("\"{key}\":")).nth(1)?;
    after.split([',', '}']).next()?.parse().ok()
}

/// Who may ask and how: what is between backticks in an error.
fn advised(output: &Output) -> String {
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(error.contains(&format!("the broker's user, uid {BROKER_UID}")), "{error}");
    error.split('`').nth(1).unwrap_or_else(|| panic!("no command in {error}")).to_owned()
}

fn shell(command: &str) -> Output {
    let mut sh = Command::new("sh");
    sh.args(["-c", command]).current_dir("/").stdin(Stdio::null());
    run_to_end(sh)
}

#[test]
fn root_gets_a_hint_at_a_command_for_the_right_uid_which_works() {
    if !root_for("ask as root") {
        return;
    }
    let environment = Environment::new();
    let saved = environment.dir().join("what was saved");
    fs::create_dir(&saved).unwrap();
    fs::set_permissions(&saved, fs::Permissions::from_mode(0o777)).unwrap();
    let by = |uid: u32, group: u32, arguments: &[OsString]| {
        let mut command = Command::new(environment.dir().join("keyhole-exporter"));
        command.arg(flag("--broker.socket=", environment.socket())).args(arguments).uid(uid).gid(group);
        command.current_dir("/").stdin(Stdio::null()).env_remove("KEYHOLE_BROKER_SOCKET");
        run_to_end(command)
    };
    for allowed in [&[][..], &["--allow-uid=0".into()]] {
        let broker = environment.start_broker(&[&this_host(), allowed].concat());
        let tree = saved.join(format!("tree {}", allowed.len()));
        let commands: [&[OsString]; 3] =
            [&["query".into(), "loadavg".into()], &["capture".into(), tree.into()], &["describe".into()]];
        for arguments in commands {
            let asked = by(0, 0, arguments);
            // A capture is not sandboxed, since it writes files: root connects, and --allow-uid decides.
            let is_capture = arguments[0] == "capture";
            if is_capture && !allowed.is_empty() {
                assert_eq!(asked.status.code(), Some(0), "{asked:?}");
                continue;
            }
            // The others cannot connect, whatever --allow-uid allows: the socket's directory has the mode 0750.
            let why = if is_capture { "start the broker with --allow-uid=0" } else { "hold for root too" };
            assert!(text(&asked.stderr).contains(why), "{asked:?}");
            let answered = shell(&advised(&asked));
            assert_eq!(answered.status.code(), Some(0), "{arguments:?}: {answered:?}");
            // With --allow-uid=0, the other command helps as well, whichever was set; without, it does not.
            let error = text(&asked.stderr);
            assert!(error.contains("start the broker with --allow-uid=0"), "{error}");
            let as_root = error.split('`').nth(3).unwrap_or_else(|| panic!("no second command in {error}"));
            let status = shell(as_root).status.code();
            assert_eq!(status, Some(if allowed.is_empty() { 1 } else { 0 }), "{arguments:?}: {as_root}");
        }
        // In the socket's group root can connect, and --allow-uid decides.
        let in_group = by(0, BROKER_UID, &["query".into(), "loadavg".into()]);
        if allowed.is_empty() {
            assert!(text(&in_group.stderr).contains("start the broker with --allow-uid=0"), "{in_group:?}");
            assert_eq!(shell(&advised(&in_group)).status.code(), Some(0));
        } else {
            assert_eq!(in_group.status.code(), Some(0), "{in_group:?}");
        }
        // Another user cannot even see the socket, only whose directory it lies in.
        let denied = by(DENIED_UID, DENIED_UID, &["query".into(), "loadavg".into()]);
        assert!(text(&denied.stderr).contains(&format!("uid {DENIED_UID} may not connect")), "{denied:?}");
        assert_eq!(shell(&advised(&denied)).status.code(), Some(0));
        drop(broker);
    }
}
