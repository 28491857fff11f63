//! Counters over the lifetime of the exporter, kept by the `prometheus` crate: requests to the metrics page, under the
//! names of Prometheus' Go client, closed connections, and what was dropped from scrapes.

use prometheus::core::Collector as _;
use prometheus::proto::{self, MetricFamily};
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use crate::exposition::{Exposition, Family, MetricType, Source, Value};

/// The families of this module.
pub const FAMILIES: &[Family] =
    &[REQUESTS, IN_FLIGHT, ERRORS, DUPLICATES, RESTARTS, DROPPED, CLOSED, SHARED_READS];

const REQUESTS: Family = Family {
    name: "promhttp_metric_handler_requests_total",
    help: "Requests to the metrics page, by the status code of the response.",
    kind: MetricType::Counter,
    labels: &["code"],
    source: Source::Exporter("exporter"),
};
const IN_FLIGHT: Family = Family {
    name: "promhttp_metric_handler_requests_in_flight",
    help: "Requests to the metrics page in progress.",
    kind: MetricType::Gauge,
    labels: &[],
    source: Source::Exporter("exporter"),
};
const ERRORS: Family = Family {
    name: "promhttp_metric_handler_errors_total",
    help: "Errors while metrics were gathered or encoded.",
    kind: MetricType::Counter,
    labels: &["cause"],
    source: Source::Exporter("exporter"),
};
const DUPLICATES: Family = Family {
    name: "keyhole_duplicate_samples_total",
    help: "Samples dropped because the scrape already had one with the same name and labels.",
    kind: MetricType::Counter,
    labels: &[],
    source: Source::Exporter("exporter"),
};
const RESTARTS: Family = Family {
    name: "keyhole_broker_restarts_seen_total",
    help: "Restarts of the broker that the exporter has noticed.",
    kind: MetricType::Counter,
    labels: &[],
    source: Source::Exporter("keyhole.v1.Broker/Describe"),
};

const DROPPED: Family = Family {
    name: "keyhole_collector_series_dropped_total",
    help: "Series dropped because their collector reached --collector.series-limit, or all collectors together --scrape.memory. A collector that has dropped none is listed only with --scrape.detail.",
    kind: MetricType::Counter,
    labels: &["collector"],
    source: Source::Exporter("exporter"),
};

const CLOSED: Family = Family {
    name: "keyhole_connections_closed_total",
    help: "Connections to the exporter's port that it closed, by reason: idle or slow for too long, evicted because others waited, or with an unread response whose memory others needed.",
    kind: MetricType::Counter,
    labels: &["reason"],
    source: Source::Exporter("exporter"),
};
const SHARED_READS: Family = Family {
    name: "keyhole_selections_from_shared_read_total",
    help: "Requests for selections of collectors that were served from a shared read for all collectors, at most a second old, because too many came at once.",
    kind: MetricType::Counter,
    labels: &[],
    source: Source::Exporter("exporter"),
};

/// Why the exporter closes a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// No request for a long time.
    Idle,
    /// No first request, or a response that was not read, within the timeout.
    Slow,
    /// Others waited to be served.
    Evicted,
    /// Others needed the memory of its unread response.
    Unread,
}

impl CloseReason {
    const ALL: [Self; 4] = [Self::Idle, Self::Slow, Self::Evicted, Self::Unread];

    fn label(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Slow => "slow",
            Self::Evicted => "evicted",
            Self::Unread => "unread",
        }
    }
}

/// Adds the series that one run of a collector dropped.
pub fn add_dropped_once(collector: &str, series: usize, out: &mut Exposition) {
    out.add(&DROPPED, &[collector.as_bytes()], series);
}

/// The counters.
#[derive(Debug)]
pub struct ServerMetrics {
    registry: Registry,
    requests: IntCounterVec,
    /// Requests in progress.
    pub in_flight: IntGauge,
    errors: IntCounterVec,
    /// Duplicate samples dropped.
    pub duplicates: IntCounter,
    /// Restarts of the broker noticed.
    pub restarts: IntCounter,
    closed: IntCounterVec,
    /// Requests served from a shared read.
    pub shared_reads: IntCounter,
    /// Not in the registry: it is added after the collectors ran, so that a scrape includes its own drops.
    dropped: IntCounterVec,
}

