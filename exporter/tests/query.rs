//! The command line as people and scripts use it: the real program before a fake broker.

use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use keyhole_proto::v1::{DescribeResponse, Outcome, Query, QueryDescription, ReaderClass};
use keyhole_test_support::TIMEOUT;
use keyhole_test_support::fake_broker::{FakeBroker, Script};
use rustix::process::{Pid, Signal, kill_process};

/// An interface whose name clears the screen, and a line of its own after a line feed.
const HOSTILE: &[u8] = b"Inter-|   Receive                           |  Transmit\n\
 face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo colls carrier compressed\n\
 e\x1b[2J\x9b0: 10 1 0 0 0 0 0 0 20 2 0 0 0 0 0 0\n";

struct Fixture {
    dir: tempfile::TempDir,
    _broker: FakeBroker,
}

impl Fixture {
    fn new(script: Script) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let _broker = FakeBroker::start(&dir.path().join("broker.sock"), script);
        Self { dir, _broker }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program(arguments);
        command.env("KEYHOLE_BROKER_SOCKET", self.path("broker.sock"));
        command
    }

    /// Runs the program without holding up the fake broker.
    async fn run(&self, arguments: &[&str]) -> Ended {
        let mut command = self.command(arguments);
        tokio::task::spawn_blocking(move || Ended::of(command.output().unwrap())).await.unwrap()
    }
}

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyhole-exporter"));
    command.args(arguments).env_remove("NODE_NAME").stdin(Stdio::null());
    command
}

#[derive(Debug)]
struct Ended {
    status: Option<i32>,
    out: String,
    err: String,
}

