//! Prometheus' protobuf exposition: `io.prometheus.client.MetricFamily` messages, each after its length.
//!
//! Messages and numbers as in <https://github.com/prometheus/client_model/blob/master/io/prometheus/client/metrics.proto>.
//! Prometheus asks for it when native histograms are on; it says what the text says, and nothing more.

use std::collections::HashMap;

use prost::Message;

use crate::exposition::{Exposition, MetricType, Series};

#[derive(Clone, PartialEq, Message)]
struct MetricFamily {
    #[prost(string, required, tag = "1")]
    name: String,
    #[prost(string, required, tag = "2")]
    help: String,
    #[prost(int32, required, tag = "3")]
    kind: i32,
    #[prost(message, repeated, tag = "4")]
    metrics: Vec<Metric>,
}

#[derive(Clone, PartialEq, Message)]
struct Metric {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<Label>,
    #[prost(message, optional, tag = "2")]
    gauge: Option<Single>,
    #[prost(message, optional, tag = "3")]
    counter: Option<Single>,
    #[prost(message, optional, tag = "4")]
    summary: Option<Summary>,
    #[prost(message, optional, tag = "5")]
    untyped: Option<Single>,
    #[prost(message, optional, tag = "7")]
    histogram: Option<Histogram>,
}

#[derive(Clone, PartialEq, Eq, Hash, Message)]
struct Label {
    #[prost(string, required, tag = "1")]
    name: String,
    #[prost(string, required, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, Message)]
struct Single {
    #[prost(double, required, tag = "1")]
    value: f64,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(uint64, optional, tag = "1")]
    count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    sum: Option<f64>,
    #[prost(message, repeated, tag = "3")]
    quantiles: Vec<Quantile>,
}

#[derive(Clone, PartialEq, Message)]
struct Quantile {
    #[prost(double, required, tag = "1")]
    quantile: f64,
    #[prost(double, required, tag = "2")]
    value: f64,
}

#[derive(Clone, PartialEq, Message)]
struct Histogram {
    #[prost(uint64, optional, tag = "1")]
    count: Option<u64>,
    #[prost(double, optional, tag = "4")]
    count_float: Option<f64>,
    #[prost(double, optional, tag = "2")]
    sum: Option<f64>,
    #[prost(message, repeated, tag = "3")]
    buckets: Vec<Bucket>,
}

#[derive(Clone, PartialEq, Message)]
struct Bucket {
    #[prost(uint64, optional, tag = "1")]
    cumulative_count: Option<u64>,
    #[prost(double, optional, tag = "4")]
    cumulative_count_float: Option<f64>,
    #[prost(double, required, tag = "2")]
    upper_bound: f64,
}

/// Writes the families that `keep` chooses by name.
pub fn encode(exposition: &Exposition, keep: impl Fn(&str) -> bool) -> Vec<u8> {
    let mut out = Vec::new();
    let mut current: Option<Builder> = None;
    for series in exposition.series().filter(|series| keep(series.family())) {
        if current.as_ref().is_none_or(|builder| builder.family.name != series.family())
            && let Some(finished) = current.replace(Builder::new(&series))
        {
            finished.write(&mut out);
        }
        if let Some(builder) = &mut current {
            builder.add(&series);
        }
    }
    if let Some(finished) = current {
        finished.write(&mut out);
    }
    out
}

/// A family whose samples come one by one.
struct Builder {
    family: MetricFamily,
    kind: MetricType,
    /// Where the metric with these labels is; of summaries and histograms, which are several samples.
    by_labels: HashMap<Vec<Label>, usize>,
}

impl Builder {
    fn new(first: &Series<'_>) -> Self {
        let number = match first.kind() {
            MetricType::Counter => 0,
            MetricType::Gauge => 1,
            MetricType::Summary => 2,
            MetricType::Untyped => 3,
            MetricType::Histogram => 4,
        };
        let (name, help) = (first.family().to_owned(), first.help().to_owned());
        let family = MetricFamily { name, help, kind: number, metrics: Vec::new() };
        Self { family, kind: first.kind(), by_labels: HashMap::new() }
    }

