//! The exporter's own flags, besides those of its collectors, and what node_exporter's other flags come to here.

use crate::broker_client::DEFAULT_SOCKET;
use crate::collector;
use crate::options::{Flag, FlagKind, OptionError, Options};

/// A part of `--help`.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    /// Its heading.
    pub title: &'static str,
    /// Its flags.
    pub flags: &'static [Flag],
}

const fn flag(name: &'static str, kind: FlagKind, help: &'static str) -> Flag {
    Flag { name, kind, help }
}

/// The exporter's own flags.
#[rustfmt::skip]
pub const GROUPS: &[Group] = &[
    Group { title: "Broker", flags: &[
        flag("broker.socket", FlagKind::Text(DEFAULT_SOCKET), "The broker's Unix socket (environment: KEYHOLE_BROKER_SOCKET)."),
    ] },
    Group { title: "Web", flags: &[
        flag("web.listen-address", FlagKind::Texts, "Address to listen on, repeatable: :9100 (the default), 127.0.0.1:9100, [::1]:9100."),
        flag("web.telemetry-path", FlagKind::Text("/metrics"), "Path of the metrics page."),
        flag("web.max-requests", FlagKind::Number(40), "Scrapes answered at once; 0 for no limit."),
        flag("web.disable-exporter-metrics", FlagKind::Switch(false), "Leave out promhttp_* and process_*."),
        flag("web.config.file", FlagKind::Text(""), "TLS, users, headers and a rate limit: a file of exporter-toolkit's shape."),
        flag("web.systemd-socket", FlagKind::Switch(false), "Listen on the sockets that systemd hands over (LISTEN_FDS), and on no address."),
    ] },
    Group { title: "Scrape", flags: &[
        flag("scrape.timeout", FlagKind::Duration("10s"), "Time for a scrape whose client names none."),
        flag("scrape.timeout-offset", FlagKind::Duration("500ms"), "What is kept back of a scrape's time for its answer to arrive."),
        flag("collector.series-limit", FlagKind::Number(20_000), "The most series that one collector may give in a scrape; 0 for no limit."),
    ] },
    Group { title: "Log", flags: &[
        flag("log.level", FlagKind::Text("info"), "debug, info, warn or error."),
        flag("log.format", FlagKind::Text("logfmt"), "logfmt or json."),
    ] },
    Group { title: "Accepted as node_exporter's, without effect", flags: &[
        flag("path.procfs", FlagKind::Text("/proc"), "The broker reads the host: give it this flag."),
        flag("path.sysfs", FlagKind::Text("/sys"), "The broker reads the host: give it this flag. Here it is what path labels begin with."),
        flag("path.rootfs", FlagKind::Text("/"), "The broker reads the host: give it this flag."),
        flag("path.udev.data", FlagKind::Text("/run/udev/data"), "The broker reads the host: give it this flag."),
        flag("runtime.gomaxprocs", FlagKind::Number(1), "The exporter is one thread."),
    ] },
    Group { title: "Help", flags: &[
        flag("help", FlagKind::Switch(false), "This text."),
        flag("version", FlagKind::Switch(false), "The version."),
    ] },
];

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

/// Reads a command line and refuses flags that exclude each other.
pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<(Options, Vec<String>), OptionError> {
    let flags = all();
    let (options, words) = Options::parse(&flags, arguments).map_err(|error| match error {
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
    Ok((options, words))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Result<Options, OptionError> {
        parse(arguments.iter().map(|argument| (*argument).to_owned())).map(|(options, _)| options)
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
