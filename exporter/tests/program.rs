//! The real program: captures and their replay, mistakes on the command line, logs and a stop.

mod in_process;

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use in_process::Exporter;
use keyhole_proto::v1::{DescribeResponse, Outcome, Query, QueryDescription};
use keyhole_test_support::fake_broker::{FakeBroker, Script};
use keyhole_test_support::signals::IGNORED;
use keyhole_test_support::{ChildProcess, Lines, TIMEOUT, http, listening_address, wait_until};
use rustix::process::Signal;

fn exporter(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_keyhole-exporter")).args(arguments).output().unwrap()
}

/// Runs the program without holding up the fake broker.
async fn capture(socket: &Path, dir: &Path) -> Output {
    let socket = format!("--broker.socket={}", socket.display());
    let dir = dir.display().to_string();
    tokio::task::spawn_blocking(move || exporter(&[&socket, "capture", &dir])).await.unwrap()
}

/// The same with `-`: standard output is the archive.
async fn capture_to_stdout(socket: &Path) -> Output {
    let socket = format!("--broker.socket={}", socket.display());
    tokio::task::spawn_blocking(move || exporter(&[&socket, "capture", "-"])).await.unwrap()
}

/// Runs the program with this input.
fn exporter_with_input(arguments: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyhole-exporter"));
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut program = command.spawn().unwrap();
    let mut stdin = program.stdin.take().unwrap();
    let input = input.to_vec();
    // The program may end without reading it.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = program.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

fn samples(text: &str, keep: impl Fn(&str) -> bool) -> Vec<&str> {
    text.lines().filter(|line| !line.starts_with('#') && keep(line)).collect()
}

#[tokio::test]
async fn a_replayed_capture_has_the_samples_of_a_scrape() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("broker.sock");
    let device = "sys/devices/system/clocksource/clocksource0";
    let script = Script {
        files: vec![
            (Query::Loadavg, "proc/loadavg", b"0.5 1 1.5 1/2 3\n".to_vec()),
            (Query::Clocksource, device, Vec::new()),
            (
                Query::Clocksource,
                "sys/devices/system/clocksource/clocksource0/current_clocksource",
                b"a\xff b\"c\n".to_vec(),
            ),
            (Query::OsRelease, "etc/os-release", b"NAME=x\nVERSION_ID=1.2\n".to_vec()),
            (Query::Stat, "proc/../../outside", b"evil".to_vec()),
        ],
        outcomes: vec![(Query::Stat, Outcome::Stuck)],
        ..Script::default()
    };
    let _broker = FakeBroker::start(&socket, script);
    let live = Exporter::start(&socket, &["--collector.os"]).get("/metrics").await.text();
    let out = dir.path().join("out");
    let made = capture(&socket, &out).await;
    // A stuck query is missing from it.
    assert_eq!(made.status.code(), Some(3), "{}", String::from_utf8_lossy(&made.stderr));
    assert!(!dir.path().join("outside").exists());

    let out = out.display().to_string();
    let flags = ["--collector.disable-defaults", "--collector.loadavg", "--collector.time", "--collector.os"];
    let replayed = exporter(&[&flags[..], &["replay", &out]].concat());
    assert!(replayed.stderr.is_empty(), "{}", String::from_utf8_lossy(&replayed.stderr));
    let replayed = String::from_utf8(replayed.stdout).unwrap();
    let of_the_host = |line: &str| {
        let own = ["duration", "exporter_build_info", "time_seconds", "time_zone"];
        line.starts_with("node_") && !own.iter().any(|own| line.contains(own))
    };
    assert_eq!(samples(&live, of_the_host), samples(&replayed, of_the_host));
    assert!(samples(&replayed, |line| line.starts_with("node_os_version")).len() == 1);

    let streamed = capture_to_stdout(&socket).await;
    let summary = String::from_utf8(streamed.stderr).unwrap();
    assert_eq!(streamed.status.code(), Some(3), "{summary}");
    let last = "keyhole-exporter: keyhole-exporter replay FILE prints its metrics.\n";
    assert!(summary.contains("standard output: 4 files of the host") && summary.ends_with(last), "{summary}");
    let archive = dir.path().join("node.tar");
    std::fs::write(&archive, &streamed.stdout).unwrap();
    let archive = archive.display().to_string();
    let from_file = exporter(&[&flags[..], &["replay", &archive]].concat());
    let from_stdin = exporter_with_input(&[&flags[..], &["replay", "-"]].concat(), &streamed.stdout);
    let query = [&flags[..], &["query", "--from=-", "--output=prom"]].concat();
    let by_query = exporter_with_input(&query, &streamed.stdout);
    for output in [from_file, from_stdin, by_query] {
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(samples(&replayed, of_the_host), samples(&text, of_the_host));
    }
    let cut = exporter_with_input(&["replay", "-"], &streamed.stdout[..2048]);
    let error = String::from_utf8(cut.stderr).unwrap();
    assert!(cut.status.code() == Some(1) && cut.stdout.is_empty(), "{error}");
    assert!(error.starts_with("keyhole-exporter: error: cannot read -: "), "{error}");

    let again = capture(&socket, Path::new(&out)).await;
    assert_eq!(again.status.code(), Some(1));
    let error = String::from_utf8(again.stderr).unwrap();
    assert!(error.starts_with("keyhole-exporter: error: ") && error.contains("is not empty"), "{error}");
}

