//! Parsers of single texts, most of them compared with another implementation.

use keyhole_broker::frames::{Frames, MalformedFrame};
use keyhole_exporter::go_regex::GoRegex;
use keyhole_exporter::http::parameters::{Parameters, accepts_gzip, negotiate, timeout_seconds};
use keyhole_exporter::http::{listen, paths, web_config as web};
use keyhole_exporter::{local, text as kernel};
use keyhole_policy::pattern::{self, is_wild, matches};
use keyhole_policy::pipes::{FrameKind, HEADER_BYTES, PAYLOAD_BYTES, SKIPPED, header};
use keyhole_reader::mounts::mounts;

/// The small parsers that collectors share.
pub fn text(input: &[u8]) {
    let plain = std::str::from_utf8(input).ok();
    let digits = |text: &&str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    assert_eq!(kernel::unsigned(input), plain.filter(digits).and_then(|text| text.parse().ok()));
    let signed = |text: &&str| digits(&text.strip_prefix('-').unwrap_or(text));
    assert_eq!(kernel::signed(input), plain.filter(signed).and_then(|text| text.parse().ok()));
    if let Some(value) = kernel::float(input) {
        assert_eq!(Some(value), plain.and_then(|text| text.parse().ok()));
        assert!(value.is_finite());
    }
    let bare = plain.map(|text| text.strip_prefix("0x").unwrap_or(text));
    let hexadecimal = |text: &&str| (1..=16).contains(&text.len()) && !text.starts_with('+');
    assert_eq!(
        kernel::hexadecimal(input),
        bare.filter(hexadecimal).and_then(|text| u64::from_str_radix(text, 16).ok())
    );
    if let Some(number) = kernel::integer(input).filter(|_| !input.starts_with(b"0x")) {
        assert_eq!(kernel::signed(input), Some(number));
    }

    assert!(kernel::cpu_list(input).count() <= 65_536);
    let commas = input.iter().filter(|byte| **byte == b',').count();
    assert!(kernel::cpu_list(input).filter(Option::is_none).count() <= commas + 1);
    if let Some(number) = kernel::cpu_number(input) {
        assert!(kernel::unsigned(number).is_some());
    }
    let unescaped = kernel::unescape_octal(input);
    assert!(unescaped.len() <= input.len() && input.len() <= 4 * unescaped.len());
    let printable = kernel::printable(input);
    assert!(printable.len() <= 3 * input.len());
    match plain {
        Some(plain) => assert_eq!(printable, plain),
        None => {
            let lossy = String::from_utf8_lossy(input);
            let squeezed =
                |text: &str| text.chars().filter(|c| *c != char::REPLACEMENT_CHARACTER).collect::<String>();
            assert_eq!(squeezed(&printable), squeezed(&lossy));
        }
    }

    let fields = |line| kernel::fields(line).map(<[u8]>::len).sum::<usize>();
    let in_lines: usize = kernel::lines(input).map(fields).sum();
    assert!(in_lines <= input.len());
    assert!(kernel::labelled(input).is_none_or(|(_, numbers)| numbers.len() < input.len()));
    for line in kernel::lines(input).take(64) {
        if let Some(meminfo) = kernel::meminfo_line(line) {
            assert!(!meminfo.name.is_empty() && meminfo.name.len() <= 3 * line.len());
            assert!(!meminfo.bytes || meminfo.value % 1024 == 0);
        }
        if let Some(columns) = kernel::cpu_columns(line) {
            assert!(!columns.is_empty() && 4 * columns.len() <= line.len() + 1);
        }
        if let Some((node, zone)) = kernel::node_and_zone(&mut kernel::fields(line)) {
            assert!(kernel::unsigned(node).is_some() && !zone.is_empty());
        }
        if let Some(value) = kernel::shortened(line) {
            assert!(value.fract() == 0.0 || !value.is_finite());
        }
        let (number, factor) = kernel::binary_prefix(line);
        assert!(line.starts_with(number) && factor >= 1.0);
    }
    if let Some(stat) = kernel::ProcessStat::parse(input) {
        assert_eq!(kernel::process_state(input), Some(stat.state));
        assert!(stat.state.is_ascii_alphabetic() && stat.comm.len() < input.len());
    }
    for separator in [b':', b' '] {
        for (head, tail) in [kernel::split_first(input, separator), kernel::split_last(input, separator)]
            .into_iter()
            .flatten()
        {
            assert_eq!([head, &[separator], tail].concat(), input);
        }
    }
}

