//! Flags whose values have a type: a collector reads its own once, when it is made.

use std::marker::PhantomData;
use std::time::Duration;

use super::{DurationRange, Flag, FlagError, FlagKind, Options};
use crate::go_regex::GoRegex;

/// A flag and the type of its value. Its [`row`](Self::row) is what the command line accepts; [`get`](Self::get) is the
/// only way to its value, so that a name that is misspelt or a value of another type does not compile.
///
/// ```
/// use keyhole_exporter::options::{Options, TypedFlag};
/// const SOFTIRQ: TypedFlag<bool> = TypedFlag::switch("collector.stat.softirq", false, "Softirqs by type.");
/// let (options, _) = Options::parse(&[SOFTIRQ.row], ["--collector.stat.softirq".to_owned()])?;
/// let softirq: bool = SOFTIRQ.get(&options);
/// assert!(softirq);
/// # Ok::<(), keyhole_exporter::options::FlagError>(())
/// ```
///
/// A misspelt name:
///
/// ```compile_fail,E0425
/// use keyhole_exporter::options::{Options, TypedFlag};
/// const SOFTIRQ: TypedFlag<bool> = TypedFlag::switch("collector.stat.softirq", false, "Softirqs by type.");
/// let softirq: bool = SOFTIQR.get(&Options::defaults(&[SOFTIRQ.row]));
/// ```
///
/// A value of another type:
///
/// ```compile_fail,E0308
/// use keyhole_exporter::options::{Options, TypedFlag};
/// const SOFTIRQ: TypedFlag<bool> = TypedFlag::switch("collector.stat.softirq", false, "Softirqs by type.");
/// let softirq: u64 = SOFTIRQ.get(&Options::defaults(&[SOFTIRQ.row]));
/// ```
#[derive(Debug)]
pub struct TypedFlag<T> {
    /// The flag as the command line and the documents have it.
    pub row: Flag,
    value: PhantomData<fn() -> T>,
}

impl<T> TypedFlag<T> {
    const fn new(name: &'static str, kind: FlagKind, help: &'static str) -> Self {
        Self { row: Flag { name, kind, help }, value: PhantomData }
    }

    /// An old name of the flag.
    pub const fn alias(&self, name: &'static str) -> Flag {
        Flag { name, kind: FlagKind::Alias(self.row.name), help: "" }
    }

    /// Whether the command line or the environment gave it.
    pub fn is_set(&self, options: &Options) -> bool {
        options.is_set(self.row.name)
    }
}

impl TypedFlag<bool> {
    /// A flag that is on or off.
    pub const fn switch(name: &'static str, default: bool, help: &'static str) -> Self {
        Self::new(name, FlagKind::Switch(default), help)
    }

    /// Whether it is on.
    pub fn get(&self, options: &Options) -> bool {
        options.switch(self.row.name)
    }
}

impl TypedFlag<Option<GoRegex>> {
    /// A regular expression in Go's syntax; empty for none.
    pub const fn regexp(name: &'static str, default: &'static str, help: &'static str) -> Self {
        Self::new(name, FlagKind::Regexp(default), help)
    }

    /// The expression; none when it is empty.
    pub fn get(&self, options: &Options) -> Option<GoRegex> {
        options.regexp(self.row.name).cloned()
    }
}

impl TypedFlag<String> {
    /// Any text; empty for none.
    pub const fn text(name: &'static str, default: &'static str, help: &'static str) -> Self {
        Self::new(name, FlagKind::Text(default), help)
    }

    /// A text that the program parses, shown under a name of its own; empty for none.
    pub const fn parsed(
        name: &'static str,
        placeholder: &'static str,
        default: &'static str,
        help: &'static str,
    ) -> Self {
        Self::new(name, FlagKind::Parsed { placeholder, default }, help)
    }

    /// One of a few words.
    pub const fn choice(
        name: &'static str,
        default: &'static str,
        choices: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        Self::new(name, FlagKind::Choice { default, choices, ignore_case: false }, help)
    }

