//! The pattern language of the policy table: `*` matches any bytes within one component of a path, `#` one or more digits,
//! `%` any number of digits or none, `{a,b}` one of the alternatives. There are no regular expressions, no `..`, and
//! nothing that leaves its root.
//!
//! Patterns are not checked when they are matched; a test of the table checks that each is well formed.

/// Whether a pattern matches a path, or a component of one a name.
///
/// `#` and `%` are greedy: they match every digit that follows. Only `*` and alternatives backtrack: names are short, and
/// a component has at most two `*`.
pub fn matches(pattern: &[u8], name: &[u8]) -> bool {
    match pattern {
        [] => name.is_empty(),
        [b'*', rest @ ..] => {
            let run = name.iter().take_while(|byte| **byte != b'/').count();
            (0..=run).any(|at| matches(rest, &name[at..]))
        }
        [sign @ (b'#' | b'%'), rest @ ..] => {
            let digits = name.iter().take_while(|byte| byte.is_ascii_digit()).count();
            (digits > 0 || *sign == b'%') && matches(rest, &name[digits..])
        }
        [b'{', rest @ ..] => {
            let mut parts = rest.splitn(2, |byte| *byte == b'}');
            let (choices, rest) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            let mut choices = choices.split(|byte| *byte == b',');
            choices.any(|choice| name.strip_prefix(choice).is_some_and(|name| matches(rest, name)))
        }
        [byte, rest @ ..] => name.first() == Some(byte) && matches(rest, &name[1..]),
    }
}

/// Whether two patterns can stand for the same path. It looks at neither longest runs of digits nor empty names, so it may
/// say yes where [`matches()`] finds no such path.
pub fn overlap(one: &str, other: &str) -> bool {
    let (mut ones, mut others) = (one.split('/'), other.split('/'));
    loop {
        match (ones.next(), others.next()) {
            (None, None) => return true,
            (Some(one), Some(other)) if components_overlap(one.as_bytes(), other.as_bytes()) => {}
            _ => return false,
        }
    }
}

fn components_overlap(one: &[u8], other: &[u8]) -> bool {
    // One digit taken from a `#` leaves any number of them.
    let after_digit = |rest: &[u8]| [b"%", rest].concat();
    match (one, other) {
        ([], []) => true,
        ([b'{', rest @ ..], _) => {
            let mut parts = rest.splitn(2, |byte| *byte == b'}');
            let (choices, rest) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            let mut choices = choices.split(|byte| *byte == b',');
            choices.any(|choice| components_overlap(&[choice, rest].concat(), other))
        }
        (_, [b'{', ..]) => components_overlap(other, one),
        ([b'*', rest @ ..], _) => {
            components_overlap(rest, other)
                || match other {
                    [] => false,
                    [b'#', others @ ..] => components_overlap(one, &after_digit(others)),
                    [_, others @ ..] => components_overlap(one, others),
                }
        }
        (_, [b'*', ..]) => components_overlap(other, one),
        ([b'%', rest @ ..], _) => {
            components_overlap(rest, other)
                || match other {
                    [b'#', others @ ..] => components_overlap(one, &after_digit(others)),
                    [b'%', others @ ..] => components_overlap(one, others),
                    [digit, others @ ..] if digit.is_ascii_digit() => components_overlap(one, others),
                    _ => false,
                }
        }
        (_, [b'%', ..]) => components_overlap(other, one),
        ([b'#', rest @ ..], [b'#', others @ ..]) => {
            components_overlap(&after_digit(rest), &after_digit(others))
        }
        ([b'#', rest @ ..], [digit, others @ ..]) if digit.is_ascii_digit() => {
            components_overlap(&after_digit(rest), others)
        }
        (_, [b'#', ..]) if !one.starts_with(b"#") && !one.is_empty() => components_overlap(other, one),
        ([byte, rest @ ..], [second, others @ ..]) => byte == second && components_overlap(rest, others),
        _ => false,
    }
}

/// Whether a component has a wildcard, so that its directory must be listed to find the names that it matches.
pub fn is_wild(component: &str) -> bool {
    component.contains(['*', '#', '%'])
}