/// The reader's parser of mountinfo: mount points are absolute, unique and have no `..`.
pub fn mountinfo(input: &[u8]) {
    let points: Vec<_> = mounts(input).into_iter().map(|mount| mount.point).collect();
    assert!(points.len() <= input.split(|byte| *byte == b'\n').count());
    assert!(points.iter().map(Vec::len).sum::<usize>() <= input.len());
    let mut once = points.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), points.len());
    for point in &points {
        assert!(point.starts_with(b"/") && !point.contains(&0));
        assert!(point.split(|byte| *byte == b'/').all(|component| component != b".."));
    }
}

/// A regular expression and names, one per line: equivalent expressions match the same names.
pub fn go_regex(input: &[u8]) {
    let mut lines = input.split(|byte| *byte == b'\n');
    let Some(pattern) = lines.next().and_then(|line| std::str::from_utf8(line).ok()) else { return };
    let names: Vec<&[u8]> = lines.take(8).collect();
    for name in names.iter().filter_map(|name| std::str::from_utf8(name).ok()) {
        if !name.contains(r"\E") && !name.ends_with('\\') {
            let itself = GoRegex::new(&format!(r"^\Q{name}\E$")).expect("quoted text");
            assert!(itself.is_match(name.as_bytes()), "{name:?}");
        }
    }
    if pattern.len() > 200 || pattern.contains(r"\Q") {
        _ = GoRegex::new(pattern);
        return;
    }
    let Ok(regex) = GoRegex::new(pattern) else { return };
    // In a group, in an alternative, and repeated; each of these may exceed a limit.
    let same = [format!("(?:{pattern})"), format!("(?P<x>{pattern})"), format!("(?:{pattern}){{1}}")];
    let same = same.map(|pattern| GoRegex::new(&pattern).ok());
    let wider = [format!("(?:{pattern})|x"), format!("(?:{pattern})?"), format!("(?:x|{pattern})")];
    let wider = wider.map(|pattern| GoRegex::new(&pattern).ok());
    for name in names {
        let matches = regex.is_match(name);
        for same in same.iter().flatten() {
            assert_eq!(same.is_match(name), matches, "{pattern:?} on {}", name.escape_ascii());
        }
        for wider in wider.iter().flatten() {
            assert!(!matches || wider.is_match(name), "{pattern:?} on {}", name.escape_ascii());
        }
        // Each byte that is no UTF-8 is one replacement character.
        let replaced: String = name.utf8_chunks().fold(String::new(), |text, chunk| {
            text + chunk.valid() + &"\u{fffd}".repeat(chunk.invalid().len())
        });
        assert_eq!(regex.is_match(replaced.as_bytes()), matches, "{pattern:?} on {}", name.escape_ascii());
    }
}

/// A policy pattern and names, one per line: the matcher is compared with an equivalent regular expression.
pub fn pattern(input: &[u8]) {
    let mut lines = input.split(|byte| *byte == b'\n');
    let Some(pattern) = lines.next().and_then(|line| std::str::from_utf8(line).ok()) else { return };
    if pattern.len() > 60 {
        return;
    }
    for text in pattern.split('/') {
        for name in lines.clone().filter(|name| name.len() <= 64 && text.matches('*').count() <= 2) {
            let _ = matches(text.as_bytes(), name);
        }
        if !is_component(text) {
            continue;
        }
        if !is_wild(text) {
            assert!(
                pattern::names(text).iter().all(|name| matches(text.as_bytes(), name.as_bytes())),
                "{text}"
            );
        }
        let Ok(same) = regex::bytes::Regex::new(&expression(text)) else { continue };
        // `#` takes every digit there is and gives none back, which no expression of the library can say.
        let exact = !text.as_bytes().windows(2).any(|pair| {
            b"#%".contains(&pair[0]) && (pair[1].is_ascii_digit() || b"#%{},".contains(&pair[1]))
        }) && !text.contains("}#")
            && !text.contains("}%");
        for name in lines.clone().filter(|name| name.len() <= 255) {
            let (is, is_same) = (matches(text.as_bytes(), name), same.is_match(name));
            assert!(!is || is_same, "{text} and {}", name.escape_ascii());
            assert!(!exact || is == is_same, "{text} and {}", name.escape_ascii());
        }
    }
}

/// Whether a component is valid in the policy table; a test of the table checks the same.
fn is_component(text: &str) -> bool {
    let mut rest = text;
    let mut outside = String::new();
    while let Some((head, tail)) = rest.split_once('{') {
        let Some((choices, tail)) = tail.split_once('}') else { return false };
        if choices.contains(['{', '*', '#', '%']) {
            return false;
        }
        outside += head;
        rest = tail;
    }
    outside += rest;
    !outside.contains('}') && !outside.contains("**") && outside.matches('*').count() <= 2
}

