//! The plugin with a kubectl that behaves as pods and clusters do at their worst; what pods print is the exporter's own.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use keyhole_test_support::{
    ChildProcess, EXPORTER_UID, Environment, programs, run_to_end, terminal, this_host, wait_for, wait_until,
};
use rustix::process::{Pid, Signal, test_kill_process};

const TREE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/host/tree");

/// A cluster whose nodes are named as their pods: `tree-1` has the pod `tree-1-pod`.
struct Cluster {
    environment: Environment,
}

impl Cluster {
    fn new(nodes: &[&str]) -> Self {
        let plugin = PathBuf::from(env!("CARGO_BIN_EXE_kubectl-keyhole"));
        let programs = programs::PROGRAMS.map(|name| programs::all().join(name));
        let environment = Environment::with_programs(programs.into_iter().chain([plugin]));
        let fake = environment.path("fake");
        fs::create_dir(&fake).unwrap();
        fs::set_permissions(&fake, fs::Permissions::from_mode(0o777)).unwrap();
        fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fake-kubectl"), fake.join("kubectl")).unwrap();
        let pods: Vec<String> = nodes.iter().map(|node| running_pod(node)).collect();
        let cluster = Self { environment };
        cluster.write_pods(&pods);
        cluster
    }

    fn write_pods(&self, pods: &[String]) {
        let list = format!(r#"{{"apiVersion": "v1", "kind": "List", "items": [{}]}}"#, pods.join(","));
        self.environment.write("fake/pods.json", &list);
    }

    /// The plugin, as the uid that may ask the broker, with the fake kubectl on the PATH.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.environment.command("kubectl-keyhole", EXPORTER_UID);
        let fake = self.environment.path("fake");
        command.env("PATH", format!("{}:/usr/bin:/bin", fake.display())).env("TREE", TREE);
        command.env_remove("KUBECTL").args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Printed {
        let output = run_to_end(self.command(arguments));
        let printed = Printed::from(output);
        printed.has_no_control_characters();
        printed
    }

    /// What the exporter itself prints, as the same uid.
    fn exporter(&self, arguments: &[&str]) -> String {
        let mut command = self.environment.command("keyhole-exporter", EXPORTER_UID);
        command.args(arguments);
        String::from_utf8(run_to_end(command).stdout).unwrap()
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.environment.path("fake").join(name)).unwrap_or_default()
    }

    /// The processes that hang in a pod.
    fn hanging(&self) -> Vec<Pid> {
        self.read("hanging").lines().map(|pid| Pid::from_raw(pid.parse().unwrap()).unwrap()).collect()
    }
}

fn running_pod(node: &str) -> String {
    format!(
        r#"{{"metadata": {{"name": "{node}-pod"}}, "spec": {{"nodeName": "{node}"}}, "status": {{"phase": "Running",
        "containerStatuses": [{{"name": "exporter", "ready": true, "state": {{"running": {{"startedAt": "2026-01-01T00:00:00Z"}}}}}}]}}}}"#
    )
}

#[derive(Debug)]
struct Printed {
    status: Option<i32>,
    stdout: String,
    stderr: String,
}

impl From<Output> for Printed {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("what is printed is UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("what is printed is UTF-8"),
        }
    }
}

impl Printed {
    fn has_no_control_characters(&self) {
        for text in [&self.stdout, &self.stderr] {
            let found = text.chars().find(|c| c.is_control() && *c != '\n' || *c == '\u{202e}');
            assert_eq!(found, None, "{text:?}");
        }
    }

    /// The only line on standard error, with nothing on standard output.
    fn error(&self) -> &str {
        assert_eq!((self.stdout.as_str(), self.stderr.lines().count()), ("", 1), "{self:?}");
        self.stderr.trim_end().strip_prefix("kubectl-keyhole: error: ").expect("an error")
    }
}

