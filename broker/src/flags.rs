//! The command line, and the environment variables that some flags have.
//!
//! No variable decides what the readers read, whom the broker answers or what privileges it runs with: these flags
//! are given on the command line only, which a manifest or a unit shows. A variable says where the socket is, how
//! much the readers keep open, and how the broker logs.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use keyhole_flags::{
    COMPLETIONS, Command as CommandRow, Flag, FlagError, FlagKind, Group, HELP_FLAGS, KnownValues, LOG_FLAGS,
    Operands, Parsed, Program, Unused, Values,
};
use keyhole_os::socket::path_length_error;
use keyhole_policy::Root;

use crate::queries::{self, PermittedQueries, Queries};
use crate::sandbox::LAYERS;

const fn flag(name: &'static str, kind: FlagKind, help: &'static str) -> Flag {
    Flag { name, kind, help }
}

const fn parsed(placeholder: &'static str, default: &'static str) -> FlagKind {
    FlagKind::Parsed { placeholder, default }
}

const fn list(placeholder: &'static str) -> FlagKind {
    FlagKind::ParsedList { placeholder }
}

const VIEW: FlagKind =
    FlagKind::Choice { default: "auto", choices: &["auto", "host", "container"], ignore_case: false };

/// The broker's flags.
#[rustfmt::skip]
const GROUPS: &[Group] = &[
    Group { title: "Socket", commands: &[], environment: true, flags: &[
        flag("socket.path", FlagKind::File("/run/keyhole/broker.sock"), "Unix socket to listen on, or, for probe, to connect to."),
    ] },
    Group { title: "Clients", commands: &[], environment: false, flags: &[
        flag("socket.group", parsed("GID", ""), "Group that may connect to the socket, instead of the broker's own group."),
        flag("allow-uid", list("UID"), "User that may send requests, in addition to the broker's own user."),
    ] },
    Group { title: "Host", commands: &[], environment: false, flags: &[
        flag("path.procfs", FlagKind::Directory("/proc"), "Mount point of the host's procfs."),
        flag("path.sysfs", FlagKind::Directory("/sys"), "Mount point of the host's sysfs."),
        flag("path.rootfs", FlagKind::Directory(""), "Root directory of the host. Its files are not read: only statfs(2) is called on its mount points."),
        flag("path.udev.data", FlagKind::Directory(""), "Directory with the host's udev database."),
        flag("path.os-release", FlagKind::File(""), "os-release file of the host."),
        flag("filesystem.probe-directory", FlagKind::Directories, "Empty directory on a file system of the host, on which to call statfs(2)."),
        flag("filesystem.anchor", FlagKind::FormerName("filesystem.probe-directory"), ""),
        flag("view", VIEW, "Whether the files are those of a host or of a container; auto detects it."),
        flag("queries", parsed("QUERIES", "all"), "Queries that clients may ask for: all; default (those of the collectors that are enabled by default); or default,+NAME,... with names in lower case and without QUERY_, such as +tcp for QUERY_TCP."),
    ] },
    Group { title: "Readers", commands: &[], environment: true, flags: &[
        flag("descriptor-cache", parsed("NUMBER", "1024"), "Maximum number of files below sysfs that all readers together keep open; 0 for none. Each takes 5 KiB of kernel memory."),
        flag("held-files", FlagKind::FormerName("descriptor-cache"), ""),
        flag("reopen-interval", parsed("SECONDS", "60"), "Interval at which to look for files that were absent at the start; at least 1."),
    ] },
    Group { title: "Privilege", commands: &[], environment: false, flags: &[
        flag("allow-processes", FlagKind::Switch(false), "Answer queries about every process as well. The readers of one class then keep procfs open."),
        flag("allow-root", FlagKind::Switch(false), "Start although the user is root, which can read a few more files."),
        flag("allow-capabilities", FlagKind::Switch(false), "Start although the process has capabilities, which it drops."),
        flag("sandbox.require", list("LAYERS"), "Start only if these layers of the sandbox are in force in every process, separated by commas: not_dumpable, limits, landlock, passed_descriptors (in the broker only). no_new_privs, capabilities and seccomp are always required."),
    ] },
    Group { title: "Log", commands: &[], environment: true, flags: LOG_FLAGS },
    Group { title: "Help", commands: &[], environment: false, flags: HELP_FLAGS },
];

