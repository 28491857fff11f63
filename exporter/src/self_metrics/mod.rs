//! Metrics about the exporter itself and about the broker.

pub mod broker;
pub mod process;
pub mod server;

use crate::budget::Budget;
use crate::exposition::{Exposition, Family, MetricType, Source, Value};
use crate::sandbox::Layer;

/// Every family of this module, for documents and tests.
pub const FAMILIES: &[&[Family]] = &[
    &[NODE_EXPORTER_BUILD_INFO, BUILD_INFO, SANDBOX_LAYER, LOG_LINES_DROPPED, SERIES_LIMIT, SCRAPE_MEMORY],
    broker::FAMILIES,
    server::FAMILIES,
    process::FAMILIES,
];

const NODE_EXPORTER_BUILD_INFO: Family = Family {
    name: "node_exporter_build_info",
    help: "Always 1; the labels are the version and build of this replacement of node_exporter. It is not written in Go, so goversion is empty.",
    kind: MetricType::Gauge,
    labels: &["branch", "goarch", "goos", "goversion", "revision", "tags", "version"],
    source: Source::Exporter("exporter"),
};
const BUILD_INFO: Family = Family {
    name: "keyhole_build_info",
    help: "Always 1; the label version is the exporter's version.",
    kind: MetricType::Gauge,
    labels: &["version"],
    source: Source::Exporter("exporter"),
};
const SANDBOX_LAYER: Family = Family {
    name: "keyhole_exporter_sandbox_layer",
    help: "Whether a layer of the exporter's own sandbox is in force.",
    kind: MetricType::Gauge,
    labels: &["layer"],
    source: Source::Exporter("exporter"),
};

const LOG_LINES_DROPPED: Family = Family {
    name: "keyhole_exporter_log_lines_dropped_total",
    help: "Log lines that the exporter dropped: above the rate limit, or because standard error was blocked.",
    kind: MetricType::Counter,
    labels: &[],
    source: Source::Exporter("exporter"),
};

const SERIES_LIMIT: Family = Family {
    name: "keyhole_series_limit",
    help: "The most series that one collector may return, by --collector.series-limit; +Inf for no limit.",
    kind: MetricType::Gauge,
    labels: &[],
    source: Source::Exporter("exporter"),
};
const SCRAPE_MEMORY: Family = Family {
    name: "keyhole_scrape_memory_bytes",
    help: "The memory limit of a scrape, by --scrape.memory: half for the broker's response, 5/16 for the series; +Inf for no limit.",
    kind: MetricType::Gauge,
    labels: &[],
    source: Source::Exporter("exporter"),
};

/// The version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Adds the build, the sandbox layers and the dropped log lines.
pub fn add_build(layers: &[Layer], out: &mut Exposition) {
    let labels = [b"", goarch().as_bytes(), b"linux", b"", b"", b"", VERSION.as_bytes()];
    out.add(&NODE_EXPORTER_BUILD_INFO, &labels, true);
    out.add(&BUILD_INFO, &[VERSION.as_bytes()], true);
    out.add(&LOG_LINES_DROPPED, &[], keyhole_log::dropped());
    for layer in layers {
        out.add(&SANDBOX_LAYER, &[layer.name.as_bytes()], layer.in_force);
    }
}

/// Adds the limits of a scrape.
pub fn add_limits(budget: Budget, out: &mut Exposition) {
    let value = |limit| if limit == usize::MAX { f64::INFINITY.into() } else { Value::from(limit) };
    out.add(&SERIES_LIMIT, &[], value(budget.series.series));
    out.add(&SCRAPE_MEMORY, &[], value(budget.memory));
}

/// The architecture by Go's name, which dashboards use.
pub fn goarch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_declared_once_with_valid_names_and_sentences() {
        let mut names = Vec::new();
        for family in FAMILIES.iter().copied().flatten().chain(crate::collector::FAMILIES) {
            assert_eq!(crate::exposition::metric_name(family.name), family.name);
            assert!(family.help.ends_with('.'), "{}: a help text is a sentence", family.name);
            names.push(family.name);
        }
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn the_build_and_the_layers_are_added() {
        let mut out = Exposition::new();
        let layer = Layer { name: "seccomp", in_force: false, detail: String::new() };
        add_build(&[layer], &mut out);
        let text = out.to_text();
        assert!(text.contains("\nkeyhole_exporter_sandbox_layer{layer=\"seccomp\"} 0\n"), "{text}");
        let arch = if std::env::consts::ARCH == "x86_64" { "amd64" } else { "arm64" };
        let build = format!(
            "node_exporter_build_info{{branch=\"\",goarch=\"{arch}\",goos=\"linux\",goversion=\"\",revision=\"\",\
             tags=\"\",version=\"{VERSION}\"}} 1\n"
        );
        assert!(text.contains(&build), "{text}");
    }
}
