//! Why queries cannot be answered, sorted so that a person has few reasons to read.

use std::collections::BTreeMap;

use keyhole_proto::v1::{Query, QueryDescription, Rung};

use super::words::{self, TEXT};
use crate::self_metrics::broker::word;

/// Why queries cannot be answered.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reason {
    /// In a few words; the broker's own where they are not known.
    pub what: String,
    /// What it means, or what to do; may be empty.
    pub advice: &'static str,
}

/// The queries that cannot be answered, by what keeps them, of a broker at the rung `here`.
pub fn by_reason(queries: &[&QueryDescription], here: Rung) -> BTreeMap<Reason, Vec<String>> {
    let mut reasons: BTreeMap<Reason, Vec<String>> = BTreeMap::new();
    for query in queries.iter().filter(|query| !query.available) {
        reasons.entry(Reason::of(&query.reason, here)).or_default().push(name(query));
    }
    reasons
}

impl Reason {
    /// By the broker's words, of a broker at the rung `here`. Those of one file become one for all files.
    fn of(words: &str, here: Rung) -> Self {
        let reason = |what: &str, advice| Self { what: words::clean(what, TEXT), advice };
        let file = words.split_once(": ").filter(|(path, _)| !path.contains(' ')).map(|(_, error)| error);
        match (file, words.strip_prefix("the broker was started without ")) {
            (Some(error), _) if error.ends_with("(os error 2)") => reason(
                "This kernel has no such file",
                "A driver or a service that is not here, or not built in.",
            ),
            (Some(error), _) if error.ends_with("(os error 13)") || error.ends_with("(os error 1)") => {
                reason(
                    "Refused to the broker's uid",
                    if here == Rung::RootFiles { "" } else { "At the rung root-files they can be read." },
                )
            }
            (Some(error), _) => reason(error, ""),
            (None, Some(flag)) => reason(&format!("Needs {flag}"), "A flag that the broker was not given."),
            (None, None) if words.contains("is a container's own") => {
                reason(words, "Mount the host's /proc and /sys into the broker, read-only: the rung host.")
            }
            (None, None) => reason(if words.is_empty() { "The broker does not say" } else { words }, ""),
        }
    }
}

/// A query's name, as labels have it.
pub fn name(query: &QueryDescription) -> String {
    match Query::try_from(query.query) {
        Ok(known) => word(known.as_str_name(), "QUERY_"),
        Err(_) => format!("query {}", query.query),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_of_single_files_become_one_and_others_stay_as_the_broker_has_them() {
        let what = |words: &str| Reason::of(words, Rung::Host).what;
        assert_eq!(
            what("proc/drbd: No such file or directory (os error 2)"),
            what("proc/1/net/ip_vs: No such file or directory (os error 2)")
        );
        assert_eq!(what("proc/slabinfo: Permission denied (os error 13)"), "Refused to the broker's uid");
        assert_eq!(what("proc/x: Input/output error (os error 5)"), "Input/output error (os error 5)");
        assert_eq!(what("the broker was started without --allow-processes"), "Needs --allow-processes");
        let container = "/proc is a container's own: pid 2 is no kernel thread";
        assert_eq!(what(container), container);
        assert_eq!(what(""), "The broker does not say");
        assert_eq!(what(&"x".repeat(1000)).chars().count(), TEXT + 1);
    }
}
