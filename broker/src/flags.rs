//! The command line.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use keyhole_policy::Root;
use lexopt::{Arg, Parser, ValueExt};

use crate::queries::{PermittedQueries, Queries};
use crate::sandbox::LAYERS;

/// What `--help` prints.
pub const HELP: &str = "\
keyhole-broker: answers fixed queries about a host's /proc and /sys over a Unix socket.

Usage: keyhole-broker [FLAGS]          serve
       keyhole-broker probe [FLAGS]    ask a running broker for its health; exit status 0 when it serves
       keyhole-broker policy           print the policy table: what each query may read

Socket:
  --socket.path=PATH          where to listen (/run/keyhole/broker.sock)
  --socket.group=GID          the group that may connect (the broker's own)
  --allow-uid=UID             a uid that may ask, besides the broker's own; repeatable

Host:
  --path.procfs=DIR           the host's procfs (/proc)
  --path.sysfs=DIR            the host's sysfs (/sys)
  --path.rootfs=DIR           the host's root directory, for statfs alone (none)
  --path.udev.data=DIR        the host's udev data (none)
  --path.os-release=FILE      the host's os-release file (none)
  --filesystem.probe-directory=DIR
                              an empty directory on a file system of the host, for statfs; repeatable
  --view=auto|host|container  whose files these are (auto)
  --descriptor-cache=COUNT    files below sysfs that all readers together keep open, of 5 KiB of kernel memory each (1024)
  --reopen-interval=SECONDS   how often to look whether what was absent at the start has appeared (60)
  --queries=WHICH             which queries may be asked: all, default (those of collectors that are on by default), or
                              default,+NAME,...; NAME is a query's in lower case without QUERY_: +tcp for QUERY_TCP (all)

Privilege:
  --allow-processes           answer for every process too: one class of readers keeps procfs open
  --allow-root                run as uid 0 (for the few files that only root may read)
  --allow-capabilities        start with capabilities, which are dropped
  --sandbox.require=LAYERS    start only with these layers in force in every process, comma-separated: not_dumpable, limits, landlock,
                              passed_descriptors (of the broker alone); repeatable
                              (no_new_privs, capabilities and seccomp are always required)

Logs:
  --log.level=LEVEL           debug, info, warn or error (info)
  --log.format=FORMAT         logfmt or json (logfmt)

  --help, --version
";

/// The values of all flags.
#[derive(Debug, Clone)]
pub struct Flags {
    /// What to do.
    pub command: Command,
    /// `--socket.path`.
    pub socket: PathBuf,
    /// `--socket.group`.
    pub socket_group: Option<u32>,
    /// `--allow-uid`.
    pub allowed_uids: Vec<u32>,
    /// `--path.*` and `--filesystem.probe-directory`.
    pub paths: Paths,
    /// `--view`.
    pub view: View,
    /// `--descriptor-cache`.
    pub descriptor_cache: u32,
    /// `--reopen-interval`.
    pub reopen_interval: Duration,
    /// `--queries`.
    pub queries: Queries,
    /// `--allow-processes`.
    pub allow_processes: bool,
    /// `--allow-root`.
    pub allow_root: bool,
    /// `--allow-capabilities`.
    pub allow_capabilities: bool,
    /// `--sandbox.require`, all of them.
    pub required_layers: Vec<&'static str>,
    /// `--log.level`.
    pub log_level: tracing::Level,
    /// `--log.format=json`.
    pub log_json: bool,
}

/// Where the host is.
#[derive(Debug, Clone, Default)]
pub struct Paths {
    /// `--path.procfs`.
    pub procfs: PathBuf,
    /// `--path.sysfs`.
    pub sysfs: PathBuf,
    /// `--path.rootfs`.
    pub rootfs: Option<PathBuf>,
    /// `--path.udev.data`.
    pub udev: Option<PathBuf>,
    /// `--path.os-release`.
    pub os_release: Option<PathBuf>,
    /// `--filesystem.probe-directory`, as often as given.
    pub probe_directories: Vec<PathBuf>,
}

/// Whose files these are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum View {
    /// Find out.
    #[default]
    Auto,
    /// The host's, whatever it looks like: for fixture trees.
    Host,
    /// A container's own.
    Container,
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            View::Auto => "auto",
            View::Host => "host",
            View::Container => "container",
        })
    }
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Serve.
    Serve,
    /// Ask a running broker for its health.
    Probe,
    /// Print the policy table.
    Policy,
    /// Print the help.
    Help,
    /// Print the version.
    Version,
}