/// Whether a component can match several names, by a wildcard or by alternatives.
pub fn matches_several(component: &str) -> bool {
    is_wild(component) || component.contains('{')
}

/// A pattern up to the first component that can match several directories, which are most often those of devices; none if
/// there is no such component. Patterns with the same prefix are read together, device by device.
pub fn devices(pattern: &str) -> Option<&str> {
    let mut start = 0;
    for component in pattern.split('/') {
        let end = start + component.len();
        if is_wild(component) || (end < pattern.len() && matches_several(component)) {
            return Some(&pattern[..end]);
        }
        start = end + 1;
    }
    None
}

/// The names that a component without wildcards matches, in its order.
pub fn names(component: &str) -> Vec<String> {
    let choice = component.split_once('{').and_then(|(head, tail)| Some((head, tail.split_once('}')?)));
    let Some((head, (choices, tail))) = choice else { return vec![component.to_owned()] };
    let tails = names(tail);
    let with_tails = |choice| tails.iter().map(move |tail| format!("{head}{choice}{tail}"));
    choices.split(',').flat_map(with_tails).collect()
}

/// A component of a pattern, parsed once to be expanded many times.
#[derive(Debug)]
pub struct Component {
    /// The text of the component.
    pub text: &'static str,
    /// The names that it matches; empty for a component with wildcards.
    pub names: Vec<String>,
}

