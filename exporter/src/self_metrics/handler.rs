//! What the exporter counts over its life, by the `prometheus` crate: requests to the metrics page, under the names of
//! Prometheus' Go client, and what it left out of scrapes.

use prometheus::core::Collector as _;
use prometheus::proto::{MetricFamily, MetricType};
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use crate::exposition::{Exposition, Family, Kind, Source, Value};

/// The families that [`Handler::add`] gives.
pub const FAMILIES: &[Family] =
    &[REQUESTS, IN_FLIGHT, ERRORS, DUPLICATES, RESTARTS, DROPPED, CLOSED, SHARED_READS];

const REQUESTS: Family = Family {
    name: "promhttp_metric_handler_requests_total",
    help: "Requests to the metrics page, by the status code of their answer.",
    kind: Kind::Counter,
    labels: &["code"],
    source: Source::Exporter("exporter"),
};
const IN_FLIGHT: Family = Family {
    name: "promhttp_metric_handler_requests_in_flight",
    help: "Requests to the metrics page that are being answered.",
    kind: Kind::Gauge,
    labels: &[],
    source: Source::Exporter("exporter"),
};
const ERRORS: Family = Family {
    name: "promhttp_metric_handler_errors_total",
    help: "Errors while metrics were gathered or encoded.",
    kind: Kind::Counter,
    labels: &["cause"],
    source: Source::Exporter("exporter"),
};
const DUPLICATES: Family = Family {
    name: "keyhole_duplicate_samples_total",
    help: "Samples left out because one with the same name and labels was there.",
    kind: Kind::Counter,
    labels: &[],
    source: Source::Exporter("exporter"),
};
const RESTARTS: Family = Family {
    name: "keyhole_broker_restarts_seen_total",
    help: "Times that the exporter found its broker restarted.",
    kind: Kind::Counter,
    labels: &[],
    source: Source::Exporter("keyhole.v1.Broker/Describe"),
};

const DROPPED: Family = Family {
    name: "keyhole_collector_series_dropped_total",
    help: "Series left out because their collector reached --collector.series-limit, or all collectors together --scrape.memory; of a collector that left none out only with --scrape.detail.",
    kind: Kind::Counter,
    labels: &["collector"],
    source: Source::Exporter("exporter"),
};

const CLOSED: Family = Family {
    name: "keyhole_connections_closed_total",
    help: "Connections to the exporter's port that were closed by it, by reason: idle or slow for too long, crowded out while others waited for their places, or unread answers whose room others needed.",
    kind: Kind::Counter,
    labels: &["reason"],
    source: Source::Exporter("exporter"),
};
const SHARED_READS: Family = Family {
    name: "keyhole_selections_from_shared_read_total",
    help: "Requests for selections of collectors that were answered from a shared read of all, at most a second old, since too many came at once.",
    kind: Kind::Counter,
    labels: &[],
    source: Source::Exporter("exporter"),
};

/// Why the exporter closes a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// Nothing was asked for a long time.
    Idle,
    /// No request came, or an answer was not taken, in the time that there is for it.
    Slow,
    /// Others waited for its place.
    Crowded,
    /// Others needed the room of an answer that was not taken.
    Unread,
}

impl Closed {
    const ALL: [Self; 4] = [Self::Idle, Self::Slow, Self::Crowded, Self::Unread];

    fn label(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Slow => "slow",
            Self::Crowded => "crowded",
            Self::Unread => "unread",
        }
    }
}

/// Adds the series that one run of a collector had no room for.
pub fn add_dropped_once(collector: &str, series: usize, out: &mut Exposition) {
    out.add(&DROPPED, &[collector.as_bytes()], series);
}

/// The counters.
#[derive(Debug)]
pub struct Handler {
    registry: Registry,
    requests: IntCounterVec,
    /// Requests being answered.
    pub in_flight: IntGauge,
    errors: IntCounterVec,
    /// Samples left out.
    pub duplicates: IntCounter,
    /// Broker restarts found.
    pub restarts: IntCounter,
    closed: IntCounterVec,
    /// Requests answered from a shared read.
    pub shared_reads: IntCounter,
    /// Not in the registry: it is added after the collectors, so that a scrape tells of itself.
    dropped: IntCounterVec,
}

