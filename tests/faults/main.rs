//! Faults, real ones where this kernel has them: each costs what it must and nothing else, is seen by a person, and is
//! over one scrape after it is gone. Needs root: namespaces, mounts and devices are made, all of the test's own.

mod broker;
mod churn;
mod hidden;
mod leaks;
mod limits;
mod mounts;
mod namespaces;
mod shapes;

use keyhole_test_support::exposition::Exposition;

/// Whether a collector succeeded.
fn success(scrape: &Exposition, collector: &str) -> Option<f64> {
    scrape.value("node_scrape_collector_success", &[("collector", collector)])
}