    /// A row that several programs share. One that has no text does not compile.
    pub const fn from_row(row: Flag) -> Self {
        assert!(
            matches!(row.kind, FlagKind::Text(_) | FlagKind::Choice { .. }),
            "the value of this flag is no text"
        );
        Self { row, value: PhantomData }
    }

    /// The path of a file; empty for none.
    pub const fn file(name: &'static str, default: &'static str, help: &'static str) -> Self {
        Self::new(name, FlagKind::File(default), help)
    }

    /// The path of a directory; empty for none.
    pub const fn directory(name: &'static str, default: &'static str, help: &'static str) -> Self {
        Self::new(name, FlagKind::Directory(default), help)
    }

    /// The text; empty when there is none.
    pub fn get(&self, options: &Options) -> String {
        options.text(self.row.name).to_owned()
    }
}

impl TypedFlag<Vec<String>> {
    /// Any number of texts.
    pub const fn texts(name: &'static str, help: &'static str) -> Self {
        Self::new(name, FlagKind::Texts, help)
    }

    /// Any number of texts that the program parses, shown under a name of their own.
    pub const fn parsed_list(name: &'static str, placeholder: &'static str, help: &'static str) -> Self {
        Self::new(name, FlagKind::ParsedList { placeholder }, help)
    }

    /// The texts, in the order given.
    pub fn get(&self, options: &Options) -> Vec<String> {
        options.texts(self.row.name).to_vec()
    }
}

impl TypedFlag<u64> {
    /// A whole number.
    pub const fn number(name: &'static str, default: u64, help: &'static str) -> Self {
        Self::new(name, FlagKind::Number(default), help)
    }

    /// The number.
    pub fn get(&self, options: &Options) -> u64 {
        options.number(self.row.name)
    }

    /// The number as a limit, of which 0 means none.
    pub fn limit(&self, options: &Options) -> usize {
        options.limit(self.row.name)
    }
}

impl TypedFlag<Duration> {
    /// A duration as Go writes it.
    pub const fn duration(
        name: &'static str,
        default: &'static str,
        range: DurationRange,
        help: &'static str,
    ) -> Self {
        Self::new(name, FlagKind::Duration { default, range }, help)
    }

    /// The duration.
    pub fn get(&self, options: &Options) -> Duration {
        options.duration(self.row.name)
    }
}

impl TypedFlag<Option<Duration>> {
    /// Off, or every so often: `alone` when no value is given.
    pub const fn interval(
        name: &'static str,
        alone: &'static str,
        range: DurationRange,
        help: &'static str,
    ) -> Self {
        Self::new(name, FlagKind::Interval { alone, range }, help)
    }

    /// The interval; none when it is off.
    pub fn get(&self, options: &Options) -> Option<Duration> {
        options.interval(self.row.name)
    }
}

/// An include and an exclude expression: an include must match, an exclude must not.
#[derive(Debug)]
pub struct Filter {
    include: Option<GoRegex>,
    exclude: Option<GoRegex>,
}

impl Filter {
    /// The filter of two flags. An include stands for itself: it sets aside an exclude that is only a default.
    pub fn new(
        options: &Options,
        include: TypedFlag<Option<GoRegex>>,
        exclude: TypedFlag<Option<GoRegex>>,
    ) -> Self {
        let is_default = !exclude.is_set(options);
        let (include, exclude) = (include.get(options), exclude.get(options));
        Self { exclude: exclude.filter(|_| include.is_none() || !is_default), include }
    }

    /// The same for two flags of which one alone may be given, as in node_exporter when neither is empty.
    pub fn exclusive(
        options: &Options,
        include: TypedFlag<Option<GoRegex>>,
        exclude: TypedFlag<Option<GoRegex>>,
    ) -> Result<Self, FlagError> {
        if include.get(options).is_some() && exclude.get(options).is_some() {
            options.exclusive(include.row.name, exclude.row.name)?;
        }
        Ok(Self::new(options, include, exclude))
    }