#[tokio::test]
async fn an_archive_that_cannot_be_written_as_a_whole_is_a_failure() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("broker.sock");
    let files = vec![(Query::Loadavg, "proc/loadavg", b"0.5 1 1.5 1/2 3\n".to_vec())];
    let _broker = FakeBroker::start(&socket, Script { files, ..Script::default() });
    let socket = format!("--broker.socket={}", socket.display());
    let run = |stdout: Stdio| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keyhole-exporter"));
        command.args([&socket, "capture", "-"]).stdout(stdout).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        tokio::task::spawn_blocking(move || child.wait_with_output().unwrap())
    };
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let (reader, closed) = std::io::pipe().unwrap();
    drop(reader);
    for (stdout, reason) in [(full.into(), "No space left"), (closed.into(), "Broken pipe")] {
        let output = run(stdout).await.unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        let error = error.lines().last().unwrap();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.starts_with("keyhole-exporter: error: cannot write the archive: "), "{error}");
        assert!(error.contains(reason) && error.ends_with("is not a whole one"), "{error}");
    }
}

#[test]
fn a_stream_that_is_a_terminal_or_has_no_broker_behind_it_is_refused() {
    let (_pty, terminal) = keyhole_test_support::terminal();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keyhole-exporter"));
        command.args(arguments).stdin(terminal.try_clone().unwrap()).stdout(terminal.try_clone().unwrap());
        let output = command.stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for (arguments, part) in [
        (&["capture", "-"][..], "standard output is a terminal: write the archive to a file"),
        (&["replay", "-"], "standard input is a terminal: pass an archive"),
        (&["query", "--from=-"], "standard input is a terminal: pass an archive"),
        (&["connect"], "standard input and output are a terminal"),
    ] {
        let (status, error) = run(arguments);
        assert_eq!((status, error.lines().count()), (Some(2), 1), "{arguments:?}: {error}");
        assert!(error.starts_with("keyhole-exporter: error: ") && error.contains(part), "{error}");
    }
    for command in [&["capture", "-"][..], &["connect"]] {
        let output = exporter_with_input(&[&["--broker.socket=/nonexistent/x"], command].concat(), b"");
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{error}");
        assert!(error.contains("/nonexistent/x"), "{error}");
    }
}

#[test]
fn a_replay_has_the_limits_of_a_scrape_and_reports_them_in_the_same_way() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().display().to_string();
    std::fs::create_dir_all(dir.path().join("proc")).unwrap();
    std::fs::write(dir.path().join("proc/loadavg"), "0.5 1 1.5 1/2 3\n").unwrap();
    let replay = |more: &[&str]| {
        let base = ["--collector.disable-defaults", "--collector.loadavg"];
        let output = exporter(&[&base[..], more, &["replay", &tree]].concat());
        assert!(output.status.success(), "{output:?}");
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    const DROPPED: &str = "\nkeyhole_collector_series_dropped_total{collector=\"loadavg\"} ";
    let (text, log) = replay(&["--collector.series-limit=2"]);
    assert!(text.contains("\nnode_load5 1\n") && !text.contains("node_load15 "), "{text}");
    assert!(text.contains(&format!("{DROPPED}1\n")), "{text}");
    assert!(text.contains("\nnode_scrape_collector_success{collector=\"loadavg\"} 0\n"), "{text}");
    assert!(log.contains("level=WARN") && log.contains("--collector.series-limit"), "{log}");
    for unlimited in [&[][..], &["--collector.series-limit=0"]] {
        let (text, log) = replay(unlimited);
        assert!(text.contains("\nnode_load15 1.5\n") && !text.contains(DROPPED), "{text}");
        assert_eq!(log, "");
    }
    assert!(replay(&["--scrape.detail"]).0.contains(&format!("{DROPPED}0\n")));

    // Larger than a broker reads of a file.
    let long = format!("0.5 1 1.5 1/2 3\n{}", " ".repeat(16 << 20));
    std::fs::write(dir.path().join("proc/loadavg"), long).unwrap();
    let (text, log) = replay(&[]);
    assert!(text.contains("keyhole_query_outcome{outcome=\"truncated\",query=\"loadavg\"} 1"), "{text}");
    assert!(log.contains("level=WARN") && log.contains("QUERY_LOADAVG: cut by a limit"), "{log}");
}