/// A component as a regular expression.
fn expression(component: &str) -> String {
    let mut expression = String::from("(?s-u)^(?:");
    let mut inside = false;
    for c in component.chars() {
        match c {
            '*' => expression.push_str("[^/]*"),
            '#' => expression.push_str("[0-9]+"),
            '%' => expression.push_str("[0-9]*"),
            '{' => expression.push_str("(?:"),
            '}' => expression.push(')'),
            ',' if inside => expression.push('|'),
            c => {
                for byte in c.to_string().bytes() {
                    expression.push_str(&format!("\\x{byte:02x}"));
                }
            }
        }
        inside = (inside || c == '{') && c != '}';
    }
    expression + ")$"
}

/// The file of `--web.config.file`, and an `Authorization` header.
pub fn web_config(input: &[u8]) {
    if let Some(reason) = web::parse_error(input) {
        assert!(!reason.is_empty() && !reason.contains('\n'), "{reason}");
    }
    if web::is_basic_auth(input) {
        // The scheme may be written in any case.
        assert!(input.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"basic ")));
    }
}

/// A query string, headers, an address to listen on, and a path.
pub fn query(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let _ = accepts_gzip(text.split('\n'));
    // Of equally preferred formats the first is used, so repeating one changes nothing.
    let (form, escaping) = negotiate(text.split('\n'));
    assert_eq!(negotiate(text.split('\n').chain([""])), (form, escaping));
    if let Ok((_, port)) = listen::parse(text) {
        let digits =
            text.rsplit(':').next().unwrap_or_default().trim_start_matches('+').trim_start_matches('0');
        assert_eq!(digits, if port == 0 { String::new() } else { port.to_string() });
    }
    if paths::is_reachable(text) {
        assert!(text.starts_with('/') && text.split('/').all(|segment| segment != "." && segment != ".."));
    }
    if let Some(seconds) = timeout_seconds(text) {
        assert!(seconds > 0.0 && seconds.is_finite());
    }
    let Ok(parameters) = Parameters::parse(text) else { return };
    let values: Vec<&String> =
        [&parameters.collect, &parameters.exclude, &parameters.names].into_iter().flatten().collect();
    assert!(values.len() <= text.split('&').count());
    assert!(values.iter().map(|value| value.len()).sum::<usize>() <= text.len());
    // With every byte percent-encoded, the result is the same.
    let mut encoded = String::new();
    for (key, values) in [
        ("collect[]", &parameters.collect),
        ("exclude[]", &parameters.exclude),
        ("name[]", &parameters.names),
    ] {
        for value in values {
            let hex: String = value.bytes().map(|byte| format!("%{byte:02X}")).collect();
            encoded.push_str(&format!("{key}={hex}&"));
        }
    }
    assert_eq!(Parameters::parse(&encoded), Ok(parameters));
}

/// Time zone files.
pub fn names(input: &[u8]) {
    if let Some(zone) = local::constant_zone(input) {
        assert!(zone.name.len() <= input.len());
    }
}

/// Bytes of a reader's pipe, in pieces of the length in the first byte: the frames do not depend on the pieces, none is
/// longer than allowed, and only an incomplete frame is buffered.
pub fn frames(input: &[u8]) {
    let Some((&first, bytes)) = input.split_first() else { return };
    let mut frames = Frames::default();
    let (mut come, mut rest) = (0, bytes);
    for piece in bytes.chunks(usize::from(first) + 1) {
        frames.space().extend_from_slice(piece);
        come += piece.len();
        loop {
            match frames.next_frame() {
                Ok(Some(frame)) => {
                    let length = frame.payload.len();
                    assert!(length <= PAYLOAD_BYTES);
                    let (whole, behind) = rest.split_at(HEADER_BYTES + length);
                    let header = header(length, frame.kind, frame.query, 0);
                    assert_eq!(
                        (&whole[..FLAGS], &whole[HEADER_BYTES..]),
                        (&header[..FLAGS], &*frame.payload)
                    );
                    assert_eq!(frame.skipped, whole[FLAGS] & SKIPPED != 0);
                    rest = behind;
                }
                Ok(None) => break,
                // An invalid header.
                Err(MalformedFrame::Kind(kind)) => {
                    return assert!(rest[4] == kind && FrameKind::parse(kind).is_none());
                }
                Err(MalformedFrame::Length(length)) => {
                    return assert!(
                        rest.starts_with(&length.to_le_bytes()) && length as usize > PAYLOAD_BYTES
                    );
                }
            }
        }
        let kept = come - (bytes.len() - rest.len());
        assert!(
            kept < HEADER_BYTES + PAYLOAD_BYTES
                && (kept < HEADER_BYTES || kept < HEADER_BYTES + announced(rest))
        );
    }
}

/// Where a header has its flags.
const FLAGS: usize = 6;

/// The length in a header.
fn announced(bytes: &[u8]) -> usize {
    bytes.first_chunk().map_or(0, |length| u32::from_le_bytes(*length) as usize)
}
