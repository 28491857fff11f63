//! The exporter's own flags, besides those of its collectors, and what node_exporter's other flags come to here.

use std::ffi::OsString;
use std::sync::LazyLock;
use std::time::Duration;

use keyhole_flags::{Group, HELP_FLAGS, KnownValues, LOG_FLAGS, Parsed, Program};

use super::{COMMANDS, EXIT_STATUSES, describe};
use crate::broker_client::DEFAULT_SOCKET;
use crate::budget;
use crate::collector::network::ipvs;
use crate::collector::{self, COLLECTORS};
use crate::go_regex::GoRegex;
use crate::http::SCRAPE_TIMEOUTS;
use crate::options::{DurationRange, Flag, FlagError, FlagKind, Options, TypedFlag};
use crate::self_metrics::{VERSION, goarch};

const fn flag(name: &'static str, kind: FlagKind, help: &'static str) -> Flag {
    Flag { name, kind, help }
}

/// The exporter's own flags.
#[rustfmt::skip]
pub const GROUPS: &[Group] = &[
    Group { title: "Broker", commands: &[], environment: true, flags: &[
        BROKER_SOCKET.row,
    ] },
    Group { title: "Web", commands: &[], environment: true, flags: &[
        LISTEN_ADDRESS.row,
        TELEMETRY_PATH.row,
        MAX_REQUESTS.row,
        DISABLE_EXPORTER_METRICS.row,
        WEB_CONFIG_FILE.row,
        HEALTH_ADDRESS.row,
        SYSTEMD_SOCKET.row,
    ] },
    Group { title: "Scrape", commands: &[], environment: true, flags: &[
        SCRAPE_TIMEOUT.row,
        SCRAPE_TIMEOUT_OFFSET.row,
        SCRAPE_DETAIL.row,
        SCRAPE_MEMORY.row,
        SERIES_LIMIT.row,
    ] },
    Group { title: "Log", commands: &[], environment: true, flags: LOG_FLAGS },
    Group { title: "Host", commands: &[], environment: true, flags: &[PATH_SYSFS.row] },
    Group { title: "Accepted as in node_exporter, without effect", commands: &[], environment: true, flags: &[
        flag("path.procfs", FlagKind::Directory("/proc"), "No effect: set this flag on the broker, whose readers read the host."),
        flag("path.rootfs", FlagKind::Directory("/"), "No effect: set this flag on the broker, whose readers read the host."),
        flag("path.udev.data", FlagKind::Directory("/run/udev/data"), "No effect: set this flag on the broker, whose readers read the host."),
        flag("runtime.gomaxprocs", FlagKind::Number(1), "No effect: the exporter has one thread."),
    ] },
    Group { title: "Queries", commands: &["query", "describe"], environment: false, flags: &[
        OUTPUT.row,
        FILTER.row,
        WATCH.row,
        COUNT.row,
        FROM.row,
        HEADERS.row,
    ] },
    Group { title: "Help", commands: &[], environment: false, flags: &[
        HELP_FLAGS[0],
        flag("help-long", FlagKind::Switch(false), "Print this help, as in node_exporter."),
        HELP_FLAGS[1],
        HELP_FLAGS[2],
    ] },
];

// The flags of these groups that the exporter reads.
pub const BROKER_SOCKET: TypedFlag<String> =
    TypedFlag::file("broker.socket", DEFAULT_SOCKET, "Unix socket of the broker.");
pub const LISTEN_ADDRESS: TypedFlag<Vec<String>> = TypedFlag::parsed_list(
    "web.listen-address",
    "ADDRESS",
    "Address to listen on: :9100 (the default), 127.0.0.1:9100 or [::1]:9100.",
);
pub const TELEMETRY_PATH: TypedFlag<String> =
    TypedFlag::parsed("web.telemetry-path", "PATH", "/metrics", "Path under which to serve metrics.");