#[tokio::test]
async fn without_a_broker_no_file_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let made = capture(&dir.path().join("none.sock"), &dir.path().join("out")).await;
    assert_eq!(made.status.code(), Some(1));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// The program is in its sandbox while it reads: a system call that its filter does not know ends it.
#[test]
fn a_replayed_tree_may_have_any_links_and_is_not_left_by_them() {
    use std::os::unix::fs::symlink;

    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    let put = |path: &str, text: &str| {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let link = |path: &str, target: &str| {
        let path = tree.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
    };
    put("tree/proc/real/loadavg", "0.5 1 1.5 1/2 3\n");
    put("secret/meminfo", "MemTotal: 4711 kB\n");
    put("secret/hwmon9/name", "4711\n");
    // Within the tree, in every way.
    link("proc/loadavg", "real/../real/./loadavg");
    put("tree/sys/devices/a/b/hwmon0/name", "chip\n");
    put("tree/sys/devices/a/b/hwmon0/temp1_input", "5000\n");
    link("sys/class/hwmon/hwmon0", "../../devices/a/b/../../a/b/hwmon0");
    link("sys/class/hwmon/hwmon1", "hwmon0/..//hwmon0");
    link("sys/devices/a/b/hwmon0/device", "..");
    // Out of it.
    link("proc/meminfo", "../../secret/../secret/meminfo");
    link("proc/vmstat", &dir.path().join("secret/meminfo").display().to_string());
    link("sys/class/hwmon/hwmon2", "../../../../secret/hwmon9");
    link("sys/class/thermal", "../../../secret/../secret");
    link("sys/block", "/");
    // In rings, through what is no directory, to what does not end.
    link("proc/stat", "stat");
    link("proc/swaps", "diskstats/../x");
    link("proc/diskstats", "swaps/../x");
    link("proc/cpuinfo", "real/loadavg/../loadavg");
    link("sys/class/net", "net/../net");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        tree.join("proc/schedstat"),
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    let mut deep = tree.join("sys/class/power_supply");
    std::fs::create_dir_all(&deep).unwrap();
    // Many links one after the other, and a path longer than the kernel takes.
    symlink("../../devices", deep.join("l0")).unwrap();
    for n in 1..60 {
        symlink(format!("l{}/../devices/../devices", n - 1), deep.join(format!("l{n}"))).unwrap();
    }
    for _ in 0..12 {
        deep = deep.join("d".repeat(250));
        std::fs::create_dir(&deep).unwrap();
    }
    symlink(deep.strip_prefix(tree.join("sys/class")).unwrap(), tree.join("sys/class/rapl")).unwrap();

    let tree = tree.display().to_string();
    let all = [
        "hwmon",
        "loadavg",
        "meminfo",
        "vmstat",
        "stat",
        "swap",
        "diskstats",
        "cpu",
        "schedstat",
        "netclass",
    ]
    .map(|name| format!("--collector.{name}"));
    let mut arguments =
        vec!["--collector.disable-defaults", "--collector.cpu.info", "--collector.powersupplyclass"];
    arguments.extend(all.iter().map(String::as_str));
    arguments.extend(["--collector.thermal_zone", "replay", &tree]);
    let started = Instant::now();
    let output = exporter(&arguments);
    let text = String::from_utf8_lossy(&output.stdout);
    // What leads out of the tree, or in circles, is not read.
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    assert!(text.contains("node_load1 0.5\n"), "{text}");
    assert_eq!(samples(&text, |line| line.starts_with("node_hwmon_temp_celsius{")).len(), 2, "{text}");
    assert!(!text.contains("4711") && !text.contains("4823"), "{text}");
}

#[test]
fn mistakes_on_the_command_line_are_one_line_with_what_to_do() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let occupied = format!("--web.listen-address={}", listener.local_addr().unwrap());
    let health = occupied.replace("listen", "health");
    let on_any_port = "--web.listen-address=127.0.0.1:0";
    let long_socket = format!("--broker.socket=/{}", "x".repeat(107));
    for (arguments, part) in [
        (vec!["--no-such-flag"], "try --help"),
        (vec!["--collector.netstat.feilds=x"], "try --help"),
        (vec!["--collector.systemd.unit-inclde=x"], "did you mean --collector.systemd.unit-include?"),
        (vec!["--collector.ipvs.backend-labels=bogus"], "no label \"bogus\"; there are local_address,"),
        (vec!["--log.level=loud"], "use debug, info, warn or error"),
        (vec!["--", "--collector.cpu"], "unknown flag --collector.cpu"),
        (vec!["-x"], "try --help"),
        (
            vec!["serve"],
            "unknown command \"serve\": use query, describe, capture, replay, connect or completions",
        ),
        (vec!["replay"], "replay needs the directory or archive that capture wrote"),
        (vec!["replay", "/nonexistent"], "pass a capture: a directory"),
        (vec!["--web.listen-address=9100"], "not an address such as :9100"),
        (vec!["--web.listen-address=vsock://:9100"], "vsock is not supported"),
        (vec![occupied.as_str()], "the port is in use"),
        (vec![on_any_port, health.as_str()], "choose another port with --web.health-address"),
        (vec![on_any_port, "--web.health-address=9101"], "not an address such as :9100"),
        (vec!["--web.config.file=/x.yaml"], "No such file"),
        (vec!["--web.systemd-socket"], "start the program with a socket unit"),
        (vec!["--web.telemetry-path=metrics"], "use a path that begins with /"),
        (vec!["--web.telemetry-path=//metrics"], "requests cannot reach a path"),
        (vec!["--web.telemetry-path=/m%zz"], "requests cannot reach a path"),
        (vec!["--web.telemetry-path=/-/ready"], "/-/ready is the page for probes"),
        (vec!["--web.telemetry-path=/%2D/health%79"], "/-/healthy is the page for probes"),
        (vec!["--log.level=loud"], "use debug, info, warn or error"),
        (vec!["--log.format=xml"], "use logfmt or json"),
        (vec!["--log.format=JSON"], "use logfmt or json"),
        (vec!["--web.listen-address="], "not an address such as :9100"),
        (vec!["--web.listen-address=127.0.0.1:http"], "not an address such as :9100"),
        (vec!["@flags"], "try --help"),
        (vec!["--broker.socket=unix:"], "--broker.socket=\"unix:\": not the path of a socket"),
        (vec!["--broker.socket="], "--broker.socket=\"\": not the path of a socket: use one such as /run/"),
        (vec![&long_socket], "108 bytes, and the path of a socket has 107 at most: use a shorter one"),
        (vec!["--scrape.timeout=0s"], "--scrape.timeout=\"0s\": too short: use at least 50ms"),
        (vec!["--scrape.timeout=1ns"], "too short: use at least 50ms"),
        (vec!["--scrape.timeout=1000000h"], "too long: use at most 120s"),
        (vec!["--scrape.timeout-offset=1000000h"], "too long: use at most a year, 8760h"),
        (vec!["--web.telemetry-path", "--log.level=debug"], "--web.telemetry-path needs a value: --web"),
        (vec!["--web.max-requests=many"], "not a whole number"),
    ] {
        let output = exporter(&arguments);
        let error = String::from_utf8(output.stderr).unwrap();
        // What only the system knows is no mistake of the command line.
        let of_the_system =
            ["pass a capture", "the port is in use", "choose another port", "No such file", "a socket unit"]
                .iter()
                .any(|of_it| part.contains(of_it));
        let status = if of_the_system { 1 } else { 2 };
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(error.starts_with("keyhole-exporter: error: ") && error.contains(part), "{error}");
    }
    for flag in ["--help", "-h", "--version"] {
        let output = exporter(&[flag]);
        assert!(output.status.success() && output.stderr.is_empty() && !output.stdout.is_empty());
    }
}