/// The broker's commands.
#[rustfmt::skip]
const COMMANDS: &[CommandRow] = &[
    CommandRow { name: "",       operands: Operands::None, help: "serve" },
    CommandRow { name: "probe",  operands: Operands::None, help: "ask a running broker for its health; exit status 0 if it is serving" },
    CommandRow { name: "policy", operands: Operands::None, help: "print the policy table: which files each query reads" },
    COMPLETIONS,
];

/// The broker's commands and flags.
pub static PROGRAM: LazyLock<Program> = LazyLock::new(|| Program {
    name: "keyhole-broker",
    version: env!("CARGO_PKG_VERSION"),
    version_text: format!("keyhole-broker {}\n", env!("CARGO_PKG_VERSION")),
    purpose: "answers fixed queries about a host's /proc and /sys over a Unix socket.",
    note: "A flag that is not repeatable can be given once. A value that begins with - must follow the equals sign.",
    commands: COMMANDS,
    groups: GROUPS.to_vec(),
    short: &[('h', "help")],
    known_values: &[
        KnownValues { flag: "queries", command: "", values: queries::words, is_list: true },
        KnownValues {
            flag: "sandbox.require",
            command: "",
            values: || LAYERS.map(str::to_owned).to_vec(),
            is_list: true,
        },
    ],
    variables: &[],
    exit_statuses: &[
        ("0", "Success; for probe, the broker is serving."),
        ("1", "Failure; for probe, the broker is not serving, or does not answer."),
        ("2", "A mistake on the command line or in the environment."),
    ],
});

/// The values of all flags.
#[derive(Debug)]
pub struct Flags {
    /// What to do.
    pub command: Command,
    /// Environment variables that look as if they would set a flag, and do not.
    pub unused_variables: Vec<Unused>,
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Serve.
    Serve,
    /// Ask a running broker for its health.
    Probe,
    /// Print the policy table.
    Policy,
    /// Print this text.
    Print(String),
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

    /// Reads a command line and the environment.
    pub fn parse(
        arguments: impl IntoIterator<Item = OsString>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, FlagError> {
        let environment: Vec<(OsString, OsString)> = environment.into_iter().collect();
        let names = environment.iter().map(|(name, _)| name.clone());
        let unused_variables = PROGRAM.unused_variables(names);
        let (values, command) = match PROGRAM.parse(arguments, environment)? {
            Parsed::Print(values, text) => (values, Command::Print(text)),
            Parsed::Run(values, words) => {
                let command = command(&words)?;
                (values, command)
            }
        };
        let path = |flag| values.path(flag).map(PathBuf::from);
        let directory =
            |flag| path(flag).ok_or_else(|| values.refuse(flag, "", "use the path of a directory"));
        let probe_directories = values.paths("filesystem.probe-directory");
        if probe_directories.iter().any(|path| path.as_os_str().is_empty()) {
            return Err(values.refuse("filesystem.probe-directory", "", "use the path of a directory"));
        }
        let required_layers = values.parse_each("sandbox.require", layers)?;
        Ok(Self {
            command,
            unused_variables,
            socket: socket(&values)?,
            socket_group: values.parse("socket.group", id)?,
            allowed_uids: values.parse_each("allow-uid", id)?,
            paths: Paths {
                procfs: directory("path.procfs")?,
                sysfs: directory("path.sysfs")?,
                rootfs: path("path.rootfs"),
                udev: path("path.udev.data"),
                os_release: path("path.os-release"),
                probe_directories: probe_directories.to_vec(),
            },
            view: match values.text("view") {
                "host" => View::Host,
                "container" => View::Container,
                _ => View::Auto,
            },
            descriptor_cache: values.parse("descriptor-cache", number)?.unwrap_or_default(),
            reopen_interval: Duration::from_secs(
                values.parse("reopen-interval", seconds)?.unwrap_or(1).into(),
            ),
            queries: values.parse("queries", Queries::parse)?.unwrap_or_default(),
            allow_processes: values.switch("allow-processes"),
            allow_root: values.switch("allow-root"),
            allow_capabilities: values.switch("allow-capabilities"),
            required_layers: required_layers.concat(),
            // Both are among the flag's choices, which are levels and formats.
            log_level: values.text("log.level").parse().unwrap_or(tracing::Level::INFO),
            log_json: values.text("log.format") == "json",
        })
    }
}

fn command(words: &[String]) -> Result<Command, FlagError> {
    Ok(match PROGRAM.command(words)? {
        Some(("probe", _)) => Command::Probe,
        Some(("policy", _)) => Command::Policy,
        _ => Command::Serve,
    })
}

/// The path of the socket.
fn socket(values: &Values) -> Result<PathBuf, FlagError> {
    const FLAG: &str = "socket.path";
    let path = values.path(FLAG).unwrap_or(Path::new(""));
    let reason = match path.as_os_str().len() {
        0 => Some("use a path such as /run/keyhole/broker.sock".to_owned()),
        length => path_length_error(length),
    };
    reason.map_or(Ok(path.into()), |reason| Err(values.refuse(FLAG, &path.to_string_lossy(), reason)))
}

/// A uid or gid. The kernel uses the highest number for "no change".
fn id(text: &str) -> Result<u32, &'static str> {
    let id = text.parse().ok().filter(|id| *id < u32::MAX && !text.starts_with('+'));
    id.ok_or("not a uid or gid from 0 to 4294967294")
}

