//! keyhole-reader.
#![forbid(unsafe_code)]

/// Runs the program.
pub fn run() -> std::process::ExitCode {
    std::process::ExitCode::from(2)
}