#[test]
fn every_command_reports_an_invalid_environment_variable() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("proc")).unwrap();
    let tree = dir.path().to_str().unwrap();
    let run = |arguments: &[&str], name: &str, value: &[u8]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keyhole-exporter"));
        let output = command.args(arguments).env(name, OsStr::from_bytes(value)).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for command in [&["query", "--from", tree][..], &["replay", tree], &["capture", "/nonexistent/x"], &[]] {
        let (status, error) = run(command, "NODE_NAME", b"a\xff");
        // Whether its directory can be written is checked first.
        if command.first() != Some(&"capture") {
            assert_eq!(status, Some(2), "{command:?}: {error}");
            assert!(error.contains("NODE_NAME=\"a\\xFF\" in the environment: not UTF-8: set it"), "{error}");
        }
    }
    let long = format!("/{}", "x".repeat(107));
    for (name, value, part) in [
        ("KEYHOLE_BROKER_SOCKET", long.as_bytes(), "108 bytes, and the path"),
        ("KEYHOLE_BROKER_SOCKET", b"/\xff", "not UTF-8: use a value that is"),
        ("KEYHOLE_WEB_LISTEN_ADDRESS", b"9100", "not an address such as :9100"),
        ("KEYHOLE_WEB_TELEMETRY_PATH", b"metrics", "use a path that begins with /"),
        ("KEYHOLE_SCRAPE_TIMEOUT", b"0s", "too short: use at least 50ms"),
    ] {
        let (status, error) = run(&[], name, value);
        assert_eq!(status, Some(2), "{error}");
        assert!(error.starts_with(&format!("keyhole-exporter: error: {name}=")), "{error}");
        assert!(error.contains(" in the environment, for --") && error.contains(part), "{error}");
        assert!(run(&["--help"], name, value).1.is_empty());
    }
    for command in
        [&["query", "--from", tree][..], &["replay", tree], &["describe"], &["capture", "/nonexistent/x"]]
    {
        let (_, error) = run(command, "KEYHOLE_SCRAPE_TIMEOT", b"1s");
        assert!(
            error.contains("environment variable without effect")
                && error.contains("mean KEYHOLE_SCRAPE_TIMEOUT?"),
            "{command:?}: {error}"
        );
    }
}

