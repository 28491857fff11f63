//! The program `keyhole-broker`: it only calls the library.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    keyhole_broker::run()
}
