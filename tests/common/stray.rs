//! Signals that ask a server for nothing, and by default would end or stop it.

use rustix::process::Signal;

/// Those that have a name here, written out apart from the programs' own list.
pub const STRAY: [Signal; 11] = [
    Signal::USR1,
    Signal::USR2,
    Signal::ALARM,
    Signal::VTALARM,
    Signal::PROF,
    Signal::PIPE,
    Signal::XFSZ,
    Signal::IO,
    Signal::POWER,
    Signal::TTIN,
    Signal::TTOU,
];
