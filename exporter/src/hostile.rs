//! The hook for the hostile code of `tests/attacks`: see [`keyhole_os::hostile`].

/// Runs the attack on the main thread, between entering the sandbox and the first connection.
pub(crate) fn on_main() {
    // An attack may end the process before the log thread has written what the test expects.
    keyhole_log::flush();
    keyhole_os::hostile::run_intruder("exporter");
}