/// The components of a pattern, from the root down.
pub fn components(pattern: &'static str) -> Vec<Component> {
    let component = |text| Component { text, names: if is_wild(text) { Vec::new() } else { names(text) } };
    pattern.split('/').map(component).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TABLE;
    use proptest::prelude::*;

    fn is(pattern: &str, name: &[u8]) -> bool {
        matches(pattern.as_bytes(), name)
    }

    #[test]
    fn a_component_without_wildcards_has_a_list_of_names() {
        assert_eq!(names("snmp"), ["snmp"]);
        assert_eq!(names("{snmp6,snmp}"), ["snmp6", "snmp"]);
        assert_eq!(names("a{b,c}d{e,f}"), ["abde", "abdf", "acde", "acdf"]);
    }

    #[test]
    fn a_hash_sign_matches_one_or_more_digits() {
        assert!(is("cpu#", b"cpu0") && is("cpu#", b"cpu128"));
        for other in [&b"cpu"[..], b"cpu0x", b"cpufreq", b"xcpu0", b"cpu-1", b""] {
            assert!(!is("cpu#", other), "{}", other.escape_ascii());
        }
    }

    #[test]
    fn a_percent_sign_matches_any_number_of_digits_or_none() {
        assert!(is("temp%", b"temp") && is("temp%", b"temp0") && is("temp%", b"temp12"));
        for other in [&b"temp_input"[..], b"temp1_input", b"temperature", b"tem", b""] {
            assert!(!is("temp%", other), "{}", other.escape_ascii());
        }
    }

    #[test]
    fn devices_are_matched_by_the_first_wildcard_or_alternative_of_directories() {
        for (pattern, expected) in [
            ("class/net/*/{mtu,speed}", Some("class/net/*")),
            ("class/hwmon/hwmon#", Some("class/hwmon/hwmon#")),
            ("fs/cgroup/{a,b}/*/{c,d}", Some("fs/cgroup/{a,b}")),
            ("fs/btrfs/*-*/allocation/{data,system}/*/x", Some("fs/btrfs/*-*")),
            ("fs/cgroup/{a,b}", None),
            ("stat", None),
        ] {
            assert_eq!(devices(pattern), expected, "{pattern}");
        }
    }

    #[test]
    fn a_star_matches_within_its_component() {
        let sensor = "{temp,fan}#_*";
        assert!(is(sensor, b"temp12_crit_alarm") && is(sensor, b"fan1_input"));
        assert!(!is(sensor, b"temp_input") && !is(sensor, b"power1_input"));
        assert!(is("lower_*", b"lower_eth\xff\n"));
        assert!(is("*", b""), "a listing never has an empty name");
        assert!(!is("*", b"a/b") && !is("a*", b"a/b") && is("*/b", b"a/b"));
    }

    #[test]
    fn an_alternative_may_be_a_prefix_of_another() {
        assert!(is("{a,ab}c", b"abc") && is("{a,ab}c", b"ac") && !is("{a,ab}c", b"ab"));
    }

    #[test]
    fn patterns_overlap_if_a_path_can_match_both() {
        for (one, other, expected) in [
            ("proc/stat", "proc/stat", true),
            ("proc/stat", "proc/#/stat", false),
            ("class/watchdog/*/timeout", "class/watchdog/watchdog#/{status,timeout}", true),
            ("class/watchdog/*/timeleft", "class/watchdog/watchdog#/{status,timeout}", false),
            ("cpu#", "cpu7", true),
            ("cpu#", "cpufreq", false),
            ("cpu#", "cpu", false),
            ("temp%", "temp", true),
            ("temp%_*", "temp#_input", true),
            ("{temp,fan}#_*", "power#_*", false),
            ("*-*", "a#-b#", true),
            ("*", "a/b", false),
            ("b#:#", "b*", true),
            ("1/net/dev", "#/net/dev", true),
        ] {
            assert_eq!(overlap(one, other), expected, "{one} {other}");
            assert_eq!(overlap(other, one), expected, "{other} {one}");
        }
    }

    #[test]
    fn a_whole_pattern_matches_whole_paths() {
        let pattern = "class/net/*/{lower,slave}_*/bonding_slave/mii_status";
        assert!(is(pattern, b"class/net/bond0/lower_eth0/bonding_slave/mii_status"));
        assert!(!is(pattern, b"class/net/bond0/x/lower_eth0/bonding_slave/mii_status"));
        assert!(!is(pattern, b"class/net/bond0/lower_eth0/bonding_slave/mii_status/x"));
    }

    proptest! {
        #[test]
        fn any_bytes_as_a_pattern_do_not_panic(
            pattern in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b'{'), Just(b'}'), Just(b'#'), Just(b'%'), Just(b',')], 0..40),
            name in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let _ = matches(&pattern, &name);
            let _ = names(&String::from_utf8_lossy(&pattern));
        }

        #[test]
        fn patterns_that_match_one_name_overlap(
            one in "[a{*#%1]{0,4}", other in "[ab*#%1]{0,4}", name in "[ab1]{0,5}",
        ) {
            let one = one.replace('{', "{a,b}");
            if is(&one, name.as_bytes()) && is(&other, name.as_bytes()) {
                prop_assert!(overlap(&one, &other));
            }
            prop_assert_eq!(overlap(&one, &name), overlap(&name, &one));
            prop_assert_eq!(overlap(&one, &other), overlap(&other, &one));
        }

        #[test]
        fn a_literal_matches_only_itself(name in "[a-z]{1,8}", other in "[a-z]{1,8}") {
            let prefix = format!("{name}*");
            prop_assert!(is(&prefix, name.as_bytes()));
            prop_assert_eq!(is(&prefix, other.as_bytes()), other.starts_with(&name));
            prop_assert_eq!(is(&name, other.as_bytes()), name == other);
        }

        #[test]
        fn every_name_of_a_component_matches_it(texts in proptest::collection::vec("[a-z]{1,3}", 1..5), tail in "[a-z]{0,3}") {
            let component = format!("{{{}}}{tail}", texts.join(","));
            for name in names(&component) {
                prop_assert!(is(&component, name.as_bytes()));
            }
        }

        #[test]
        fn matching_any_name_is_fast(
            name in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b'a'), Just(b'1'), Just(b'_')], 0..256),
        ) {
            for pattern in ["*a*", "*#*", "#*", "%*", "{a,b}*#", "*_*_*"] {
                let _ = is(pattern, &name);
            }
            // For each component of the table.
            for component in TABLE.iter().flat_map(|row| row.sources).flat_map(|source| source.pattern.split('/')) {
                let _ = is(component, &name);
            }
        }
    }
}