impl Default for Flags {
    fn default() -> Self {
        Self {
            command: Command::Serve,
            socket: "/run/keyhole/broker.sock".into(),
            socket_group: None,
            allowed_uids: Vec::new(),
            paths: Paths { procfs: "/proc".into(), sysfs: "/sys".into(), ..Paths::default() },
            view: View::Auto,
            descriptor_cache: 1024,
            reopen_interval: Duration::from_secs(60),
            queries: Queries::All,
            allow_processes: false,
            allow_root: false,
            allow_capabilities: false,
            required_layers: Vec::new(),
            log_level: tracing::Level::INFO,
            log_json: false,
        }
    }
}

impl Flags {
    /// Which queries are read with these flags.
    pub fn permits(&self) -> PermittedQueries {
        let roots = [
            (Root::Processes, "--allow-processes", self.allow_processes),
            (Root::Udev, "--path.udev.data", self.paths.udev.is_some()),
            (Root::OsRelease, "--path.os-release", self.paths.os_release.is_some()),
            (Root::Rootfs, "--path.rootfs", self.paths.rootfs.is_some()),
            (
                Root::ProbeDirectories,
                "--filesystem.probe-directory",
                !self.paths.probe_directories.is_empty(),
            ),
        ];
        let missing_roots =
            roots.into_iter().filter(|(.., given)| !given).map(|(root, flag, _)| (root, flag));
        PermittedQueries { queries: self.queries.clone(), missing_roots: missing_roots.collect() }
    }

    /// Reads a command line.
    pub fn parse(mut parser: Parser) -> Result<Self, lexopt::Error> {
        let mut flags = Self::default();
        while let Some(argument) = parser.next()? {
            match argument {
                Arg::Value(word) => flags.command = command(&word.string()?)?,
                Arg::Short('h') | Arg::Long("help") => flags.command = Command::Help,
                Arg::Long("version") => flags.command = Command::Version,
                Arg::Long("socket.path") => flags.socket = parser.value()?.into(),
                Arg::Long("socket.group") => flags.socket_group = Some(parser.value()?.parse_with(id)?),
                Arg::Long("allow-uid") => flags.allowed_uids.push(parser.value()?.parse_with(id)?),
                Arg::Long("path.procfs") => flags.paths.procfs = parser.value()?.into(),
                Arg::Long("path.sysfs") => flags.paths.sysfs = parser.value()?.into(),
                Arg::Long("path.rootfs") => flags.paths.rootfs = Some(parser.value()?.into()),
                Arg::Long("path.udev.data") => flags.paths.udev = Some(parser.value()?.into()),
                Arg::Long("path.os-release") => flags.paths.os_release = Some(parser.value()?.into()),
                Arg::Long("filesystem.probe-directory") => {
                    flags.paths.probe_directories.push(parser.value()?.into())
                }
                Arg::Long("view") => flags.view = parser.value()?.parse_with(view)?,
                Arg::Long("descriptor-cache") => {
                    flags.descriptor_cache = parser.value()?.parse_with(number("--descriptor-cache"))?;
                }
                Arg::Long("reopen-interval") => {
                    let seconds: u32 = parser.value()?.parse_with(number("--reopen-interval"))?;
                    flags.reopen_interval = Duration::from_secs(seconds.max(1).into());
                }
                Arg::Long("queries") => flags.queries = parser.value()?.parse_with(Queries::parse)?,
                Arg::Long("allow-processes") => flags.allow_processes = true,
                Arg::Long("allow-root") => flags.allow_root = true,
                Arg::Long("allow-capabilities") => flags.allow_capabilities = true,
                Arg::Long("sandbox.require") => {
                    flags.required_layers.extend(parser.value()?.parse_with(layers)?);
                }
                Arg::Long("log.level") => flags.log_level = parser.value()?.parse_with(log_level)?,
                Arg::Long("log.format") => flags.log_json = parser.value()?.parse_with(log_format)?,
                Arg::Short(_) | Arg::Long(_) => {
                    return Err(format!("unknown flag {}; try --help", spelling(&argument)).into());
                }
            }
        }
        Ok(flags)
    }
}

