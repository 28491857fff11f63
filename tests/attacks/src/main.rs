//! The broker, with an intruder in it: `KEYHOLE_ATTACK` is the attack's place in the table, `KEYHOLE_ATTACKED` what it is
//! made on, `KEYHOLE_THREAD` where it runs, `KEYHOLE_WITHOUT` which layers are left out, `KEYHOLE_WITHOUT_CALL` which row
//! of the system calls, `KEYHOLE_PANIC` that the intruder is a panic. All else, from the command line on, is the real broker.

use std::process::ExitCode;
use std::sync::OnceLock;

use keyhole_attacks::{Attack, Host, all, strike};
use keyhole_broker::hostile::{HOSTILE, Hostile};

static ATTACK: OnceLock<(&Attack, Host)> = OnceLock::new();

fn intrude() {
    if let Some((attack, host)) = ATTACK.get() {
        strike(attack, host);
    }
}

fn main() -> ExitCode {
    // The broker clears its environment first thing: what is asked of it is read before.
    let variable = |name: &str| std::env::var(name).ok();
    let attack = variable("KEYHOLE_ATTACK").and_then(|place| all().nth(place.parse().ok()?));
    let host = variable(Host::VARIABLE).and_then(|line| Host::of(&line));
    let strike = attack.zip(host).map(|attacked| {
        ATTACK.get_or_init(|| attacked);
        intrude as fn()
    });
    let panics = variable("KEYHOLE_PANIC").map(|_| (|| panic!("for a test")) as fn());
    let strike = strike.or(panics);
    let on_lane = variable("KEYHOLE_THREAD").is_some_and(|thread| thread == "lane");
    let without = variable("KEYHOLE_WITHOUT").unwrap_or_default();
    HOSTILE.get_or_init(|| Hostile {
        without: without.split(',').map(str::to_owned).collect(),
        without_call: variable("KEYHOLE_WITHOUT_CALL").and_then(|number| number.parse().ok()),
        on_main: strike.filter(|_| !on_lane),
        on_lane: strike.filter(|_| on_lane),
    });
    keyhole_broker::run()
}