pub const MAX_REQUESTS: TypedFlag<u64> = TypedFlag::number(
    "web.max-requests",
    40,
    "Maximum number of parallel scrapes that select collectors or families; 0 for no limit. Scrapes of everything are not limited.",
);
pub const DISABLE_EXPORTER_METRICS: TypedFlag<bool> = TypedFlag::switch(
    "web.disable-exporter-metrics",
    false,
    "Exclude metrics about the exporter itself (promhttp_*, process_*).",
);
pub const WEB_CONFIG_FILE: TypedFlag<String> = TypedFlag::file(
    "web.config.file",
    "",
    "File that configures TLS, users, headers and a rate limit, in the format of Prometheus' exporter-toolkit.",
);
pub const HEALTH_ADDRESS: TypedFlag<String> = TypedFlag::parsed(
    "web.health-address",
    "ADDRESS",
    "",
    "Address on which to serve /-/healthy and /-/ready alone, without the TLS and the users of --web.config.file, such as :9101; none by default. Set it for probes of an orchestrator that has no password or client certificate.",
);
pub const SYSTEMD_SOCKET: TypedFlag<bool> = TypedFlag::switch(
    "web.systemd-socket",
    false,
    "Listen on the sockets that systemd passes to the exporter (LISTEN_FDS) instead of on --web.listen-address.",
);
pub const SCRAPE_TIMEOUT: TypedFlag<Duration> = TypedFlag::duration(
    "scrape.timeout",
    "10s",
    SCRAPE_TIMEOUTS,
    "Timeout of a scrape for which the client sets none.",
);
pub const SCRAPE_TIMEOUT_OFFSET: TypedFlag<Duration> = TypedFlag::duration(
    "scrape.timeout-offset",
    "500ms",
    DurationRange::ANY,
    "Time to subtract from the timeout of a scrape, so that the response arrives before it; at most half of it is subtracted.",
);
pub const SCRAPE_DETAIL: TypedFlag<bool> = TypedFlag::switch(
    "scrape.detail",
    false,
    "Report the outcome of every query and every collector separately, not only of those that fail; this adds about 260 series.",
);
pub const SCRAPE_MEMORY: TypedFlag<u64> = TypedFlag::number(
    "scrape.memory",
    budget::DEFAULT_MEMORY_MIB,
    "Memory that the exporter may use, in MiB: half of it for the broker's answer, 5/16 for the series; 0 for no limit.",
);
pub const SERIES_LIMIT: TypedFlag<u64> = TypedFlag::number(
    "collector.series-limit",
    budget::DEFAULT_SERIES_LIMIT,
    "Maximum number of series of one collector in a scrape; 0 for no limit other than --scrape.memory.",
);
pub const LOG_LEVEL: TypedFlag<String> = TypedFlag::from_row(LOG_FLAGS[0]);
pub const LOG_FORMAT: TypedFlag<String> = TypedFlag::from_row(LOG_FLAGS[1]);
pub const PATH_SYSFS: TypedFlag<String> = TypedFlag::directory(
    "path.sysfs",
    "/sys",
    "Prefix of the values of path labels. Set this flag on the broker as well, whose readers read sysfs.",
);
pub const OUTPUT: TypedFlag<String> = TypedFlag::choice(
    "output",
    "table",
    &["table", "json", "prom", "raw"],
    "Output format: prom is the text format of Prometheus, raw the kernel's files. describe takes table or json. Short: -o.",
);
pub const FILTER: TypedFlag<Option<GoRegex>> = TypedFlag::regexp(
    "filter",
    "",
    "Show only series whose name{label=\"value\",...} matches; with raw, files whose path matches; with describe, queries whose name or file pattern matches.",
);
pub const WATCH: TypedFlag<Option<Duration>> = TypedFlag::interval(
    "watch",
    "2s",
    // The broker allows 20 requests per second for a uid, scrapes included.
    DurationRange { min: Duration::from_millis(200), ..DurationRange::ANY },
    "Repeat at this interval (2s if the flag has no value), and show the rates of counters per second. Short: -w.",
);
pub const COUNT: TypedFlag<u64> =
    TypedFlag::number("count", 0, "With --watch, exit after this number of repetitions; 0 for no end.");
