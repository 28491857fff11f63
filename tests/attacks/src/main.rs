//! The broker, with an intruder in it: `KEYHOLE_ATTACK` is the attack's place in the table, `KEYHOLE_ATTACKED` what it is
//! made on, `KEYHOLE_WITHOUT` which layers are left out, `KEYHOLE_WITHOUT_ROW` which row of the system calls,
//! `KEYHOLE_PANIC` that the intruder is a panic; `KEYHOLE_ACT` and `KEYHOLE_IN` are the zygote's. All else, from the command line on, is the real broker.

use std::process::ExitCode;
use std::sync::OnceLock;

use keyhole_attacks::{Attack, Host, asked_for, strike};
use keyhole_broker::hostile::{HOSTILE, Hostile, privileged, socket_dir};

static ATTACK: OnceLock<(&Attack, Host)> = OnceLock::new();

fn intrude() {
    if let Some((attack, host)) = ATTACK.get() {
        strike(attack, &Host { privileged: privileged(), socket_dir: socket_dir(), ..host.clone() });
    }
}

fn main() -> ExitCode {
    // The broker clears its environment first thing: what is asked of it is read before.
    let variable = |name: &str| std::env::var(name).ok();
    let strike = asked_for().map(|attacked| {
        ATTACK.get_or_init(|| attacked);
        intrude as fn()
    });
    let panics = variable("KEYHOLE_PANIC").map(|_| (|| panic!("for a test")) as fn());
    let without = variable("KEYHOLE_WITHOUT").unwrap_or_default();
    HOSTILE.get_or_init(|| Hostile {
        without: without.split(',').map(str::to_owned).collect(),
        without_row: variable("KEYHOLE_WITHOUT_ROW").and_then(|row| row.parse().ok()),
        on_main: strike.or(panics),
        for_zygote: ["KEYHOLE_ACT", "KEYHOLE_IN"]
            .into_iter()
            .filter_map(|name| Some((name.into(), std::env::var_os(name)?)))
            .collect(),
    });
    keyhole_broker::run()
}
