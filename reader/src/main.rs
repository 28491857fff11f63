//! The program `keyhole-reader`, which is the zygote and its readers: it only calls the library.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    keyhole_reader::run()
}
