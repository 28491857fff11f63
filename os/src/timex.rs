//! The kernel's clock discipline: clock_adjtime(2) with no mode set, which changes nothing and needs no capability.
//!
//! <https://man7.org/linux/man-pages/man2/adjtimex.2.html>

/// The values of adjtimex(2). Times are in microseconds, or in nanoseconds if `status` has `STA_NANO`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timex {
    /// The call's return value: 5 (`TIME_ERROR`) when the clock is not synchronised.
    pub state: i32,
    /// Time offset between the local system and a reference clock.
    pub offset: i64,
    /// Frequency adjustment, in units of 2^-16 parts per million.
    pub frequency: i64,
    /// Maximum error, in microseconds.
    pub max_error: i64,
    /// Estimated error, in microseconds.
    pub estimated_error: i64,
    /// Clock status bits (`STA_*`).
    pub status: i32,
    /// Time constant of the phase-locked loop.
    pub constant: i64,
    /// Microseconds between clock ticks.
    pub tick: i64,
    /// Frequency of the pulse-per-second signal, in units of 2^-16 parts per million.
    pub pps_frequency: i64,
    /// Jitter of the pulse-per-second signal.
    pub pps_jitter: i64,
    /// Interval of the pulse-per-second signal, as a power of two in seconds.
    pub pps_shift: i32,
    /// Stability of the pulse-per-second signal, in units of 2^-16 parts per million.
    pub pps_stability: i64,
    /// Pulse-per-second: jitter limit exceeded.
    pub pps_jitter_count: i64,
    /// Pulse-per-second: calibration intervals.
    pub pps_calibration_count: i64,
    /// Pulse-per-second: calibration errors.
    pub pps_error_count: i64,
    /// Pulse-per-second: stability limit exceeded.
    pub pps_stability_count: i64,
    /// Offset of International Atomic Time from UTC, in seconds.
    pub tai: i32,
}

/// Reads the kernel's clock discipline. The error is an errno.
pub fn timex() -> Result<Timex, i32> {
    // SAFETY: timex holds integers and padding only, for which zero is a valid value.
    let mut raw: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: `raw` is valid during the call, and modes 0 sets nothing. (adjtimex(3) is the same for this clock, but which
    // of two system calls it makes depends on the C library's version.)
    let state = unsafe { libc::clock_adjtime(libc::CLOCK_REALTIME, &mut raw) };
    if state < 0 {
        let errno = std::io::Error::last_os_error().raw_os_error();
        return Err(errno.unwrap_or(libc::EPERM));
    }
    Ok(Timex {
        state,
        offset: raw.offset,
        frequency: raw.freq,
        max_error: raw.maxerror,
        estimated_error: raw.esterror,
        status: raw.status,
        constant: raw.constant,
        tick: raw.tick,
        pps_frequency: raw.ppsfreq,
        pps_jitter: raw.jitter,
        pps_shift: raw.shift,
        pps_stability: raw.stabil,
        pps_jitter_count: raw.jitcnt,
        pps_calibration_count: raw.calcnt,
        pps_error_count: raw.errcnt,
        pps_stability_count: raw.stbcnt,
        tai: raw.tai,
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_tick_of_this_host_is_near_ten_milliseconds() {
        let timex = super::timex().expect("adjtimex without a mode needs no right");
        assert!((9_000..=11_000).contains(&timex.tick), "{timex:?}");
    }
}
