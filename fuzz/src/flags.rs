//! Command lines of broker, exporter and reader: any is parsed, or refused with an error.

use std::ffi::OsString;

use keyhole_broker::flags::Flags;
use keyhole_exporter::options::{Flag, FlagError, FlagKind, Options};
use keyhole_exporter::{cli, http};

fn arguments(input: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(input).split('\n').map(str::to_owned).collect()
}

/// One argument per line. Flags that were set are known as set, operands are returned, and an error is one line.
pub fn exporter_flags(input: &[u8]) {
    let arguments = arguments(input);
    for address in arguments.iter().take(4) {
        if let Err(error) = http::listen::parse(address) {
            one_line(&error.to_string());
        }
    }
    // Expressions take long to compile, the defaults' most of all: here they are none, and few are tried.
    let defaults: Vec<Flag> = cli::flags::all()
        .into_iter()
        .map(|flag| match flag.kind {
            FlagKind::Regexp(_) => Flag { kind: FlagKind::Regexp(""), ..flag },
            _ => flag,
        })
        .collect();
    match Options::parse(&defaults, arguments.iter().cloned()) {
        Ok((options, words)) => {
            assert!(words.len() <= arguments.len());
            let given = defaults.iter().filter(|flag| options.is_set(flag.name)).count();
            assert!(given + words.len() <= arguments.len(), "{arguments:?}");
        }
        Err(FlagError::Invalid { value, .. }) => {
            assert!(arguments.iter().any(|given| given.ends_with(&value)))
        }
        Err(error) => one_line(&error.to_string()),
    }
}

/// An argument a line.
pub fn broker_flags(input: &[u8]) {
    let arguments = arguments(input);
    match Flags::parse(arguments.iter().map(OsString::from), []) {
        Ok(flags) => assert!(flags.allowed_uids.len() <= arguments.len()),
        Err(error) => one_line(&error.to_string()),
    }
}

/// One argument per line, as a broker passes them to a zygote.
pub fn reader_arguments(input: &[u8]) {
    let arguments = arguments(input);
    match keyhole_reader::arguments::Arguments::parse(arguments.iter().map(OsString::from)) {
        Ok(parsed) => {
            let several = parsed.slots.len() + parsed.queries.len() + parsed.probe_directories.len();
            assert!(several <= arguments.len());
            assert!(parsed.queries.iter().all(|query| parsed.permits(*query)));
        }
        Err(refused) => assert!(arguments.iter().any(|given| *given == refused.to_string_lossy())),
    }
}

/// Arguments here have no newlines, and an error must add none.
fn one_line(error: &str) {
    assert!(!error.is_empty() && !error.contains('\n'), "{error}");
}
