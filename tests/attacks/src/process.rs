//! The kinds of processes in which an intruder may be.

use keyhole_policy::Class;

/// A set of kinds of processes.
pub type Processes = u16;

/// A process that has an intruder in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    /// The broker, which speaks to peers.
    Broker,
    /// The exporter, which speaks to anyone.
    Exporter,
    /// The zygote, which starts readers.
    Zygote,
    /// A reader of a class.
    Reader(Class),
}

/// The broker.
pub(crate) const BROKER: Processes = Process::Broker.bit();
/// The exporter.
pub(crate) const EXPORTER: Processes = Process::Exporter.bit();
/// The zygote.
pub(crate) const ZYGOTE: Processes = Process::Zygote.bit();
/// Readers that open nothing once they are sandboxed.
pub(crate) const PROCFS: Processes = Process::Reader(Class::Procfs).bit();
/// Readers that open files below sysfs.
pub(crate) const SYSFS: Processes = Process::Reader(Class::Sysfs).bit();
/// Readers that open files below sysfs, and follow its links.
pub(crate) const DEVICES: Processes = Process::Reader(Class::Devices).bit();
/// Readers that open files of udev's data.
pub(crate) const FILES: Processes = Process::Reader(Class::Files).bit();
/// Readers that open files below procfs.
pub(crate) const PROCESSES: Processes = Process::Reader(Class::Processes).bit();
/// Readers that ask mount points.
pub(crate) const MOUNTS: Processes = Process::Reader(Class::Mounts).bit();
/// Every reader.
pub(crate) const READERS: Processes = PROCFS | SYSFS | DEVICES | FILES | PROCESSES | MOUNTS;
/// Every process.
pub(crate) const EVERY: Processes = BROKER | EXPORTER | ZYGOTE | READERS;

impl Process {
    /// Every kind, in the order of the document.
    pub const ALL: [Self; 9] = [
        Self::Exporter,
        Self::Broker,
        Self::Zygote,
        Self::Reader(Class::Procfs),
        Self::Reader(Class::Mounts),
        Self::Reader(Class::Sysfs),
        Self::Reader(Class::Devices),
        Self::Reader(Class::Files),
        Self::Reader(Class::Processes),
    ];

    /// The set of this one alone.
    pub const fn bit(self) -> Processes {
        match self {
            Self::Broker => 1,
            Self::Exporter => 1 << 1,
            Self::Zygote => 1 << 2,
            Self::Reader(class) => 1 << 3 << class as u16,
        }
    }

    /// Its name, as the log has it.
    pub fn name(self) -> String {
        match self {
            Self::Broker => "broker".to_owned(),
            Self::Exporter => "exporter".to_owned(),
            Self::Zygote => "zygote".to_owned(),
            Self::Reader(class) => format!("reader-{}", class.name()),
        }
    }

    /// Reads [`Self::name`].
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|process| process.name() == name)
    }

    /// Whether it speaks to peers, and has a log.
    pub const fn speaks(self) -> bool {
        matches!(self, Self::Broker | Self::Exporter)
    }
}
