//! The exporter's own flags, besides those of its collectors, and what node_exporter's other flags come to here.

use crate::broker_client::DEFAULT_SOCKET;
use crate::collector;
use crate::options::{Flag, FlagKind, OptionError, Options, nearest};

/// A part of `--help`.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    /// Its heading.
    pub title: &'static str,
    /// Its flags.
    pub flags: &'static [Flag],
    /// The commands that alone take them; empty for all.
    pub commands: &'static [&'static str],
}

const fn flag(name: &'static str, kind: FlagKind, help: &'static str) -> Flag {
    Flag { name, kind, help }
}

/// The exporter's own flags.
#[rustfmt::skip]
pub const GROUPS: &[Group] = &[
    Group { title: "Broker", commands: &[], flags: &[
        flag("broker.socket", FlagKind::Text(DEFAULT_SOCKET), "The broker's Unix socket."),
    ] },
    Group { title: "Web", commands: &[], flags: &[
        flag("web.listen-address", FlagKind::Texts, "Address to listen on, repeatable: :9100 (the default), 127.0.0.1:9100, [::1]:9100."),
        flag("web.telemetry-path", FlagKind::Text("/metrics"), "Path of the metrics page."),
        flag("web.max-requests", FlagKind::Number(40), "Scrapes of some collectors or families answered at once; 0 for no limit. A scrape of everything is not refused."),
        flag("web.disable-exporter-metrics", FlagKind::Switch(false), "Leave out promhttp_* and process_*."),
        flag("web.config.file", FlagKind::Text(""), "TLS, users, headers and a rate limit: a file of exporter-toolkit's shape."),
        flag("web.systemd-socket", FlagKind::Switch(false), "Listen on the sockets that systemd hands over (LISTEN_FDS), and on no address."),
    ] },
    Group { title: "Scrape", commands: &[], flags: &[
        flag("scrape.timeout", FlagKind::Duration("10s"), "Time for a scrape whose client names none."),
        flag("scrape.timeout-offset", FlagKind::Duration("500ms"), "What is kept back of a scrape's time for its answer to arrive."),
        flag("scrape.detail", FlagKind::Switch(false), "Report each query and collector on its own, also those that succeed: some 260 more series."),
        flag("collector.series-limit", FlagKind::Number(20_000), "The most series that one collector may return in a scrape; 0 for no limit."),
    ] },
    Group { title: "Log", commands: &[], flags: &[
        flag("log.level", FlagKind::Text("info"), "debug, info, warn or error."),
        flag("log.format", FlagKind::Text("logfmt"), "logfmt or json."),
    ] },
    Group { title: "Accepted as node_exporter's, without effect", commands: &[], flags: &[
        flag("path.procfs", FlagKind::Text("/proc"), "The broker reads the host: give it this flag."),
        flag("path.sysfs", FlagKind::Text("/sys"), "The broker reads the host: give it this flag. Here it is what path labels begin with."),
        flag("path.rootfs", FlagKind::Text("/"), "The broker reads the host: give it this flag."),
        flag("path.udev.data", FlagKind::Text("/run/udev/data"), "The broker reads the host: give it this flag."),
        flag("runtime.gomaxprocs", FlagKind::Number(1), "The exporter is one thread."),
    ] },
    Group { title: "Queries", commands: &["query", "describe"], flags: &[
        flag("output", FlagKind::Text("table"), "table, json, prom (the text format) or raw (kernel files); describe: table or json. Also -o."),
        flag("filter", FlagKind::Regexp(""), "Only series whose name{label=\"value\",...} matches; raw: paths; describe: names and patterns of queries."),
        flag("watch", FlagKind::Interval("2s"), "Again and again, with rates per second of counters: every 2 s, or as --watch=SECONDS says. Also -w."),
        flag("count", FlagKind::Number(0), "With --watch, end after so many times; 0 for no end."),
        flag("from", FlagKind::Text(""), "A directory made by capture, or any tree with proc/ and sys/, instead of the broker."),
        flag("headers", FlagKind::Switch(true), "The first line of a table."),
    ] },
    Group { title: HELP, commands: &[], flags: &[
        flag("help", FlagKind::Switch(false), "This text; after a command, the command's. Also -h."),
        flag("help-long", FlagKind::Switch(false), "This text."),
        flag("help-man", FlagKind::Switch(false), "The same as a manual page."),
        flag("version", FlagKind::Switch(false), "The version."),
    ] },
];