pub const FROM: TypedFlag<String> = TypedFlag::file(
    "from",
    "",
    "Read this instead of the broker: a directory or archive that capture wrote, any tree with proc/, sys/, etc/, usr/ or udev/, or an archive on standard input (--from=-).",
);
pub const HEADERS: TypedFlag<bool> = TypedFlag::switch("headers", true, "Print the header line of a table.");

/// Turns the collectors that are on by default off, but for those that are named.
pub const DISABLE_DEFAULTS: TypedFlag<bool> = TypedFlag::switch(
    "collector.disable-defaults",
    false,
    "Disable all collectors, except those that are enabled by a flag.",
);

/// Unsupported collectors of node_exporter, by the name of their switch, with the reason. Sorted.
#[rustfmt::skip]
pub const UNSUPPORTED_COLLECTORS: &[(&str, &str)] = &[
    ("collector.ethtool",     NETLINK),
    ("collector.logind",      DBUS),
    ("collector.ntp",         "it asks a time server; the timex collector reports the clock's state"),
    ("collector.perf",        "it needs perf_event_open and a capability for it"),
    ("collector.qdisc",       NETLINK),
    ("collector.runit",       "it reads the service directory of runit"),
    ("collector.supervisord", "it asks supervisord over the network"),
    ("collector.systemd",     DBUS),
    ("collector.wifi",        NETLINK),
];

const DBUS: &str = "it needs the host's D-Bus";
const NETLINK: &str = "it needs netlink or ioctl in the host's network namespace";

/// The further flags of those collectors: accepted, so that a command line that worked goes on working. Sorted.
#[rustfmt::skip]
pub const UNSUPPORTED_FLAGS: &[(&str, FlagKind)] = &[
    ("collector.ethtool.device-exclude",            FlagKind::Text("")),
    ("collector.ethtool.device-include",            FlagKind::Text("")),
    ("collector.ethtool.metrics-include",           FlagKind::Text("")),
    ("collector.ntp.ip-ttl",                        FlagKind::Text("")),
    ("collector.ntp.local-offset-tolerance",        FlagKind::Text("")),
    ("collector.ntp.max-distance",                  FlagKind::Text("")),
    ("collector.ntp.protocol-version",              FlagKind::Text("")),
    ("collector.ntp.server",                        FlagKind::Text("")),
    ("collector.ntp.server-is-local",               FlagKind::Switch(false)),
    ("collector.ntp.server-port",                   FlagKind::Text("")),
    ("collector.perf.cache-profilers",              FlagKind::Texts),
    ("collector.perf.cpus",                         FlagKind::Text("")),
    ("collector.perf.disable-cache-profilers",      FlagKind::Switch(false)),
    ("collector.perf.disable-hardware-profilers",   FlagKind::Switch(false)),
    ("collector.perf.disable-software-profilers",   FlagKind::Switch(false)),
    ("collector.perf.hardware-profilers",           FlagKind::Texts),
    ("collector.perf.software-profilers",           FlagKind::Texts),
    ("collector.perf.tracepoint",                   FlagKind::Texts),
    ("collector.qdisc.device-exclude",              FlagKind::Text("")),
    ("collector.qdisc.device-include",              FlagKind::Text("")),
    ("collector.qdisc.fixtures",                    FlagKind::Text("")),
    // An old spelling that node_exporter still takes.
    ("collector.qdisk.device-exclude",              FlagKind::Text("")),
    ("collector.qdisk.device-include",              FlagKind::Text("")),
    ("collector.runit.servicedir",                  FlagKind::Text("")),
    ("collector.supervisord.url",                   FlagKind::Text("")),
    ("collector.systemd.enable-restarts-metrics",   FlagKind::Switch(false)),
    ("collector.systemd.enable-start-time-metrics", FlagKind::Switch(false)),
    ("collector.systemd.enable-task-metrics",       FlagKind::Switch(false)),
    ("collector.systemd.private",                   FlagKind::Switch(false)),
    ("collector.systemd.unit-blacklist",            FlagKind::Text("")),
    ("collector.systemd.unit-exclude",              FlagKind::Text("")),
    ("collector.systemd.unit-include",              FlagKind::Text("")),
    ("collector.systemd.unit-whitelist",            FlagKind::Text("")),
    ("collector.wifi.fixtures",                     FlagKind::Text("")),
];

