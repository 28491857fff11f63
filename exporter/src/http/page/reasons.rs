//! Why queries cannot be answered, sorted so that a person has few reasons to read.

use std::collections::BTreeMap;

use keyhole_proto::v1::{AccessLevel, Query, QueryDescription};

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

/// The queries that cannot be answered, by the reason, of a broker at the access level `here`. Those that the broker's
/// `--queries` leaves out are named as its flag has them: `+tcp`.
pub fn by_reason(queries: &[&QueryDescription], here: AccessLevel) -> BTreeMap<Reason, Vec<String>> {
    let mut reasons: BTreeMap<Reason, Vec<String>> = BTreeMap::new();
    for query in queries.iter().filter(|query| !query.available) {
        let name = match left_out(&query.reason) {
            Some((_, flag)) => words::clean(flag, TEXT),
            None => name(query),
        };
        reasons.entry(Reason::new(&query.reason, here)).or_default().push(name);
    }
    reasons
}

impl Reason {
    /// By the broker's words, of a broker at the access level `here`. Those of one file become one for all files.
    fn new(words: &str, here: AccessLevel) -> Self {
        let reason = |what: &str, advice| Self { what: words::clean(what, TEXT), advice };
        if let Some((flag, _)) = left_out(words) {
            return reason(
                &format!("Left out by {flag}"),
                "Add these to the broker's flag, after a comma each.",
            );
        }
        // What the broker adds to a file's error is shown as it is.
        let end = words.find("(os error ").and_then(|at| words[at..].find(')').map(|end| at + end + 1));
        let (words, added) = words.split_at(end.unwrap_or(words.len()));
        let file = words.split_once(": ").filter(|(path, _)| !path.contains(' ')).map(|(_, error)| error);
        match (file, words.strip_prefix("the broker was started without ")) {
            (Some(error), _) if error.ends_with("(os error 2)") => reason(
                &format!("This kernel has no such file{added}"),
                "A driver or a service that is not here, not loaded yet, or not built in.",
            ),
            (Some(error), _) if error.ends_with("(os error 13)") || error.ends_with("(os error 1)") => {
                reason(
                    "Refused to the broker's uid",
                    if here == AccessLevel::Root { "" } else { "At the access level root they can be read." },
                )
            }
            (Some(error), _) => reason(error, ""),
            (None, Some(flag)) => reason(&format!("Needs {flag}"), "A flag that the broker was not given."),
            (None, None) if words.contains("is a container's own") => reason(
                words,
                "In a pod: mount the host's /proc and /sys into the broker, read-only (the access level host). In an OS \
                 container (LXC) that is to be shown as a host: --view=host.",
            ),
            (None, None) if words.contains("(hidepid") => reason(
                words,
                "Mount /proc without hidepid, or with hidepid=1 or 2 and gid= of a group that the broker is a member of. \
                 With hidepid=4 the kernel ignores gid=.",
            ),
            (None, None) if words.contains("namespace, and reads its own there") => reason(
                words,
                "Values of a namespace: on a host run the broker in the host's, as the systemd unit does.",
            ),
            (None, None) => reason(if words.is_empty() { "The broker does not say" } else { words }, ""),
        }
    }
}

/// The flag that leaves a query out, and what to add to it, by the broker's words: `--queries=default leaves it out:
/// add +tcp`.
fn left_out(words: &str) -> Option<(&str, &str)> {
    let (flag, add) = words.split_once(" leaves it out: add ")?;
    flag.starts_with("--queries").then_some((flag, add))
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
        let what = |words: &str| Reason::new(words, AccessLevel::Host).what;
        assert_eq!(
            what("proc/drbd: No such file or directory (os error 2)"),
            what("proc/1/net/ip_vs: No such file or directory (os error 2)")
        );
        assert_eq!(
            what("proc/drbd: No such file or directory (os error 2); whatever the broker adds"),
            "This kernel has no such file; whatever the broker adds"
        );
        assert_eq!(what("proc/slabinfo: Permission denied (os error 13)"), "Refused to the broker's uid");
        assert_eq!(what("proc/x: Input/output error (os error 5)"), "Input/output error (os error 5)");
        assert_eq!(what("the broker was started without --allow-processes"), "Needs --allow-processes");
        let container = "/proc is a container's own: pid 2 is no kernel thread";
        assert_eq!(what(container), container);
        assert_eq!(what(""), "The broker does not say");
        assert_eq!(what(&"x".repeat(1000)).chars().count(), TEXT + 1);
    }

    #[test]
    fn queries_that_a_flag_leaves_out_have_one_reason_and_are_named_as_the_flag_has_them() {
        let left_out = |query: Query, add: &str| QueryDescription {
            query: query.into(),
            reason: format!("--queries=default leaves it out: add {add}"),
            ..Default::default()
        };
        let queries = [left_out(Query::Tcp, "+tcp"), left_out(Query::MountStats, "+mount-stats")];
        let reasons = by_reason(&queries.iter().collect::<Vec<_>>(), AccessLevel::Host);
        assert_eq!(reasons.len(), 1, "{reasons:?}");
        let (reason, names) = reasons.first_key_value().unwrap();
        assert_eq!(reason.what, "Left out by --queries=default");
        assert_eq!(names[..], ["+tcp", "+mount-stats"]);
    }
}
