//! `--queries`: which rows of the policy table a deployment may ask. A row that is left out is not opened at all.

use keyhole_policy::{Root, TABLE, row};
use keyhole_proto::v1::Query;

/// Which queries may be asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Queries {
    /// Every one.
    #[default]
    All,
    /// Those of collectors that are on by default, and these.
    Default(Vec<Query>),
}

impl Queries {
    /// Reads `all`, `default` or `default,+NAME,...`.
    pub fn parse(words: &str) -> Result<Self, String> {
        let mut words = words.split(',');
        let unknown = |word: &str| {
            format!("{word:?} is not all, default or default,+NAME,...; names: {}", names().join(", "))
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

    /// Whether a query may be asked.
    pub fn permit(&self, query: Query) -> bool {
        match self {
            Self::All => true,
            Self::Default(also) => {
                also.contains(&query) || TABLE.iter().any(|row| row.query == query && row.default)
            }
        }
    }

    /// Why a query may not be asked, and what to do about it; none when it may.
    pub fn missing(&self, query: Query) -> Option<String> {
        let Self::Default(also) = self else { return None };
        let given: String = also.iter().map(|query| format!(",+{}", name(*query))).collect();
        (!self.permit(query)).then(|| format!("--queries=default{given} leaves it out: add +{}", name(query)))
    }
}

/// What of a deployment decides which queries its readers read.
#[derive(Debug, Clone, Default)]
pub struct Permits {
    /// `--queries`.
    pub queries: Queries,
    /// The roots that were not given, each with the flag that gives it.
    pub not_given: Vec<(Root, &'static str)>,
}

impl Permits {
    /// Why a query is not read, and what to do about it; none when it is.
    pub fn missing(&self, query: Query) -> Option<String> {
        let flag = || {
            let sources = row(query)?.sources.iter();
            sources.flat_map(|source| self.not_given.iter().find(|(root, _)| *root == source.root)).next()
        };
        let not_given = || flag().map(|(_, flag)| format!("the broker was started without {flag}"));
        self.queries.missing(query).or_else(not_given)
    }
}

/// The name of a query in the flag: the contract's, without its prefix, in lower case.
pub fn name(query: Query) -> String {
    query.as_str_name().trim_start_matches("QUERY_").to_ascii_lowercase()
}

fn names() -> Vec<String> {
    TABLE.iter().map(|row| name(row.query)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_is_what_a_default_deployment_asks_and_a_name_adds_to_it() {
        let default = Queries::parse("default").unwrap();
        for query in [Query::Tcp, Query::Routes, Query::MountStats, Query::Processes, Query::Threads] {
            assert!(!default.permit(query), "{query:?}");
            assert!(default.missing(query).unwrap().contains(&name(query)));
        }
        assert!(default.permit(Query::Stat) && default.missing(Query::Stat).is_none());
        let more = Queries::parse("default,+tcp,+mount_stats").unwrap();
        assert!(more.permit(Query::Tcp) && more.permit(Query::MountStats) && !more.permit(Query::Routes));
        assert!(TABLE.iter().all(|row| Queries::parse("all").unwrap().permit(row.query)));
    }

    #[test]
    fn what_is_no_choice_is_refused_with_the_names_there_are() {
        for words in ["", "none", "all,+tcp", "default,tcp", "default,+nope", "default,", "+tcp"] {
            let error = Queries::parse(words).unwrap_err();
            assert!(error.contains("is not all, default or") && error.contains("mount_stats"), "{error}");
        }
    }
}