#[test]
fn a_node_prints_what_the_exporter_prints_on_it() {
    let cluster = Cluster::new(&["tree-1", "tree-2"]);
    let from = format!("--from={TREE}");
    let table = cluster.run(&["query", "tree-1", "loadavg", "netdev", "pressure"]);
    assert_eq!((table.status, table.stderr.as_str()), (Some(0), ""));
    let words = |text: &str| -> Vec<Vec<String>> {
        text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
    };
    assert_eq!(
        words(&table.stdout),
        words(&cluster.exporter(&["query", &from, "loadavg", "netdev", "pressure"]))
    );
    let headless = cluster.run(&["query", "tree-1", "loadavg", "--no-headers", "--filter=load1$"]);
    assert_eq!(headless.stdout, "node_load1   2.39\n".replace("   ", "  "));
    // Every series, each with its number as it was printed.
    let json = cluster.run(&["query", "tree-1", "-o", "json"]).stdout;
    let own = cluster.exporter(&["query", &from, "--output=json"]);
    let without_its_own = |text: &str| -> Vec<String> {
        let of_the_run = |line: &&str| !line.starts_with("  \"node\"") && !line.starts_with("  \"time\"");
        text.lines().filter(of_the_run).map(str::to_owned).collect()
    };
    assert!(json.contains("\n  \"node\": \"tree-1\",\n"), "{}", &json[json.len() - 100..]);
    assert!(without_its_own(&json).len() > 1000);
    assert_eq!(without_its_own(&json), without_its_own(&own));
}

#[test]
fn kubectl_gets_the_flags_and_nothing_else() {
    let cluster = Cluster::new(&["tree-1"]);
    let flags = ["--context=prod", "--as=jane", "-n", "other", "--request-timeout=5s"];
    let words = ["query", "tree-1", "loadavg", "--filter=a b; $(touch x)"];
    let printed = cluster.run(&[&words[..], &flags].concat());
    assert_eq!(printed.status, Some(0), "{printed:?}");
    let flags = "--context=prod --as=jane --request-timeout=5s --namespace=other";
    let selector = "--selector=app.kubernetes.io/name=keyhole,app.kubernetes.io/instance=keyhole";
    assert_eq!(
        cluster.read("calls"),
        format!(
            "get {flags} pods {selector} --output=json\n\
             exec {flags} tree-1-pod --container exporter -- /keyhole-exporter query --output=json --filter=a b; $(touch x) loadavg\n"
        )
    );
}

#[test]
fn all_nodes_are_merged_and_those_that_failed_are_named_with_the_reason() {
    let cluster = Cluster::new(&["tree-1", "refused-1", "tree-2", "refused-2", "gone-1"]);
    let printed = cluster.run(&["query", "--all-nodes", "loadavg", "--filter=load1$"]);
    assert_eq!(printed.status, Some(3), "{printed:?}");
    assert_eq!(
        printed.stdout,
        "NODE    METRIC      VALUE  LABELS\ntree-1  node_load1   2.39\ntree-2  node_load1   2.39\n"
    );
    let lines: Vec<&str> = printed.stderr.lines().collect();
    assert_eq!(lines[0], "kubectl-keyhole: error: 3 of 5 nodes did not answer:");
    assert!(
        lines[1].starts_with("kubectl-keyhole: gone-1: the pod has been replaced meanwhile"),
        "{lines:?}"
    );
    assert!(
        lines[2].starts_with("kubectl-keyhole: refused-1: exec is refused by the policy keyhole-no-exec"),
        "{lines:?}"
    );
    let json = cluster.run(&["query", "--all-nodes", "loadavg", "-o", "json"]);
    assert_eq!(json.status, Some(3));
    let list: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    let nodes: Vec<(&str, bool, bool)> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|item| (item["node"].as_str().unwrap(), item["error"].is_string(), item["metrics"].is_array()))
        .collect();
    assert_eq!(
        nodes,
        [
            ("gone-1", true, false),
            ("refused-1", true, false),
            ("refused-2", true, false),
            ("tree-1", false, true),
            ("tree-2", false, true),
        ]
    );
    // With none that answers, nothing but the reasons.
    cluster.write_pods(&[running_pod("refused-1"), running_pod("gone-1")]);
    let none = cluster.run(&["query", "--all-nodes", "loadavg"]);
    assert_eq!((none.status, none.stdout.as_str()), (Some(1), ""), "{none:?}");
}

