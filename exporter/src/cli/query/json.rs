//! `--output=json`: one object per reading, in the stable format of docs/query.md.

use serde_json::{Map, Value, json};

use super::super::terminal::escape_controls_in_json;
use super::result::QueryResult;
use crate::exposition::{self, Series};

/// The object of a reading, on several lines or on one.
pub(super) fn text(result: &QueryResult, pretty: bool) -> String {
    let metrics: Vec<Value> = result.metrics().map(|(series, rate)| metric(&series, rate)).collect();
    let object = json!({
        "collectors": result.collectors(),
        "metrics": metrics,
        "node": result.node_name,
        "time": result.time,
    });
    let text = if pretty { serde_json::to_string_pretty(&object) } else { serde_json::to_string(&object) };
    // Serializing these values cannot fail.
    escape_controls_in_json(&text.unwrap_or_default()) + "\n"
}

fn metric(series: &Series<'_>, rate: Option<f64>) -> Value {
    let labels = series.labels().map(|(name, value)| (name.to_owned(), value.into()));
    let mut object = Map::new();
    object.insert("name".into(), series.name().into());
    object.insert("type".into(), series.kind().as_str().into());
    object.insert("labels".into(), Value::Object(labels.collect()));
    object.insert("value".into(), number(series.value()));
    if let Some(rate) = rate {
        object.insert("rate".into(), rate.into());
    }
    Value::Object(object)
}

/// A number, whole ones without a fraction, or Prometheus' word for what JSON has no number for.
fn number(value: exposition::Value) -> Value {
    /// Whole numbers below it are written with all their digits, as in the text format.
    const WHOLE: f64 = 1e17;
    match value {
        exposition::Value::Unsigned(value) => value.into(),
        exposition::Value::Float(value) if value.fract() == 0.0 && (0.0..WHOLE).contains(&value) => {
            (value as u64).into()
        }
        exposition::Value::Float(value) if value.is_finite() => value.into(),
        exposition::Value::Float(_) => value.to_string().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exposition::{Exposition, Family, MetricType, Source};
    use proptest::prelude::*;

    #[test]
    fn finite_values_are_numbers_and_others_are_strings() {
        assert_eq!(number(u64::MAX.into()), json!(u64::MAX));
        assert_eq!(number(7.0.into()), json!(7));
        assert_eq!(number((-0.0).into()), json!(0));
        assert_eq!(number(0.5.into()), json!(0.5));
        assert_eq!(number((-3.0).into()), json!(-3.0));
        assert_eq!(number(1e300.into()), json!(1e300));
        assert_eq!(number(f64::INFINITY.into()), json!("+Inf"));
        assert_eq!(number(f64::NAN.into()), json!("NaN"));
    }

    proptest! {
        #[test]
        fn any_label_is_unescaped(one in any::<String>(), other in any::<String>()) {
            let family = Family { name: "x", help: "X.", kind: MetricType::Gauge, labels: &["a", "b"], source: Source::Exporter("") };
            let mut out = Exposition::new();
            out.add(&family, &[one.as_bytes(), other.as_bytes()], 1.0);
            let metric = metric(&out.series().next().unwrap(), None);
            prop_assert_eq!(&metric["labels"], &json!({ "a": one, "b": other }));
        }

        #[test]
        fn any_text_is_json_without_control_characters(text in any::<String>()) {
            let json = escape_controls_in_json(&Value::from(text.clone()).to_string());
            prop_assert!(!json.contains(char::is_control));
            prop_assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), Value::from(text));
        }
    }
}
