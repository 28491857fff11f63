//! The machine: sensors, power, buses, firmware.

pub mod dmi;
pub mod drm;
pub mod edac;
pub mod hwmon;
pub mod pcidevice;
pub mod powersupplyclass;
pub mod rapl;
pub mod thermal_zone;
pub mod watchdog;
