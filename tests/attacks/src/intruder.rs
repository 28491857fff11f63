//! What a test wants of a hostile program, as variables of the program's environment.
//!
//! | variable | |
//! |---|---|
//! | `KEYHOLE_ATTACK` | the attack's place in the table |
//! | `KEYHOLE_ATTACKED` | what it is made on, and in which process: [`Host::line`] |
//! | `KEYHOLE_ACT`, `KEYHOLE_IN` | another thing that an intruder does, by its name in [`act`], and in which process |
//! | `KEYHOLE_WITHOUT` | which layers are left out, with commas between them |
//! | `KEYHOLE_WITHOUT_ROW` | which row of the system calls is left out: `broker:N`, `exporter:N`, `zygote:N` or `reader:N` |

use std::sync::OnceLock;

use keyhole_os::hostile::{HOSTILE, Hostile};

use crate::{Attack, Host, act, all, strike};

/// The variables that say what else an intruder does than an attack, and where.
pub const ACT: [&str; 2] = ["KEYHOLE_ACT", "KEYHOLE_IN"];

/// An attack that is made in this program.
struct Intruder {
    attack: &'static Attack,
    host: Host,
    /// Adds what an intruder finds in the program's memory.
    find: fn(Host) -> Host,
}

static INTRUDER: OnceLock<Intruder> = OnceLock::new();

/// Makes this program what its environment asks for. The program clears its environment first thing: call this before.
pub fn prepare(find: fn(Host) -> Host) {
    let variable = |name: &str| std::env::var(name).ok();
    let attack = || {
        let attack = all().nth(variable("KEYHOLE_ATTACK")?.parse().ok()?)?;
        let host = Host::parse(&variable(Host::VARIABLE)?)?;
        let victim = host.process.name();
        INTRUDER.get_or_init(|| Intruder { attack, host, find });
        Some((victim, intrude as fn()))
    };
    let act = || {
        let [act, process] = ACT.map(variable);
        Some((process?, act::find(&act?)?))
    };
    let without_row = |text: String| {
        let (process, row) = text.split_once(':')?;
        // A reader's table is the second that its program compiles.
        Some((usize::from(process == "reader"), row.parse().ok()?))
    };
    HOSTILE.get_or_init(|| Hostile {
        without: variable("KEYHOLE_WITHOUT").unwrap_or_default().split(',').map(str::to_owned).collect(),
        without_row: variable("KEYHOLE_WITHOUT_ROW").and_then(without_row),
        intruder: attack().or_else(act),
    });
}

fn intrude() {
    if let Some(Intruder { attack, host, find }) = INTRUDER.get() {
        strike(attack, &find(host.clone()));
    }
}