/// The given flags of an unsupported collector.
#[derive(Debug, PartialEq, Eq)]
pub struct WithoutEffect {
    /// The flags without their values: `--collector.systemd --collector.systemd.unit-include`.
    pub flags: String,
    /// Why the collector is unsupported.
    pub why: &'static str,
}

/// For each unsupported collector of which a flag was given: the flags that have no effect.
pub fn without_effect(options: &Options) -> Vec<WithoutEffect> {
    let one = |(switch, why): &(&str, &'static str)| {
        let own = |flag: &str| {
            let flag = flag.replacen("collector.qdisk.", "collector.qdisc.", 1);
            flag.strip_prefix(switch).is_some_and(|rest| rest.starts_with('.'))
        };
        let further = UNSUPPORTED_FLAGS.iter().map(|(flag, _)| *flag);
        let further = further.filter(|flag| own(flag) && options.is_set(flag));
        let asked: Vec<String> = std::iter::once(*switch)
            .filter(|switch| options.switch(switch))
            .chain(further)
            .map(|flag| format!("--{flag}"))
            .collect();
        (!asked.is_empty()).then(|| WithoutEffect { flags: asked.join(" "), why })
    };
    UNSUPPORTED_COLLECTORS.iter().filter_map(one).collect()
}

/// The exporter's commands and all flags that it accepts.
pub static PROGRAM: LazyLock<Program> = LazyLock::new(|| {
    let is_switch = |flag: &Flag| COLLECTORS.iter().any(|c| collector::switch(c.name) == flag.name);
    let (mut switches, others): (Vec<Flag>, Vec<Flag>) = collector::flags().into_iter().partition(is_switch);
    switches.push(DISABLE_DEFAULTS.row);
    let unsupported = UNSUPPORTED_COLLECTORS.iter().map(|(name, _)| flag(name, FlagKind::Switch(false), ""));
    let unsupported = unsupported.chain(UNSUPPORTED_FLAGS.iter().map(|(name, kind)| flag(name, *kind, "")));
    let of_collectors = [
        ("Collectors", switches),
        ("Flags of collectors", others),
        ("Flags of unsupported collectors", unsupported.collect()),
    ];
    let group = |(title, flags): (&'static str, Vec<Flag>)| Group {
        title,
        commands: &[],
        environment: true,
        flags: flags.leak(),
    };
    Program {
        name: "keyhole-exporter",
        version: VERSION,
        version_text: version_text(),
        purpose: "node_exporter's metrics of this node, read by a broker without privileges.",
        note: "A switch is turned off by --no-NAME. Regular expressions are Go's, as in node_exporter. A flag that is not repeatable can be given once. A value that begins with - must follow the equals sign.",
        commands: COMMANDS,
        groups: GROUPS.iter().copied().chain(of_collectors.map(group)).collect(),
        short: &[('h', "help"), ('o', "output"), ('w', "watch")],
        known_values: &[
            KnownValues {
                flag: OUTPUT.row.name,
                command: "describe",
                values: || describe::FORMATS.iter().map(|format| (*format).to_owned()).collect(),
                is_list: false,
            },
            KnownValues {
                flag: ipvs::BACKEND_LABELS.row.name,
                command: "",
                values: || ipvs::LABELS.iter().map(|label| (*label).to_owned()).collect(),
                is_list: true,
            },
        ],
        variables: &[
            ("NODE_NAME", "The node's name in node_uname_info."),
            ("NO_COLOR", "If it is set, terminal output has no colors."),
        ],
        exit_statuses: EXIT_STATUSES,
    }
});

