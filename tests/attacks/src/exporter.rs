//! The exporter, with the code of `intruder` in it. All else, from the command line on, is the real program.

use std::process::ExitCode;

use keyhole_attacks::intruder;

fn main() -> ExitCode {
    intruder::prepare(|host| host);
    keyhole_exporter::cli::main()
}