/// Starts the program as a server.
fn start(arguments: &[&str]) -> (ChildProcess, Lines) {
    ChildProcess::spawn_with_lines(Command::new(env!("CARGO_BIN_EXE_keyhole-exporter")).args(arguments))
}

/// The address in the line that says that it listens.
fn address(lines: &mut Lines) -> SocketAddr {
    let line = lines.next_with("msg=listening");
    listening_address(&line).unwrap_or_else(|| panic!("no address: {line}"))
}

#[test]
fn the_server_logs_one_line_an_event_and_stops_with_status_0() {
    let flags = [
        "--web.listen-address=127.0.0.1:0",
        "--no-collector.wifi",
        "--collector.systemd",
        "--collector.systemd.unit-include=x",
        "--path.procfs=/host/proc",
        "--log.level=INFO",
        "--",
    ];
    let (mut server, mut lines) = start(&flags);
    let line = lines.next_with("flags=--path.procfs");
    assert!(line.contains(" level=INFO msg=\"no effect here: set these flags for the broker"), "{line}");
    let line = lines.next_with("flags=\"--collector.systemd --collector.systemd.unit-include\"");
    assert!(line.starts_with("time=20") && line.contains(" level=WARN msg=\""), "{line}");
    assert!(line.contains("not supported") && line.contains("D-Bus"), "{line}");
    assert!(TcpStream::connect(address(&mut lines)).is_ok());
    assert_eq!(server.terminate().code(), Some(0));

    let (mut server, mut lines) = start(&["--web.listen-address=127.0.0.1:0", "--log.format=json"]);
    let line = lines.next_with("\"msg\":\"listening\"");
    assert!(line.starts_with("{\"time\":\"2") && line.ends_with('}'), "{line}");
    assert_eq!(server.terminate().code(), Some(0));
}

/// Everything that a GET returns, as text.
fn get(address: SocketAddr, path: &str) -> String {
    let stream = http::connect(address).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    String::from_utf8(http::exchange(stream, &http::request("GET", path, &[]))).unwrap()
}

