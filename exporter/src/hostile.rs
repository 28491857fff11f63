//! Where the intruder of `tests/attacks` is in an exporter: see [`keyhole_os::hostile`].

/// What the main thread does between the seal and its first connection.
pub(crate) fn on_main() {
    // An attack may end the process before the log's thread has written what the test looks for.
    keyhole_log::flush();
    keyhole_os::hostile::run_intruder("exporter");
}
