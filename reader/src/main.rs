//! The zygote and its readers; everything is in the library.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    keyhole_reader::run()
}
