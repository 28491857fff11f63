//! The kinds of processes in which an intruder may be.

use keyhole_policy::Class;

/// A set of kinds of processes.
pub type Processes = u8;

/// A process that has an intruder in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    /// The broker, which speaks to peers.
    Broker,
    /// The zygote, which starts readers.
    Zygote,
    /// A reader of a class.
    Reader(Class),
}

/// The broker.
pub(crate) const BROKER: Processes = Process::Broker.bit();
/// The zygote.
pub(crate) const ZYGOTE: Processes = Process::Zygote.bit();
/// Readers that open nothing once they are sealed.
pub(crate) const PROCFS: Processes = Process::Reader(Class::Procfs).bit();
/// Readers that open files below sysfs.
pub(crate) const DEVICES: Processes = Process::Reader(Class::Devices).bit();
/// Readers that open files below procfs.
pub(crate) const PROCESSES: Processes = Process::Reader(Class::Processes).bit();
/// Readers that ask mount points.
pub(crate) const MOUNTS: Processes = Process::Reader(Class::Mounts).bit();
/// Every reader.
pub(crate) const READERS: Processes = PROCFS | DEVICES | PROCESSES | MOUNTS;
/// Every process.
pub(crate) const EVERY: Processes = BROKER | ZYGOTE | READERS;

impl Process {
    /// Every kind that is attacked, in the order of the document. Readers of the other two classes may do what these do:
    /// those of class sysfs what devices may, and those of class files what processes may, below another directory.
    pub const ALL: [Self; 6] = [
        Self::Broker,
        Self::Zygote,
        Self::Reader(Class::Procfs),
        Self::Reader(Class::Mounts),
        Self::Reader(Class::Devices),
        Self::Reader(Class::Processes),
    ];

    /// The set of this one alone.
    pub const fn bit(self) -> Processes {
        match self {
            Self::Broker => 1,
            Self::Zygote => 1 << 1,
            Self::Reader(class) => 4 << class as u8,
        }
    }

    /// Its name, as the log has it.
    pub fn name(self) -> String {
        match self {
            Self::Broker => "broker".to_owned(),
            Self::Zygote => "zygote".to_owned(),
            Self::Reader(class) => format!("reader-{}", class.name()),
        }
    }

    /// Reads [`Self::name`].
    pub fn parse(name: &str) -> Option<Self> {
        let readers = Class::ALL.into_iter().map(Self::Reader);
        [Self::Broker, Self::Zygote].into_iter().chain(readers).find(|process| process.name() == name)
    }
}
