//! `--queries`: which rows of the policy table a deployment may ask. A row that is left out is not opened at all.

use keyhole_flags::{most_similar, suggestion};
use keyhole_policy::{Root, TABLE, row};
use keyhole_proto::v1::Query;

/// The value of `--queries`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Queries {
    /// All queries.
    #[default]
    All,
    /// The queries of collectors that are on by default, and these.
    Default(Vec<Query>),
}

impl Queries {
    /// Parses `all`, `default` or `default,+NAME,...`.
    pub fn parse(words: &str) -> Result<Self, String> {
        let mut words = words.split(',');
        let unknown = |word: &str| {
            let similar = similar(word);
            format!(
                "{word:?} is not all, default or default,+NAME,...{}; names: {}",
                suggestion(similar.as_deref()),
                names().join(", ")
            )
        };
        match words.next() {
            Some("all") => words.next().map_or(Ok(Self::All), |word| Err(unknown(word))),
            Some("default") => {
                let query = |word: &str| {
                    let named = word
                        .strip_prefix('+')
                        .and_then(|word| TABLE.iter().find(|row| name(row.query) == word));
                    named.map(|row| row.query).ok_or_else(|| unknown(word))
                };
                Ok(Self::Default(words.map(query).collect::<Result<_, _>>()?))
            }
            other => Err(unknown(other.unwrap_or_default())),
        }
    }

    /// Whether a query is permitted.
    pub fn permits(&self, query: Query) -> bool {
        match self {
            Self::All => true,
            Self::Default(also) => {
                also.contains(&query) || TABLE.iter().any(|row| row.query == query && row.default)
            }
        }
    }

    /// Why a query is not permitted, and what to do about it; none if it is.
    pub fn missing(&self, query: Query) -> Option<String> {
        let Self::Default(also) = self else { return None };
        let added: String = also.iter().map(|query| format!(",+{}", name(*query))).collect();
        (!self.permits(query))
            .then(|| format!("--queries=default{added} leaves it out: add +{}", name(query)))
    }
}

/// Which queries this broker answers: `--queries`, and the roots that they read from.
#[derive(Debug, Clone, Default)]
pub struct PermittedQueries {
    /// `--queries`.
    pub queries: Queries,
    /// The roots that are missing, each with the flag that sets it.
    pub missing_roots: Vec<(Root, &'static str)>,
}

impl PermittedQueries {
    /// Why a query is not permitted, and what to do about it; none if it is.
    pub fn missing(&self, query: Query) -> Option<String> {
        let flag = || {
            let sources = row(query)?.sources.iter();
            sources.flat_map(|source| self.missing_roots.iter().find(|(root, _)| *root == source.root)).next()
        };
        let missing_root = || flag().map(|(_, flag)| format!("the broker was started without {flag}"));
        self.queries.missing(query).or_else(missing_root)
    }
}

/// The name of a query in flags and labels: that of the API without its prefix, in lower case.
pub fn name(query: Query) -> String {
    query.as_str_name().trim_start_matches("QUERY_").to_ascii_lowercase()
}

/// The words of `--queries`, for completions.
pub(crate) fn words() -> Vec<String> {
    let names = names().into_iter().map(|name| format!("+{name}"));
    ["all", "default"].map(str::to_owned).into_iter().chain(names).collect()
}

/// Former names of queries, with the present ones.
const FORMER_NAMES: &[(&str, &str)] = &[("anchors", "probe_directories")];

/// The word that is most similar, or the present name of this one.
fn similar(word: &str) -> Option<String> {
    let Some(name) = word.strip_prefix('+') else {
        // The name of a query without its sign.
        let with_sign = format!("+{word}");
        return words().into_iter().find(|word| *word == with_sign);
    };
    let former = FORMER_NAMES.iter().find(|(former, _)| *former == name).map(|(_, present)| *present);
    let names = names();
    let similar = former.or_else(|| most_similar(names.iter().map(String::as_str), name))?;
    Some(format!("+{similar}"))
}

fn names() -> Vec<String> {
    TABLE.iter().map(|row| name(row.query)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_permits_the_queries_of_default_collectors_and_a_name_adds_one() {
        let default = Queries::parse("default").unwrap();
        for query in [Query::Tcp, Query::Routes, Query::MountStats, Query::Processes, Query::Threads] {
            assert!(!default.permits(query), "{query:?}");
            assert!(default.missing(query).unwrap().contains(&name(query)));
        }
        assert!(default.permits(Query::Stat) && default.missing(Query::Stat).is_none());
        let more = Queries::parse("default,+tcp,+mount_stats").unwrap();
        assert!(more.permits(Query::Tcp) && more.permits(Query::MountStats) && !more.permits(Query::Routes));
        assert!(TABLE.iter().all(|row| Queries::parse("all").unwrap().permits(row.query)));
    }

    #[test]
    fn an_invalid_value_is_an_error_with_a_suggestion() {
        for (words, suggestion) in [
            ("default,+tpc", "(did you mean +tcp?)"),
            ("default,+anchors", "(did you mean +probe_directories?)"),
            ("default,tcp", "(did you mean +tcp?)"),
        ] {
            let error = Queries::parse(words).unwrap_err();
            assert!(error.contains(suggestion), "{error}");
        }
        assert!(!Queries::parse("default,+nothing").unwrap_err().contains("did you mean"));
        for (former, present) in FORMER_NAMES {
            assert!(names().iter().any(|name| name == present) && !names().iter().any(|name| name == former));
        }
    }

    #[test]
    fn an_invalid_value_is_an_error_that_lists_the_names() {
        for words in ["", "none", "all,+tcp", "default,tcp", "default,+nope", "default,", "+tcp"] {
            let error = Queries::parse(words).unwrap_err();
            assert!(error.contains("is not all, default or") && error.contains("mount_stats"), "{error}");
        }
    }
}