impl Ended {
    fn of(output: Output) -> Self {
        Self {
            status: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

fn script(files: &[(Query, &'static str, &[u8])]) -> Script {
    let files = files.iter().map(|(query, path, bytes)| (*query, *path, bytes.to_vec())).collect();
    Script { files, ..Script::default() }
}

fn netdev() -> Script {
    let mut script = script(&[(Query::NetDev, "proc/1/net/dev", HOSTILE)]);
    script.files.extend(Script::default().files);
    script
}

async fn wait_for<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        match ready() {
            Some(value) => return value,
            None if Instant::now() > deadline => panic!("{what}: not within {TIMEOUT:?}"),
            None => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    }
}

#[tokio::test]
async fn a_collectors_metrics_are_a_table_of_aligned_columns() {
    let fixture = Fixture::new(Script::default());
    let ended = fixture.run(&["query", "loadavg"]).await;
    let table = "METRIC       VALUE  LABELS\nnode_load1     0.5\nnode_load15    1.5\nnode_load5       1\n";
    assert_eq!((ended.status, ended.out.as_str(), ended.err.as_str()), (Some(0), table, ""));
    let ended = fixture.run(&["query", "loadavg", "--no-headers", "--filter=load1$"]).await;
    assert_eq!(ended.out, "node_load1  0.5\n");
}

#[tokio::test]
async fn json_has_the_shape_that_is_documented() {
    let fixture = Fixture::new(netdev());
    let ended = fixture.run(&["query", "netdev", "-o", "json", "--filter=receive_bytes"]).await;
    let value: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    let collector = serde_json::json!({"name": "netdev", "state": "ok", "error": null, "skipped": 0, "skipped_items": []});
    assert_eq!(value["collectors"][0], collector);
    let metric = serde_json::json!({
        "name": "node_network_receive_bytes_total",
        "type": "counter",
        "labels": {"device": "e\u{1b}[2J\u{fffd}0"},
        "value": 10,
    });
    assert_eq!(value["metrics"], serde_json::json!([metric]));
    assert!(value["time"].is_number() && value["node"].is_null());
    assert_eq!(
        value.as_object().unwrap().keys().collect::<Vec<_>>(),
        ["collectors", "metrics", "node", "time"]
    );
}

#[tokio::test]
async fn prom_is_the_text_of_a_scrape_and_raw_is_the_kernels_text() {
    let fixture = Fixture::new(netdev());
    let ended = fixture.run(&["query", "loadavg", "-oprom", "--filter=load1$"]).await;
    assert_eq!(ended.out, "# TYPE node_load1 gauge\nnode_load1 0.5\n");
    let ended = fixture.run(&["query", "loadavg", "--output=prom"]).await;
    assert!(
        ended.out.contains("# HELP node_load1 ") && ended.out.contains("\nnode_load5 1\n"),
        "{}",
        ended.out
    );
    let ended = fixture.run(&["query", "loadavg", "netdev", "-o=raw", "--filter=^proc/load"]).await;
    assert_eq!(ended.out, "==> proc/loadavg <==\n0.5 1 1.5 1/2 3\n");
    // To a file or a pipe kernel text goes as it is.
    let mut raw = fixture.command(&["query", "netdev", "-oraw"]);
    let output = tokio::task::spawn_blocking(move || raw.output().unwrap()).await.unwrap();
    assert_eq!(output.stdout, [b"==> proc/1/net/dev <==\n", HOSTILE].concat());
}

/// What a terminal would get that stands at standard output.
async fn on_a_terminal(mut command: Command) -> String {
    let (master, slave) = keyhole_test_support::terminal();
    let mut child = command.stdout(slave).env("TERM", "xterm").env_remove("NO_COLOR").spawn().unwrap();
    // The command holds the other end too; without it the end of the program is the end of what can be read.
    drop(command);
    tokio::task::spawn_blocking(move || {
        let (mut bytes, mut part) = (Vec::new(), [0; 4096]);
        let mut master = std::fs::File::from(master);
        while let Ok(length @ 1..) = master.read(&mut part) {
            bytes.extend_from_slice(&part[..length]);
        }
        assert!(child.wait().unwrap().success());
        String::from_utf8(bytes).unwrap()
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn a_hostile_name_moves_no_cursor_of_a_terminal_in_any_format() {
    let fixture = Fixture::new(netdev());
    for format in ["table", "json", "prom", "raw"] {
        let text = on_a_terminal(fixture.command(&["query", "netdev", "-o", format])).await;
        // Colours are ours; anything else that a terminal obeys is the host's.
        let plain = ["\x1b[1m", "\x1b[2m", "\x1b[0m"].iter().fold(text, |text, code| text.replace(code, ""));
        assert!(plain.contains("[2J"), "{format}: the name is shown: {plain:?}");
        let obeyed = plain.chars().find(|c| c.is_control() && !matches!(c, '\r' | '\n' | '\t'));
        assert_eq!(obeyed, None, "{format}: {plain:?}");
    }
    let ended = fixture.run(&["query", "netdev"]).await;
    assert!(ended.out.contains("device=\"e\\u{1b}[2J\u{fffd}0\""), "{}", ended.out);
    assert!(!ended.out.contains('\x1b'), "no colours where there is no terminal");
}

#[tokio::test]
async fn colours_are_for_terminals_and_can_be_switched_off() {
    let fixture = Fixture::new(Script::default());
    let text = on_a_terminal(fixture.command(&["query", "loadavg"])).await;
    assert!(text.contains("\x1b[1mMETRIC"), "{text:?}");
    // A variable set by env(1), since the one of this test is taken away.
    let mut command = Command::new("env");
    command.arg("NO_COLOR=1").arg(env!("CARGO_BIN_EXE_keyhole-exporter")).args(["query", "loadavg"]);
    command.env("KEYHOLE_BROKER_SOCKET", fixture.path("broker.sock"));
    let text = on_a_terminal(command).await;
    assert!(text.contains("METRIC") && !text.contains('\x1b'), "{text:?}");
}

#[tokio::test]
async fn a_watch_fits_its_terminal_and_shows_its_status() {
    let fixture = Fixture::new(netdev());
    let text =
        on_a_terminal(fixture.command(&["query", "netdev", "loadavg", "--watch=0.2", "--count=2"])).await;
    assert!(text.contains("every 0.2 s, reading 1; rates from the next reading on"), "{text:?}");
    assert!(text.contains("PER SECOND") && text.contains("more: name collectors, or use --filter"));
    let frames: Vec<&str> = text.split("\x1b[J").filter(|frame| !frame.is_empty()).collect();
    assert_eq!(frames.len(), 2, "{text:?}");
    assert!(frames.iter().all(|frame| frame.matches('\n').count() < 12), "{text:?}");
}

#[tokio::test]
async fn a_watch_prints_one_table_after_another_to_a_script() {
    let fixture = Fixture::new(netdev());
    let watch = ["query", "netdev", "--watch=0.2", "--count=2", "--filter=receive_bytes"];
    let ended = fixture.run(&[&watch[..], &["--output=json"]].concat()).await;
    let lines: Vec<serde_json::Value> =
        ended.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((ended.status, lines.len()), (Some(0), 2));
    assert!(lines[0]["metrics"][0].get("rate").is_none(), "{}", lines[0]);
    assert_eq!(lines[1]["metrics"][0]["rate"], serde_json::json!(0.0));
    let ended = fixture.run(&watch).await;
    let blocks: Vec<&str> = ended.out.split("\n\n").collect();
    assert_eq!(blocks.len(), 2, "{}", ended.out);
    assert!(blocks.iter().all(|block| block.starts_with("METRIC")) && !ended.out.contains('\x1b'));
}

#[tokio::test]
async fn a_broker_that_stops_during_a_watch_is_reported_and_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("broker.sock");
    let broker = FakeBroker::start(&socket, Script::default());
    let arguments = ["query", "loadavg", "--watch=0.2", "--count=30", "--no-headers", "--filter=load1$"];
    let shown = dir.path().join("shown");
    let mut command = program(&arguments);
    command.env("KEYHOLE_BROKER_SOCKET", &socket).stdout(std::fs::File::create(&shown).unwrap());
    let child = command.stderr(Stdio::piped()).spawn().unwrap();
    let shown = || std::fs::read_to_string(&shown).unwrap();
    wait_for("a reading", || shown().ends_with('\n').then_some(())).await;
    drop(broker);
    tokio::time::sleep(Duration::from_millis(700)).await;
    let _again = FakeBroker::start(&socket, Script::default());
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    let ended = Ended { out: shown(), ..Ended::of(output) };
    assert!(ended.err.contains("cannot reach the broker"), "{}", ended.err);
    let readings = ended.out.matches("node_load1").count();
    let failures = ended.err.lines().count();
    assert_eq!((ended.status, readings + failures), (Some(0), 30), "the last reading was whole: {ended:?}");
}

#[tokio::test]
async fn ctrl_c_is_the_usual_end_of_a_watch() {
    let fixture = Fixture::new(Script::default());
    for signal in [Signal::INT, Signal::TERM] {
        let before = fixture._broker.reads();
        let child = fixture.command(&["query", "loadavg", "--watch"]).stdout(Stdio::null()).spawn().unwrap();
        wait_for("a reading", || (fixture._broker.reads() > before).then_some(())).await;
        assert_eq!(stopped(child, signal).await, Some(0));
    }
}

/// The exit status of a program that is sent a signal.
async fn stopped(mut child: std::process::Child, signal: Signal) -> Option<i32> {
    kill_process(Pid::from_child(&child), signal).unwrap();
    tokio::task::spawn_blocking(move || child.wait().unwrap().code()).await.unwrap()
}

#[tokio::test]
async fn a_closed_pipe_ends_the_program_quietly() {
    let fixture = Fixture::new(netdev());
    for arguments in [&["query"][..], &["query", "--watch=0.2"], &["describe"], &["--help"]] {
        let mut child =
            fixture.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
        let ended = Ended::of(output);
        // Of this script most collectors have no data; none fails.
        assert_eq!(
            (ended.status, ended.err.contains("Broken pipe")),
            (Some(0), false),
            "{arguments:?} {ended:?}"
        );
    }
}

/// One rule for all commands: docs/query.md, "Exit status".
#[tokio::test]
async fn the_same_failure_has_the_same_exit_status_in_every_command() {
    use Outcome::{Absent, ContainerView, Denied, Empty, Failed, NotPermitted, Stuck, TimedOut, Truncated};
    for (outcome, query, capture) in [
        (Absent, 0, 0),
        (Empty, 0, 0),
        (Denied, 3, 0),
        (TimedOut, 3, 3),
        (Stuck, 3, 3),
        (Truncated, 3, 3),
        (ContainerView, 3, 0),
        (Failed, 3, 3),
        (NotPermitted, 3, 0),
    ] {
        let fixture = Fixture::new(Script { outcomes: vec![(Query::Tcp, outcome)], ..Script::default() });
        let out = fixture.path("out").display().to_string();
        for (arguments, expected) in [
            (&["query", "tcpstat"][..], query),
            (&["query", "tcpstat", "-ojson"], query),
            (&["query", "tcpstat", "-oraw"], query),
            (&["capture", &out], capture),
            (&["query", "tcpstat", "--from", &out], query),
            (&["query", "tcpstat", "--from", &out, "-oraw"], query),
            (&["replay", &out, "--collector.disable-defaults", "--collector.tcpstat"], 0),
            (&["replay", &out, "--collector.disable-defaults", "--collector.loadavg"], 0),
            (&["describe"], 0),
        ] {
            let ended = fixture.run(arguments).await;
            assert_eq!(ended.status, Some(expected), "{outcome:?} {arguments:?}: {}", ended.err);
            let names_it = [&ended.err, &ended.out].iter().any(|text| text.to_lowercase().contains("tcp"));
            assert!(expected == 0 || names_it, "{outcome:?} {arguments:?}: {}", ended.err);
        }
    }
    let fixture = Fixture::new(Script::default());
    let (out, empty) =
        (fixture.path("out").display().to_string(), fixture.path("empty").display().to_string());
    std::fs::create_dir(&empty).unwrap();
    let nobody = "--broker.socket=/nonexistent/b.sock";
    for arguments in [
        &["query", nobody][..],
        &["describe", nobody],
        &["capture", &out, nobody],
        &["capture", "/nonexistent/directory/out"],
        &["query", "--from=/nonexistent"],
        &["query", "--from", &empty],
        &["query", "--from", &empty, "-oraw"],
        &["replay", &empty],
    ] {
        let ended = fixture.run(arguments).await;
        assert_eq!((ended.status, ended.out.as_str()), (Some(1), ""), "{arguments:?}: {}", ended.err);
        let wrong_directory = arguments.contains(&empty.as_str());
        assert!(
            !wrong_directory || ended.err.contains("no files of a host; pass a capture"),
            "{}",
            ended.err
        );
    }
    for arguments in [&["query", "x"][..], &["describe", "x"], &["capture"], &["replay", "a", "b"], &["x"]] {
        assert_eq!(fixture.run(arguments).await.status, Some(2), "{arguments:?}");
    }
}

#[tokio::test]
async fn raw_output_of_a_capture_has_the_files_of_the_named_collectors_alone() {
    let fixture = Fixture::new(netdev());
    let out = fixture.path("out").display().to_string();
    fixture.run(&["capture", &out]).await;
    for (collectors, paths) in [
        (&["loadavg"][..], &["proc/loadavg"][..]),
        (&["netdev"], &["proc/1/net/dev"]),
        (&["loadavg", "netdev"], &["proc/1/net/dev", "proc/loadavg"]),
        (&["meminfo"], &[]),
    ] {
        let command = [&["query", "--from", &out, "-oraw", "--no-headers"], collectors].concat();
        // The content is not all text.
        let output = program(&command).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let headings: Vec<&str> =
            text.lines().filter_map(|line| line.strip_prefix("==> ")?.strip_suffix(" <==")).collect();
        assert_eq!(headings, paths, "{collectors:?}");
    }
}

#[tokio::test]
async fn a_capture_counts_what_is_in_its_directory() {
    let mut script = script(&[(Query::Loadavg, "proc/loadavg", b"0.5 1 1.5 1/2 3\n")]);
    script.files.push((Query::Hwmon, "sys/class/hwmon/hwmon0/name", vec![b'x'; 3000]));
    // Not a path for a file system, so that it is stored under a number.
    script.files.push((Query::Hwmon, "sys/class/hwmon/hwmon0/../temp1_label", b"y".to_vec()));
    let fixture = Fixture::new(script);
    let out = fixture.path("out");
    let ended = fixture.run(&["capture", &out.display().to_string()]).await;
    let tar = Command::new("tar").arg("-C").arg(&out).args(["-cf", "-", "."]).output().unwrap();
    let mut list =
        Command::new("tar").arg("-tvf-").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut list.stdin.take().unwrap(), &tar.stdout).unwrap();
    let list = String::from_utf8(list.wait_with_output().unwrap().stdout).unwrap();
    let files = list.lines().filter(|line| line.starts_with('-'));
    let (index, of_the_host): (Vec<&str>, Vec<&str>) =
        files.partition(|line| line.contains("./keyhole/") && !line.contains("/blobs/"));
    let counts = format!(
        ": {} files of the host (3 KiB), 0 symbolic links, and {} index files in keyhole/\n",
        of_the_host.len(),
        index.len()
    );
    assert_eq!((of_the_host.len(), index.len()), (3, 4), "{list}");
    assert!(ended.out.contains(&counts), "{}\n{list}", ended.out);
}

#[tokio::test]
async fn the_exit_status_is_the_result_of_a_query() {
    let stuck = Script { outcomes: vec![(Query::Meminfo, Outcome::Stuck)], ..Script::default() };
    let fixture = Fixture::new(stuck);
    let status = async |arguments: &[&str]| {
        let ended = fixture.run(arguments).await;
        (ended.status, ended.err)
    };
    assert_eq!(status(&["query", "loadavg"]).await, (Some(0), String::new()));
    let (code, error) = status(&["query", "loadavg", "meminfo"]).await;
    assert_eq!((code, error.as_str()), (Some(3), "keyhole-exporter: meminfo: query MEMINFO: STUCK\n"));
    let (code, error) = status(&["query", "meminfo", "-oraw"]).await;
    assert_eq!((code, error.as_str()), (Some(3), "keyhole-exporter: QUERY_MEMINFO: OUTCOME_STUCK\n"));
    let (code, error) = status(&["query", "mdadm"]).await;
    assert_eq!((code, error.contains("mdadm: the host has no")), (Some(0), true), "{error}");
    let (code, error) = status(&["query", "loadavg", "--broker.socket=/nonexistent/b.sock"]).await;
    assert_eq!((code, error.contains("cannot reach the broker")), (Some(1), true), "{error}");
    let out = fixture.path("out").display().to_string();
    let (code, _) = status(&["capture", &out]).await;
    assert_eq!(code, Some(3), "what a stuck query would give is missing");
    assert!(fixture.path("out/proc/loadavg").is_file(), "and all else is there");
}

#[test]
fn an_empty_directory_name_is_not_this_host() {
    let ended = Ended::of(program(&["query", "loadavg", "--from="]).output().unwrap());
    assert_eq!(ended.status, Some(2), "{}", ended.err);
    assert!(ended.err.contains("--from is empty"), "{}", ended.err);
}

#[test]
fn a_path_that_is_no_socket_is_reported_as_such() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    for path in [dir.path(), &file] {
        let socket = format!("--broker.socket={}", path.display());
        let ended = Ended::of(program(&["query", "loadavg", &socket]).output().unwrap());
        assert_eq!(ended.status, Some(1), "{}", ended.err);
        assert!(ended.err.contains("no socket: set --broker.socket"), "{}", ended.err);
        assert!(!ended.err.contains("setpriv"), "{}", ended.err);
    }
}

#[test]
fn mistakes_in_a_query_have_status_2_and_a_near_miss() {
    for (arguments, part) in [
        (&["query", "netdve"][..], "unknown collector \"netdve\" (did you mean netdev?)"),
        (&["query", "qdisc"], "the qdisc collector is not supported: it needs netlink"),
        (&["query", "-o", "jsn"], "--output=\"jsn\": use table, json, prom or raw (did you mean json?)"),
        (&["describe", "-oraw"], "--output=\"raw\": use table or json"),
        (&["describe", "--watch"], "--watch is a flag of query, not of describe"),
        (&["query", "--watch=0.1"], "--watch=\"0.1\": too short: use at least 200ms"),
        (&["query", "--watch=1ns"], "--watch=\"1ns\": too short: use at least 200ms"),
        (&["query", "-w", "1"], "--watch and its value are one word: --watch=1s"),
        (&["query", "--watch", "500ms", "cpu"], "--watch and its value are one word: --watch=500ms"),
        (&["query", "--scrape.timeout=5"], "--scrape.timeout=\"5\": no unit: use 5s for seconds"),
        (
            &["query", "--filter", "--no-headers"],
            "--filter needs a value: --filter=REGEXP; \"--no-headers\" is none",
        ),
        (&["query", "processgroups", "--collector.processgroups.max-groups=0"], "use at least 1"),
        (&["query", "--watch=often"], "--watch=\"often\": not a number of seconds"),
        (&["query", "--count=2"], "--count needs --watch"),
        (&["query", "--watch", "--from=/tmp"], "--watch and --from exclude each other"),
        (&["query", "--filter=("], "--filter=\"(\": not a regular expression"),
        (&["--output=json"], "--output belongs to the commands query and describe"),
        (&["qeury"], "unknown command \"qeury\" (did you mean query?)"),
        (&["describe", "cpu"], "describe takes no words after it"),
        (&["capture", "a", "b"], "capture takes one word after it: capture DIRECTORY"),
        (&["completions", "bsh"], "(did you mean bash?)"),
    ] {
        let ended = Ended::of(program(arguments).output().unwrap());
        assert_eq!(ended.status, Some(2), "{arguments:?}: {}", ended.err);
        assert!(ended.err.contains(part) && ended.err.lines().count() == 1, "{arguments:?}: {}", ended.err);
    }
    let mut command = program(&["query"]);
    let ended = Ended::of(command.env("KEYHOLE_SCRAPE_TIMEOUT", "soon").output().unwrap());
    assert_eq!(ended.status, Some(2));
    assert!(ended.err.contains("KEYHOLE_SCRAPE_TIMEOUT=\"soon\" in the environment, for --scrape.timeout"));
}

#[tokio::test]
async fn a_capture_that_is_stopped_leaves_nothing() {
    let hangs = Script { hangs_at: Some(Query::Meminfo), ..Script::default() };
    let fixture = Fixture::new(hangs);
    for (signal, status) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let before = fixture._broker.reads();
        let out = fixture.path("out").display().to_string();
        let child = fixture.command(&["capture", &out]).stderr(Stdio::null()).spawn().unwrap();
        wait_for("a read", || (fixture._broker.reads() > before).then_some(())).await;
        assert_eq!(stopped(child, signal).await, Some(status));
        assert_eq!(entries(fixture.dir.path()), ["broker.sock"]);
    }
}

#[tokio::test]
async fn a_capture_that_is_stopped_while_it_writes_removes_what_it_wrote() {
    // So many files that writing them takes a while.
    let name = |at: usize| &*format!("sys/class/hwmon/hwmon{at}/name").leak();
    let files = (0..20_000).map(|at| (Query::Hwmon, name(at), b"x".to_vec())).collect();
    let fixture = Fixture::new(Script { files, ..Script::default() });
    for signal in [Signal::INT, Signal::TERM] {
        let out = fixture.path("out").display().to_string();
        let child =
            fixture.command(&["capture", &out]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let partial = |name: &String| name.contains(".partial-");
        wait_for("the writing", || entries(fixture.dir.path()).iter().any(partial).then_some(())).await;
        assert_eq!(stopped(child, signal).await, Some(128 + signal.as_raw()));
        assert_eq!(entries(fixture.dir.path()), ["broker.sock"]);
    }
}

fn entries(dir: &Path) -> Vec<String> {
    let names = std::fs::read_dir(dir).unwrap().flatten().map(|e| e.file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn a_capture_prints_its_steps_and_what_is_missing() {
    let script = Script { outcomes: vec![(Query::Slabinfo, Outcome::Denied)], ..Script::default() };
    let fixture = Fixture::new(script);
    let out = fixture.path("out").display().to_string();
    let ended = fixture.run(&["capture", &out]).await;
    assert_eq!(ended.status, Some(0), "the broker may never read it: {}", ended.err);
    assert!(ended.out.contains("permission denied by the kernel: QUERY_SLABINFO\n"), "{}", ended.out);
    let summary =
        format!("{out}: 1 file of the host (1 KiB), 0 symbolic links, and 4 index files in keyhole/\n");
    assert!(ended.out.starts_with(&summary), "{}", ended.out);
    let steps: Vec<&str> = ended.err.lines().collect();
    assert_eq!(steps.len(), 2, "{steps:?}");
    assert!(steps[0].contains("reading ") && steps[1].contains("writing 1 file to "), "{steps:?}");
    let saved = Ended::of(program(&["query", "--from", &out, "loadavg", "--no-headers"]).output().unwrap());
    assert_eq!((saved.status, saved.out.lines().next()), (Some(0), Some("node_load1   0.5")), "{saved:?}");
}

#[tokio::test]
async fn describe_shows_layers_and_queries() {
    let fixture = Fixture::new(Script::default());
    let ended = fixture.run(&["describe"]).await;
    assert!(ended.out.contains("\nbroker   seccomp  yes") && ended.out.contains("version"), "{}", ended.out);
    let ended = fixture.run(&["describe", "-o", "json"]).await;
    let value: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(value["layers"][0]["name"], "seccomp");
    assert_eq!(value["layers"][0]["process"], "broker");
    assert_eq!(value["counters"]["reads"], 7);
}

/// A broker with `--queries=default`, which leaves TCP out, and the attributes of interfaces.
fn narrowed() -> Script {
    let left_out = [(Query::Tcp, "+tcp"), (Query::NetAddresses, "+net-addresses")];
    let queries = left_out.map(|(query, add)| QueryDescription {
        query: query.into(),
        reader: "procfs".into(),
        outcome: Outcome::NotPermitted.into(),
        reason: format!("--queries=default leaves it out: add {add}"),
        ..Default::default()
    });
    let stuck = ReaderClass { name: "mounts".into(), stuck: 4, ..Default::default() };
    let description =
        DescribeResponse { queries: queries.to_vec(), readers: vec![stuck], ..Default::default() };
    Script {
        outcomes: left_out.map(|(query, _)| (query, Outcome::NotPermitted)).to_vec(),
        description: Some(description),
        ..netdev()
    }
}

const ADD_TCP: &str = "(--queries=default leaves it out: add +tcp)";

#[tokio::test]
async fn a_query_that_the_broker_leaves_out_is_reported_with_the_flag_to_add() {
    let fixture = Fixture::new(narrowed());
    let ended = fixture.run(&["query", "tcpstat"]).await;
    let line = format!("keyhole-exporter: tcpstat: query TCP: NOT_PERMITTED {ADD_TCP}\n");
    assert_eq!((ended.status, ended.err), (Some(3), line));
    let ended = fixture.run(&["query", "tcpstat", "-oraw"]).await;
    let line = format!("keyhole-exporter: QUERY_TCP: OUTCOME_NOT_PERMITTED {ADD_TCP}\n");
    assert_eq!((ended.status, ended.err), (Some(3), line));
    let ended = fixture.run(&["query", "netdev", "--collector.netdev.address-info", "--filter=_up$"]).await;
    let line = "keyhole-exporter: netdev: without QUERY_NET_ADDRESSES (--queries=default leaves it out: add +net-addresses)\n";
    assert_eq!((ended.status, ended.err.as_str()), (Some(0), line), "what it adds is a choice");
    let ended = fixture.run(&["query", "netdev", "--filter=_up$"]).await;
    assert_eq!(ended.err, "", "nobody asked for addresses");
}

#[tokio::test]
async fn describe_shows_the_readers_and_the_flag_to_add() {
    let fixture = Fixture::new(narrowed());
    let ended = fixture.run(&["describe"]).await;
    assert!(ended.out.contains("\nmounts  no             4"), "{}", ended.out);
    assert!(ended.out.contains("--queries=default leaves it out: add +tcp"), "{}", ended.out);
    let ended = fixture.run(&["describe", "-o", "json"]).await;
    let value: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(value["readers"][0]["stuck"], 4);
    assert_eq!(value["queries"][0]["outcome"], "OUTCOME_NOT_PERMITTED");
    assert_eq!(value["queries"][0]["reader"], "procfs");
}

#[tokio::test]
async fn a_capture_lists_what_was_not_permitted_and_so_does_its_replay() {
    let fixture = Fixture::new(narrowed());
    let out = fixture.path("out").display().to_string();
    let ended = fixture.run(&["capture", &out]).await;
    assert_eq!(ended.status, Some(0), "{}", ended.err);
    assert!(
        ended.out.contains("not permitted by the broker's flags:\n  QUERY_NET_ADDRESSES (")
            && ended.out.contains(&format!("\n  QUERY_TCP {ADD_TCP}\n")),
        "{}",
        ended.out
    );
    let saved = Ended::of(program(&["query", "--from", &out, "tcpstat"]).output().unwrap());
    let line = format!("keyhole-exporter: tcpstat: query TCP: NOT_PERMITTED {ADD_TCP}\n");
    assert_eq!((saved.status, saved.err), (Some(3), line), "not permitted, and not absent");
    let replay = ["replay", &out, "--collector.tcpstat", "--log.level=debug"];
    let replayed = Ended::of(program(&replay).output().unwrap());
    assert!(
        replayed.out.contains("node_scrape_collector_success{collector=\"tcpstat\"} 0\n"),
        "{}",
        replayed.out
    );
    assert!(replayed.err.contains("--queries=default leaves it out: add +tcp"), "{}", replayed.err);
}

#[tokio::test]
async fn the_exporters_own_collectors_need_no_broker_and_what_they_leave_out_is_named() {
    let fixture = Fixture::new(Script::default());
    std::fs::write(fixture.path("a.prom"), "a{__x=\"1\"} 1\nb 2\n").unwrap();
    std::fs::write(fixture.path("b.prom"), "c\n").unwrap();
    let directory = format!("--collector.textfile.directory={}", fixture.dir.path().display());
    let socket = "--broker.socket=/nonexistent/broker.sock";
    std::os::unix::fs::symlink("/etc/hostname", fixture.path("d.prom")).unwrap();
    let ended = fixture.run(&["query", "textfile", "timex", &directory, socket]).await;
    assert_eq!(ended.status, Some(0), "{ended:?}");
    assert!(ended.out.contains("\nb ") && ended.out.contains("\nnode_timex_tick_seconds "), "{}", ended.out);
    for line in [
        "a.prom: line 1: the label name __x is reserved: it begins with __; the line is left out\n",
        "b.prom: line 1: \"\" is no value; the whole file is left out\n",
        "d.prom: Permission denied (os error 13); the sandbox refuses links that lead out of \
         --collector.textfile.directory: put the file itself there\n",
    ] {
        let line = format!("textfile: left out: {}/{line}", fixture.dir.path().display());
        assert!(ended.err.contains(&line), "{line}{}", ended.err);
    }
    // The sandbox closes what is above the directories that a pattern names.
    std::fs::create_dir_all(fixture.path("more/one")).unwrap();
    std::fs::write(fixture.path("more/one/c.prom"), "e 5\n").unwrap();
    let pattern = format!("--collector.textfile.directory={}//more/./*", fixture.dir.path().display());
    let ended = fixture.run(&["query", "textfile", "-oprom", &pattern, socket]).await;
    let file = format!("{{file=\"{}/more/one/c.prom\"}}", fixture.dir.path().display());
    assert!(ended.out.contains("\ne 5\n") && ended.out.contains(&file), "{ended:?}");
    let ended = fixture.run(&["query", "textfile", "--output=json", &directory, socket]).await;
    let json: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    let collector = &json["collectors"][0];
    assert_eq!((&collector["skipped"], &collector["state"]), (&3.into(), &"ok".into()));
    assert!(collector["skipped_items"][1].as_str().unwrap().contains("b.prom: line 1: "), "{collector}");
}

#[tokio::test]
async fn each_of_a_hundred_broken_text_files_is_named() {
    let fixture = Fixture::new(Script::default());
    for number in 0..100 {
        std::fs::write(fixture.path(&format!("{number}.prom")), "c\n").unwrap();
    }
    let directory = format!("--collector.textfile.directory={}", fixture.dir.path().display());
    let ended = fixture.run(&["query", "textfile", &directory]).await;
    for number in 0..100 {
        let line = format!("textfile: left out: {}/{number}.prom: line 1: ", fixture.dir.path().display());
        assert!(ended.err.contains(&line), "{line}{}", ended.err);
    }
    assert!(!ended.err.contains("in all"), "{}", ended.err);
}

#[tokio::test]
async fn an_error_that_may_be_a_refusal_names_the_allowed_uids_for_every_command() {
    if !rustix::process::getuid().is_root() {
        return println!("skipped: needs root, who is not allowed to ask either");
    }
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("broker.sock");
    let broker = tokio::net::UnixListener::bind(&socket).unwrap();
    std::os::unix::fs::chown(&socket, Some(64646), Some(64646)).unwrap();
    // As a broker does with a uid that it does not allow.
    tokio::spawn(async move {
        loop {
            drop(broker.accept().await);
        }
    });
    let out = dir.path().join("out").display().to_string();
    let asks: [&[&str]; 3] = [&["describe"], &["query", "loadavg"], &["capture", &out]];
    for mode in [0o666, 0o600] {
        std::fs::set_permissions(&socket, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        for arguments in asks {
            let mut command = program(arguments);
            command.env("KEYHOLE_BROKER_SOCKET", &socket);
            let run = move || Ended::of(command.output().unwrap());
            let ended = tokio::task::spawn_blocking(run).await.unwrap();
            assert_eq!(ended.status, Some(1), "{mode:o} {ended:?}");
            for words in
                ["setpriv --reuid=64646 --regid=64646 --clear-groups ", "the broker's user, uid 64646"]
            {
                assert!(ended.err.contains(words), "{mode:o} {arguments:?}: {}", ended.err);
            }
            assert_eq!(ended.err.lines().count(), 1, "{}", ended.err);
        }
    }
}
