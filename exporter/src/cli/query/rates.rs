//! Rates of counters between two readings.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::exposition::{MetricType, Series};

/// The counters of the last reading.
#[derive(Debug, Default)]
pub(super) struct Rates {
    at: Option<Instant>,
    counters: HashMap<String, f64>,
}

impl Rates {
    /// The rate per second of each series since the last reading; `series` becomes the last reading.
    pub(super) fn update<'s>(
        &mut self,
        now: Instant,
        series: impl Iterator<Item = &'s Series<'s>>,
    ) -> Vec<Option<f64>> {
        let elapsed = self.at.replace(now).map(|before| now.saturating_duration_since(before));
        let mut counters = HashMap::new();
        let mut rate = |series: &Series<'_>| {
            if !is_counter(series) {
                return None;
            }
            let (key, value) = (series.key(), series.value().as_f64());
            let before = self.counters.get(&key).copied();
            counters.insert(key, value);
            rate_per_second(before?, value, elapsed?)
        };
        let rates = series.map(&mut rate).collect();
        self.counters = counters;
        rates
    }
}

/// Whether a series is a counter, or a part of a histogram or a summary that only increases.
fn is_counter(series: &Series<'_>) -> bool {
    match series.kind() {
        MetricType::Counter => true,
        MetricType::Histogram | MetricType::Summary => !series.suffix().is_empty(),
        MetricType::Gauge | MetricType::Untyped => false,
    }
}

/// The rate per second of a counter. A counter that decreased was reset to 0, as in Prometheus' rate().
fn rate_per_second(before: f64, now: f64, elapsed: Duration) -> Option<f64> {
    let increase = if now >= before { now - before } else { now };
    (elapsed > Duration::ZERO && increase.is_finite()).then(|| increase / elapsed.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exposition::{Exposition, Value};

    fn exposition(kind: MetricType, value: f64) -> Exposition {
        let mut out = Exposition::new();
        // As in a textfile, where a counter may have any value.
        out.add_sample("x_total", "", "X.", kind, [("a", &b"1"[..])].into_iter(), Value::Float(value));
        out
    }

    fn rates(kind: MetricType, values: &[f64]) -> Vec<Option<f64>> {
        let (mut rates, start) = (Rates::default(), Instant::now());
        let mut last = Vec::new();
        for (second, value) in values.iter().enumerate() {
            let out = exposition(kind, *value);
            let series: Vec<_> = out.series().collect();
            last = rates.update(start + Duration::from_secs(2 * second as u64), series.iter());
        }
        last
    }

    #[test]
    fn a_counter_has_a_rate_from_its_second_reading_on() {
        assert_eq!(rates(MetricType::Counter, &[5.0]), [None]);
        assert_eq!(rates(MetricType::Counter, &[5.0, 9.0]), [Some(2.0)]);
        assert_eq!(rates(MetricType::Counter, &[5.0, 9.0, 9.0]), [Some(0.0)]);
    }

    #[test]
    fn a_counter_that_decreased_was_reset() {
        assert_eq!(rates(MetricType::Counter, &[500.0, 8.0]), [Some(4.0)]);
        assert_eq!(rates(MetricType::Counter, &[f64::NAN, 8.0]), [Some(4.0)]);
        assert_eq!(rates(MetricType::Counter, &[8.0, f64::INFINITY]), [None]);
    }

    #[test]
    fn other_types_have_no_rate() {
        assert_eq!(rates(MetricType::Gauge, &[1.0, 2.0]), [None]);
        assert_eq!(rates(MetricType::Untyped, &[1.0, 2.0]), [None]);
    }
}