#[test]
fn each_failure_of_a_node_is_one_line_with_what_to_do() {
    let nodes = [
        (
            "refused-1",
            "exec is refused by the policy keyhole-no-exec (component refuse-exec): use the metrics in Prometheus",
        ),
        ("forbidden-1", "there is no right to exec: ask for the Role"),
        ("gone-1", "the pod has been replaced meanwhile: try again"),
        ("unreachable-1", "the API server cannot reach the node's kubelet"),
        ("no-broker-1", "cannot reach the broker at /run/keyhole/broker.sock"),
        ("silent-1", "/keyhole-exporter ended with status 137"),
        ("garbage-1", "its answer is not the JSON of keyhole-exporter"),
        ("deep-1", "its answer is not the JSON of keyhole-exporter"),
        ("cut-1", "its answer is not the JSON of keyhole-exporter"),
        ("flood-1", "it printed more than 16 MiB, and was stopped"),
        (
            "pulling-1",
            "the pod pulling-1-pod does not run (broker: ImagePullBackOff): kubectl -n keyhole describe pod pulling-1-pod",
        ),
        ("missing-1", "no pod of Keyhole on it"),
    ];
    let cluster = Cluster::new(&[]);
    let pulling = r#"{"metadata": {"name": "pulling-1-pod"}, "spec": {"nodeName": "pulling-1"}, "status": {"phase": "Pending",
        "initContainerStatuses": [{"name": "broker", "state": {"waiting": {"reason": "ImagePullBackOff"}}}]}}"#;
    let running = nodes.iter().filter(|(node, _)| !matches!(*node, "pulling-1" | "missing-1"));
    cluster.write_pods(
        &running.map(|(node, _)| running_pod(node)).chain([pulling.to_owned()]).collect::<Vec<_>>(),
    );
    for (node, reason) in nodes {
        let printed = cluster.run(&["query", node, "loadavg"]);
        assert_eq!(printed.status, Some(1), "{printed:?}");
        assert!(printed.error().starts_with(&format!("{node}: {reason}")), "{printed:?}");
    }
}

#[test]
fn a_collector_that_failed_is_a_partial_success() {
    let cluster = Cluster::new(&["escapes-1", "tree-1"]);
    for arguments in [
        &["query", "escapes-1"][..],
        &["query", "--all-nodes", "loadavg"],
        &["query", "escapes-1", "-o", "json"],
    ] {
        let printed = cluster.run(arguments);
        assert_eq!(printed.status, Some(3), "{printed:?}");
        assert_eq!(printed.stderr, "kubectl-keyhole: escapes-1: n\\u{1b}[2J: e\\u{1b}]0;x\\u{7}\n");
        assert!(
            printed.stdout.contains("\\u{1b}[2J\\u{202e}\\n")
                || printed.stdout.contains("\\u001b[2J\\u202e\\n")
        );
    }
}