const HELP: &str = "Help";

/// Turns the collectors that are on by default off, but for those that are named.
pub const DISABLE_DEFAULTS: Flag = Flag {
    name: "collector.disable-defaults",
    kind: FlagKind::Switch(false),
    help: "Only the collectors that are switched on by name.",
};

/// Collectors of node_exporter that are not offered, by the name of their switch, with the reason. Sorted.
#[rustfmt::skip]
pub const NOT_OFFERED: &[(&str, &str)] = &[
    ("collector.ethtool",     NETLINK),
    ("collector.logind",      DBUS),
    ("collector.ntp",         "it asks a time server; the timex collector tells the clock's state"),
    ("collector.perf",        "it needs perf_event_open and a capability for it"),
    ("collector.qdisc",       NETLINK),
    ("collector.runit",       "it reads the service directory of runit"),
    ("collector.supervisord", "it asks supervisord over the network"),
    ("collector.systemd",     DBUS),
    ("collector.wifi",        NETLINK),
];

const DBUS: &str = "it needs the host's D-Bus";
const NETLINK: &str = "it needs netlink or ioctl in the host's network namespace";

/// The collector that is not offered to which a flag belongs (`collector.systemd.unit-include`), and the reason.
fn not_offered(flag: &str) -> Option<(&'static str, &'static str)> {
    // An old spelling that node_exporter still takes.
    let flag = flag.strip_prefix("no-").unwrap_or(flag).replacen("collector.qdisk.", "collector.qdisc.", 1);
    let owner = NOT_OFFERED
        .iter()
        .find(|(name, _)| flag.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))?;
    Some((owner.0.trim_start_matches("collector."), owner.1))
}

/// What may be both included and excluded, as in node_exporter.
const TOGETHER: &[&str] = &["collector.slabinfo.slabs"];

/// Every flag that is accepted.
pub fn all() -> Vec<Flag> {
    let own = GROUPS.iter().flat_map(|group| group.flags).copied();
    let not_offered = NOT_OFFERED.iter().map(|(name, _)| flag(name, FlagKind::Switch(false), ""));
    own.chain([DISABLE_DEFAULTS]).chain(not_offered).chain(collector::flags()).collect()
}

/// The flags that a variable of the environment may stand for: all that say how the exporter runs.
fn in_environment() -> impl Iterator<Item = Flag> {
    let of_one_run = |name| {
        let groups = GROUPS.iter().filter(|group| group.title == HELP || !group.commands.is_empty());
        groups.flat_map(|group| group.flags).any(|flag| flag.name == name)
    };
    all().into_iter().filter(move |flag| !of_one_run(flag.name))
}

/// Variables of the environment that look like a flag's and are none, with the one that they look like.
pub fn misspelled(variables: impl Iterator<Item = String>) -> Vec<(String, String)> {
    let known: Vec<String> = in_environment().filter_map(|flag| flag.variable()).collect();
    variables
        .filter(|variable| variable.starts_with("KEYHOLE_") && !known.contains(variable))
        .filter_map(|variable| {
            let near = nearest(known.iter().map(String::as_str), &variable)?.to_owned();
            Some((variable, near))
        })
        .collect()
}

/// Reads a command line alone.
pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<(Options, Vec<String>), OptionError> {
    read(arguments, [])
}