#[test]
fn failed_scrapes_while_the_broker_is_away_are_logged_once() {
    let (mut server, mut lines) =
        start(&["--web.listen-address=127.0.0.1:0", "--broker.socket=/nonexistent/socket"]);
    let address = address(&mut lines);
    std::thread::scope(|scope| {
        for _ in 0..30 {
            scope.spawn(|| {
                for number in 0..20 {
                    let path = ["/metrics", "/metrics?collect[]=loadavg", "/-/ready"][number % 3];
                    assert!(get(address, path).starts_with("HTTP/1.1 503"), "{path}");
                }
            });
        }
    });
    let line = lines.next_with("msg=\"scrape failed\"");
    assert!(line.contains("failures=1"), "{line}");
    let lines = lines.until_silent(Duration::from_millis(500));
    assert!(lines.len() <= 3, "{lines:#?}");
    assert_eq!(server.terminate().code(), Some(0));
}

/// Nobody's certificate and key.
const TLS: &str = "\
tls_server_config:
  key: |
    -----BEGIN PRIVATE KEY-----
    MC4CAQAwBQYDK2VwBCIEIHN1V+CWmhSubOCgOs1EX0PlQJhbOIA2sCkunmX50AVR
    -----END PRIVATE KEY-----
  cert: |
    -----BEGIN CERTIFICATE-----
    MIIBNDCB56ADAgECAhRlcXoqU0cHn092C1LAqXxOMMsKBzAFBgMrZXAwDzENMAsG
    A1UEAwwEdGVzdDAgFw0yNjExMjcwNTEwNTFaGA8yMTI2MTEwMzA1MTA1MVowDzEN
    MAsGA1UEAwwEdGVzdDAqMAUGAytlcAMhAF+ZNtFTBMivP4HqcaOLmkKjLQ8lwfFr
    lnmkRU6Aweyjo1MwUTAdBgNVHQ4EFgQUm5Utk2GfBbV3WczRaoPvE54OuAMwHwYD
    VR0jBBgwFoAUm5Utk2GfBbV3WczRaoPvE54OuAMwDwYDVR0TAQH/BAUwAwEB/zAF
    BgMrZXADQQAVFuHOCFHcidmd/2TBuu6JKvgFKnTvl5T/Y5IafAA1CJWHQS0u7DOg
    UGNQJl0qFH8giBzlJARP3iLIAQENqP8L
    -----END CERTIFICATE-----
";

/// Takes any certificate.
#[derive(Debug)]
struct Anyones;

impl rustls::client::danger::ServerCertVerifier for Anyones {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        vec![rustls::SignatureScheme::ED25519]
    }
}

/// Writes to an HTTP/2 connection as many frames of each kind as it takes within a while.
fn send_frames(address: SocketAddr, frame: &[u8]) {
    let config = rustls::ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap();
    let mut config = config
        .dangerous()
        .with_custom_certificate_verifier(std::sync::Arc::new(Anyones))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = rustls::pki_types::ServerName::try_from("test").unwrap();
    let client = rustls::ClientConnection::new(std::sync::Arc::new(config), name).unwrap();
    let stream = TcpStream::connect(address).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut tls = rustls::StreamOwned::new(client, stream);
    tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    assert_eq!(tls.conn.alpn_protocol(), Some(&b"h2"[..]));
    for _ in 0..300 {
        if tls.write_all(&frame.repeat(100)).is_err() {
            return;
        }
    }
}

#[test]
fn invalid_input_at_the_tls_port_does_not_fill_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("web.yaml");
    std::fs::write(&config, TLS).unwrap();
    let config = format!("--web.config.file={}", config.display());
    for level in ["debug", "info", "warn", "error"] {
        let log_level = format!("--log.level={level}");
        let address = free_address();
        let listen = format!("--web.listen-address={address}");
        let (mut server, mut lines) =
            start(&[&listen, &log_level, &config, "--broker.socket=/nonexistent/socket"]);
        wait_until("it listens", || TcpStream::connect(address).is_ok());
        lines.until_silent(Duration::from_millis(300));
        let begun = Instant::now();
        // A ping, settings, a window's update and a reset of a stream that is not there, a frame of no known kind.
        for frame in [
            &b"\0\0\x08\x06\0\0\0\0\0stranger"[..],
            b"\0\0\0\x04\0\0\0\0\0",
            b"\0\0\x04\x08\0\0\0\0\0\0\0\0\x01",
            b"\0\0\x04\x03\0\0\0\0\x01\0\0\0\x08",
            b"\0\0\x03\xfa\0\0\0\0\x01abc",
        ] {
            send_frames(address, frame);
        }
        // Handshakes that fail: no record, a record that is none, an alert, an end, plain HTTP.
        for number in 0..300 {
            let mut stream = TcpStream::connect(address).unwrap();
            let sent: &[u8] = match number % 5 {
                0 => b"\x80stranger",
                1 => b"\x16\x03\x01\x00\x08stranger",
                2 => b"\x15\x03\x01\x00\x02\x02\x28",
                3 => b"\x16",
                _ => b"GET /stranger HTTP/1.1\r\n\r\n",
            };
            let _ = stream.write_all(sent);
        }
        let lines = lines.until_silent(Duration::from_millis(500));
        let bytes: usize = lines.iter().map(String::len).sum();
        eprintln!("--log.level={level}: {} lines, {bytes} bytes in {:?}", lines.len(), begun.elapsed());
        // 200 at once and 50 a second, of debug alone.
        let most = if level == "debug" { 200 + 50 * (begun.elapsed().as_secs() as usize + 2) } else { 0 };
        assert!(lines.len() <= most && bytes <= most * 300, "{level}: {} lines: {lines:#?}", lines.len());
        let own = |line: &&String| !line.contains("handshake failed") && !line.contains("log lines dropped");
        assert_eq!(lines.iter().find(own), None);
        assert_eq!(server.terminate().code(), Some(0));
    }
}