#[test]
fn errors_before_any_node_is_asked_are_one_line() {
    let cluster = Cluster::new(&[]);
    let error = |cluster: &Cluster| {
        let printed = cluster.run(&["top"]);
        assert_eq!(printed.status, Some(1));
        printed.error().to_owned()
    };
    assert_eq!(error(&cluster), "no pod of Keyhole in the namespace keyhole: name its namespace by -n");
    for (text, reason) in [
        (
            "Error from server (Forbidden): pods is forbidden: User \"nobody\" cannot list resource \"pods\" in API group \"\" in the namespace \"keyhole\"",
            "there is no right to get and list pods",
        ),
        (
            "error: You must be logged in to the server (Unauthorized)",
            "the API server does not accept the credentials",
        ),
        (
            "The connection to the server 127.0.0.1:1 was refused - did you specify the right host or port?",
            "the API server cannot be reached",
        ),
    ] {
        cluster.environment.write("fake/get-error", text);
        assert!(error(&cluster).starts_with(reason), "{}", error(&cluster));
    }
    let mut command = cluster.command(&["top"]);
    command.env("PATH", "/nonexistent");
    let printed = Printed::from(run_to_end(command));
    assert_eq!(printed.error(), "kubectl was not found: install kubectl, or set KUBECTL to its path");
    let mut command = cluster.command(&["top"]);
    command.env("KUBECTL", "/nonexistent/kubectl");
    assert!(Printed::from(run_to_end(command)).error().starts_with("/nonexistent/kubectl was not found"));
    let usage = cluster.run(&["query"]);
    assert_eq!(usage.status, Some(2), "{usage:?}");
}

#[test]
fn a_node_that_hangs_is_killed_with_what_it_has_started_and_the_others_answer() {
    let cluster = Cluster::new(&["tree-1", "hang-1", "flood-stderr-1"]);
    let start = Instant::now();
    let printed = cluster.run(&["query", "--all-nodes", "loadavg", "--filter=load1$", "--timeout=2s"]);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert_eq!(printed.status, Some(3), "{printed:?}");
    assert!(printed.stdout.contains("tree-1  node_load1"), "{printed:?}");
    let no_answer = "hang-1: no answer within 2s: try again, or with a longer --timeout; its last message: To sign in, open \\u{1b}]0;x\\u{7}";
    assert!(printed.stderr.contains(no_answer), "{printed:?}");
    assert!(printed.stderr.contains("flood-stderr-1: no answer within 2s"), "{printed:?}");
    wait_until("the end of what hung", || {
        cluster.hanging().iter().all(|pid| test_kill_process(*pid).is_err())
    });
    assert_eq!(cluster.hanging().len(), 1);
}

#[test]
fn ctrl_c_ends_every_child() {
    let cluster = Cluster::new(&["hang-1", "hang-2"]);
    for (arguments, count, status) in
        [(&["query", "--all-nodes", "loadavg"][..], 2, 130), (&["query", "hang-1", "--watch"], 3, 0)]
    {
        let mut plugin = ChildProcess::spawn(cluster.command(arguments).stderr(Stdio::null()));
        wait_until("the children hang", || cluster.hanging().len() == count);
        plugin.signal(Signal::INT);
        assert_eq!(plugin.wait().code(), Some(status), "{arguments:?}");
        wait_until("the end of the children", || {
            cluster.hanging().iter().all(|pid| test_kill_process(*pid).is_err())
        });
    }
}

#[test]
fn no_more_nodes_are_asked_at_once_than_allowed() {
    let nodes: Vec<String> = (0..9).map(|number| format!("slow-{number}")).collect();
    let cluster = Cluster::new(&nodes.iter().map(String::as_str).collect::<Vec<_>>());
    let printed =
        cluster.run(&["query", "--all-nodes", "loadavg", "--parallel=3", "--no-headers", "--filter=load1$"]);
    assert_eq!((printed.status, printed.stdout.lines().count()), (Some(0), 9), "{printed:?}");
    let counts: Vec<usize> = cluster.read("counts").lines().map(|count| count.parse().unwrap()).collect();
    assert_eq!(counts.len(), 9);
    assert!((2..=3).contains(counts.iter().max().unwrap()), "{counts:?}");
}