impl Handler {
    /// The counters at 0. Fails only on names that are no metric names, which a test rules out.
    pub fn new() -> Result<Self, prometheus::Error> {
        let opts = |family: &Family| Opts::new(family.name, family.help);
        let handler = Self {
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
        for reason in Closed::ALL {
            handler.closed.with_label_values(&[reason.label()]);
        }
        for code in ["200", "500", "503"] {
            handler.requests.with_label_values(&[code]);
        }
        for cause in ["encoding", "gathering"] {
            handler.errors.with_label_values(&[cause]);
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
        } = &handler;
        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(in_flight.clone()))?;
        registry.register(Box::new(errors.clone()))?;
        registry.register(Box::new(duplicates.clone()))?;
        registry.register(Box::new(restarts.clone()))?;
        registry.register(Box::new(closed.clone()))?;
        registry.register(Box::new(shared_reads.clone()))?;
        Ok(handler)
    }

    /// Counts an answer of the metrics page.
    pub fn answered(&self, code: u16) {
        self.requests.with_label_values(&[code.to_string()]).inc();
    }

    /// Counts a connection that was closed.
    pub fn closed(&self, reason: Closed) {
        self.closed.with_label_values(&[reason.label()]).inc();
    }

    /// Counts a scrape that could not be gathered.
    pub fn gathering_failed(&self) {
        self.errors.with_label_values(&["gathering"]).inc();
    }

    /// Adds every counter; without `promhttp`, only what is not the metrics page's own.
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

    /// Counts series that a collector had no room for. From then on it has a counter, even if there were none.
    pub fn dropped(&self, collector: &str, series: usize) {
        self.dropped.with_label_values(&[collector]).inc_by(series as u64);
    }

    /// Adds the series that were dropped so far, of each collector that has a counter.
    pub fn add_dropped(&self, out: &mut Exposition) {
        for family in self.dropped.collect() {
            add_family(&DROPPED, &family, out);
        }
    }

    /// Names of what is registered, for the test that every family is.
    #[cfg(test)]
    fn names(&self) -> Vec<String> {
        self.registry.gather().iter().map(|family| family.name().to_owned()).collect()
    }

    /// The number of answers with `code`.
    pub fn answers(&self, code: &str) -> u64 {
        self.requests.with_label_values(&[code]).get()
    }
}

fn add_family(declared: &Family, family: &MetricFamily, out: &mut Exposition) {
    for metric in family.get_metric() {
        let value = match family.get_field_type() {
            MetricType::COUNTER => metric.get_counter().get_value(),
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
    fn every_family_is_registered_and_begins_at_zero() {
        let handler = Handler::new().unwrap();
        let registered = FAMILIES.iter().map(|family| family.name).filter(|name| *name != DROPPED.name);
        let mut declared: Vec<&str> = registered.collect();
        declared.sort_unstable();
        assert_eq!(handler.names(), declared);
        let mut out = Exposition::new();
        handler.answered(503);
        handler.add(true, &mut out);
        let text = out.to_text();
        assert!(text.contains("promhttp_metric_handler_requests_total{code=\"200\"} 0\n"), "{text}");
        assert!(text.contains("promhttp_metric_handler_requests_total{code=\"503\"} 1\n"), "{text}");
        assert!(text.contains("# TYPE promhttp_metric_handler_requests_in_flight gauge\n"), "{text}");
        assert!(text.contains("promhttp_metric_handler_errors_total{cause=\"encoding\"} 0\n"), "{text}");
    }

    #[test]
    fn the_pages_own_counters_can_be_left_out() {
        let mut out = Exposition::new();
        Handler::new().unwrap().add(false, &mut out);
        let text = out.to_text();
        assert!(!text.contains("promhttp_") && text.contains("keyhole_duplicate_samples_total 0"), "{text}");
    }

    #[test]
    fn what_was_dropped_adds_up_over_scrapes() {
        let handler = Handler::new().unwrap();
        let text = || {
            let mut out = Exposition::new();
            handler.add_dropped(&mut out);
            out.to_text()
        };
        assert_eq!(text(), "", "no collector has a counter yet");
        for dropped in [3, 0, 4] {
            handler.dropped("netdev", dropped);
        }
        let netdev = "keyhole_collector_series_dropped_total{collector=\"netdev\"} 7\n";
        assert!(text().ends_with(&format!("counter\n{netdev}")), "{}", text());
        handler.dropped("cpu", 0);
        assert!(text().contains("{collector=\"cpu\"} 0\n"), "{}", text());
    }
}