fn number(text: &str) -> Result<u32, &'static str> {
    text.parse().map_err(|_| "not a number from 0 to 4294967295")
}

fn seconds(text: &str) -> Result<u32, &'static str> {
    let seconds = number(text).ok().filter(|seconds| *seconds > 0);
    seconds.ok_or("not a whole number of seconds from 1 to 4294967295")
}

fn layers(words: &str) -> Result<Vec<&'static str>, String> {
    let layer = |word| LAYERS.into_iter().find(|layer| *layer == word);
    let unknown = |word| format!("{word:?} is no layer: use {}", LAYERS.join(", "));
    words.split(',').map(|word| layer(word).ok_or_else(|| unknown(word))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyhole_os::socket::MAX_PATH_BYTES;

    fn parse(arguments: &[&str]) -> Result<Flags, String> {
        with_environment(arguments, &[])
    }

    fn with_environment(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Flags, String> {
        let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
        Flags::parse(arguments.iter().map(OsString::from), variables).map_err(|error| error.to_string())
    }

    #[test]
    fn without_flags_the_defaults_of_the_rows_apply() {
        let flags = parse(&[]).unwrap();
        assert_eq!((flags.command, flags.socket), (Command::Serve, "/run/keyhole/broker.sock".into()));
        assert_eq!((flags.paths.procfs, flags.paths.sysfs), ("/proc".into(), "/sys".into()));
        assert_eq!((flags.paths.rootfs, flags.paths.udev, flags.paths.os_release), (None, None, None));
        assert_eq!((flags.view, flags.queries), (View::Auto, Queries::All));
        assert_eq!((flags.descriptor_cache, flags.reopen_interval), (1024, Duration::from_secs(60)));
        assert!(!flags.allow_root && !flags.allow_processes && !flags.allow_capabilities);
    }

    #[test]
    fn repeatable_flags_accept_several_values_and_others_one() {
        let flags = parse(&["--allow-uid=1", "--allow-uid", "2", "--filesystem.probe-directory=/a"]).unwrap();
        assert_eq!(flags.allowed_uids, [1, 2]);
        assert_eq!(flags.paths.probe_directories.len(), 1);
        let flags = parse(&["--sandbox.require=landlock,seccomp", "--sandbox.require=limits"]).unwrap();
        assert_eq!(flags.required_layers, ["landlock", "seccomp", "limits"]);
        for (twice, flag) in [
            (["--path.rootfs=/", "--path.rootfs=/host"], "--path.rootfs"),
            (["--allow-root", "--no-allow-root"], "--allow-root"),
            (["--queries=default", "--queries=all"], "--queries"),
        ] {
            assert_eq!(parse(&twice).unwrap_err(), format!("{flag} cannot be repeated: give it once"));
        }
    }

    #[test]
    fn a_socket_has_a_path_that_the_kernel_takes() {
        let path = |length: usize| format!("--socket.path=/{}", "x".repeat(length - 1));
        assert!(parse(&[&path(MAX_PATH_BYTES)]).is_ok());
        let error = parse(&[&path(MAX_PATH_BYTES + 1)]).unwrap_err();
        assert!(error.starts_with("--socket.path=\"/xxx") && error.contains("108 bytes, and"), "{error}");
        assert!(error.contains("has 107 at most: use a shorter one"), "{error}");
        let error = with_environment(&[], &[("KEYHOLE_SOCKET_PATH", &"/x".repeat(60))]).unwrap_err();
        assert!(error.starts_with("KEYHOLE_SOCKET_PATH=\"/x/x"), "{error}");
        for flag in ["--socket.path", "--path.procfs", "--path.sysfs", "--filesystem.probe-directory"] {
            let error = parse(&[&format!("{flag}=")]).unwrap_err();
            assert!(error.starts_with(&format!("{flag}=\"\": use ")), "{error}");
        }
    }

    #[test]
    fn help_is_printed_even_if_the_environment_is_invalid() {
        let wrong = [
            ("KEYHOLE_REOPEN_INTERVAL", "soon"),
            ("KEYHOLE_LOG_LEVEL", "loud"),
            ("KEYHOLE_SOCKET_PATH", &*"/x".repeat(60)),
        ];
        for arguments in
            [&["--help"][..], &["--help", "probe"], &["--help-man"], &["--version"], &["completions", "bash"]]
        {
            let flags = with_environment(arguments, &wrong).unwrap();
            assert!(matches!(flags.command, Command::Print(_)), "{arguments:?}");
        }
        assert!(with_environment(&["probe"], &wrong).is_err());
        let given = ["--reopen-interval=5", "--log.level=info", "--socket.path=/x", "probe"];
        assert_eq!(with_environment(&given, &wrong).unwrap().command, Command::Probe);
    }

    #[test]
    fn former_names_are_errors_that_name_the_present_ones() {
        let present = PROGRAM.flags().into_iter().map(|flag| flag.name).collect::<Vec<_>>();
        for flag in PROGRAM.flags() {
            let FlagKind::FormerName(name) = flag.kind else { continue };
            assert!(present.contains(&name), "{name}");
            let error = parse(&[&format!("--{}=1", flag.name)]).unwrap_err();
            assert!(error.contains(&format!("(did you mean --{name}?)")), "{error}");
        }
        assert!(parse(&["--held-files=1"]).unwrap_err().contains("--descriptor-cache"));
        let unused = with_environment(&[], &[("KEYHOLE_HELD_FILES", "1")]).unwrap().unused_variables;
        assert_eq!(unused[0].advice, "did you mean KEYHOLE_DESCRIPTOR_CACHE?");
    }

    /// What of the flags decides what the broker may do, as text.
    fn privileges(flags: &Flags) -> String {
        let permits = (flags.permits(), &flags.paths, flags.view);
        let clients = (flags.socket_group, &flags.allowed_uids);
        let allowed =
            (flags.allow_processes, flags.allow_root, flags.allow_capabilities, &flags.required_layers);
        format!("{permits:?} {clients:?} {allowed:?}")
    }

    #[test]
    fn no_environment_variable_changes_what_the_broker_reads_who_may_connect_or_its_privileges() {
        let plain = privileges(&parse(&[]).unwrap());
        for flag in PROGRAM.flags() {
            let Some(variable) = flag.variable() else { continue };
            for value in ["true", "1", "/", "host", "default", "limits", "debug", "json"] {
                if let Ok(flags) = with_environment(&[], &[(&variable, value)]) {
                    assert_eq!(privileges(&flags), plain, "{variable}={value}");
                }
            }
        }
        assert_ne!(privileges(&parse(&["--allow-uid=1"]).unwrap()), plain);
    }

    #[test]
    fn variables_set_the_socket_the_readers_and_the_log_below_the_command_line() {
        let variables = [
            ("KEYHOLE_SOCKET_PATH", "/x"),
            ("KEYHOLE_DESCRIPTOR_CACHE", "7"),
            ("KEYHOLE_REOPEN_INTERVAL", "9"),
            ("KEYHOLE_LOG_LEVEL", "debug"),
            ("KEYHOLE_LOG_FORMAT", "json"),
        ];
        let flags = with_environment(&["--descriptor-cache=8"], &variables).unwrap();
        assert_eq!((flags.socket, flags.descriptor_cache), ("/x".into(), 8));
        assert_eq!((flags.reopen_interval, flags.log_level), (Duration::from_secs(9), tracing::Level::DEBUG));
        assert!(flags.log_json && flags.unused_variables.is_empty());
        assert_eq!(
            with_environment(&[], &[("KEYHOLE_REOPEN_INTERVAL", "soon")]).unwrap_err(),
            "KEYHOLE_REOPEN_INTERVAL=\"soon\" in the environment, for --reopen-interval: not a whole number of seconds from 1 to 4294967295"
        );
    }

    #[test]
    fn an_interval_of_zero_is_refused() {
        for value in ["0", "60s", "1.5", "4294967296"] {
            let error = parse(&[&format!("--reopen-interval={value}")]).unwrap_err();
            assert!(error.ends_with("not a whole number of seconds from 1 to 4294967295"), "{error}");
        }
    }

    #[test]
    fn the_highest_number_is_no_uid_and_no_gid() {
        for flag in ["--allow-uid", "--socket.group"] {
            for value in ["4294967295", "+5", "-1", "", "root"] {
                let arguments = [format!("{flag}={value}").into()];
                let error = Flags::parse(arguments, Vec::new()).unwrap_err().to_string();
                assert!(error.contains("not a uid or gid from 0 to 4294967294"), "{flag}={value}: {error}");
            }
        }
    }

    #[test]
    fn variables_without_effect_are_listed_with_what_to_do() {
        let names = [
            "KEYHOLE_ALLOW_ROOT",
            "KEYHOLE_LOG_LEVLE",
            "KEYHOLE_BROKER_FLAGS",
            "KEYHOLE_HELP",
            "KEYHOLE_BROKER_SOCKET",
        ];
        let flags = with_environment(&[], &names.map(|name| (name, "true"))).unwrap();
        let unused = flags.unused_variables.iter().map(|unused| (&*unused.variable, &*unused.advice));
        assert_eq!(
            unused.collect::<Vec<_>>(),
            [
                ("KEYHOLE_ALLOW_ROOT", "set --allow-root on the command line: no variable may set it"),
                ("KEYHOLE_LOG_LEVLE", "did you mean KEYHOLE_LOG_LEVEL?"),
            ]
        );
    }

    #[test]
    fn every_operation_that_prints_and_exits_is_a_command() {
        let command = |arguments: &[&str]| parse(arguments).unwrap().command;
        assert_eq!(command(&["probe", "--socket.path=/x"]), Command::Probe);
        assert_eq!(command(&["policy"]), Command::Policy);
        assert_eq!(command(&["-h"]), Command::Print(PROGRAM.help()));
        assert_eq!(command(&["--help-man"]), Command::Print(PROGRAM.man_page()));
        assert_eq!(command(&["completions", "fish"]), Command::Print(PROGRAM.completions("fish").unwrap()));
        assert!(parse(&["probe", "policy"]).unwrap_err().contains("no words after it"));
    }

    #[test]
    fn an_unknown_layer_is_refused_and_the_valid_ones_listed() {
        for words in ["apparmor", "", "landlock,", "landlock seccomp", "Landlock"] {
            let error = parse(&[&format!("--sandbox.require={words}")]).unwrap_err();
            assert!(LAYERS.iter().all(|layer| error.contains(layer)), "{error}");
        }
    }

    #[test]
    fn errors_name_the_flag_and_the_values_that_it_takes() {
        assert_eq!(parse(&["--nope"]).unwrap_err(), "unknown flag --nope; try --help");
        assert_eq!(
            parse(&["--allow-rot"]).unwrap_err(),
            "unknown flag --allow-rot (did you mean --allow-root?); try --help"
        );
        assert!(parse(&["--view=x"]).unwrap_err().contains("auto, host or container"));
        assert!(parse(&["serve"]).unwrap_err().contains("probe, policy or completions"));
        for flag in [
            "--queries",
            "--reopen-interval",
            "--descriptor-cache",
            "--allow-uid",
            "--socket.group",
            "--sandbox.require",
            "--view",
            "--log.level",
            "--log.format",
        ] {
            let error = parse(&[&format!("{flag}=x")]).unwrap_err();
            assert!(error.starts_with(&format!("{flag}=\"x\": ")), "{error}");
        }
    }
}
