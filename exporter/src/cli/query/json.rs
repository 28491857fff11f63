//! `--output=json`: one object per reading, in the stable format of docs/query.md.

use serde_json::{Map, Value, json};

use super::super::terminal::escape_controls_in_json;
use super::result::QueryResult;
use crate::exposition::Series;

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
    let mut object = Map::new();
    object.insert("name".into(), series.name().into());
    object.insert("type".into(), series.kind.as_str().into());
    object.insert("labels".into(), Value::Object(labels(series.labels())));
    object.insert("value".into(), number(&series.value));
    if let Some(rate) = rate {
        object.insert("rate".into(), rate.into());
    }
    Value::Object(object)
}

/// A JSON number, or a string such as `+Inf` for values that JSON has no number for.
fn number(text: &str) -> Value {
    let whole = || text.parse::<u64>().ok().map(Value::from);
    let float = || text.parse::<f64>().ok().filter(|value| value.is_finite()).map(Value::from);
    whole().or_else(float).unwrap_or_else(|| text.into())
}

/// The labels of a series as the text format has them: `name="value",...` with `\\`, `\"` and `\n` escaped.
fn labels(text: &str) -> Map<String, Value> {
    let mut labels = Map::new();
    let mut rest = text;
    while let Some((name, after)) = rest.split_once("=\"") {
        let mut value = String::new();
        let mut chars = after.chars();
        loop {
            match chars.next() {
                None | Some('"') => break,
                Some('\\') => match chars.next() {
                    Some('n') => value.push('\n'),
                    other => value.extend(other),
                },
                Some(c) => value.push(c),
            }
        }
        labels.insert(name.to_owned(), value.into());
        rest = chars.as_str().strip_prefix(',').unwrap_or_default();
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exposition::{Exposition, Family, Kind, Source};
    use proptest::prelude::*;

    #[test]
    fn finite_values_are_numbers_and_others_are_strings() {
        assert_eq!(number("18446744073709551615"), json!(u64::MAX));
        assert_eq!(number("0.5"), json!(0.5));
        assert_eq!(number("-3"), json!(-3.0));
        assert_eq!(number("+Inf"), json!("+Inf"));
        assert_eq!(number("NaN"), json!("NaN"));
    }

    proptest! {
        #[test]
        fn any_label_is_unescaped(one in any::<String>(), other in any::<String>()) {
            let family = Family { name: "x", help: "X.", kind: Kind::Gauge, labels: &["a", "b"], source: Source::Exporter("") };
            let mut out = Exposition::new();
            out.add(&family, &[one.as_bytes(), other.as_bytes()], 1.0);
            let series = out.series().next().unwrap();
            let read = labels(series.labels());
            prop_assert_eq!(&read["a"], &Value::from(one));
            prop_assert_eq!(&read["b"], &Value::from(other));
        }

        #[test]
        fn any_text_is_json_without_control_characters(text in any::<String>()) {
            let json = escape_controls_in_json(&Value::from(text.clone()).to_string());
            prop_assert!(!json.contains(char::is_control));
            prop_assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), Value::from(text));
        }

        #[test]
        fn any_label_text_is_parsed(text in any::<String>()) {
            let _ = labels(&text);
        }
    }
}
