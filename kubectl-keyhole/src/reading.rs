//! What `keyhole-exporter query --output=json` prints (docs/query.md), as known shapes: nothing else of it is kept.

use serde::de::{Error as _, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Number;

use crate::explain::shortened;

/// The error for what is none; serde_json's repeats what it has found, however long that is.
pub fn invalid(error: &serde_json::Error) -> String {
    shortened(&format!("its answer is not the JSON of keyhole-exporter: {error}"))
}

/// The most that a node may print: a reading of a large host is 3 MB.
pub const LIMIT: usize = 16 << 20;

/// One result.
#[derive(Debug, Deserialize, Serialize)]
pub struct Reading {
    pub collectors: Vec<Collector>,
    pub metrics: Vec<Metric>,
    /// The node's name as the API server has it.
    pub node: Option<String>,
    pub time: Number,
}

/// A collector and what became of it.
#[derive(Debug, Deserialize, Serialize)]
pub struct Collector {
    pub error: Option<String>,
    pub name: String,
    pub skipped: u64,
    pub skipped_items: Vec<String>,
    pub state: String,
}

/// A sample.
#[derive(Debug, Deserialize, Serialize)]
pub struct Metric {
    pub labels: Labels,
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Scalar>,
    #[serde(rename = "type")]
    pub kind: String,
    pub value: Scalar,
}

/// A number, or one of the words for those that JSON has no number for.
#[derive(Debug, Deserialize, Serialize)]
#[serde(untagged)]
pub enum Scalar {
    Number(Number),
    Word(String),
}

/// Names and values.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Labels(pub Vec<(String, String)>);

impl Reading {
    /// Parses one result, and sets the name of the node: what it calls itself does not count.
    pub fn parse(node: &str, text: &[u8]) -> Result<Self, String> {
        let mut reading: Self = serde_json::from_slice(text).map_err(|error| invalid(&error))?;
        reading.node = Some(node.to_owned());
        Ok(reading)
    }

    /// The collectors that failed, with the reasons.
    pub fn failures(&self) -> Vec<String> {
        let failed = self.collectors.iter().filter(|each| each.state == "failed");
        let reason =
            |each: &Collector| format!("{}: {}", each.name, each.error.as_deref().unwrap_or("failed"));
        failed.map(|each| shortened(&reason(each))).collect()
    }
}

impl Metric {
    /// A label's value; empty if there is none.
    pub fn label(&self, name: &str) -> &str {
        self.labels.0.iter().find(|(label, _)| label == name).map_or("", |(_, value)| value)
    }
}

impl Labels {
    /// `device="eth0",mode="idle"`, with quotes and backslashes in values escaped.
    pub fn text(&self) -> String {
        let pair = |(name, value): &(String, String)| {
            format!("{name}=\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
        };
        self.0.iter().map(pair).collect::<Vec<_>>().join(",")
    }
}

impl Scalar {
    /// As it is printed.
    pub fn text(&self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Word(word) => word.clone(),
        }
    }

    /// The number, if it is one.
    pub fn number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => number.as_f64(),
            Self::Word(_) => None,
        }
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Labels;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("labels")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Labels, A::Error> {
                let mut labels = Labels::default();
                while let Some(pair) = map.next_entry()? {
                    labels.0.push(pair);
                }
                let mut names: Vec<&str> = labels.0.iter().map(|(name, _)| name.as_str()).collect();
                names.sort_unstable();
                // Programs that read JSON take the first or the last of them.
                if names.windows(2).any(|pair| pair[0] == pair[1]) {
                    return Err(A::Error::custom("a label twice"));
                }
                Ok(labels)
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

impl Serialize for Labels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READING: &str = r#"{"collectors":[{"error":"not permitted","name":"netdev","skipped":0,"skipped_items":[],"state":"failed"}],
        "metrics":[{"labels":{"device":"a\"\\b"},"name":"x_total","rate":1.5,"type":"counter","value":18446744073709551615},
        {"labels":{},"name":"y","type":"gauge","value":"+Inf","later":[1]}],"node":"other","time":1700000000.123,"later":{"a":1}}"#;

    #[test]
    fn a_reading_is_printed_as_it_came_but_for_its_node() {
        let reading = Reading::parse("node-1", READING.as_bytes()).unwrap();
        assert_eq!(reading.metrics[0].labels.text(), r#"device="a\"\\b""#);
        assert_eq!(reading.metrics[0].value.text(), "18446744073709551615");
        assert_eq!(reading.metrics[1].value.text(), "+Inf");
        assert_eq!(reading.failures(), ["netdev: not permitted"]);
        let printed = serde_json::to_string(&reading).unwrap();
        let expected = READING.replace("\n        ", "").replace("\"other\"", "\"node-1\"");
        assert_eq!(printed, expected.replace(r#","later":[1]"#, "").replace(r#","later":{"a":1}"#, ""));
    }

    #[test]
    fn anything_else_is_an_error_in_one_line() {
        let deep = format!("{{\"metrics\":{}", "[".repeat(100_000));
        for text in ["", "garbage", "[]", "{}", "\x1b[2J", &deep, &READING[..100], "{\"collectors\":7}"] {
            let error = Reading::parse("node-1", text.as_bytes()).unwrap_err();
            assert!(error.starts_with("its answer is not the JSON of keyhole-exporter: "), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
        assert!(Reading::parse("node-1", b"\xff").is_err());
        let twice = READING.replace(r#"{"device":"#, r#"{"device":"x","device":"#);
        assert!(Reading::parse("node-1", twice.as_bytes()).unwrap_err().contains("a label twice"));
        let long = format!("{{\"collectors\":\"{}\"}}", "x".repeat(1 << 20));
        assert!(Reading::parse("node-1", long.as_bytes()).unwrap_err().len() < 600);
    }
}
