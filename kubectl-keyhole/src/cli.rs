//! The command line.

use std::ffi::{OsStr, OsString};
use std::sync::LazyLock;
use std::time::Duration;

use keyhole_flags::{
    Command as CommandRow, DurationRange, Flag, FlagError, FlagKind, Group, HELP_FLAGS, Operands, Origin,
    Program, Value, Values,
};

use crate::Failure;
use crate::kubectl::Kubectl;
use crate::top::Key;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How long a capture may take unless a flag sets it: the exporter reads for up to a minute.
const CAPTURE_TIMEOUT: Duration = Duration::from_secs(120);

/// What a command line asks for.
pub enum Parsed {
    /// To print this text.
    Print(String),
    /// To run a command.
    Run(Invocation),
}

/// A command with what all commands have.
#[derive(Debug)]
pub struct Invocation {
    pub kubectl: Kubectl,
    pub parallel: usize,
    pub command: Command,
}

/// A command with its options.
#[derive(Debug)]
pub enum Command {
    Query(Query),
    Describe(Describe),
    Capture { node: String },
    Top(Top),
}

impl Command {
    /// Whether Ctrl-C is its normal end.
    pub fn is_endless(&self) -> bool {
        matches!(self, Self::Query(query) if query.watch.is_some())
    }
}

/// The nodes that a command is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Nodes {
    /// One, whose output stands alone.
    One(String),
    /// These.
    Some(Vec<String>),
    /// All that have a pod of Keyhole.
    All,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Table,
    Json,
}

#[derive(Debug)]
pub struct Query {
    pub nodes: Nodes,
    pub collectors: Vec<String>,
    pub filter: String,
    pub format: Format,
    pub headers: bool,
    pub watch: Option<Duration>,
    pub count: u64,
}

#[derive(Debug)]
pub struct Describe {
    pub nodes: Nodes,
    pub filter: String,
    pub format: Format,
    pub headers: bool,
}

#[derive(Debug)]
pub struct Top {
    pub nodes: Nodes,
    pub format: Format,
    pub headers: bool,
    pub sort_by: Key,
    pub interval: Duration,
}

const QUERY: &str = "query";
const DESCRIBE: &str = "describe";
const CAPTURE: &str = "capture";
const TOP: &str = "top";

#[rustfmt::skip]
const COMMANDS: &[CommandRow] = &[
    CommandRow { name: QUERY,    operands: Operands::Words { usage: "NODE|--all-nodes [COLLECTOR...]" }, help: "print a node's metrics, or those of all nodes: of these collectors, or of all that are enabled" },
    CommandRow { name: DESCRIBE, operands: Operands::Words { usage: "NODE|--all-nodes" }, help: "print what the broker of a node can answer, what not and why, and its sandbox; for all nodes, a line each" },
    CommandRow { name: CAPTURE,  operands: Operands::Words { usage: "NODE > FILE" }, help: "write the kernel files that Keyhole reads on a node to standard output, as a tar archive for keyhole-exporter replay" },
    CommandRow { name: TOP,      operands: Operands::Words { usage: "[NODE...]" }, help: "print the load of these nodes, or of all: CPU, memory, disk, network and pressure" },
];

const SECOND: Duration = Duration::from_secs(1);
const ONE_SECOND_TO_AN_HOUR: DurationRange = DurationRange { min: SECOND, max: Duration::from_secs(3600) };
/// The exporter's own.
const WATCH_RANGE: DurationRange =
    DurationRange { min: Duration::from_millis(200), max: Duration::from_secs(365 * 24 * 3600) };
const INTERVAL_RANGE: DurationRange = DurationRange { min: SECOND, max: Duration::from_secs(60) };

