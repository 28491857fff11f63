//! The command line that a broker gives to its zygote. A person gives none: it is not an interface.

use std::ffi::{OsStr, OsString};
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::str::FromStr;

use keyhole_policy::Query;

/// Whose files these are, as `--view` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// Find out.
    #[default]
    Auto,
    /// The host's, whatever it looks like: for fixture trees.
    Host,
    /// A container's own.
    Container,
}

/// What a broker asks of its readers.
#[derive(Debug, Clone, Default)]
pub struct Arguments {
    /// `--slot=REQUESTS,ANSWERS`: the numbers of the readers' ends of each slot's pipes, in the order of the slots.
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
    /// `--filesystem.probe-directory`, as often as given.
    pub probe_directories: Vec<PathBuf>,
    /// `--view`.
    pub view: Choice,
    /// `--descriptor-cache`: files below sysfs that all readers together keep open.
    pub cached_files: u64,
    /// `--query=NUMBER`: a query that may be asked. Nothing of the others is opened.
    pub queries: Vec<Query>,
    /// `--allow-root`.
    pub allow_root: bool,
    /// `--allow-capabilities`.
    pub allow_capabilities: bool,
}

impl Arguments {
    /// Reads a command line; an error is the argument that is none.
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
                    b"auto" => Choice::Auto,
                    b"host" => Choice::Host,
                    b"container" => Choice::Container,
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

    /// Whether a query may be asked.
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
    fn what_a_broker_gives_is_understood() {
        let given =
            ["--slot=3,4", "--slot=5,6", "--path.procfs=/a=b", "--view=host", "--query=1", "--query=104"];
        let parsed = parse(&given).unwrap();
        assert_eq!(parsed.slots, [[3, 4], [5, 6]]);
        assert_eq!(parsed.procfs, PathBuf::from("/a=b"));
        assert!(parsed.permits(Query::Stat) && parsed.permits(Query::Tcp) && !parsed.permits(Query::Udp));
    }

    #[test]
    fn what_is_no_argument_is_given_back() {
        for argument in ["--slot=3", "--view=x", "--query=0x1", "--query=200", "--nope", "serve", ""] {
            assert_eq!(parse(&[argument]).unwrap_err(), argument);
        }
    }
}
