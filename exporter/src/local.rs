//! What the exporter knows without the host: its clock, its uname, its node's name.

use std::ffi::OsString;
use std::time::SystemTime;

use crate::capture::CaptureInfo;
use crate::collector::{LocalData, TimeZone, Uname};
use crate::text;

/// What is looked up once, before the exporter enters its sandbox.
#[derive(Debug, Clone)]
pub struct LocalSource {
    captured: bool,
    /// The time of a capture.
    time: Option<SystemTime>,
    node_name: Option<String>,
    uname: Option<Uname>,
    time_zone: Option<TimeZone>,
}

impl LocalSource {
    /// Looks at the environment and this process.
    ///
    /// # Errors
    ///
    /// If `NODE_NAME` is not UTF-8, as the value of a label must be.
    pub fn from_process() -> Result<Self, String> {
        let node_name = std::env::var_os("NODE_NAME").filter(|name| !name.is_empty());
        let node_name = node_name.map(OsString::into_string).transpose().map_err(|name| {
            format!(
                "NODE_NAME={name:?} in the environment: not UTF-8: set it to the node's name, or unset it"
            )
        })?;
        Ok(Self { captured: false, time: None, node_name, uname: Some(uname()), time_zone: time_zone() })
    }

    /// The same for a capture: of this process only its clock and `NODE_NAME` are asked, where the capture does not say.
    pub fn from_capture(self, about: Option<CaptureInfo>) -> Self {
        let (time, node_name) = about.map(|about| (about.time, about.node_name)).unzip();
        let node_name = self.node_name.or(node_name);
        Self { captured: true, time, node_name, uname: None, time_zone: None }
    }

    /// The node's name: what `NODE_NAME` says, else the exporter's own host name.
    pub fn nodes_name(&self) -> String {
        let own = self.uname.as_ref().map(|uname| text::printable(&uname.nodename).into_owned());
        self.node_name.clone().or(own).unwrap_or_default()
    }

    /// What is known at this moment.
    pub fn now(&self) -> LocalData {
        /// The captured host's clock discipline cannot be asked.
        const ENODATA: i32 = 61;
        LocalData {
            now: self.time.unwrap_or_else(SystemTime::now),
            node_name: self.node_name.clone(),
            timex: if self.captured { Err(ENODATA) } else { keyhole_os::timex() },
            uname: self.uname.clone(),
            time_zone: self.time_zone.clone(),
        }
    }
}

fn uname() -> Uname {
    let uname = rustix::system::uname();
    Uname {
        sysname: uname.sysname().to_bytes().to_vec(),
        nodename: uname.nodename().to_bytes().to_vec(),
        release: uname.release().to_bytes().to_vec(),
        version: uname.version().to_bytes().to_vec(),
        machine: uname.machine().to_bytes().to_vec(),
        domainname: uname.domainname().to_bytes().to_vec(),
    }
}

/// UTC where nothing says otherwise, as in a container from scratch; else what `/etc/localtime` holds.
fn time_zone() -> Option<TimeZone> {
    match std::env::var_os("TZ") {
        Some(zone) if zone.is_empty() || zone == "UTC" || zone == "UTC0" => return Some(utc()),
        Some(_) => return None,
        None => {}
    }
    match std::fs::read("/etc/localtime") {
        Ok(file) => constant_zone(&file),
        Err(_) => Some(utc()),
    }
}

fn utc() -> TimeZone {
    TimeZone { name: "UTC".into(), offset: 0 }
}

/// The zone of a TZif file with one local time type; none when its offset changes over the year.
///
/// <https://man7.org/linux/man-pages/man5/tzfile.5.html>
pub fn constant_zone(file: &[u8]) -> Option<TimeZone> {
    // magic, version, 15 unused; then the counts isutc, isstd, leap, time, type, char.
    const HEADER: usize = 44;
    let count = |header: &[u8], at: usize| -> Option<usize> {
        let bytes: [u8; 4] = header.get(20 + 4 * at..24 + 4 * at)?.try_into().ok()?;
        usize::try_from(u32::from_be_bytes(bytes)).ok()
    };
    let body = |file: &[u8], time_bytes: usize| -> Option<[usize; 3]> {
        let times = count(file, 3)?.checked_mul(time_bytes + 1)?;
        let leaps = count(file, 2)?.checked_mul(time_bytes + 4)?;
        let types = count(file, 4)?.checked_mul(6)?;
        let rest = [count(file, 5)?, leaps, count(file, 1)?, count(file, 0)?];
        let after = rest.iter().try_fold(0usize, |sum, part| sum.checked_add(*part))?;
        Some([times, types, after])
    };
    let magic = file.strip_prefix(b"TZif")?;
    // From version 2 on a second block follows, with times of eight bytes; the first may be empty.
    let block = match magic.first()? {
        0 => file,
        _ => {
            let skip = body(file, 4)?.iter().try_fold(HEADER, |sum, part| sum.checked_add(*part))?;
            file.get(skip..).filter(|block| block.starts_with(b"TZif"))?
        }
    };
    if count(block, 4)? != 1 || count(block, 3)? != 0 {
        return None;
    }
    let local = block.get(HEADER..)?;
    let offset = i32::from_be_bytes(*local.first_chunk::<4>()?);
    let name = local.get(6..)?.split(|byte| *byte == 0).next()?;
    Some(TimeZone { name: std::str::from_utf8(name).ok()?.to_owned(), offset })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A version-2 file with one type, as zic writes it for a fixed zone.
    fn fixed(offset: i32, name: &str) -> Vec<u8> {
        let mut file = Vec::new();
        for _ in 0..2 {
            file.extend_from_slice(b"TZif2");
            file.extend_from_slice(&[0; 15]);
            for count in [0, 0, 0, 0, 1, name.len() as u32 + 1] {
                file.extend_from_slice(&u32::to_be_bytes(count));
            }
            file.extend_from_slice(&offset.to_be_bytes());
            file.extend_from_slice(&[0, 0]);
            file.extend_from_slice(name.as_bytes());
            file.push(0);
        }
        file
    }

    #[test]
    fn a_fixed_zone_has_its_offset_and_its_name() {
        assert_eq!(constant_zone(&fixed(0, "UTC")), Some(utc()));
        assert_eq!(
            constant_zone(&fixed(-18000, "EST")),
            Some(TimeZone { name: "EST".into(), offset: -18000 })
        );
        assert_eq!(constant_zone(b"TZif2"), None);
    }

    #[test]
    fn this_hosts_uname_has_a_kernel() {
        assert_eq!(uname().sysname, b"Linux");
    }

    proptest! {
        #[test]
        fn any_file_is_a_zone_or_none(at in 0usize..120, byte in any::<u8>(), cut in 0usize..120) {
            let mut file = fixed(3600, "CET");
            if let Some(slot) = file.get_mut(at) {
                *slot = byte;
            }
            file.truncate(cut);
            let _ = constant_zone(&file);
        }
    }
}