#[test]
fn a_web_config_file_that_becomes_invalid_is_logged_once_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("web.yml");
    std::fs::write(&file, "").unwrap();
    let address = free_address();
    let (config, listen) =
        (format!("--web.config.file={}", file.display()), format!("--web.listen-address={address}"));
    let (mut server, mut lines) = start(&[&listen, &config, "--broker.socket=/nonexistent/socket"]);
    wait_until("it listens", || TcpStream::connect(address).is_ok());
    lines.until_silent(Duration::from_millis(300));
    let ask = || {
        use std::io::Read as _;
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"GET /-/healthy HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    for (text, status, message) in [
        (
            "nonsense: 1\n",
            "500",
            "--web.config.file is invalid: every request is refused until it is corrected",
        ),
        ("", "200", "--web.config.file is valid again"),
    ] {
        std::fs::write(&file, text).unwrap();
        for _ in 0..3 {
            let answer = ask();
            assert_eq!(answer.split(' ').nth(1), Some(status), "{answer}");
        }
        let logged = lines.until_silent(Duration::from_millis(300));
        let [line] = &logged[..] else { panic!("{logged:#?}") };
        assert!(line.contains(message) && line.contains(&format!("file={}", file.display())), "{line}");
    }
    assert_eq!(server.terminate().code(), Some(0));
}

/// An address that nothing listens on, for a server whose log does not report where it listens.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A server whose log goes to `stderr`, and its address.
fn server_with_log(stderr: Stdio) -> (ChildProcess, SocketAddr) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyhole-exporter"));
    command.args(["--broker.socket=/nonexistent/socket", "--log.level=debug"]).stderr(stderr);
    listening(&mut command)
}

/// Starts a server at a free address, and waits until it listens.
fn listening(command: &mut Command) -> (ChildProcess, SocketAddr) {
    let address = free_address();
    let server = ChildProcess::spawn(command.arg(format!("--web.listen-address={address}")));
    wait_until("it listens", || TcpStream::connect(address).is_ok());
    (server, address)
}

#[test]
fn a_log_that_nobody_reads_and_a_full_disk_do_not_end_the_program() {
    let (unread, writer) = std::io::pipe().unwrap();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let (closed, broken) = std::io::pipe().unwrap();
    drop(closed);
    // From here on it takes nothing: every line waits.
    let flags = rustix::fs::fcntl_getfl(&writer).unwrap();
    rustix::fs::fcntl_setfl(&writer, flags | rustix::fs::OFlags::NONBLOCK).unwrap();
    while rustix::io::write(&writer, &[b'x'; 4096]).is_ok() {}
    rustix::fs::fcntl_setfl(&writer, flags).unwrap();
    for stderr in [writer.into(), full.into(), broken.into()] {
        let (mut server, address) = server_with_log(stderr);
        for _ in 0..5 {
            assert!(get(address, "/metrics").starts_with("HTTP/1.1 503"));
            assert!(get(address, "/-/healthy").starts_with("HTTP/1.1 200"));
        }
        let begun = Instant::now();
        assert_eq!(server.terminate().code(), Some(0));
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }
    drop(unread);
}