    fn add(&mut self, series: &Series<'_>) {
        let value = series.value().as_f64();
        let label = |(name, value): (&str, &str)| Label { name: name.into(), value: value.into() };
        let labels = series.labels().map(label).collect();
        let single = Some(Single { value });
        let metric = match self.kind {
            MetricType::Counter => Metric { labels, counter: single, ..Metric::default() },
            MetricType::Gauge => Metric { labels, gauge: single, ..Metric::default() },
            MetricType::Untyped => Metric { labels, untyped: single, ..Metric::default() },
            MetricType::Summary => return self.add_to_summary(series.suffix(), labels, value),
            MetricType::Histogram => return self.add_to_histogram(series.suffix(), labels, value),
        };
        self.family.metrics.push(metric);
    }

    fn add_to_summary(&mut self, suffix: &str, labels: Vec<Label>, value: f64) {
        let (labels, quantile) = without(labels, "quantile");
        let summary = self.metric(labels).summary.get_or_insert_default();
        match (suffix, quantile) {
            ("_count", _) => summary.count = Some(value as u64),
            ("_sum", _) => summary.sum = Some(value),
            (_, Some(quantile)) => summary.quantiles.push(Quantile { quantile, value }),
            (_, None) => {}
        }
    }

    fn add_to_histogram(&mut self, suffix: &str, labels: Vec<Label>, value: f64) {
        let (labels, bound) = without(labels, "le");
        let histogram = self.metric(labels).histogram.get_or_insert_default();
        match (suffix, bound) {
            ("_count", _) => (histogram.count, histogram.count_float) = count(value),
            ("_sum", _) => histogram.sum = Some(value),
            (_, Some(upper_bound)) => {
                let (cumulative_count, cumulative_count_float) = count(value);
                histogram.buckets.push(Bucket { cumulative_count, cumulative_count_float, upper_bound });
            }
            (_, None) => {}
        }
    }

    fn metric(&mut self, labels: Vec<Label>) -> &mut Metric {
        let metrics = &mut self.family.metrics;
        let at = *self.by_labels.entry(labels).or_insert_with_key(|labels| {
            metrics.push(Metric { labels: labels.clone(), ..Metric::default() });
            metrics.len() - 1
        });
        &mut metrics[at]
    }

    fn write(self, out: &mut Vec<u8>) {
        let written = self.family.encode_length_delimited(out);
        debug_assert!(written.is_ok(), "a Vec has room");
    }
}

/// A count for the field of whole numbers or, if it is none, for that of floats.
fn count(value: f64) -> (Option<u64>, Option<f64>) {
    /// Up to here a float holds every whole number.
    const WHOLE: f64 = (1u64 << 53) as f64;
    if value.fract() == 0.0 && (0.0..=WHOLE).contains(&value) {
        (Some(value as u64), None)
    } else {
        (None, Some(value))
    }
}

