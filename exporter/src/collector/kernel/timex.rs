//! The kernel's clock discipline: adjtimex(2), which the exporter asks itself; it needs no right and changes nothing.
//!
//! <https://man7.org/linux/man-pages/man2/adjtimex.2.html>

use keyhole_os::Timex;

use crate::collector::{CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, Source, Value};

pub const COLLECTOR: Collector = Collector {
    name: "timex",
    default: true,
    help: "Clock synchronization, from adjtimex(2).",
    queries: &[],
    optional: &[],
    flags: &[],
    families: || ROWS.iter().map(|(family, _)| *family).collect(),
    new: |_| Ok(Box::new(collect)),
};

/// Status bit: times are in nanoseconds, not microseconds.
const STA_NANO: i32 = 0x2000;
/// The state of a clock that is not synchronised.
const TIME_ERROR: i32 = 5;
/// Frequencies are in parts per million, with 16 bits of fraction.
const FREQUENCY: f64 = 1e6 * 65536.0;

/// A value, and how it is read.
type Row = (Family, fn(&Timex) -> Value);

const fn gauge(name: &'static str, help: &'static str, read: fn(&Timex) -> Value) -> Row {
    (Family::gauge(name, help, &[], ADJTIMEX), read)
}

const fn counter(name: &'static str, help: &'static str, read: fn(&Timex) -> Value) -> Row {
    (Family::counter(name, help, &[], ADJTIMEX), read)
}

const ADJTIMEX: Source = Source::Exporter("adjtimex(2)");

#[rustfmt::skip]
const ROWS: [Row; 17] = [
    gauge("node_timex_offset_seconds",                 "Offset between the node's clock and its reference.",                   |timex| seconds(timex, timex.offset)),
    gauge("node_timex_frequency_adjustment_ratio",     "Factor by which the clock's frequency is adjusted.",                   |timex| (1.0 + timex.frequency as f64 / FREQUENCY).into()),
    gauge("node_timex_maxerror_seconds",               "Maximum error of the clock.",                                          |timex| (timex.max_error as f64 / 1e6).into()),
    gauge("node_timex_estimated_error_seconds",        "Estimated error of the clock.",                                        |timex| (timex.estimated_error as f64 / 1e6).into()),
    gauge("node_timex_status",                         "Status bits of the clock (STA_*).",                                    |timex| i64::from(timex.status).into()),
    gauge("node_timex_loop_time_constant",             "Time constant of the phase-locked loop.",                              |timex| timex.constant.into()),
    gauge("node_timex_tick_seconds",                   "Time between two ticks of the clock.",                                 |timex| (timex.tick as f64 / 1e6).into()),
    gauge("node_timex_pps_frequency_hertz",            "Frequency of the pulse-per-second signal.",                            |timex| (timex.pps_frequency as f64 / FREQUENCY).into()),
    gauge("node_timex_pps_jitter_seconds",             "Jitter of the pulse-per-second signal.",                               |timex| seconds(timex, timex.pps_jitter)),
    gauge("node_timex_pps_shift_seconds",              "Interval of the pulse-per-second signal, as the kernel reports it.",     |timex| i64::from(timex.pps_shift).into()),
    gauge("node_timex_pps_stability_hertz",            "Stability of the pulse-per-second signal.",                            |timex| (timex.pps_stability as f64 / FREQUENCY).into()),
    counter("node_timex_pps_jitter_total",             "Times that the pulse-per-second signal exceeded its jitter limit.",    |timex| timex.pps_jitter_count.into()),
    counter("node_timex_pps_calibration_total",        "Calibration intervals of the pulse-per-second signal.",                |timex| timex.pps_calibration_count.into()),
    counter("node_timex_pps_error_total",              "Calibration errors of the pulse-per-second signal.",                   |timex| timex.pps_error_count.into()),
    counter("node_timex_pps_stability_exceeded_total", "Times that the pulse-per-second signal exceeded its stability limit.", |timex| timex.pps_stability_count.into()),
    gauge("node_timex_tai_offset_seconds",             "Seconds by which International Atomic Time is ahead of UTC.",          |timex| i64::from(timex.tai).into()),
    gauge("node_timex_sync_status",                    "Whether the clock is synchronised to a reference.",                    |timex| (timex.state != TIME_ERROR).into()),
];

fn seconds(timex: &Timex, time: i64) -> Value {
    let unit = if timex.status & STA_NANO != 0 { 1e9 } else { 1e6 };
    (time as f64 / unit).into()
}

fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    let timex =
        context.local.timex.as_ref().map_err(|&errno| CollectError::Refused { call: "adjtimex", errno })?;
    for (family, read) in &ROWS {
        out.add(family, &[], read(timex));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::LocalData;
    use crate::collector::testing::{collect_snapshot, local};
    use crate::snapshot::Snapshot;

    fn collect(timex: Result<Timex, i32>) -> Result<String, CollectError> {
        collect_snapshot(&COLLECTOR, &Snapshot::default(), &[], &LocalData { timex, ..local() })
    }

    const SYNCHRONISED: Timex = Timex {
        state: 0,
        offset: -1_500_000,
        frequency: 65_536 * 20,
        max_error: 16_000,
        estimated_error: 250,
        status: 0x2001,
        constant: 7,
        tick: 10_000,
        pps_frequency: 65_536,
        pps_jitter: 3_000,
        pps_shift: 8,
        pps_stability: 131_072,
        pps_jitter_count: 1,
        pps_calibration_count: 2,
        pps_error_count: 3,
        pps_stability_count: 4,
        tai: 37,
    };

    #[test]
    fn every_family_is_reported_in_its_unit() {
        assert_eq!(
            collect(Ok(SYNCHRONISED)).unwrap(),
            "node_timex_estimated_error_seconds 0.00025\n\
             node_timex_frequency_adjustment_ratio 1.00002\n\
             node_timex_loop_time_constant 7\n\
             node_timex_maxerror_seconds 0.016\n\
             node_timex_offset_seconds -0.0015\n\
             node_timex_pps_calibration_total 2\n\
             node_timex_pps_error_total 3\n\
             node_timex_pps_frequency_hertz 1e-6\n\
             node_timex_pps_jitter_seconds 3e-6\n\
             node_timex_pps_jitter_total 1\n\
             node_timex_pps_shift_seconds 8\n\
             node_timex_pps_stability_exceeded_total 4\n\
             node_timex_pps_stability_hertz 2e-6\n\
             node_timex_status 8193\n\
             node_timex_sync_status 1\n\
             node_timex_tai_offset_seconds 37\n\
             node_timex_tick_seconds 0.01\n"
        );
    }

    #[test]
    fn without_sta_nano_times_are_microseconds() {
        let text = collect(Ok(Timex { status: 1, state: TIME_ERROR, ..SYNCHRONISED })).unwrap();
        assert!(text.contains("node_timex_offset_seconds -1.5\n"), "{text}");
        assert!(text.contains("node_timex_pps_jitter_seconds 0.003\n"), "{text}");
        assert!(
            text.contains("node_timex_maxerror_seconds 0.016\n"),
            "errors are always microseconds: {text}"
        );
        assert!(text.contains("node_timex_sync_status 0\n"), "{text}");
    }

    #[test]
    fn a_refused_call_is_an_error() {
        let error = collect(Err(1)).unwrap_err();
        assert_eq!(error.to_string(), "adjtimex: errno 1");
    }
}