#[test]
fn ignored_signals_do_not_end_the_process_and_the_others_do() {
    let start = || server_with_log(Stdio::null());
    let (mut server, address) = start();
    for ignored in IGNORED {
        server.signal(ignored);
        assert!(get(address, "/-/healthy").starts_with("HTTP/1.1 200"), "{ignored:?}");
    }
    assert!(server.is_running());
    assert_eq!(server.terminate().code(), Some(0));
    for end in [Signal::INT, Signal::HUP] {
        let (mut server, _) = start();
        server.signal(end);
        assert_eq!(server.wait().code(), Some(0), "{end:?}");
    }
    // nohup(1) has it go on after its terminal.
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_keyhole-exporter")]);
    let (mut server, address) = listening(command.stderr(Stdio::null()));
    server.signal(Signal::HUP);
    assert!(get(address, "/-/healthy").starts_with("HTTP/1.1 200"));
    assert_eq!(server.terminate().code(), Some(0));
}

#[tokio::test]
async fn the_log_names_the_flag_that_leaves_a_query_out_once() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("broker.sock");
    let left_out = [(Query::Tcp, "+tcp"), (Query::NetAddresses, "+net-addresses")];
    let described = left_out.map(|(query, add)| QueryDescription {
        query: query.into(),
        reason: format!("--queries=default leaves it out: add {add}"),
        ..Default::default()
    });
    let description = DescribeResponse { queries: described.to_vec(), ..Default::default() };
    let outcomes = left_out.map(|(query, _)| (query, Outcome::NotPermitted)).to_vec();
    let script = Script { outcomes, description: Some(description), ..Script::default() };
    let _broker = FakeBroker::start(&socket, script);
    let socket = format!("--broker.socket={}", socket.display());
    let scrapes = tokio::task::spawn_blocking(move || {
        let (server, mut lines) = start(&[
            &socket,
            "--web.listen-address=127.0.0.1:0",
            "--collector.disable-defaults",
            "--collector.tcpstat",
            "--collector.netdev",
            "--collector.netdev.address-info",
        ]);
        let address = address(&mut lines);
        for _ in 0..2 {
            get(address, "/metrics");
        }
        server.signal(Signal::TERM);
        lines.until_silent(TIMEOUT)
    });
    let mut lines = scrapes.await.unwrap();
    lines.retain(|line| line.contains("leaves it out"));
    let failed =
        lines.iter().filter(|line| line.contains("add +tcp") && line.contains("level=ERROR")).count();
    let less =
        lines.iter().filter(|line| line.contains("add +net-addresses") && line.contains("WARN")).count();
    assert_eq!((failed, less, lines.len()), (1, 1, 2), "{lines:#?}");
}

#[tokio::test]
async fn what_is_left_out_of_a_text_file_is_logged_once() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.prom"), "ok 1\nb 2 3\n").unwrap();
    std::fs::write(dir.path().join("b.prom"), "c{__d=\"1\"} 1\nok{x=\"\"} 1\n").unwrap();
    let socket = dir.path().join("broker.sock");
    let _broker = FakeBroker::start(&socket, Script::default());
    let socket = format!("--broker.socket={}", socket.display());
    let directory = format!("--collector.textfile.directory={}", dir.path().display());
    let scrapes = tokio::task::spawn_blocking(move || {
        let (server, mut lines) = start(&[&socket, "--web.listen-address=127.0.0.1:0", &directory]);
        let address = address(&mut lines);
        for _ in 0..3 {
            get(address, "/metrics?collect[]=textfile");
        }
        server.signal(Signal::TERM);
        lines.until_silent(TIMEOUT)
    });
    let mut lines = scrapes.await.unwrap();
    lines.retain(|line| line.contains("collector=textfile"));
    let items = [
        "/a.prom: line 2: timestamps are not taken; the whole file is left out\"",
        "/b.prom: line 1: the label name __d is reserved: it begins with __; the line is left out\"",
    ];
    assert_eq!(lines.len(), items.len(), "{lines:#?}");
    for (line, item) in lines.iter().zip(items) {
        assert!(line.contains("level=WARN msg=\"item skipped\"") && line.contains(item), "{line}");
    }
}

#[test]
fn the_version_has_no_date_and_no_user() {
    let output = exporter(&["--version"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("keyhole-exporter, version ") && text.contains("platform:"), "{text}");
    assert!(!text.contains("date") && !text.contains("user") && !text.contains("go version"), "{text}");
    assert_eq!(exporter(&["--version", "--bogus"]).status.code(), Some(2), "a mistake stays one");
    let without = exporter(&["--no-version", "--no-help", "completions", "bash"]);
    assert!(without.status.success() && !without.stdout.starts_with(b"keyhole-exporter, version"));
}
