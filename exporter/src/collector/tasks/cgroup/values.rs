//! The values in a cgroup's files, one row each.
//!
//! <https://docs.kernel.org/admin-guide/cgroup-v2.html#core-interface-files>
//!
//! Numbers are those of the cgroup with everything below it.

use crate::exposition::{Family, MetricType, Source};

/// A value of a cgroup: one row.
pub(super) struct Value {
    /// The file.
    pub(super) file: &'static str,
    /// Where in it.
    pub(super) place: Place,
    /// What the kernel's number is divided by.
    pub(super) divisor: f64,
    /// The metric.
    pub(super) family: Family,
}

/// Where in a file a number stands.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    /// It is all of the file; `max` stands for none.
    Alone,
    /// After this key, on a line of its own.
    After(&'static str),
    /// After `total=`, on the line that begins so.
    Total(&'static str),
}

use Place::{After, Alone, Total};

/// For numbers that are in a metric's unit.
const AS_IT_IS: f64 = 1.0;
/// In a second.
const MICROSECONDS: f64 = 1e6;

/// The directory of a cgroup; those of daemons lie in one of these.
const CGROUP: &str = "sys/fs/cgroup/*";

/// Every value but I/O, by file.
#[rustfmt::skip]
pub(super) const VALUES: [Value; 26] = [
    value("cpu.pressure",        Total("some"),           MICROSECONDS, "keyhole_cgroup_pressure_cpu_waiting_seconds_total",    MetricType::Counter, "Time that at least one task of the cgroup waited for a CPU."),
    value("cpu.pressure",        Total("full"),           MICROSECONDS, "keyhole_cgroup_pressure_cpu_stalled_seconds_total",    MetricType::Counter, "Time that no task of the cgroup could run because all waited for a CPU."),
    value("cpu.stat",            After("usage_usec"),     MICROSECONDS, "keyhole_cgroup_cpu_usage_seconds_total",               MetricType::Counter, "CPU time that the cgroup used."),
    value("cpu.stat",            After("user_usec"),      MICROSECONDS, "keyhole_cgroup_cpu_user_seconds_total",                MetricType::Counter, "CPU time that the cgroup used in user mode."),
    value("cpu.stat",            After("system_usec"),    MICROSECONDS, "keyhole_cgroup_cpu_system_seconds_total",              MetricType::Counter, "CPU time that the cgroup used in kernel mode."),
    value("cpu.stat",            After("nr_periods"),     AS_IT_IS,     "keyhole_cgroup_cpu_periods_total",                     MetricType::Counter, "Periods of the cgroup's CPU quota in which it ran."),
    value("cpu.stat",            After("nr_throttled"),   AS_IT_IS,     "keyhole_cgroup_cpu_throttled_periods_total",           MetricType::Counter, "Periods in which the cgroup used up its CPU quota and was stopped."),
    value("cpu.stat",            After("throttled_usec"), MICROSECONDS, "keyhole_cgroup_cpu_throttled_seconds_total",           MetricType::Counter, "Time that the cgroup was stopped by its CPU quota."),
    value("io.pressure",         Total("some"),           MICROSECONDS, "keyhole_cgroup_pressure_io_waiting_seconds_total",     MetricType::Counter, "Time that at least one task of the cgroup waited for I/O."),
    value("io.pressure",         Total("full"),           MICROSECONDS, "keyhole_cgroup_pressure_io_stalled_seconds_total",     MetricType::Counter, "Time that no task of the cgroup could run because all waited for I/O."),
    value("memory.current",      Alone,                   AS_IT_IS,     "keyhole_cgroup_memory_current_bytes",                  MetricType::Gauge,   "Memory that the cgroup is charged for, caches included."),
    value("memory.events",       After("oom"),            AS_IT_IS,     "keyhole_cgroup_memory_oom_events_total",               MetricType::Counter, "Times that the cgroup was at its memory limit and an allocation was about to fail."),
    value("memory.events",       After("oom_kill"),       AS_IT_IS,     "keyhole_cgroup_memory_oom_kills_total",                MetricType::Counter, "Processes of the cgroup that the kernel killed because memory ran out."),
    value("memory.high",         Alone,                   AS_IT_IS,     "keyhole_cgroup_memory_high_bytes",                     MetricType::Gauge,   "Memory above which the cgroup is throttled; absent if there is no limit."),
    value("memory.max",          Alone,                   AS_IT_IS,     "keyhole_cgroup_memory_max_bytes",                      MetricType::Gauge,   "The most memory that the cgroup may have; absent if there is no limit."),
    value("memory.peak",         Alone,                   AS_IT_IS,     "keyhole_cgroup_memory_peak_bytes",                     MetricType::Gauge,   "The most memory that the cgroup has been charged for."),
    value("memory.pressure",     Total("some"),           MICROSECONDS, "keyhole_cgroup_pressure_memory_waiting_seconds_total", MetricType::Counter, "Time that at least one task of the cgroup waited for memory."),
    value("memory.pressure",     Total("full"),           MICROSECONDS, "keyhole_cgroup_pressure_memory_stalled_seconds_total", MetricType::Counter, "Time that no task of the cgroup could run because all waited for memory."),
    value("memory.stat",         After("anon"),           AS_IT_IS,     "keyhole_cgroup_memory_anon_bytes",                     MetricType::Gauge,   "Memory of the cgroup that no file backs."),
    value("memory.stat",         After("file"),           AS_IT_IS,     "keyhole_cgroup_memory_file_bytes",                     MetricType::Gauge,   "File contents that the cgroup has in memory, shared memory included."),
    value("memory.stat",         After("inactive_file"),  AS_IT_IS,     "keyhole_cgroup_memory_inactive_file_bytes",            MetricType::Gauge,   "File contents that the cgroup has not used recently; what it has beyond them is its working set."),
    value("memory.stat",         After("kernel"),         AS_IT_IS,     "keyhole_cgroup_memory_kernel_bytes",                   MetricType::Gauge,   "Memory that the kernel uses for the cgroup."),
    value("memory.swap.current", Alone,                   AS_IT_IS,     "keyhole_cgroup_memory_swap_current_bytes",             MetricType::Gauge,   "Swap space that the cgroup uses."),
    value("memory.swap.max",     Alone,                   AS_IT_IS,     "keyhole_cgroup_memory_swap_max_bytes",                 MetricType::Gauge,   "The most swap space that the cgroup may use; absent if there is no limit."),
    value("pids.current",        Alone,                   AS_IT_IS,     "keyhole_cgroup_pids_current",                          MetricType::Gauge,   "Processes and threads in the cgroup."),
    value("pids.max",            Alone,                   AS_IT_IS,     "keyhole_cgroup_pids_max",                              MetricType::Gauge,   "The most processes and threads that the cgroup may have; absent if there is no limit."),
];

const fn value(
    file: &'static str,
    place: Place,
    divisor: f64,
    name: &'static str,
    kind: MetricType,
    help: &'static str,
) -> Value {
    let family = Family { name, help, kind, labels: &["cgroup"], source: Source::FileIn(CGROUP, file) };
    Value { file, place, divisor, family }
}

/// A count of I/O on a device: its key in `io.stat`, and the metric.
pub(super) type Io = (&'static str, Family);

/// Every count of I/O.
#[rustfmt::skip]
pub(super) const IO: [Io; 4] = [
    ("rbytes", io("keyhole_cgroup_io_read_bytes_total",    "Bytes that the cgroup read from the device.")),
    ("rios",   io("keyhole_cgroup_io_reads_total",         "Reads by the cgroup from the device.")),
    ("wbytes", io("keyhole_cgroup_io_written_bytes_total", "Bytes that the cgroup wrote to the device.")),
    ("wios",   io("keyhole_cgroup_io_writes_total",        "Writes by the cgroup to the device.")),
];

const fn io(name: &'static str, help: &'static str) -> Family {
    let source = Source::Files(&["sys/fs/cgroup/*/io.stat", "proc/diskstats"]);
    Family::counter(name, help, &["cgroup", "device"], source)
}
