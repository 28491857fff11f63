//! The zygote and its readers, with an intruder in one of them: `KEYHOLE_ATTACK` is the attack's place in the table,
//! `KEYHOLE_ATTACKED` what it is made on and in which process, `KEYHOLE_WITHOUT` which layers are left out,
//! `KEYHOLE_WITHOUT_ROW` which row of the system calls: `zygote:N` or `reader:N`. `KEYHOLE_ACT` names another thing that an
//! intruder does in the process `KEYHOLE_IN`. All else, from the command line on, is the real program.

use std::process::ExitCode;
use std::sync::OnceLock;

use keyhole_attacks::{Attack, Host, Process, act, asked_for, strike};
use keyhole_reader::hostile::{HOSTILE, Hostile, Victim};

static ATTACK: OnceLock<(&Attack, Host)> = OnceLock::new();

fn intrude() {
    if let Some((attack, host)) = ATTACK.get() {
        strike(attack, host);
    }
}

fn victim(process: Process) -> Option<Victim> {
    match process {
        Process::Broker => None,
        Process::Zygote => Some(Victim::Zygote),
        Process::Reader(class) => Some(Victim::Reader(class)),
    }
}

fn main() -> ExitCode {
    // The program clears its environment first thing: what is asked of it is read before.
    let variable = |name: &str| std::env::var(name).ok();
    let strike = asked_for().and_then(|attacked| {
        let (_, host) = ATTACK.get_or_init(|| attacked);
        Some((victim(host.process)?, intrude as fn()))
    });
    let act = variable("KEYHOLE_ACT").and_then(|name| act::find(&name));
    let act = act.zip(variable("KEYHOLE_IN").and_then(|name| victim(Process::parse(&name)?)));
    let without = variable("KEYHOLE_WITHOUT").unwrap_or_default();
    let row = |text: String| {
        let (process, row) = text.split_once(':')?;
        Some((process == "zygote", row.parse().ok()?))
    };
    HOSTILE.get_or_init(|| Hostile {
        without: without.split(',').map(str::to_owned).collect(),
        without_row: variable("KEYHOLE_WITHOUT_ROW").and_then(row),
        strike: strike.or(act.map(|(act, victim)| (victim, act))),
    });
    keyhole_reader::run()
}
