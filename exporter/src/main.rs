//! The program `keyhole-exporter`: it only calls the library.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    keyhole_exporter::cli::main()
}
