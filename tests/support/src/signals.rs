//! Signals that both servers ignore, since their default action would end or stop them without a reason.

use rustix::process::Signal;

/// Those that have a name here; written out, so that a change of the programs' own list is seen.
pub const IGNORED: [Signal; 11] = [
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