/// The labels without one, and that one's value as a number.
fn without(mut labels: Vec<Label>, name: &str) -> (Vec<Label>, Option<f64>) {
    let at = labels.iter().position(|label| label.name == name);
    let value = at.map(|at| labels.remove(at)).and_then(|label| label.value.parse().ok());
    (labels, value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exposition::{Family, Source, Value};
    use proptest::prelude::*;

    const COUNTER: Family = Family {
        name: "node_bytes_total",
        help: "Bytes \"seen\"\nhere.",
        kind: MetricType::Counter,
        labels: &["device", "mode"],
        source: Source::File("proc/x"),
    };

    fn decode(mut bytes: &[u8]) -> Vec<MetricFamily> {
        let mut families = Vec::new();
        while !bytes.is_empty() {
            families.push(MetricFamily::decode_length_delimited(&mut bytes).unwrap());
        }
        families
    }

    fn label(name: &str, value: &str) -> Label {
        Label { name: name.into(), value: value.into() }
    }

    #[test]
    fn every_simple_type_encodes_the_same_as_the_text() {
        let mut out = Exposition::new();
        out.add(&COUNTER, &[b"a\"b\\n,c=\"\nd}", b""], 3u64);
        out.add(&COUNTER, &[b"eth0", b"rx"], u64::MAX);
        out.add(&Family { name: "a", kind: MetricType::Gauge, labels: &[], ..COUNTER }, &[], f64::INFINITY);
        out.add(&Family { name: "b", kind: MetricType::Untyped, labels: &[], ..COUNTER }, &[], -0.5);
        let families = decode(&encode(&out, |_| true));
        let names: Vec<_> = families.iter().map(|family| (family.name.as_str(), family.kind)).collect();
        assert_eq!(names, [("a", 1), ("b", 3), ("node_bytes_total", 0)]);
        assert_eq!(families[0].metrics[0].gauge, Some(Single { value: f64::INFINITY }));
        assert_eq!(families[1].metrics[0].untyped, Some(Single { value: -0.5 }));
        assert_eq!(families[2].help, "Bytes \"seen\"\nhere.");
        let [first, second] = &families[2].metrics[..] else { panic!("{:?}", families[2]) };
        assert_eq!(first.labels, [label("device", "a\"b\\n,c=\"\nd}"), label("mode", "")]);
        assert_eq!(first.counter, Some(Single { value: 3.0 }));
        assert_eq!(second.counter, Some(Single { value: u64::MAX as f64 }));
        assert_eq!(decode(&encode(&out, |name| name == "b")).len(), 1);
    }

    #[test]
    fn the_samples_of_a_histogram_or_summary_are_one_metric() {
        let mut out = Exposition::new();
        let mut add = |name, kind, suffix, labels: &[(&'static str, &'static str)], value: f64| {
            let labels = labels.iter().map(|(name, value)| (*name, value.as_bytes()));
            out.add_sample(name, suffix, "", kind, labels, Value::Float(value));
        };
        for (le, count) in [("+Inf", 9.0), ("10", 7.0), ("2.5", 4.0)] {
            add("h", MetricType::Histogram, "_bucket", &[("le", le), ("x", "1")], count);
        }
        add("h", MetricType::Histogram, "_count", &[("x", "1")], 9.0);
        add("h", MetricType::Histogram, "_sum", &[("x", "1")], 30.5);
        add("s", MetricType::Summary, "", &[("quantile", "0.9")], 2.0);
        add("s", MetricType::Summary, "", &[("quantile", "0.5")], 1.0);
        add("s", MetricType::Summary, "_sum", &[], 12.0);
        let families = decode(&encode(&out, |_| true));
        let [histogram] = &families[0].metrics[..] else { panic!("{:?}", families[0]) };
        assert_eq!(histogram.labels, [label("x", "1")]);
        let histogram = histogram.histogram.as_ref().unwrap();
        assert_eq!((histogram.count, histogram.sum), (Some(9), Some(30.5)));
        let buckets: Vec<_> =
            histogram.buckets.iter().map(|bucket| (bucket.upper_bound, bucket.cumulative_count)).collect();
        assert_eq!(buckets, [(2.5, Some(4)), (10.0, Some(7)), (f64::INFINITY, Some(9))]);
        let [summary] = &families[1].metrics[..] else { panic!("{:?}", families[1]) };
        let summary = summary.summary.as_ref().unwrap();
        assert_eq!((summary.count, summary.sum), (None, Some(12.0)));
        assert_eq!(summary.quantiles[0], Quantile { quantile: 0.5, value: 1.0 });
    }

    #[test]
    fn a_count_that_is_no_whole_number_is_a_float() {
        let mut out = Exposition::new();
        let mut add = |suffix, labels: &[(&'static str, &'static str)], value: f64| {
            let labels = labels.iter().map(|(name, value)| (*name, value.as_bytes()));
            out.add_sample("h", suffix, "", MetricType::Histogram, labels, Value::Float(value));
        };
        add("_bucket", &[("le", "1")], 0.9);
        add("_bucket", &[("le", "+Inf")], 1e20);
        add("_count", &[], 2.5);
        let families = decode(&encode(&out, |_| true));
        let histogram = families[0].metrics[0].histogram.as_ref().unwrap();
        assert_eq!((histogram.count, histogram.count_float), (None, Some(2.5)));
        let counts = |bucket: &Bucket| (bucket.cumulative_count, bucket.cumulative_count_float);
        let buckets: Vec<_> = histogram.buckets.iter().map(counts).collect();
        assert_eq!(buckets, [(None, Some(0.9)), (None, Some(1e20))]);
    }

    proptest! {
        #[test]
        fn any_label_is_unchanged(value in any::<String>()) {
            let mut out = Exposition::new();
            out.add(&COUNTER, &[value.as_bytes(), b"m"], 1u64);
            let families = decode(&encode(&out, |_| true));
            prop_assert_eq!(&families[0].metrics[0].labels[1], &label("mode", "m"));
            prop_assert_eq!(&families[0].metrics[0].labels[0].value, &value);
        }
    }
}