impl ServerMetrics {
    /// The counters at 0. Fails only for invalid metric names, which a test rules out.
    pub fn new() -> Result<Self, prometheus::Error> {
        let opts = |family: &Family| Opts::new(family.name, family.help);
        let server_metrics = Self {
            registry: Registry::new(),
            requests: IntCounterVec::new(opts(&REQUESTS), REQUESTS.labels)?,
            in_flight: IntGauge::with_opts(opts(&IN_FLIGHT))?,
            errors: IntCounterVec::new(opts(&ERRORS), ERRORS.labels)?,
            duplicates: IntCounter::with_opts(opts(&DUPLICATES))?,
            restarts: IntCounter::with_opts(opts(&RESTARTS))?,
            closed: IntCounterVec::new(opts(&CLOSED), CLOSED.labels)?,
            shared_reads: IntCounter::with_opts(opts(&SHARED_READS))?,
            dropped: IntCounterVec::new(opts(&DROPPED), DROPPED.labels)?,
        };
        for reason in CloseReason::ALL {
            server_metrics.closed.with_label_values(&[reason.label()]);
        }
        for code in ["200", "500", "503"] {
            server_metrics.requests.with_label_values(&[code]);
        }
        for cause in ["encoding", "gathering"] {
            server_metrics.errors.with_label_values(&[cause]);
        }
        let Self {
            registry,
            requests,
            in_flight,
            errors,
            duplicates,
            restarts,
            closed,
            shared_reads,
            dropped: _,
        } = &server_metrics;
        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(in_flight.clone()))?;
        registry.register(Box::new(errors.clone()))?;
        registry.register(Box::new(duplicates.clone()))?;
        registry.register(Box::new(restarts.clone()))?;
        registry.register(Box::new(closed.clone()))?;
        registry.register(Box::new(shared_reads.clone()))?;
        Ok(server_metrics)
    }

    /// Counts a response of the metrics page.
    pub fn count_response(&self, code: u16) {
        self.requests.with_label_values(&[code.to_string()]).inc();
    }

    /// Counts a connection that was closed.
    pub fn count_closed(&self, reason: CloseReason) {
        self.closed.with_label_values(&[reason.label()]).inc();
    }

    /// Counts a failed scrape.
    pub fn count_gathering_error(&self) {
        self.errors.with_label_values(&["gathering"]).inc();
    }

    /// Adds every counter; without `promhttp`, all but those of Prometheus' Go client.
    pub fn add(&self, promhttp: bool, out: &mut Exposition) {
        for family in self.registry.gather() {
            let declared = FAMILIES.iter().find(|declared| declared.name == family.name());
            let Some(declared) =
                declared.filter(|declared| promhttp || !declared.name.starts_with("promhttp_"))
            else {
                continue;
            };
            add_family(declared, &family, out);
        }
    }

    /// Counts series that a collector dropped, which may be none. From then on the collector has a counter.
    pub fn count_dropped_series(&self, collector: &str, series: usize) {
        self.dropped.with_label_values(&[collector]).inc_by(series as u64);
    }

    /// Adds the number of dropped series of each collector that has a counter.
    pub fn add_dropped(&self, out: &mut Exposition) {
        for family in self.dropped.collect() {
            add_family(&DROPPED, &family, out);
        }
    }

    /// The names of the registered families.
    #[cfg(test)]
    fn names(&self) -> Vec<String> {
        self.registry.gather().iter().map(|family| family.name().to_owned()).collect()
    }

    /// The number of responses with `code`.
    pub fn responses(&self, code: &str) -> u64 {
        self.requests.with_label_values(&[code]).get()
    }
}

fn add_family(declared: &Family, family: &MetricFamily, out: &mut Exposition) {
    for metric in family.get_metric() {
        let value = match family.get_field_type() {
            proto::MetricType::COUNTER => metric.get_counter().get_value(),
            _ => metric.get_gauge().get_value(),
        };
        let labels: Vec<&[u8]> = metric.get_label().iter().map(|label| label.value().as_bytes()).collect();
        out.add(declared, &labels, Value::Float(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_is_registered_and_starts_at_zero() {
        let server_metrics = ServerMetrics::new().unwrap();
        let registered = FAMILIES.iter().map(|family| family.name).filter(|name| *name != DROPPED.name);
        let mut declared: Vec<&str> = registered.collect();
        declared.sort_unstable();
        assert_eq!(server_metrics.names(), declared);
        let mut out = Exposition::new();
        server_metrics.count_response(503);
        server_metrics.add(true, &mut out);
        let text = out.to_text();
        assert!(text.contains("promhttp_metric_handler_requests_total{code=\"200\"} 0\n"), "{text}");
        assert!(text.contains("promhttp_metric_handler_requests_total{code=\"503\"} 1\n"), "{text}");
        assert!(text.contains("# TYPE promhttp_metric_handler_requests_in_flight gauge\n"), "{text}");
        assert!(text.contains("promhttp_metric_handler_errors_total{cause=\"encoding\"} 0\n"), "{text}");
    }

    #[test]
    fn the_promhttp_counters_can_be_disabled() {
        let mut out = Exposition::new();
        ServerMetrics::new().unwrap().add(false, &mut out);
        let text = out.to_text();
        assert!(!text.contains("promhttp_") && text.contains("keyhole_duplicate_samples_total 0"), "{text}");
    }

    #[test]
    fn dropped_series_add_up_over_scrapes() {
        let server_metrics = ServerMetrics::new().unwrap();
        let text = || {
            let mut out = Exposition::new();
            server_metrics.add_dropped(&mut out);
            out.to_text()
        };
        assert_eq!(text(), "", "no collector has a counter yet");
        for dropped in [3, 0, 4] {
            server_metrics.count_dropped_series("netdev", dropped);
        }
        let netdev = "keyhole_collector_series_dropped_total{collector=\"netdev\"} 7\n";
        assert!(text().ends_with(&format!("counter\n{netdev}")), "{}", text());
        server_metrics.count_dropped_series("cpu", 0);
        assert!(text().contains("{collector=\"cpu\"} 0\n"), "{}", text());
    }
}
