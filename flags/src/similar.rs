//! Suggestions for misspelled names.

/// The one of `names` that is most similar to `name`, if they differ by few letters: by less than half of them.
pub fn most_similar<'n>(names: impl Iterator<Item = &'n str>, name: &str) -> Option<&'n str> {
    names
        .map(|other| (distance(other.as_bytes(), name.as_bytes()), other))
        .min()
        .filter(|(distance, _)| *distance <= 3.max(name.len() / 6) && *distance * 2 < name.len())
        .map(|(_, other)| other)
}

/// ` (did you mean ...?)` with the suggestion, or nothing.
pub(crate) fn suggestion(prefix: &str, similar: Option<&str>) -> String {
    similar.map(|similar| format!(" (did you mean {prefix}{similar}?)")).unwrap_or_default()
}

/// The Levenshtein distance, over at most 128 bytes.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let (a, b) = (&a[..a.len().min(128)], &b[..b.len().min(128)]);
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_suggested_if_few_of_its_letters_differ() {
        let names = ["collector.cpu", "collector.cpufreq", "log.level", "all"];
        let similar = |name| most_similar(names.into_iter(), name);
        assert_eq!(similar("colector.cpu"), Some("collector.cpu"));
        assert_eq!(similar("loglevel"), Some("log.level"));
        assert_eq!(similar("something-else"), None);
        assert_eq!(similar("ax"), None, "half of it differs");
    }
}