#[rustfmt::skip]
const GROUPS: &[Group] = &[
    Group { title: "Cluster, as for kubectl", commands: &[], environment: false, flags: &[
        Flag { name: "namespace", kind: FlagKind::Text("keyhole"), help: "Keyhole's namespace. Short: -n." },
        Flag { name: "context", kind: FlagKind::Text(""), help: "The context of the kubeconfig." },
        Flag { name: "kubeconfig", kind: FlagKind::Text(""), help: "The file with the cluster and the credentials." },
        Flag { name: "as", kind: FlagKind::Text(""), help: "Impersonate this user." },
        Flag { name: "as-group", kind: FlagKind::Texts, help: "Impersonate this group, with --as." },
        Flag { name: "request-timeout", kind: FlagKind::Text(""), help: "kubectl's timeout of a request to the API server, such as 5s." },
    ] },
    Group { title: "Nodes", commands: &[], environment: false, flags: &[
        Flag { name: "timeout", kind: FlagKind::Duration { default: "15s", range: ONE_SECOND_TO_AN_HOUR }, help: "How long each run of kubectl may take; with --watch, to the next result. A node that takes longer has failed. For capture 2m unless it is set." },
        Flag { name: "parallel", kind: FlagKind::Number(16), help: "Ask at most this number of nodes at once." },
    ] },
    Group { title: "All nodes", commands: &[QUERY, DESCRIBE], environment: false, flags: &[
        Flag { name: "all-nodes", kind: FlagKind::Switch(false), help: "Ask every node that has a pod of Keyhole." },
        Flag { name: "filter", kind: FlagKind::Text(""), help: "Show only series whose name{label=\"value\",...} matches this regular expression; of describe, queries whose name or file pattern does." },
    ] },
    Group { title: "Output", commands: &[QUERY, DESCRIBE, TOP], environment: false, flags: &[
        Flag { name: "output", kind: FlagKind::Choice { default: "table", choices: &["table", "json"], ignore_case: false }, help: "Output format. Short: -o." },
        Flag { name: "headers", kind: FlagKind::Switch(true), help: "Print the header line of a table." },
    ] },
    Group { title: "Queries", commands: &[QUERY], environment: false, flags: &[
        Flag { name: "watch", kind: FlagKind::Interval { alone: "2s", range: WATCH_RANGE }, help: "Repeat at this interval (2s if the flag has no value), and show the rates of counters per second; for one node. Short: -w." },
        Flag { name: "count", kind: FlagKind::Number(0), help: "With --watch, exit after this number of results; 0 for no end." },
    ] },
    Group { title: "Top", commands: &[TOP], environment: false, flags: &[
        Flag { name: "sort-by", kind: FlagKind::Choice { default: "cpu", choices: Key::NAMES, ignore_case: false }, help: "What comes first is busiest; node sorts by name." },
        Flag { name: "interval", kind: FlagKind::Duration { default: "2s", range: INTERVAL_RANGE }, help: "Rates are the averages over this time." },
    ] },
    Group { title: "Help", commands: &[], environment: false, flags: HELP_FLAGS },
];

static PROGRAM: LazyLock<Program> = LazyLock::new(|| Program {
    name: "kubectl-keyhole",
    version: VERSION,
    version_text: format!("kubectl-keyhole {VERSION}\n"),
    purpose: "Keyhole's metrics of a cluster's nodes, by kubectl exec.",
    note: "As kubectl's plugin it is called kubectl keyhole, and its flags follow that. It needs the right to get and list pods and to create pods/exec in Keyhole's namespace.",
    commands: COMMANDS,
    groups: GROUPS.to_vec(),
    short: &[('h', "help"), ('n', "namespace"), ('o', "output"), ('w', "watch")],
    known_values: &[],
    variables: &[("KUBECTL", "The program kubectl, if it is not the one on the PATH.")],
    exit_statuses: &[
        ("0", "Success: every node answered."),
        ("1", "Failure: nothing was printed; standard error says why."),
        ("2", "A mistake on the command line."),
        (
            "3",
            "Partial success: a node did not answer, or a collector failed; standard error names them, and the rest was printed.",
        ),
        ("128+N", "Stopped by signal N: 130 for Ctrl-C. With --watch, Ctrl-C is the normal end: 0."),
    ],
});

impl From<FlagError> for Failure {
    fn from(error: FlagError) -> Self {
        Self::Usage(error.to_string())
    }
}