/// Reads a command line and the environment below it, and refuses flags that exclude each other or that the command
/// does not take. The bare words that are given back are the command and what it is to work on.
pub fn read(
    arguments: impl IntoIterator<Item = String>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<(Options, Vec<String>), OptionError> {
    let flags = all();
    let lasting: Vec<Flag> = in_environment().collect();
    let mut options = Options::defaults(&flags);
    options.set_environment(&lasting, environment)?;
    let (options, words) = options.over(&flags, arguments).map_err(|error| match error {
        OptionError::Unknown { flag, near } => match not_offered(&flag) {
            Some((collector, why)) => OptionError::NotOffered { flag, collector, why },
            None => OptionError::Unknown { flag, near },
        },
        error => error,
    })?;
    for flag in &flags {
        let Some(stem) = flag.name.strip_suffix("-include") else { continue };
        if TOGETHER.contains(&stem) {
            continue;
        }
        let exclude = flags.iter().find(|other| other.name.strip_suffix("-exclude") == Some(stem));
        if let Some(exclude) = exclude {
            options.exclusive(flag.name, exclude.name)?;
        }
    }
    let command = words.first().map_or("", String::as_str);
    for group in GROUPS.iter().filter(|group| !group.commands.is_empty()) {
        let misplaced = group.flags.iter().find(|flag| options.was_given(flag.name));
        if let Some(flag) = misplaced.filter(|_| !group.commands.contains(&command)) {
            return Err(OptionError::Misplaced { flag: flag.name, commands: group.commands });
        }
    }
    Ok((options, words))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Result<Options, OptionError> {
        with_environment(arguments, &[])
    }

    fn with_environment(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Options, OptionError> {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        read(arguments.iter().map(|argument| (*argument).to_owned()), variables).map(|(options, _)| options)
    }

    #[test]
    fn the_command_line_stands_above_the_environment_and_that_above_the_defaults() {
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
        assert_eq!((options.text("broker.socket"), options.number("web.max-requests")), ("/x", 9));
        assert!(!options.switch("collector.hwmon") && !options.switch("help"));
        assert_eq!(options.texts("web.listen-address"), [":3"], "not added to");
        assert_eq!(options.text("log.level"), "info", "an empty variable says nothing");
        let options = with_environment(&[], &variables).unwrap();
        assert_eq!(options.texts("web.listen-address"), [":1", ":2"]);
        assert_eq!(options.number("web.max-requests"), 7);
    }

    #[test]
    fn a_bad_variable_is_named_with_its_flag_and_a_misspelled_one_with_its_near_miss() {
        let error = |variable| with_environment(&[], &[variable]).unwrap_err().to_string();
        assert_eq!(
            error(("KEYHOLE_WEB_MAX_REQUESTS", "many")),
            "KEYHOLE_WEB_MAX_REQUESTS=\"many\" in the environment, for --web.max-requests: not a whole number"
        );
        assert!(error(("KEYHOLE_COLLECTOR_CPU", "yes")).ends_with("--collector.cpu: not true or false"));
        let variables =
            ["KEYHOLE_WEB_MAX_REQUEST", "KEYHOLE_PORT_9100_TCP_ADDR", "KEYHOLE_LOG_LEVEL", "PATH"];
        let near = misspelled(variables.into_iter().map(str::to_owned));
        assert_eq!(near, [("KEYHOLE_WEB_MAX_REQUEST".to_owned(), "KEYHOLE_WEB_MAX_REQUESTS".to_owned())]);
    }

    #[test]
    fn every_variable_stands_for_one_flag() {
        let mut variables: Vec<_> = in_environment().filter_map(|flag| flag.variable()).collect();
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
            assert_ne!(pair[0], pair[1], "a collector that is offered is not in NOT_OFFERED");
        }
        assert!(NOT_OFFERED.is_sorted());
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

    #[test]
    fn a_flag_of_a_collector_that_is_not_offered_is_refused_with_the_reason() {
        for (flag, collector) in [
            ("--collector.systemd.unit-include=x", "systemd"),
            ("--no-collector.systemd.enable-task-metrics", "systemd"),
            ("--collector.qdisk.device-exclude=x", "qdisc"),
            ("--collector.qdisc.device-exclude=x", "qdisc"),
        ] {
            let error = parsed(&[flag]).unwrap_err().to_string();
            assert!(
                error.contains(&format!("the {collector} collector is not offered: it needs")),
                "{error}"
            );
            assert!(error.ends_with("; drop the flag") && !error.contains("did you mean"), "{error}");
        }
    }

    #[test]
    fn an_include_and_an_exclude_go_together_for_slab_caches_alone() {
        for (stem, together) in [("collector.interrupts.name", false), ("collector.slabinfo.slabs", true)] {
            let both = [format!("--{stem}-include=x"), format!("--{stem}-exclude=y")];
            assert_eq!(parsed(&both.each_ref().map(String::as_str)).is_ok(), together, "{stem}");
        }
    }

    #[test]
    fn disabled_defaults_leave_what_is_named() {
        let options = parsed(&["--collector.disable-defaults", "--collector.loadavg"]).unwrap();
        let names: Vec<_> = crate::scrape::enabled(&options).iter().map(|collector| collector.name).collect();
        assert_eq!(names, ["loadavg"]);
    }
}
