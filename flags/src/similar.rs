//! Suggestions for misspelled names.

/// The one of `names` that is most similar to `name`. Names are compared word by word, so that a long beginning that
/// many names share does not make them alike: of each word at most a third differs. Names with another number of words
/// are compared as a whole.
pub fn most_similar<'n>(names: impl Iterator<Item = &'n str>, name: &str) -> Option<&'n str> {
    names
        .filter_map(|other| Some((difference(other, name)?, other)))
        .min_by_key(|(difference, _)| *difference)
        .map(|(_, other)| other)
}

/// The words of a flag's or a variable's name.
fn words(name: &str) -> Vec<&str> {
    name.split(['.', '-', '_']).collect()
}

/// By how many letters two names differ; none if by too many.
fn difference(one: &str, other: &str) -> Option<usize> {
    let (words_of_one, words_of_other) = (words(one), words(other));
    if words_of_one.len() != words_of_other.len() {
        let distance = distance(one.as_bytes(), other.as_bytes());
        return Some(distance).filter(|distance| *distance <= 3 && distance * 2 < other.len());
    }
    let of_words = words_of_one.iter().zip(words_of_other).map(|(one, other)| {
        let distance = distance(one.as_bytes(), other.as_bytes());
        Some(distance).filter(|distance| *distance <= one.len().max(other.len()) / 3)
    });
    of_words.sum()
}

/// ` (did you mean ...?)` with the suggestion, or nothing.
pub fn suggestion(similar: Option<&str>) -> String {
    similar.map(|similar| format!(" (did you mean {similar}?)")).unwrap_or_default()
}

/// How many letters must be changed, added, removed or swapped with the next, over at most 128 bytes.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let (a, b) = (&a[..a.len().min(128)], &b[..b.len().min(128)]);
    let mut before = vec![0; b.len() + 1];
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut next = vec![i + 1; b.len() + 1];
        for j in 0..b.len() {
            let substituted = row[j] + usize::from(a[i] != b[j]);
            next[j + 1] = substituted.min(row[j + 1] + 1).min(next[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                next[j + 1] = next[j + 1].min(before[j - 1] + 1);
            }
        }
        before = std::mem::replace(&mut row, next);
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
        assert_eq!(similar("ax"), None, "two of three letters differ");
        assert_eq!(similar("collector.cup"), Some("collector.cpu"), "two letters are swapped");
    }

    #[test]
    fn a_common_prefix_makes_names_no_more_similar() {
        let names =
            ["COLLECTOR_ARP", "COLLECTOR_DISKSTATS_DEVICE_EXCLUDE", "COLLECTOR_TAPESTATS_IGNORED_DEVICES"];
        let similar = |name| most_similar(names.into_iter(), name);
        assert_eq!(similar("COLLECTOR_FOO"), None);
        assert_eq!(similar("COLLECTOR_DISKSTATS_IGNORED_DEVICES"), None);
        assert_eq!(similar("COLECTOR_DISKSTAT_DEVICE_EXCLUD"), Some(names[1]));
    }
}
