//! The command line with which the broker starts the zygote. It is internal: nobody types it.

use std::ffi::{OsStr, OsString};
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::str::FromStr;

use keyhole_policy::Query;

/// The value of `--view`: whose /proc and /sys these are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ViewMode {
    /// Detect it.
    #[default]
    Auto,
    /// The host's, without detection: for fixture trees.
    Host,
    /// A container's own.
    Container,
}

/// The parsed command line.
#[derive(Debug, Clone, Default)]
pub struct Arguments {
    /// `--slot=REQUESTS,ANSWERS`: the descriptor numbers of the readers' ends of each slot's pipes, in slot order.
    pub slots: Vec<[RawFd; 2]>,
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
    /// `--filesystem.probe-directory`; may be repeated.
    pub probe_directories: Vec<PathBuf>,
    /// `--view`.
    pub view: ViewMode,
    /// `--descriptor-cache`: how many files below sysfs all readers together keep open.
    pub cached_files: u64,
    /// `--query=NUMBER`: the permitted queries. Files of other queries are not opened.
    pub queries: Vec<Query>,
    /// `--allow-root`.
    pub allow_root: bool,
    /// `--allow-capabilities`.
    pub allow_capabilities: bool,
}

impl Arguments {
    /// Parses a command line. The error is the first invalid argument.
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, OsString> {
        let mut parsed = Self::default();
        for argument in arguments {
            parsed.add(argument.as_bytes()).ok_or(argument)?;
        }
        Ok(parsed)
    }

    fn add(&mut self, argument: &[u8]) -> Option<()> {
        let equals = argument.iter().position(|&byte| byte == b'=').unwrap_or(argument.len());
        let (name, value) = (&argument[..equals], argument.get(equals + 1..).unwrap_or_default());
        let path = || PathBuf::from(OsStr::from_bytes(value));
        match name {
            b"--slot" => {
                let (requests, answers) = std::str::from_utf8(value).ok()?.split_once(',')?;
                self.slots.push([requests.parse().ok()?, answers.parse().ok()?]);
            }
            b"--path.procfs" => self.procfs = path(),
            b"--path.sysfs" => self.sysfs = path(),
            b"--path.rootfs" => self.rootfs = Some(path()),
            b"--path.udev.data" => self.udev = Some(path()),
            b"--path.os-release" => self.os_release = Some(path()),
            b"--filesystem.probe-directory" => self.probe_directories.push(path()),
            b"--view" => {
                self.view = match value {
                    b"auto" => ViewMode::Auto,
                    b"host" => ViewMode::Host,
                    b"container" => ViewMode::Container,
                    _ => return None,
                }
            }
            b"--descriptor-cache" => self.cached_files = number(value)?,
            b"--query" => self.queries.push(Query::try_from(number::<i32>(value)?).ok()?),
            b"--allow-root" => self.allow_root = true,
            b"--allow-capabilities" => self.allow_capabilities = true,
            _ => return None,
        }
        Some(())
    }

    /// Whether a query is permitted.
    pub fn permits(&self, query: Query) -> bool {
        self.queries.contains(&query)
    }
}

fn number<N: FromStr>(text: &[u8]) -> Option<N> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Arguments, OsString> {
        Arguments::parse(arguments.iter().map(OsString::from))
    }

    #[test]
    fn the_brokers_arguments_are_parsed() {
        let arguments =
            ["--slot=3,4", "--slot=5,6", "--path.procfs=/a=b", "--view=host", "--query=1", "--query=104"];
        let parsed = parse(&arguments).unwrap();
        assert_eq!(parsed.slots, [[3, 4], [5, 6]]);
        assert_eq!(parsed.procfs, PathBuf::from("/a=b"));
        assert!(parsed.permits(Query::Stat) && parsed.permits(Query::Tcp) && !parsed.permits(Query::Udp));
    }

    #[test]
    fn an_invalid_argument_is_the_error() {
        for argument in ["--slot=3", "--view=x", "--query=0x1", "--query=200", "--nope", "serve", ""] {
            assert_eq!(parse(&[argument]).unwrap_err(), argument);
        }
    }
}