    /// Whether every name passes.
    pub fn is_empty(&self) -> bool {
        self.include.is_none() && self.exclude.is_none()
    }

    /// Whether `name` passes.
    pub fn passes(&self, name: &[u8]) -> bool {
        self.include.as_ref().is_none_or(|include| include.is_match(name))
            && self.exclude.as_ref().is_none_or(|exclude| !exclude.is_match(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INCLUDE: TypedFlag<Option<GoRegex>> = TypedFlag::regexp("device-include", "", "");
    const EXCLUDE: TypedFlag<Option<GoRegex>> = TypedFlag::regexp("device-exclude", "^lo$", "");
    const WAIT: TypedFlag<Duration> = TypedFlag::duration("wait", "5s", DurationRange::ANY, "");
    const WATCH: TypedFlag<Option<Duration>> = TypedFlag::interval("watch", "2s", DurationRange::ANY, "");
    const MOST: TypedFlag<u64> = TypedFlag::number("most", 40, "");
    const FROM: TypedFlag<String> = TypedFlag::text("from", "here", "");
    const LISTEN: TypedFlag<Vec<String>> = TypedFlag::texts("listen", "");
    const FLAGS: &[Flag] = &[
        INCLUDE.row,
        EXCLUDE.row,
        EXCLUDE.alias("ignored-devices"),
        WAIT.row,
        WATCH.row,
        MOST.row,
        FROM.row,
        LISTEN.row,
    ];

    fn options(arguments: &[&str]) -> Options {
        Options::parse(FLAGS, arguments.iter().map(|argument| (*argument).to_owned())).unwrap().0
    }

    #[test]
    fn a_value_is_the_default_unless_the_command_line_sets_another() {
        let options =
            [options(&[]), options(&["--wait=1m", "--watch", "--most=0", "--from=", "--listen=:1"])];
        let values = options.each_ref().map(|options| {
            (WAIT.get(options).as_secs(), WATCH.get(options), MOST.get(options), FROM.get(options))
        });
        assert_eq!(values[0], (5, None, 40, "here".to_owned()));
        assert_eq!(values[1], (60, Some(Duration::from_secs(2)), 0, String::new()));
        assert_eq!([MOST.limit(&options[0]), MOST.limit(&options[1])], [40, usize::MAX]);
        assert_eq!((LISTEN.get(&options[0]), LISTEN.get(&options[1])), (vec![], vec![":1".to_owned()]));
        assert!(!WAIT.is_set(&options[0]) && WAIT.is_set(&options[1]));
    }

    #[test]
    fn an_include_sets_a_default_exclude_aside() {
        let passes = |arguments: &[&str], name: &str| {
            Filter::new(&options(arguments), INCLUDE, EXCLUDE).passes(name.as_bytes())
        };
        assert!(!passes(&[], "lo") && passes(&[], "eth0"));
        assert!(passes(&["--device-include=^(lo|eth0)$"], "lo"));
        assert!(!passes(&["--device-include=^(lo|eth0)$"], "eth1"));
        assert!(!passes(&["--device-include=^(lo|eth0)$", "--device-exclude=^lo$"], "lo"));
        assert!(!passes(&["--ignored-devices=^veth"], "veth0") && passes(&["--ignored-devices=^veth"], "lo"));
    }

    #[test]
    fn an_include_and_an_exclude_may_exclude_each_other_unless_one_is_empty() {
        let exclusive = |arguments: &[&str]| {
            let filter = Filter::exclusive(&options(arguments), INCLUDE, EXCLUDE);
            filter.map(|filter| filter.is_empty())
        };
        let both = FlagError::Exclusive { one: "device-include", other: "device-exclude" };
        assert_eq!(exclusive(&["--device-include=x", "--device-exclude=y"]), Err(both));
        assert_eq!(exclusive(&["--device-include=", "--device-exclude=y"]), Ok(false));
        assert_eq!(exclusive(&["--device-include=x"]), Ok(false));
        assert_eq!(exclusive(&["--device-exclude="]), Ok(true));
    }
}