#[test]
fn watch_shows_rates_of_a_broker_until_the_count() {
    let cluster = Cluster::new(&["broker-1"]);
    let _broker = cluster.environment.start_broker(&this_host());
    let words = ["query", "broker-1", "stat", "--watch=300ms", "--count=3", "--filter=context_switches"];
    let table = cluster.run(&words);
    assert_eq!((table.status, table.stderr.as_str()), (Some(0), ""), "{table:?}");
    let blocks: Vec<&str> = table.stdout.split("\n\n").collect();
    assert_eq!(blocks.len(), 3, "{}", table.stdout);
    assert!(blocks.iter().all(|block| block.starts_with("METRIC")), "{}", table.stdout);
    let fields = |block: &str| block.lines().nth(1).unwrap().split_whitespace().count();
    assert_eq!((fields(blocks[0]), fields(blocks[1])), (2, 3), "{}", table.stdout);
    let json = cluster.run(&[&words[..], &["-o", "json"]].concat());
    let rates: Vec<bool> = json
        .stdout
        .lines()
        .map(|line| {
            let reading: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(reading["node"], "broker-1");
            reading["metrics"][0]["rate"].is_number()
        })
        .collect();
    assert_eq!(rates, [false, true, true]);
    let refused = Cluster::new(&["refused-1"]).run(&["query", "refused-1", "--watch"]);
    assert!(refused.error().starts_with("refused-1: exec is refused by the policy"), "{refused:?}");
}

#[test]
fn top_shows_the_load_of_a_broker_and_why_a_node_has_none() {
    let cluster = Cluster::new(&["broker-1", "forbidden-1", "tree-1"]);
    let _broker = cluster.environment.start_broker(&this_host());
    let printed = cluster.run(&["top", "--interval=1s"]);
    assert_eq!(printed.status, Some(3), "{printed:?}");
    let rows: Vec<Vec<&str>> = printed.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows.len(), 2, "{printed:?}");
    assert_eq!((rows[0][0], rows[1][0], rows[0].len()), ("NODE", "broker-1", 12));
    for (title, cell) in rows[0].iter().zip(&rows[1]).skip(1).take(3) {
        assert!(cell.parse::<f64>().is_ok_and(|number| (0.0..1e6).contains(&number)), "{title}: {cell}");
    }
    assert!(printed.stderr.contains("forbidden-1: there is no right to exec"), "{printed:?}");
    // A capture has no rates, and the exporter refuses to watch one.
    assert!(printed.stderr.contains("tree-1: --watch and --from exclude each other"), "{printed:?}");
    let json = cluster.run(&["top", "broker-1", "--interval=1s", "-o", "json"]);
    let list: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((json.status, &list[0]["node"]), (Some(0), &"broker-1".into()), "{json:?}");
    assert!(
        list[0]["cpu_percent"].as_f64().is_some_and(|percent| (0.0..=100.0).contains(&percent)),
        "{json:?}"
    );
}

#[test]
fn a_broker_is_described_in_full_and_in_a_line() {
    let cluster = Cluster::new(&["broker-1", "no-broker-1"]);
    let _broker = cluster.environment.start_broker(&this_host());
    let one = cluster.run(&["describe", "broker-1"]);
    assert_eq!(one.status, Some(0), "{one:?}");
    assert!(one.stdout.contains("access level") && one.stdout.contains("loadavg"), "{}", one.stdout);
    let all = cluster.run(&["describe", "--all-nodes"]);
    assert_eq!(all.status, Some(3), "{all:?}");
    let lines: Vec<&str> = all.stdout.lines().collect();
    assert!(lines.len() == 2 && lines[1].starts_with("broker-1"), "{all:?}");
    assert!(all.stderr.contains("no-broker-1: cannot reach the broker"), "{all:?}");
    let json = cluster.run(&["describe", "--all-nodes", "-o", "json"]);
    let list: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert!(list[0]["queries"].is_array() && list[1]["error"].is_string(), "{json:?}");
}

