//! CPUs: time, frequency, interrupts, the load on them.

pub mod cpu;
pub mod cpu_vulnerabilities;
pub mod cpufreq;
pub mod interrupts;
pub mod loadavg;
pub mod pressure;
pub mod schedstat;
pub mod softirqs;
pub mod stat;
