//! The broker, with the code of `intruder` in it. All else, from the command line on, is the real program.

use std::process::ExitCode;

use keyhole_attacks::{Host, intruder};
use keyhole_broker::hostile::{FOR_ZYGOTE, privileged, socket_dir};

fn main() -> ExitCode {
    intruder::prepare(|host| Host { privileged: privileged(), socket_dir: socket_dir(), ..host });
    let variable = |name: &str| Some((name.into(), std::env::var_os(name)?));
    FOR_ZYGOTE.get_or_init(|| intruder::ACT.into_iter().filter_map(variable).collect());
    keyhole_broker::run()
}