/// Reads a command line; `variable` reads one of the environment.
pub fn parse(
    arguments: impl IntoIterator<Item = OsString>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Parsed, Failure> {
    let (values, words) = match PROGRAM.parse(arguments, [])? {
        keyhole_flags::Parsed::Print(_, text) => return Ok(Parsed::Print(text)),
        keyhole_flags::Parsed::Run(values, words) => (values, words),
    };
    let Some((command, operands)) = PROGRAM.command(&words)? else {
        return Err(Failure::Usage("name a command: query, describe, capture or top; try --help".into()));
    };
    let command = match command {
        QUERY => Command::Query(query(&values, operands)?),
        DESCRIBE => Command::Describe(describe(&values, operands)?),
        CAPTURE => Command::Capture { node: single_node(CAPTURE, operands)? },
        _ => Command::Top(top(&values, operands)?),
    };
    let mut timeout = duration(&values, "timeout");
    if matches!(command, Command::Capture { .. }) && values.origin("timeout") == Origin::Default {
        timeout = CAPTURE_TIMEOUT;
    }
    let parallel = match number(&values, "parallel") {
        parallel @ 1..=256 => parallel as usize,
        other => return Err(Failure::Usage(format!("--parallel={other}: use a number from 1 to 256"))),
    };
    let program = variable("KUBECTL").filter(|value| !value.is_empty());
    let namespace = values.text("namespace").to_owned();
    if namespace.is_empty() {
        return Err(Failure::Usage("--namespace is empty: name the namespace of Keyhole's pods".into()));
    }
    let kubectl = Kubectl {
        program: program.unwrap_or_else(|| OsStr::new("kubectl").to_owned()),
        flags: kubectl_flags(&values),
        namespace,
        timeout,
    };
    Ok(Parsed::Run(Invocation { kubectl, parallel, command }))
}

/// The flags that kubectl gets as they are.
fn kubectl_flags(values: &Values) -> Vec<String> {
    let mut flags = Vec::new();
    for name in ["context", "kubeconfig", "as", "request-timeout"] {
        if values.origin(name) > Origin::Default {
            flags.push(format!("--{name}={}", values.text(name)));
        }
    }
    flags.extend(values.texts("as-group").iter().map(|group| format!("--as-group={group}")));
    flags
}

fn query(values: &Values, operands: &[String]) -> Result<Query, Failure> {
    let (nodes, collectors) = if values.switch("all-nodes") {
        (Nodes::All, operands)
    } else {
        let [node, collectors @ ..] = operands else { return Err(missing_node(QUERY)) };
        (Nodes::One(node_name(node)?), collectors)
    };
    let is_name = |word: &&String| {
        word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
    };
    if let Some(word) = collectors.iter().find(|word| !is_name(word) || word.is_empty()) {
        let all = if nodes == Nodes::All { "; --all-nodes takes no node" } else { "" };
        return Err(Failure::Usage(format!("{word:?} is not the name of a collector{all}")));
    }
    let watch = match values.value("watch") {
        Some(Value::Interval(watch)) => *watch,
        _ => None,
    };
    let count = number(values, "count");
    if watch.is_some() && nodes == Nodes::All {
        return Err(Failure::Usage(
            "--watch follows one node: name it, or use top, which compares all nodes".into(),
        ));
    }
    if watch.is_none() && count > 0 {
        return Err(Failure::Usage("--count needs --watch".into()));
    }
    Ok(Query {
        nodes,
        collectors: collectors.to_vec(),
        filter: values.text("filter").to_owned(),
        format: format(values),
        headers: values.switch("headers"),
        watch,
        count,
    })
}

fn describe(values: &Values, operands: &[String]) -> Result<Describe, Failure> {
    let nodes = match (values.switch("all-nodes"), operands) {
        (true, []) => Nodes::All,
        (true, _) => {
            return Err(Failure::Usage("--all-nodes and the name of a node exclude each other".into()));
        }
        (false, operands) => Nodes::One(single_node(DESCRIBE, operands)?),
    };
    Ok(Describe {
        nodes,
        filter: values.text("filter").to_owned(),
        format: format(values),
        headers: values.switch("headers"),
    })
}

fn top(values: &Values, operands: &[String]) -> Result<Top, Failure> {
    let nodes = match operands {
        [] => Nodes::All,
        names => Nodes::Some(names.iter().map(|name| node_name(name)).collect::<Result<_, _>>()?),
    };
    Ok(Top {
        nodes,
        format: format(values),
        headers: values.switch("headers"),
        sort_by: Key::parse(values.text("sort-by")),
        interval: duration(values, "interval"),
    })
}

fn format(values: &Values) -> Format {
    if values.text("output") == "json" { Format::Json } else { Format::Table }
}

fn number(values: &Values, flag: &str) -> u64 {
    match values.value(flag) {
        Some(Value::Number(number)) => *number,
        _ => 0,
    }
}

fn duration(values: &Values, flag: &str) -> Duration {
    match values.value(flag) {
        Some(Value::Duration(duration)) => *duration,
        _ => Duration::ZERO,
    }
}

fn single_node(command: &str, operands: &[String]) -> Result<String, Failure> {
    match operands {
        [] => Err(missing_node(command)),
        [node] => node_name(node),
        _ => Err(Failure::Usage(format!("{command} takes one node"))),
    }
}

fn missing_node(command: &str) -> Failure {
    let all = if command == CAPTURE { "" } else { ", or all by --all-nodes" };
    Failure::Usage(format!("{command} needs the name of a node{all}; kubectl keyhole top lists them"))
}

/// A node's name, also as kubectl prints it: `node/NAME`.
fn node_name(word: &str) -> Result<String, Failure> {
    let name = word.strip_prefix("node/").or_else(|| word.strip_prefix("nodes/")).unwrap_or(word);
    let is_of_names = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
    if name.is_empty() || name.starts_with('-') || !name.bytes().all(is_of_names) {
        return Err(Failure::Usage(format!("{word:?} is not the name of a node")));
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Invocation, String> {
        match super::parse(words.iter().map(OsString::from), |_| None) {
            Ok(Parsed::Run(invocation)) => Ok(invocation),
            Ok(Parsed::Print(text)) => Err(text),
            Err(Failure::Usage(error)) => Err(error),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn defaults_are_those_of_the_flags() {
        let invocation = parse(&["query", "node-1", "loadavg", "cpu"]).unwrap();
        assert_eq!(invocation.kubectl.namespace, "keyhole");
        assert_eq!(invocation.kubectl.timeout, Duration::from_secs(15));
        assert_eq!(invocation.kubectl.flags, [""; 0]);
        let Command::Query(query) = invocation.command else { panic!() };
        assert_eq!(
            (query.nodes, &*query.collectors),
            (Nodes::One("node-1".into()), &["loadavg".into(), "cpu".into()][..])
        );
        assert_eq!(parse(&["capture", "node-1"]).unwrap().kubectl.timeout, CAPTURE_TIMEOUT);
        assert_eq!(
            parse(&["capture", "node-1", "--timeout=9s"]).unwrap().kubectl.timeout,
            Duration::from_secs(9)
        );
    }

    #[test]
    fn flags_of_kubectl_are_passed_on() {
        let words = [
            "top",
            "-n",
            "other",
            "--context=prod",
            "--as",
            "jane",
            "--as-group=a",
            "--as-group=b",
            "--request-timeout=5s",
        ];
        let kubectl = parse(&words).unwrap().kubectl;
        assert_eq!(kubectl.namespace, "other");
        assert_eq!(
            kubectl.flags,
            ["--context=prod", "--as=jane", "--request-timeout=5s", "--as-group=a", "--as-group=b"]
        );
    }

    #[test]
    fn a_node_may_be_written_as_kubectl_prints_it() {
        let Command::Capture { node } = parse(&["capture", "node/ip-10-0-0-1.ec2.internal"]).unwrap().command
        else {
            panic!()
        };
        assert_eq!(node, "ip-10-0-0-1.ec2.internal");
    }

    #[test]
    fn mistakes_name_what_to_do() {
        for (words, error) in [
            (&[][..], "name a command: query, describe, capture or top; try --help"),
            (&["qery", "node-1"], "unknown command \"qery\" (did you mean query?); try --help"),
            (
                &["query"],
                "query needs the name of a node, or all by --all-nodes; kubectl keyhole top lists them",
            ),
            (&["capture"], "capture needs the name of a node; kubectl keyhole top lists them"),
            (&["capture", "a", "b"], "capture takes one node"),
            (&["describe", "--all-nodes", "a"], "--all-nodes and the name of a node exclude each other"),
            (&["query", "node-1", "--from=x"], "unknown flag --from; try --help"),
            (&["query", "node-1", "Load"], "\"Load\" is not the name of a collector"),
            (
                &["query", "--all-nodes", "node-1"],
                "\"node-1\" is not the name of a collector; --all-nodes takes no node",
            ),
            (&["query", "--", "--output=json"], "\"--output=json\" is not the name of a node"),
            (&["query", "a\x1b[2J"], "\"a\\u{1b}[2J\" is not the name of a node"),
            (
                &["query", "--all-nodes", "-w"],
                "--watch follows one node: name it, or use top, which compares all nodes",
            ),
            (&["query", "node-1", "--count=2"], "--count needs --watch"),
            (&["query", "node-1", "-o", "prom"], "--output=\"prom\": use table or json"),
            (
                &["top", "--sort-by=cpus"],
                "--sort-by=\"cpus\": use cpu, memory, disk, io, network, pressure or node (did you mean cpu?)",
            ),
            (&["top", "--watch"], "--watch belongs to the command query; try --help"),
            (&["top", "--parallel=0"], "--parallel=0: use a number from 1 to 256"),
            (&["top", "--timeout=0s"], "--timeout=\"0s\": too short: use at least 1s"),
            (&["top", "-n", ""], "--namespace is empty: name the namespace of Keyhole's pods"),
        ] {
            assert_eq!(parse(words).unwrap_err(), error, "{words:?}");
        }
    }

    #[test]
    fn the_help_lists_every_command_and_no_variable_but_kubectls() {
        let help = parse(&["--help"]).unwrap_err();
        for row in COMMANDS {
            assert!(help.contains(&format!("kubectl-keyhole [FLAGS] {}", row.name)), "{help}");
        }
        assert!(help.contains("KUBECTL") && !help.contains("KEYHOLE_"), "{help}");
    }
}