/// The program, its version and what it was built by and for, as node_exporter prints it.
fn version_text() -> String {
    let rust = option_env!("CARGO_PKG_RUST_VERSION").unwrap_or_default();
    let architecture = goarch();
    format!(
        "keyhole-exporter, version {VERSION}\n  platform:     linux/{architecture}\n  rust version: {rust} or newer\n"
    )
}

/// Every flag that is accepted.
pub fn all() -> Vec<Flag> {
    PROGRAM.flags()
}

/// What a command line asks for.
#[derive(Debug)]
pub enum CommandLine {
    /// To print this text and do nothing else.
    Print(String),
    /// To run, with these options and words: the command, and what it is to work on.
    Run(Options, Vec<String>),
}

/// Reads the flags of a command line alone.
pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Options, FlagError> {
    match read(arguments.into_iter().map(OsString::from), [])? {
        CommandLine::Print(_) => Ok(Options::defaults(&all())),
        CommandLine::Run(options, _) => Ok(options),
    }
}

/// Reads a command line and the environment below it, and refuses flags that the command does not take.
pub fn read(
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<CommandLine, FlagError> {
    Ok(match PROGRAM.parse(arguments, environment)? {
        Parsed::Print(values, text) => {
            // A mistake is a mistake beside --version, too.
            Options::try_from(values)?;
            CommandLine::Print(text)
        }
        Parsed::Run(values, words) => CommandLine::Run(Options::try_from(values)?, words),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Result<Options, FlagError> {
        with_environment(arguments, &[])
    }

    fn with_environment(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Options, FlagError> {
        let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
        match read(arguments.iter().map(OsString::from), variables)? {
            CommandLine::Print(_) => Ok(Options::defaults(&all())),
            CommandLine::Run(options, _) => Ok(options),
        }
    }

    #[test]
    fn help_is_printed_even_if_the_environment_is_invalid() {
        // A number, a switch, a duration, an expression and a path.
        let wrong: [(OsString, OsString); 5] = [
            ("KEYHOLE_WEB_MAX_REQUESTS".into(), "many".into()),
            ("KEYHOLE_COLLECTOR_CPU".into(), "maybe".into()),
            ("KEYHOLE_SCRAPE_TIMEOUT".into(), "soon".into()),
            ("KEYHOLE_COLLECTOR_ARP_DEVICE_EXCLUDE".into(), "(".into()),
            ("KEYHOLE_BROKER_SOCKET".into(), std::os::unix::ffi::OsStringExt::from_vec(b"/\xff".to_vec())),
        ];
        let read = |arguments: &[&str], variables: &[(OsString, OsString)]| {
            read(arguments.iter().map(OsString::from), variables.iter().cloned())
        };
        for arguments in [
            &["--help"][..],
            &["-h", "query"],
            &["--help-long"],
            &["--help-man"],
            &["--version"],
            &["completions", "zsh"],
        ] {
            assert!(matches!(read(arguments, &wrong), Ok(CommandLine::Print(_))), "{arguments:?}");
        }
        // Each alone is an error that names it, unless its flag is given.
        let given = [
            "--web.max-requests=1",
            "--collector.cpu",
            "--scrape.timeout=1s",
            "--collector.arp.device-exclude=x",
            "--broker.socket=/x",
        ];
        for (variable, given) in wrong.iter().zip(given) {
            let name = variable.0.to_str().unwrap();
            let error = read(&["query"], std::slice::from_ref(variable)).unwrap_err().to_string();
            assert!(error.starts_with(name) && error.contains("in the environment, for --"), "{error}");
            assert!(read(&[given], std::slice::from_ref(variable)).is_ok(), "{given}");
        }
    }

    #[test]
    fn the_command_line_overrides_the_environment_and_that_overrides_the_defaults() {
        let variables = [
            ("KEYHOLE_BROKER_SOCKET", "/x"),
            ("KEYHOLE_COLLECTOR_HWMON", "false"),
            ("KEYHOLE_WEB_LISTEN_ADDRESS", ":1\n:2"),
            ("KEYHOLE_WEB_MAX_REQUESTS", "7"),
            ("KEYHOLE_LOG_LEVEL", ""),
            ("KEYHOLE_SERVICE_HOST", "10.0.0.1"),
            ("KEYHOLE_HELP", "true"),
        ];
        let options =
            with_environment(&["--web.max-requests=9", "--web.listen-address=:3"], &variables).unwrap();
        assert_eq!((&*BROKER_SOCKET.get(&options), MAX_REQUESTS.get(&options)), ("/x", 9));
        assert!(!options.switch("collector.hwmon") && !options.switch("help"));
        assert_eq!(LISTEN_ADDRESS.get(&options), [":3"], "not added to");
        assert_eq!(LOG_LEVEL.get(&options), "info", "an empty variable has no effect");
        let options = with_environment(&[], &variables).unwrap();
        assert_eq!(LISTEN_ADDRESS.get(&options), [":1", ":2"]);
        assert_eq!(MAX_REQUESTS.get(&options), 7);
    }

    #[test]
    fn a_bad_variable_is_named_with_its_flag_and_a_misspelled_one_with_its_near_miss() {
        let error = |variable| with_environment(&[], &[variable]).unwrap_err().to_string();
        assert_eq!(
            error(("KEYHOLE_WEB_MAX_REQUESTS", "many")),
            "KEYHOLE_WEB_MAX_REQUESTS=\"many\" in the environment, for --web.max-requests: not a whole number"
        );
        assert!(error(("KEYHOLE_COLLECTOR_CPU", "yes")).ends_with("--collector.cpu: not true or false"));
        let variables = [
            "KEYHOLE_WEB_MAX_REQUEST",
            "KEYHOLE_PORT_9100_TCP_ADDR",
            "KEYHOLE_LOG_LEVEL",
            "KEYHOLE_VERSION",
            "KEYHOLE_EXPORTER_FLAGS",
            "PATH",
            "KEYHOLE_COLLECTOR_FOO",
            "KEYHOLE_COLLECTOR_CUP",
            "KEYHOLE_COLLECTOR_NETDEV_DEVICE_BLACKLIST",
            "KEYHOLE_COLLECTOR_DISKSTATS_IGNORED_DEVICES",
            "KEYHOLE_COLLECTOR_FILESYSTEM_MOUNT_POINT_EXCLUDE",
            "KEYHOLE_OUTPUT",
        ];
        let unused = PROGRAM.unused_variables(variables.map(OsString::from));
        let unused: Vec<_> = unused.iter().map(|unused| (&*unused.variable, &*unused.advice)).collect();
        assert_eq!(
            unused,
            [
                ("KEYHOLE_WEB_MAX_REQUEST", "did you mean KEYHOLE_WEB_MAX_REQUESTS?"),
                ("KEYHOLE_COLLECTOR_CUP", "did you mean KEYHOLE_COLLECTOR_CPU?"),
                (
                    "KEYHOLE_COLLECTOR_NETDEV_DEVICE_BLACKLIST",
                    "did you mean KEYHOLE_COLLECTOR_NETDEV_DEVICE_EXCLUDE?"
                ),
                (
                    "KEYHOLE_COLLECTOR_DISKSTATS_IGNORED_DEVICES",
                    "did you mean KEYHOLE_COLLECTOR_DISKSTATS_DEVICE_EXCLUDE?"
                ),
                (
                    "KEYHOLE_COLLECTOR_FILESYSTEM_MOUNT_POINT_EXCLUDE",
                    "did you mean KEYHOLE_COLLECTOR_FILESYSTEM_MOUNT_POINTS_EXCLUDE?"
                ),
                ("KEYHOLE_OUTPUT", "set --output on the command line: no variable may set it"),
            ]
        );
    }

    #[test]
    fn a_near_miss_of_a_variable_suggests_one_that_exists() {
        let variables: Vec<String> =
            PROGRAM.flags_in_environment().iter().filter_map(Flag::variable).collect();
        // Some of them, since a test build takes long for each. A letter is missing, doubled, or swapped with the next.
        for variable in variables.iter().step_by(8) {
            let (head, tail) = variable.split_at("KEYHOLE_COLLECTOR_".len().min(variable.len() - 2));
            let swapped: String = [&tail[1..2], &tail[..1], &tail[2..]].concat();
            for tail in [&tail[1..], &format!("{}{tail}", &tail[..1]), &swapped] {
                for unused in PROGRAM.unused_variables([format!("{head}{tail}").into()]) {
                    let suggested = unused.advice.strip_prefix("did you mean ");
                    let suggested = suggested.and_then(|advice| advice.strip_suffix('?'));
                    let suggested = suggested.unwrap_or_else(|| panic!("{unused:?}"));
                    assert!(variables.iter().any(|known| known == suggested), "{unused:?}");
                }
            }
        }
    }

    #[test]
    fn every_variable_sets_one_flag() {
        let mut variables: Vec<_> =
            PROGRAM.flags_in_environment().iter().filter_map(Flag::variable).collect();
        variables.sort_unstable();
        assert!(variables.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn a_flag_of_a_command_is_refused_elsewhere() {
        assert!(
            parsed(&["query", "--output=json"]).is_ok() && parsed(&["describe", "--output=json"]).is_ok()
        );
        assert_eq!(
            parsed(&["--no-headers"]).unwrap_err().to_string(),
            "--headers belongs to the commands query and describe; try --help"
        );
    }

    #[test]
    fn every_flag_is_named_once() {
        let mut names: Vec<&str> = all().iter().map(|flag| flag.name).collect();
        names.sort_unstable();
        for pair in names.windows(2) {
            assert_ne!(pair[0], pair[1], "a supported collector is not in UNSUPPORTED_COLLECTORS");
        }
        assert!(UNSUPPORTED_COLLECTORS.is_sorted());
    }

    #[test]
    fn the_charts_flags_are_accepted_as_they_are() {
        let options = parsed(&[
            "--web.listen-address=[0.0.0.0]:9100",
            "--path.procfs=/host/proc",
            "--path.sysfs=/host/sys",
            "--path.rootfs=/host/root",
            "--path.udev.data=/host/root/run/udev/data",
            "--no-collector.wifi",
            "--no-collector.btrfs",
            "--no-collector.hwmon",
            "--collector.filesystem.mount-points-exclude=^/(dev|proc|sys|run/k3s/containerd/.+|var/lib/docker/.+|var/lib/kubelet/pods/.+)($|/)",
            "--collector.filesystem.fs-types-exclude=^(autofs|binfmt_misc|bpf|cgroup2?|configfs|debugfs)$",
            "--collector.netclass.ignored-devices=^(veth.*|[a-f0-9]{15})$",
            "--collector.netdev.device-exclude=^(veth.*|[a-f0-9]{15})$",
        ])
        .unwrap();
        assert!(!options.switch("collector.hwmon"));
    }

    /// The flags of node_exporter 1.12.1: name, what it takes, default.
    fn of_node_exporter() -> Vec<[&'static str; 3]> {
        let lines = include_str!("../../tests/node_exporter_flags.tsv").lines();
        let columns = |line: &'static str| {
            let mut columns = line.split('\t');
            std::array::from_fn(|_| columns.next().unwrap())
        };
        lines.filter(|line| !line.starts_with('#')).map(columns).collect()
    }

    #[test]
    fn every_flag_of_node_exporter_is_accepted_in_each_of_its_forms() {
        // Said in docs/compatibility.md, "Flags".
        const MISSING: [&str; 3] = ["completion-bash", "completion-script-bash", "completion-script-zsh"];
        let flags = of_node_exporter();
        assert!(flags.len() > 180, "{}", flags.len());
        for [name, kind, default] in flags {
            let value = if default.is_empty() { "1" } else { default };
            let value = if name == "collector.sysctl.include" { "vm.swappiness" } else { value };
            let forms: &[Vec<String>] = match kind {
                "switch" => &[vec![format!("--{name}")], vec![format!("--no-{name}")]],
                "value" => &[vec![format!("--{name}={value}")], vec![format!("--{name}"), value.to_owned()]],
                "repeatable" => &[vec![format!("--{name}={value}"), format!("--{name}"), value.to_owned()]],
                other => panic!("{name} takes {other}"),
            };
            for form in forms {
                let form: Vec<&str> = form.iter().map(String::as_str).collect();
                let read = parsed(&form);
                assert_eq!(read.is_ok(), !MISSING.contains(&name), "{form:?}: {:?}", read.err());
                if kind == "switch" && read.is_ok() {
                    let twice = parsed(&[form[0], form[0]]);
                    assert!(matches!(twice, Err(FlagError::Repeated { .. })), "{form:?} twice");
                    let valued = parsed(&[&format!("{}=true", form[0])]);
                    assert!(matches!(valued, Err(FlagError::Unexpected { .. })), "{form:?}=true");
                }
            }
        }
    }

    #[test]
    fn the_flags_of_unsupported_collectors_are_those_of_node_exporter() {
        let owners = |name: &str| {
            let name = name.replacen("collector.qdisk.", "collector.qdisc.", 1);
            UNSUPPORTED_COLLECTORS
                .iter()
                .any(|(owner, _)| name.strip_prefix(owner).is_some_and(|rest| rest.starts_with('.')))
        };
        let theirs = of_node_exporter().into_iter().filter(|[name, ..]| owners(name));
        let theirs: Vec<_> = theirs.map(|[name, kind, _]| (name, kind)).collect();
        let ours = UNSUPPORTED_FLAGS.iter().map(|(name, kind)| match kind {
            FlagKind::Switch(_) => (*name, "switch"),
            FlagKind::Texts => (*name, "repeatable"),
            _ => (*name, "value"),
        });
        assert_eq!(ours.collect::<Vec<_>>(), theirs);
    }

    #[test]
    fn the_flags_of_an_unsupported_collector_are_in_one_line_with_the_reason() {
        let ignored = |arguments: &[&str]| {
            let flags = without_effect(&parsed(arguments).unwrap());
            flags.into_iter().map(|without_effect| without_effect.flags).collect::<Vec<_>>()
        };
        assert_eq!(ignored(&["--no-collector.systemd", "--collector.cpu"]), [""; 0]);
        assert_eq!(
            ignored(&[
                "--collector.systemd",
                "--collector.systemd.unit-include=(",
                "--no-collector.systemd.private",
                "--collector.qdisk.device-exclude=x"
            ]),
            [
                "--collector.qdisk.device-exclude",
                "--collector.systemd --collector.systemd.private --collector.systemd.unit-include"
            ]
        );
    }

    #[test]
    fn disabled_defaults_leave_what_is_named() {
        let options = parsed(&["--collector.disable-defaults", "--collector.loadavg"]).unwrap();
        let names: Vec<_> =
            collector::enabled(&options).unwrap().iter().map(|collector| collector.row.name).collect();
        assert_eq!(names, ["loadavg"]);
    }
}