#[test]
fn a_capture_is_an_archive_that_replays() {
    let cluster = Cluster::new(&["broker-1", "refused-1", "hang-1", "flood-1"]);
    let _broker = cluster.environment.start_broker(&this_host());
    let output = run_to_end(cluster.command(&["capture", "broker-1"]));
    assert!(matches!(output.status.code(), Some(0 | 3)), "{:?}", String::from_utf8_lossy(&output.stderr));
    let archive = cluster.environment.path("fake/node.tar");
    fs::write(&archive, &output.stdout).unwrap();
    let replayed = cluster.exporter(&["query", &format!("--from={}", archive.display()), "stat"]);
    assert!(replayed.contains("node_context_switches_total"), "{replayed}");
    assert!(cluster.run(&["capture", "refused-1"]).error().contains("exec is refused"));
    let hang = cluster.run(&["capture", "hang-1", "--timeout=1s"]);
    assert!(hang.error().ends_with("; the archive is not to be used"), "{hang:?}");
    // An archive on a terminal would be control characters of the node's.
    let (_show, end) = terminal();
    let mut command = cluster.command(&["capture", "broker-1"]);
    command.stdout(OwnedFd::from(end)).stderr(Stdio::piped());
    let refused = command.spawn().unwrap().wait_with_output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("kubectl keyhole capture broker-1 > broker-1.tar")
    );
}

#[test]
fn progress_is_shown_on_a_terminal_alone_and_erased() {
    let cluster = Cluster::new(&["tree-1", "tree-2"]);
    let (show, end) = terminal();
    let mut command = cluster.command(&["query", "--all-nodes", "loadavg"]);
    let status = command.stderr(OwnedFd::from(end)).status().unwrap();
    drop(command);
    assert_eq!(status.code(), Some(0));
    let mut shown = [0; 4096];
    let count = rustix::io::read(show.as_fd(), &mut shown).unwrap();
    let shown = String::from_utf8_lossy(&shown[..count]).into_owned();
    assert!(shown.contains("\r\x1b[K1 of 2 nodes"), "{shown:?}");
    assert!(shown.ends_with("\r\x1b[K"), "{shown:?}");
}

#[test]
fn what_a_node_prints_decides_neither_the_width_nor_the_end() {
    let cluster = Cluster::new(&["wide-1", "endless-1"]);
    let wide = cluster.run(&["query", "wide-1", "--no-headers"]);
    assert_eq!((wide.status, wide.stdout.lines().count()), (Some(0), 100_001));
    assert!(wide.stdout.len() < 2_000_000, "{}", wide.stdout.len());
    let endless = cluster.run(&["query", "endless-1", "--watch", "--count=2"]);
    assert_eq!(endless.status, Some(1), "{endless:?}");
    assert!(endless.stderr.ends_with("endless-1: it printed more than 2 results\n"), "{endless:?}");
}

#[test]
fn an_archive_that_was_cut_is_not_to_be_used() {
    let cluster = Cluster::new(&["short-1"]);
    let output = run_to_end(cluster.command(&["capture", "short-1"]));
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 1000));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("short-1: the archive ends after 1000 bytes, too early"), "{error}");
}

#[test]
fn a_reader_that_has_stopped_keeps_no_signal_and_no_deadline_away() {
    let cluster = Cluster::new(&["zeros-1", "wide-1"]);
    for arguments in [&["capture", "zeros-1"][..], &["query", "wide-1"]] {
        let mut command = cluster.command(arguments);
        let mut plugin = ChildProcess::spawn(command.stdout(Stdio::piped()).stderr(Stdio::null()));
        std::thread::sleep(Duration::from_secs(3));
        plugin.signal(Signal::TERM);
        assert_eq!(plugin.wait().code(), Some(143), "{arguments:?}");
    }
    let mut command = cluster.command(&["capture", "zeros-1", "--timeout=1s"]);
    let mut plugin = ChildProcess::spawn(command.stdout(Stdio::piped()).stderr(Stdio::null()));
    assert_eq!(plugin.wait().code(), Some(1));
}

#[test]
fn nobody_reading_is_no_failure() {
    let cluster = Cluster::new(&["tree-1"]);
    let mut plugin = cluster.command(&["query", "tree-1"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(plugin.stdout.take());
    assert_eq!(wait_for("the end", || plugin.try_wait().unwrap()).code(), Some(0));
    assert!(Path::new(TREE).is_dir());
}