fn spelling(argument: &Arg<'_>) -> String {
    match argument {
        Arg::Long(flag) => format!("--{flag}"),
        Arg::Short(flag) => format!("-{flag}"),
        Arg::Value(word) => word.to_string_lossy().into_owned(),
    }
}

fn command(word: &str) -> Result<Command, String> {
    match word {
        "probe" => Ok(Command::Probe),
        "policy" => Ok(Command::Policy),
        word => Err(format!("unknown command {word:?}: probe or policy; try --help")),
    }
}

fn id(word: &str) -> Result<u32, &'static str> {
    word.parse().map_err(|_| "--allow-uid and --socket.group take a number")
}

fn number(flag: &'static str) -> impl Fn(&str) -> Result<u32, String> {
    move |word| word.parse().map_err(|_| format!("{flag} takes a number"))
}

fn view(word: &str) -> Result<View, &'static str> {
    match word {
        "auto" => Ok(View::Auto),
        "host" => Ok(View::Host),
        "container" => Ok(View::Container),
        _ => Err("--view takes auto, host or container"),
    }
}

fn layers(words: &str) -> Result<Vec<&'static str>, String> {
    let layer = |word| LAYERS.into_iter().find(|layer| *layer == word);
    let unknown = |word| format!("--sandbox.require takes layers, not {word:?}: {}", LAYERS.join(", "));
    words.split(',').map(|word| layer(word).ok_or_else(|| unknown(word))).collect()
}

fn log_level(word: &str) -> Result<tracing::Level, &'static str> {
    match word {
        "debug" => Ok(tracing::Level::DEBUG),
        "info" => Ok(tracing::Level::INFO),
        "warn" => Ok(tracing::Level::WARN),
        "error" => Ok(tracing::Level::ERROR),
        _ => Err("--log.level takes debug, info, warn or error"),
    }
}

fn log_format(word: &str) -> Result<bool, &'static str> {
    match word {
        "logfmt" => Ok(false),
        "json" => Ok(true),
        _ => Err("--log.format takes logfmt or json"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Flags, String> {
        Flags::parse(Parser::from_args(arguments)).map_err(|error| error.to_string())
    }

    #[test]
    fn the_help_names_every_flag_that_is_taken() {
        for line in HELP.lines().filter_map(|line| line.trim().strip_prefix("--")) {
            let flag = line.split([' ', '=', ',']).next().unwrap();
            let value = if line.split_whitespace().next().unwrap().contains('=') { "=1" } else { "" };
            let error = parse(&[&format!("--{flag}{value}")]).err().unwrap_or_default();
            assert!(!error.contains("unknown"), "{error}");
        }
    }

    #[test]
    fn repeatable_flags_keep_every_value() {
        let flags = parse(&["--allow-uid=1", "--allow-uid", "2", "--filesystem.probe-directory=/a"]).unwrap();
        assert_eq!(flags.allowed_uids, [1, 2]);
        assert_eq!(flags.paths.probe_directories.len(), 1);
        let flags = parse(&["--sandbox.require=landlock,seccomp", "--sandbox.require=limits"]).unwrap();
        assert_eq!(flags.required_layers, ["landlock", "seccomp", "limits"]);
    }

    #[test]
    fn a_layer_that_is_none_is_refused_with_those_there_are() {
        for words in ["apparmor", "", "landlock,", "landlock seccomp", "Landlock"] {
            let error = parse(&[&format!("--sandbox.require={words}")]).unwrap_err();
            assert!(LAYERS.iter().all(|layer| error.contains(layer)), "{error}");
        }
    }

    #[test]
    fn errors_name_the_flag_and_what_it_takes() {
        assert_eq!(parse(&["--nope"]).unwrap_err(), "unknown flag --nope; try --help");
        assert!(parse(&["--view=x"]).unwrap_err().contains("auto, host or container"));
        assert!(parse(&["serve"]).unwrap_err().contains("probe or policy"));
        for flag in [
            "--queries",
            "--reopen-interval",
            "--descriptor-cache",
            "--allow-uid",
            "--socket.group",
            "--view",
            "--log.level",
            "--log.format",
        ] {
            let error = parse(&[&format!("{flag}=x")]).unwrap_err();
            assert!(error.contains(flag) && error.contains(" take"), "{error}");
        }
    }
}
