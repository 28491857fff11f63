//! The table, by what an intruder is after. Each file says what it tries and what it leaves.

mod change;
mod code;
mod kernel;
mod look;
mod network;
mod privilege;
mod processes;

use crate::Attack;

/// Attacks that are after the same.
#[derive(Debug)]
pub struct Section {
    /// What they are after.
    pub title: &'static str,
    /// The attacks.
    pub attacks: &'static [Attack],
}

/// Every section, in the order of the document.
pub static SECTIONS: &[Section] = &[
    Section { title: "To change files", attacks: change::ATTACKS },
    Section { title: "To read what no query gives", attacks: look::ATTACKS },
    Section { title: "To reach other processes", attacks: processes::ATTACKS },
    Section { title: "To run code of its own", attacks: code::ATTACKS },
    Section { title: "To use the network", attacks: network::ATTACKS },
    Section { title: "To gain privilege", attacks: privilege::ATTACKS },
    Section { title: "To change the machine", attacks: kernel::ATTACKS },
];
