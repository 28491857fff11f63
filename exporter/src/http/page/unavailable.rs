//! The queries that the broker cannot answer here, grouped by reason.

use std::collections::BTreeMap;

use keyhole_proto::v1::{AccessLevel, Query, QueryDescription};

use super::format::{self, MAX_TEXT_CHARS};
use crate::self_metrics::broker::word;

/// A reason why queries are unavailable.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reason {
    /// A short summary, or the broker's message where it is not recognised.
    pub summary: String,
    /// What the reason means or what to do about it; may be empty.
    pub advice: &'static str,
}

/// The unavailable queries by reason, for a broker at `access_level`. A query that the broker's `--queries` excludes is
/// named as that flag takes it: `+tcp`.
pub fn unavailable_by_reason(
    queries: &[&QueryDescription],
    access_level: AccessLevel,
) -> BTreeMap<Reason, Vec<String>> {
    let mut reasons: BTreeMap<Reason, Vec<String>> = BTreeMap::new();
    for query in queries.iter().filter(|query| !query.available) {
        let name = match excluded_by_flag(&query.reason) {
            Some((_, flag)) => format::sanitize(flag, MAX_TEXT_CHARS),
            None => name(query),
        };
        reasons.entry(Reason::new(&query.reason, access_level)).or_default().push(name);
    }
    reasons
}

impl Reason {
    /// Classifies the broker's message. Messages that differ only in the file become one reason.
    fn new(message: &str, access_level: AccessLevel) -> Self {
        let reason =
            |summary: &str, advice| Self { summary: format::sanitize(summary, MAX_TEXT_CHARS), advice };
        if let Some((flag, _)) = excluded_by_flag(message) {
            return reason(
                &format!("Excluded by {flag}"),
                "Add these to the broker's flag, separated by commas.",
            );
        }
        // The broker may append an explanation to a file's error; it is kept.
        let end = message.find("(os error ").and_then(|at| message[at..].find(')').map(|end| at + end + 1));
        let (message, explanation) = message.split_at(end.unwrap_or(message.len()));
        let file_error =
            message.split_once(": ").filter(|(path, _)| !path.contains(' ')).map(|(_, error)| error);
        match (file_error, message.strip_prefix("the broker was started without ")) {
            (Some(error), _) if error.ends_with("(os error 2)") => reason(
                &format!("This kernel has no such file{explanation}"),
                "The driver or service is not built in, not loaded or not running.",
            ),
            (Some(error), _) if error.ends_with("(os error 13)") || error.ends_with("(os error 1)") => {
                reason(
                    "Permission denied for the broker's uid",
                    if access_level == AccessLevel::Root {
                        ""
                    } else {
                        "The access level root can read these."
                    },
                )
            }
            (Some(error), _) => reason(error, ""),
            (None, Some(flag)) => {
                reason(&format!("Needs {flag}"), "The broker was started without this flag.")
            }
            (None, None) if message.contains("is a container's own") => reason(
                message,
                "In a pod, mount the host's /proc and /sys into the broker, read-only (access level host). In an OS \
                 container (LXC) that is to be monitored as a host, set --view=host.",
            ),
            (None, None) if message.contains("(hidepid") => reason(
                message,
                "Mount /proc without hidepid, or with hidepid=1 or 2 and the gid= of a group that the broker is a member of. \
                 With hidepid=4 the kernel ignores gid=.",
            ),
            (None, None) if message.contains("namespace, and reads its own there") => reason(
                message,
                "These values are per namespace. Run the broker in the host's namespaces, as the systemd unit does.",
            ),
            (None, None) => {
                reason(if message.is_empty() { "The broker gives no reason" } else { message }, "")
            }
        }
    }
}

/// The flag that excludes a query, and what to add to it, from a message such as `--queries=default leaves it out:
/// add +tcp`.
fn excluded_by_flag(message: &str) -> Option<(&str, &str)> {
    let (flag, add) = message.split_once(" leaves it out: add ")?;
    flag.starts_with("--queries").then_some((flag, add))
}

/// The name of a query as in metric labels.
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
    fn reasons_of_single_files_are_merged_and_others_are_the_brokers_message() {
        let summary = |message: &str| Reason::new(message, AccessLevel::Host).summary;
        assert_eq!(
            summary("proc/drbd: No such file or directory (os error 2)"),
            summary("proc/1/net/ip_vs: No such file or directory (os error 2)")
        );
        assert_eq!(
            summary("proc/drbd: No such file or directory (os error 2); an explanation"),
            "This kernel has no such file; an explanation"
        );
        assert_eq!(
            summary("proc/slabinfo: Permission denied (os error 13)"),
            "Permission denied for the broker's uid"
        );
        assert_eq!(summary("proc/x: Input/output error (os error 5)"), "Input/output error (os error 5)");
        assert_eq!(summary("the broker was started without --allow-processes"), "Needs --allow-processes");
        let container = "/proc is a container's own: pid 2 is no kernel thread";
        assert_eq!(summary(container), container);
        assert_eq!(summary(""), "The broker gives no reason");
        assert_eq!(summary(&"x".repeat(1000)).chars().count(), MAX_TEXT_CHARS + 1);
    }

    #[test]
    fn queries_that_a_flag_excludes_share_a_reason_and_are_named_as_the_flag_takes_them() {
        let excluded_by_flag = |query: Query, add: &str| QueryDescription {
            query: query.into(),
            reason: format!("--queries=default leaves it out: add {add}"),
            ..Default::default()
        };
        let queries =
            [excluded_by_flag(Query::Tcp, "+tcp"), excluded_by_flag(Query::MountStats, "+mount-stats")];
        let reasons = unavailable_by_reason(&queries.iter().collect::<Vec<_>>(), AccessLevel::Host);
        assert_eq!(reasons.len(), 1, "{reasons:?}");
        let (reason, names) = reasons.first_key_value().unwrap();
        assert_eq!(reason.summary, "Excluded by --queries=default");
        assert_eq!(names[..], ["+tcp", "+mount-stats"]);
    }
}
