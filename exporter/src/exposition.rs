//! Metric families and samples, and Prometheus' text format 0.0.4 made from them.
//!
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>
//!
//! Collectors add samples in any order; [`Exposition::write`] sorts families by name and samples by labels, buckets and
//! quantiles by number. A second sample with the same name and labels is dropped and counted, so that one bad collector
//! never spoils a scrape.
//!
//! A sample is kept as its number and its labels. The labels are kept as the text format writes them, which is also what
//! they are sorted by, with the length of each name and value: other formats (`protobuf.rs`, `query --output=json`) read
//! samples through [`Series`] and never take the text apart.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::{self, Write as _};
use std::ops::Range;

use rustc_hash::FxHashMap;

use crate::text;

/// A metric family as a collector declares it: one row of its table.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// Its name; in a family whose names depend on the host, with `<PLACES>` for what varies.
    pub name: &'static str,
    /// One sentence on what it measures.
    pub help: &'static str,
    /// Its type.
    pub kind: MetricType,
    /// The names of its labels, in the order that samples give their values.
    pub labels: &'static [&'static str],
    /// What its values are read from.
    pub source: Source,
}

impl Family {
    /// A value that rises and falls.
    pub const fn gauge(
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
        source: Source,
    ) -> Self {
        Self { name, help, kind: MetricType::Gauge, labels, source }
    }

    /// A value that only rises, until what counts it restarts.
    pub const fn counter(
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
        source: Source,
    ) -> Self {
        Self { name, help, kind: MetricType::Counter, labels, source }
    }

    /// The name with `part` where it varies, in a family whose names vary in one place.
    pub fn name_of(&self, part: &str) -> String {
        let around =
            self.name.split_once('<').and_then(|(before, place)| Some((before, place.split_once('>')?.1)));
        around.map_or_else(|| self.name.to_owned(), |(before, after)| [before, part, after].concat())
    }

    /// Whether one of the family's samples may have this name: where a declared name has `<PLACES>`, anything may stand.
    pub fn has_name(&self, name: &str) -> bool {
        fn matches(declared: &str, name: &str) -> bool {
            let Some((fixed, rest)) = declared.split_once('<') else { return declared == name };
            let rest = rest.split_once('>').map_or("", |(_, rest)| rest);
            let Some(tail) = name.strip_prefix(fixed) else { return false };
            (0..=tail.len()).any(|at| tail.get(at..).is_some_and(|tail| matches(rest, tail)))
        }
        matches(self.name, name)
    }
}

/// What the values of a family are read from. Files are patterns in the language of [`keyhole_policy::pattern`], and
/// begin with the name of a root: `sys/class/watchdog/watchdog#/timeout`. A test compares them with the policy's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A file that a reader of the broker reads.
    File(&'static str),
    /// A file in a directory, for tables that have the names of the files.
    FileIn(&'static str, &'static str),
    /// Several files. The first one is required; the others complete the labels or the value.
    Files(&'static [&'static str]),
    /// A system call or a file of the exporter's own, or what it knows of itself.
    Exporter(&'static str),
}

impl Source {
    /// The patterns of the files that are read for it, the required one first.
    pub fn patterns(self) -> Vec<String> {
        match self {
            Source::File(file) => vec![file.to_owned()],
            Source::FileIn(directory, file) => vec![format!("{directory}/{file}")],
            Source::Files(files) => files.iter().map(|file| (*file).to_owned()).collect(),
            Source::Exporter(_) => Vec::new(),
        }
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::Exporter(what) => out.write_str(what),
            files => out.write_str(&files.patterns().join(", ")),
        }
    }
}

/// A family's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricType {
    /// Only ever rises, but for a restart.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Not said.
    Untyped,
    /// Quantiles, a sum and a count; from text files alone.
    Summary,
    /// Buckets, a sum and a count; from text files alone.
    Histogram,
}

impl MetricType {
    /// Its name in a TYPE line.
    pub fn as_str(self) -> &'static str {
        match self {
            MetricType::Counter => "counter",
            MetricType::Gauge => "gauge",
            MetricType::Untyped => "untyped",
            MetricType::Summary => "summary",
            MetricType::Histogram => "histogram",
        }
    }

    /// The label that distinguishes the samples of one metric.
    pub fn own_label(self) -> Option<&'static str> {
        match self {
            MetricType::Counter | MetricType::Gauge | MetricType::Untyped => None,
            MetricType::Summary => Some("quantile"),
            MetricType::Histogram => Some("le"),
        }
    }
}

/// A sample's value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    /// A whole number that is written as it is.
    Unsigned(u64),
    /// Any number.
    Float(f64),
}

impl Value {
    /// As a float, which of a whole number beyond 2^53 is the nearest.
    pub fn as_f64(self) -> f64 {
        match self {
            Value::Unsigned(value) => value as f64,
            Value::Float(value) => value,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut written = Vec::new();
        write_value(&mut written, *self);
        f.write_str(&text::printable(&written))
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Value::Unsigned(value)
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Value::Unsigned(value.into())
    }
}

impl From<usize> for Value {
    fn from(value: usize) -> Self {
        Value::Unsigned(value as u64)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        match u64::try_from(value) {
            Ok(value) => Value::Unsigned(value),
            Err(_) => Value::Float(value as f64),
        }
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Value::Float(value)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Value::Unsigned(value.into())
    }
}

/// The families and samples of one scrape.
#[derive(Debug, Default)]
pub struct Exposition {
    families: Vec<Header>,
    by_name: HashMap<Cow<'static, str>, u32>,
    /// Families by where their name lies in the program: a scrape asks for the same few hundred a thousand times.
    by_address: FxHashMap<(usize, usize), u32>,
    samples: Vec<Sample>,
    /// Every sample's suffix and labels as they are written, one after the other: `_bucket{le="1"}`.
    text: String,
    /// The labels of all samples, in the order of the samples.
    labels: Vec<Label>,
    /// The values of labels that are written with escapes, in the order of the labels.
    unescaped: Vec<Unescaped>,
    counters: Counters,
    /// How many skipped items of a collector are described.
    described_items: usize,
    /// The number of series that the current collector may add.
    series_limit: usize,
    /// The bytes that collectors may still add beyond the minimum of each.
    remaining: usize,
    /// The state before the current collector.
    collector_start: Checkpoint,
    /// The bytes that the current collector may add.
    collector_limit: usize,
    /// The state before the current item, and the number of series then.
    item: Option<(Checkpoint, usize)>,
}

#[derive(Debug)]
struct Header {
    name: Cow<'static, str>,
    help: Cow<'static, str>,
    kind: MetricType,
}

/// A sample: its number, and where its labels are. Hosts have hundreds of thousands, so it is packed by hand.
#[derive(Debug, Clone, Copy)]
struct Sample {
    /// A whole number, or the bits of a float.
    number: u64,
    family: u32,
    /// Where its suffix and labels are in the text.
    start: u32,
    end: u32,
    /// Where its labels are among those of all samples, and how many it has.
    first_label: u32,
    labels: u32,
    is_float: bool,
    /// The bytes of its suffix, with which its text begins.
    suffix: u8,
}

const _: () = assert!(size_of::<Sample>() == 32, "a sample is packed");

/// The lengths of a label's name and value as they are written: `name="value"`.
#[derive(Debug, Clone, Copy)]
struct Label {
    name: u32,
    value: u32,
}

/// The value of a label that is written with escapes.
#[derive(Debug, Clone, Copy)]
struct Unescaped {
    /// The label's number among those of all samples.
    label: u32,
    /// Where the value as it is stands in the text, behind its sample.
    start: u32,
    end: u32,
}

/// The lengths of an exposition at one moment, to which it can be truncated.
#[derive(Debug, Default, Clone, Copy)]
struct Checkpoint {
    samples: usize,
    text: usize,
    labels: usize,
    unescaped: usize,
}

impl Checkpoint {
    fn bytes(self) -> usize {
        self.samples * size_of::<Sample>()
            + self.text
            + self.labels * size_of::<Label>()
            + self.unescaped * size_of::<Unescaped>()
    }
}

impl Sample {
    fn value(&self) -> Value {
        if self.is_float { Value::Float(f64::from_bits(self.number)) } else { Value::Unsigned(self.number) }
    }

    fn text(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// One sample, and the family that it belongs to.
#[derive(Debug, Clone, Copy)]
pub struct Series<'e> {
    exposition: &'e Exposition,
    sample: &'e Sample,
}

impl<'e> Series<'e> {
    fn header(&self) -> &'e Header {
        self.exposition.header(self.sample.family)
    }

    /// The name of its family.
    pub fn family(&self) -> &'e str {
        &self.header().name
    }

    /// The help text of its family.
    pub fn help(&self) -> &'e str {
        &self.header().help
    }

    /// The type of its family.
    pub fn kind(&self) -> MetricType {
        self.header().kind
    }

    /// What follows its family's name in its own: `_bucket`; most often nothing.
    pub fn suffix(&self) -> &'e str {
        &self.exposition.key(self.sample)[..usize::from(self.sample.suffix)]
    }

    /// Its own name, which in a histogram is not its family's.
    pub fn name(&self) -> String {
        [self.family(), self.suffix()].concat()
    }

    /// Its name and labels as the text format writes them: `name{label="value"}`.
    pub fn key(&self) -> String {
        [self.family(), self.exposition.key(self.sample)].concat()
    }

    /// Its labels as the text format writes them, without the braces: `label="value",...`.
    pub fn written_labels(&self) -> &'e str {
        let labels = &self.exposition.key(self.sample)[usize::from(self.sample.suffix)..];
        labels.strip_prefix('{').and_then(|labels| labels.strip_suffix('}')).unwrap_or_default()
    }

    /// The names and values of its labels, sorted by name.
    pub fn labels(&self) -> impl Iterator<Item = (&'e str, &'e str)> + use<'e> {
        let Exposition { text, unescaped, .. } = self.exposition;
        self.exposition.label_ranges(self.sample).map(move |(number, name, value)| {
            let value = match unescaped.binary_search_by_key(&number, |other| other.label) {
                Ok(at) => unescaped[at].start as usize..unescaped[at].end as usize,
                Err(_) => value,
            };
            (&text[name], &text[value])
        })
    }

    /// Its value.
    pub fn value(&self) -> Value {
        self.sample.value()
    }
}

/// What one collector added, and what was left out.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Counters {
    /// Samples added.
    pub series: usize,
    /// Samples dropped because the collector, or all of them together, reached a limit.
    pub over_limit: usize,
    /// Which limit that was.
    pub limit: Option<Limit>,
    /// Samples whose family exists with another type.
    pub conflicts: usize,
    /// Items in the collector's files that it could not parse, and skipped.
    pub skipped: usize,
    /// Descriptions of the first of them: where each is and why it was skipped. Equal ones once, [`SKIPPED_ITEMS`] at most,
    /// or [`QUERY_ITEMS`] after [`Exposition::describe_more_items`].
    pub skipped_items: Vec<String>,
    /// How many are not among them.
    pub unnamed: usize,
}

/// The maximum number of skipped items of a collector that a scrape describes; the others are counted.
pub const SKIPPED_ITEMS: usize = 64;
/// The maximum that `query` describes.
pub const QUERY_ITEMS: usize = 1000;
/// Items are described until this many were skipped: equal descriptions are listed once, and each takes time.
const DESCRIBED_ITEMS: usize = 1000;
/// The maximum size of an item's description, in bytes.
const ITEM_BYTES: usize = 400;

/// The maximum number of duplicate series that are listed.
const DUPLICATE_SERIES: usize = 16;

/// What happened while an exposition was written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    /// Samples left out because one with the same name and labels was there.
    pub duplicates: usize,
    /// The names and labels of the first of them, `DUPLICATE_SERIES` at most.
    pub duplicate_series: Vec<String>,
}

/// The limits of one scrape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Series of one collector.
    pub series: usize,
    /// Bytes of all collectors' series in memory.
    pub bytes: usize,
}

impl Limits {
    /// Without limits, but for what an exposition can number.
    pub const NONE: Self = Self { series: usize::MAX, bytes: usize::MAX };
}

/// Which limit kept series out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// The collector's own number of series.
    Series,
    /// The bytes of a whole scrape.
    Bytes,
}

impl Limit {
    /// What happened, and what to do about it.
    pub fn message(self) -> &'static str {
        match self {
            Limit::Series => {
                "--collector.series-limit left series out: narrow the collector by its flags, or raise the limit"
            }
            Limit::Bytes => {
                "--scrape.memory left series out: narrow the collectors by their flags, or give the exporter more memory \
                 and raise the flag with it"
            }
        }
    }
}

/// The bytes that each collector may add, even if the others use the rest: a machine with a hundred thousand devices of
/// one class still reports everything else.
const MIN_COLLECTOR_BYTES: usize = 64 << 10;
/// The maximum size of an exposition: offsets into its text have 32 bits.
const MAX_BYTES: usize = 3 << 30;

/// The capacity for a default scrape, allocated at once and not by doubling.
const FAMILIES: usize = 448;
const SAMPLES: usize = 1024;

impl Exposition {
    /// An exposition without limits.
    pub fn new() -> Self {
        Self {
            families: Vec::with_capacity(FAMILIES),
            by_name: HashMap::with_capacity(FAMILIES),
            by_address: FxHashMap::with_capacity_and_hasher(FAMILIES, Default::default()),
            samples: Vec::with_capacity(SAMPLES),
            text: String::with_capacity(32 * SAMPLES),
            labels: Vec::with_capacity(SAMPLES),
            described_items: SKIPPED_ITEMS,
            series_limit: usize::MAX,
            remaining: MAX_BYTES,
            collector_limit: MAX_BYTES,
            ..Self::default()
        }
    }

    /// Limits the bytes that `collectors` add together; `MIN_COLLECTOR_BYTES` are reserved for each.
    pub fn set_limit(&mut self, bytes: usize, collectors: usize) {
        self.remaining = bytes.min(MAX_BYTES).saturating_sub(collectors * MIN_COLLECTOR_BYTES);
    }

    /// About as many bytes as it takes in memory.
    pub fn bytes(&self) -> usize {
        let Self { samples, text, labels, unescaped, .. } = self;
        let (samples, text) = (samples.capacity(), text.capacity());
        Checkpoint { samples, text, labels: labels.capacity(), unescaped: unescaped.capacity() }.bytes()
    }

    /// Starts a collector that may add at most `limit` series.
    pub fn begin(&mut self, limit: usize) {
        self.counters = Counters::default();
        (self.series_limit, self.item) = (limit, None);
        self.collector_start = self.checkpoint();
        self.collector_limit = self.remaining.saturating_add(MIN_COLLECTOR_BYTES).min(MAX_BYTES);
    }

    /// Bytes that the current collector has added.
    fn added(&self) -> usize {
        self.checkpoint().bytes() - self.collector_start.bytes()
    }

    fn checkpoint(&self) -> Checkpoint {
        let Self { samples, text, labels, unescaped, .. } = self;
        Checkpoint {
            samples: samples.len(),
            text: text.len(),
            labels: labels.len(),
            unescaped: unescaped.len(),
        }
    }

    /// Ends the current collector, and returns its counters.
    pub fn end(&mut self) -> Counters {
        (self.series_limit, self.item) = (usize::MAX, None);
        self.remaining = self.remaining.saturating_sub(self.added().saturating_sub(MIN_COLLECTOR_BYTES));
        self.collector_limit = usize::MAX;
        std::mem::take(&mut self.counters)
    }

    /// The lines of a table, without blank ones: those are no rows, and take no CPU's place. They are noted as skipped.
    pub fn rows<'t>(&mut self, path: &str, table: &'t [u8]) -> Vec<&'t [u8]> {
        let mut rows: Vec<&[u8]> = text::lines(table).collect();
        rows.retain(|line| {
            let blank = line.trim_ascii().is_empty();
            if blank {
                self.skip(|| format!("{path}: a blank line"));
            }
            !blank
        });
        rows
    }

    /// The number of items that the current collector has skipped.
    pub fn skipped(&self) -> usize {
        self.counters.skipped
    }

    /// Records that something in a file could not be read and was skipped: where it is, and why. The description must not
    /// have a value that changes with every scrape: the log has a line for each new description.
    pub fn skip(&mut self, what: impl FnOnce() -> String) {
        let Counters { skipped, skipped_items, unnamed, .. } = &mut self.counters;
        *skipped += 1;
        let is_described = *skipped <= DESCRIBED_ITEMS && add_item(skipped_items, self.described_items, what);
        *unnamed += usize::from(!is_described);
    }

    /// Describes up to [`QUERY_ITEMS`] skipped items of each collector, for a command that runs once.
    pub fn describe_more_items(&mut self) {
        self.described_items = QUERY_ITEMS;
    }

    /// The same for a series whose labels are read from several files, one of which could not be read.
    pub fn skip_half_read(&mut self, dir: &[u8]) {
        self.skip(|| format!("{}: not all of its files could be read", dir.escape_ascii()));
    }

    /// Whether a family may have this value. A counter that is negative or NaN is skipped.
    fn is_valid(&mut self, family: &Family, name: &str, value: Value) -> bool {
        match value {
            Value::Float(value) if family.kind == MetricType::Counter && (value < 0.0 || value.is_nan()) => {
                self.skip(|| format!("{name}: the value of a counter is negative or NaN"));
                false
            }
            _ => true,
        }
    }

    /// Adds a sample of a declared family; `labels` are the values of its labels, in its order.
    pub fn add(&mut self, family: &Family, labels: &[&[u8]], value: impl Into<Value>) {
        debug_assert_eq!(metric_name(family.name), family.name, "a declared name is valid");
        debug_assert_eq!(family.labels.len(), labels.len(), "labels of {}", family.name);
        let value = value.into();
        if !self.is_valid(family, family.name, value) {
            return;
        }
        let address = (family.name.as_ptr().addr(), family.name.len());
        let at = match self.by_address.get(&address) {
            Some(&at) => self.of_kind(at, family.kind),
            None => self.declared(family).inspect(|&at| _ = self.by_address.insert(address, at)),
        };
        let pairs = family.labels.iter().copied().zip(labels.iter().copied());
        self.add_to(at, family.name, "", pairs, value);
    }

    /// Adds a sample of a family whose name depends on the host. Bytes that no metric name may have become `_`.
    pub fn add_named(&mut self, family: &Family, name: &str, labels: &[&[u8]], value: impl Into<Value>) {
        debug_assert_eq!(family.labels.len(), labels.len(), "labels of {name}");
        let value = value.into();
        if !self.is_valid(family, name, value) {
            return;
        }
        let at = self.named(name, family.kind, || Cow::Borrowed(family.help));
        let pairs = family.labels.iter().copied().zip(labels.iter().copied());
        self.add_to(at, name, "", pairs, value);
    }

    /// Adds a sample whose family, labels and suffix (`_bucket`) are known only from a file.
    pub fn add_sample<'l>(
        &mut self,
        name: &str,
        suffix: &str,
        help: &str,
        kind: MetricType,
        labels: impl Iterator<Item = (&'l str, &'l [u8])> + Clone,
        value: Value,
    ) {
        let at = self.named(name, kind, || Cow::Owned(help.to_owned()));
        self.add_to(at, name, suffix, labels, value);
    }

    /// Begins an item, such as a device, of which a limit keeps all series or none.
    pub fn item(&mut self) {
        if self.counters.over_limit == 0 {
            self.item = Some((self.checkpoint(), self.counters.series));
        }
    }

    /// Removes the series of the item at which the limit was reached; no later ones are added.
    fn drop_item(&mut self) {
        self.series_limit = self.counters.series;
        let Some((checkpoint, series)) = self.item.take() else { return };
        self.samples.truncate(checkpoint.samples);
        self.text.truncate(checkpoint.text);
        self.labels.truncate(checkpoint.labels);
        self.unescaped.truncate(checkpoint.unescaped);
        self.counters.over_limit += self.counters.series - series;
        (self.counters.series, self.series_limit) = (series, series);
    }

    /// Adds a sample to a family by its number; none for a `name` that stands for another type.
    fn add_to<'l>(
        &mut self,
        family: Option<u32>,
        name: &str,
        suffix: &str,
        labels: impl Iterator<Item = (&'l str, &'l [u8])> + Clone,
        value: Value,
    ) {
        let is_over = if self.counters.series >= self.series_limit {
            Some(Limit::Series)
        } else {
            (self.added() >= self.collector_limit).then_some(Limit::Bytes)
        };
        if let Some(limit) = is_over {
            self.counters.limit.get_or_insert(limit);
            self.counters.over_limit += 1;
            return self.drop_item();
        }
        let Some(family) = family else {
            self.counters.conflicts += 1;
            self.skip(|| format!("{name}: a family of this name has another type"));
            return;
        };
        let (start, first_label) = (self.text.len(), self.labels.len());
        self.text.push_str(suffix);
        let own = self.families[family as usize].kind.own_label();
        // By name, and a bucket's bound last, as in what node_exporter writes.
        let place = |&(name, _): &(&'l str, &'l [u8])| (Some(name) == own, name);
        let end = if labels.clone().is_sorted_by_key(|label| place(&label)) {
            self.add_labels(labels)
        } else {
            let mut labels: Vec<_> = labels.collect();
            labels.sort_by_key(place);
            self.add_labels(labels.into_iter())
        };
        let (number, is_float) = match value {
            Value::Unsigned(value) => (value, false),
            Value::Float(value) => (value.to_bits(), true),
        };
        self.samples.push(Sample {
            number,
            family,
            start: start as u32,
            end: end as u32,
            first_label: first_label as u32,
            labels: (self.labels.len() - first_label) as u32,
            is_float,
            suffix: suffix.len() as u8,
        });
        self.counters.series += 1;
    }

    /// Adds labels to the text; returns where they end. Behind them stand the values that are written with escapes, as
    /// they are.
    fn add_labels<'l>(&mut self, labels: impl Iterator<Item = (&'l str, &'l [u8])> + Clone) -> usize {
        let first = self.labels.len();
        let mut has_escapes = false;
        write_labels(&mut self.text, labels.clone(), |label, is_escaped| {
            self.labels.push(label);
            has_escapes |= is_escaped;
        });
        let end = self.text.len();
        if has_escapes {
            for (label, (_, value)) in (first..).zip(labels) {
                let value = text::printable(value);
                if value.contains(['\\', '\n', '"']) {
                    let start = self.text.len();
                    self.text.push_str(&value);
                    let end = self.text.len();
                    self.unescaped.push(Unescaped {
                        label: label as u32,
                        start: start as u32,
                        end: end as u32,
                    });
                }
            }
        }
        end
    }

    /// The labels of a sample: the number among all labels, and where the name and the written value are in the text.
    fn label_ranges(&self, sample: &Sample) -> impl Iterator<Item = (u32, Range<usize>, Range<usize>)> {
        let numbers = sample.first_label..sample.first_label + sample.labels;
        // Behind the suffix and `{`.
        let mut at = sample.start as usize + usize::from(sample.suffix) + 1;
        numbers.clone().zip(&self.labels[numbers.start as usize..numbers.end as usize]).map(
            move |(number, label)| {
                let name = at..at + label.name as usize;
                let value = name.end + "=\"".len()..name.end + "=\"".len() + label.value as usize;
                at = value.end + "\",".len();
                (number, name, value)
            },
        )
    }

    /// A family's number, if it is of that type.
    fn of_kind(&self, at: u32, kind: MetricType) -> Option<u32> {
        (self.families[at as usize].kind == kind).then_some(at)
    }

    /// The number of a declared family, whose name is valid; none when the name stands for another type.
    fn declared(&mut self, family: &Family) -> Option<u32> {
        match self.by_name.entry(Cow::Borrowed(family.name)) {
            Entry::Occupied(known) => {
                let at = *known.get();
                self.of_kind(at, family.kind)
            }
            Entry::Vacant(vacant) => {
                let (name, help) = (Cow::Borrowed(family.name), Cow::Borrowed(family.help));
                let at = self.families.len() as u32;
                self.families.push(Header { name, help, kind: family.kind });
                Some(*vacant.insert(at))
            }
        }
    }

    /// The number of a family by a name that may be invalid; it is new unless the name is known or becomes that of another.
    /// None when that is of another type.
    fn named(
        &mut self,
        name: &str,
        kind: MetricType,
        help: impl FnOnce() -> Cow<'static, str>,
    ) -> Option<u32> {
        if let Some(&at) = self.by_name.get(name) {
            return self.of_kind(at, kind);
        }
        let made_valid = match metric_name(name) {
            Cow::Borrowed(_) => None,
            Cow::Owned(valid) => Some(valid),
        };
        let known = made_valid.as_deref().and_then(|valid| self.by_name.get(valid).copied());
        let at = match known {
            Some(at) => self.of_kind(at, kind)?,
            None => {
                let at = self.families.len() as u32;
                let valid = made_valid.clone().unwrap_or_else(|| name.to_owned());
                self.families.push(Header { name: Cow::Owned(valid), help: help(), kind });
                if let Some(valid) = made_valid {
                    self.by_name.insert(Cow::Owned(valid), at);
                }
                at
            }
        };
        self.by_name.insert(Cow::Owned(name.to_owned()), at);
        Some(at)
    }

    /// The type under which a family already stands.
    pub fn kind(&self, name: &str) -> Option<MetricType> {
        let at = *self.by_name.get(name)?;
        Some(self.families[at as usize].kind)
    }

    /// The labels of a family's samples, each `{label="value",...}` with the labels sorted by name.
    pub fn sorted_labels(&self, name: &str) -> impl Iterator<Item = String> {
        let family = self.by_name.get(name).copied();
        let samples = self.samples.iter().filter(move |sample| Some(sample.family) == family);
        samples.map(move |sample| {
            let label = |(_, name, value): (u32, Range<usize>, Range<usize>)| {
                &self.text[name.start..value.end + "\"".len()]
            };
            let mut labels: Vec<&str> = self.label_ranges(sample).map(label).collect();
            labels.sort_unstable();
            if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) }
        })
    }

    /// The HELP text under which a family already stands.
    pub fn help(&self, name: &str) -> Option<&str> {
        let at = *self.by_name.get(name)?;
        Some(&self.families[at as usize].help)
    }

    /// Every sample once, in the order in which they are written.
    pub fn series(&self) -> impl Iterator<Item = Series<'_>> {
        let mut samples = self.sorted();
        samples.dedup_by(|later, first| later.family == first.family && self.key(later) == self.key(first));
        samples.into_iter().map(|sample| Series { exposition: self, sample })
    }

    /// All samples, by family and then by labels; of equal ones the first comes first.
    fn sorted(&self) -> Vec<&Sample> {
        let mut order: Vec<u32> = (0..self.families.len() as u32).collect();
        order.sort_unstable_by(|a, b| self.header(*a).name.cmp(&self.header(*b).name));
        let mut rank = vec![0u32; order.len()];
        for (position, family) in order.iter().enumerate() {
            rank[*family as usize] = position as u32;
        }
        // Counted first, and text compared only within a family: most have but one sample.
        let mut places = vec![0usize; order.len() + 1];
        for sample in &self.samples {
            places[rank[sample.family as usize] as usize + 1] += 1;
        }
        for family in 1..places.len() {
            places[family] += places[family - 1];
        }
        let Some(any) = self.samples.first() else { return Vec::new() };
        let mut samples = vec![any; self.samples.len()];
        for sample in &self.samples {
            let place = &mut places[rank[sample.family as usize] as usize];
            samples[*place] = sample;
            *place += 1;
        }
        for family in samples.chunk_by_mut(|a, b| a.family == b.family) {
            let own = family.first().and_then(|sample| self.header(sample.family).kind.own_label());
            match own {
                None => family.sort_by(|a, b| self.key(a).cmp(self.key(b))),
                Some(own) => {
                    let mut placed: Vec<_> =
                        family.iter().map(|sample| (self.place(sample, own), *sample)).collect();
                    placed.sort_by(|(a, _), (b, _)| a.cmp(b));
                    family.iter_mut().zip(placed).for_each(|(sample, (_, placed))| *sample = placed);
                }
            }
        }
        samples
    }

    /// Where a sample of a histogram or summary stands in its family; its bucket's or quantile's own label is `own`.
    fn place(&self, sample: &Sample, own: &str) -> Place<'_> {
        let key = self.key(sample);
        let (suffix, labels) = key.split_at(usize::from(sample.suffix));
        let labels = labels.strip_prefix('{').and_then(|labels| labels.strip_suffix('}')).unwrap_or_default();
        // The own label is the last one.
        let last = self.label_ranges(sample).last();
        let own = last.filter(|(_, name, _)| self.text[name.clone()] == *own);
        let (labels, part, bound) = match own {
            Some((_, name, value)) => {
                let before = labels.len() - (value.end + "\"".len() - name.start);
                let bound = self.text[value].parse().unwrap_or(f64::NAN);
                (labels[..before].trim_end_matches(','), 0, bound)
            }
            None if suffix == "_sum" => (labels, 1, 0.0),
            None => (labels, 2, 0.0),
        };
        Place { labels, part, bound, key }
    }

    /// Writes everything in text format 0.0.4; `keep` chooses families by name.
    pub fn write(&self, out: &mut Vec<u8>, keep: impl Fn(&str) -> bool) -> Written {
        let mut written = Written::default();
        let names = self.samples.iter().map(|sample| self.header(sample.family).name.len());
        let lines = self.text.len() + names.sum::<usize>() + VALUE_BYTES * self.samples.len();
        out.reserve(lines + 128 * self.families.len());
        let mut last: Option<&Sample> = None;
        let mut kept = false;
        for sample in self.sorted() {
            let header = self.header(sample.family);
            if last.is_none_or(|last| last.family != sample.family) {
                kept = keep(&header.name);
                if kept {
                    header.write(out);
                }
            } else if last.is_some_and(|last| self.key(last) == self.key(sample)) {
                written.duplicates += 1;
                if written.duplicates <= DESCRIBED_ITEMS {
                    add_item(&mut written.duplicate_series, DUPLICATE_SERIES, || {
                        Series { exposition: self, sample }.key()
                    });
                }
                continue;
            }
            last = Some(sample);
            if kept {
                out.extend_from_slice(header.name.as_bytes());
                out.extend_from_slice(self.key(sample).as_bytes());
                out.push(b' ');
                write_value(out, sample.value());
                out.push(b'\n');
            }
        }
        written
    }

    /// Everything, as text. For tests and for `replay`.
    pub fn to_text(&self) -> String {
        let mut out = Vec::new();
        self.write(&mut out, |_| true);
        String::from_utf8_lossy(&out).into_owned()
    }

    fn header(&self, family: u32) -> &Header {
        &self.families[family as usize]
    }

    /// What a sample's line has between its family's name and its value.
    fn key(&self, sample: &Sample) -> &str {
        &self.text[sample.text()]
    }
}

/// Where a sample stands among those of a histogram's or summary's family: as in what node_exporter writes, each metric has
/// its buckets or quantiles in ascending order, then its sum, then its count.
#[derive(Debug, Clone, Copy)]
struct Place<'e> {
    /// The labels of the metric.
    labels: &'e str,
    /// 0 for a bucket or quantile, 1 for the sum, 2 for the count.
    part: u8,
    /// The bucket's bound, or the quantile.
    bound: f64,
    /// The written suffix and labels, so that equal samples are neighbours.
    key: &'e str,
}

impl Place<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_part = self.labels.cmp(other.labels).then(self.part.cmp(&other.part));
        by_part.then(self.bound.total_cmp(&other.bound)).then_with(|| self.key.cmp(other.key))
    }
}

/// Adds a description, truncated if it is long, to those of the first `limit` items; false if it is not among them.
fn add_item(items: &mut Vec<String>, limit: usize, what: impl FnOnce() -> String) -> bool {
    let mut item = what();
    let end = (0..=ITEM_BYTES.min(item.len())).rev().find(|&at| item.is_char_boundary(at));
    item.truncate(end.unwrap_or(0));
    let is_known = items.contains(&item);
    let is_new = !is_known && items.len() < limit;
    if is_new {
        items.push(item);
    }
    is_known || is_new
}

impl Header {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"# HELP ");
        out.extend_from_slice(self.name.as_bytes());
        out.push(b' ');
        escape(&self.help, false, |part| out.extend_from_slice(part.as_bytes()));
        out.extend_from_slice(b"\n# TYPE ");
        out.extend_from_slice(self.name.as_bytes());
        out.push(b' ');
        out.extend_from_slice(self.kind.as_str().as_bytes());
        out.push(b'\n');
    }
}

/// `name` as a metric name: `[a-zA-Z_:][a-zA-Z0-9_:]*`, with `_` for each byte that cannot stand there.
pub fn metric_name(name: &str) -> Cow<'_, str> {
    let fits = |byte: u8| matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b':');
    let starts_well = name.starts_with(|first: char| !first.is_ascii_digit());
    if starts_well && name.bytes().all(fits) {
        return Cow::Borrowed(name);
    }
    let valid = name.bytes().map(|byte| if fits(byte) { char::from(byte) } else { '_' });
    Cow::Owned((!starts_well).then_some('_').into_iter().chain(valid).collect())
}

/// Writes labels as they are in a sample, and reports the lengths of each, and whether its value has escapes.
fn write_labels<'l>(
    out: &mut String,
    labels: impl Iterator<Item = (&'l str, &'l [u8])>,
    mut report: impl FnMut(Label, bool),
) {
    let mut separator = '{';
    for (name, value) in labels {
        out.push(separator);
        separator = ',';
        out.push_str(name);
        out.push_str("=\"");
        let start = out.len();
        let printable = text::printable(value);
        escape(&printable, true, |part| out.push_str(part));
        let written = out.len() - start;
        out.push('"');
        report(Label { name: name.len() as u32, value: written as u32 }, written > printable.len());
    }
    if separator == ',' {
        out.push('}');
    }
}

/// Labels as they are written in a sample.
pub fn written_labels<'l>(labels: impl Iterator<Item = (&'l str, &'l [u8])>) -> String {
    let mut out = String::new();
    write_labels(&mut out, labels, |_, _| {});
    out
}

/// Hands `text` to `write` part by part, with escapes where the text format needs them.
fn escape(text: &str, quotes: bool, mut write: impl FnMut(&str)) {
    let special =
        |text: &str| text.bytes().position(|byte| matches!(byte, b'\\' | b'\n') || (byte == b'"' && quotes));
    let mut rest = text;
    while let Some(at) = special(rest) {
        write(&rest[..at]);
        write(match rest.as_bytes()[at] {
            b'\\' => "\\\\",
            b'\n' => "\\n",
            _ => "\\\"",
        });
        rest = &rest[at + 1..];
    }
    write(rest);
}

/// The most bytes of a value, and of the space and the newline around it.
const VALUE_BYTES: usize = 27;

/// The shortest text that reads back as the same number.
fn write_value(out: &mut Vec<u8>, value: Value) {
    /// Below it every whole number is its own float.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let value = match value {
        Value::Unsigned(whole) => {
            return out.extend_from_slice(itoa::Buffer::new().format(whole).as_bytes());
        }
        Value::Float(value) => value,
    };
    let mut text = Text(out);
    // Writing to a Vec cannot fail.
    let _ = match value {
        value if value.is_nan() => write!(text, "NaN"),
        value if value.is_infinite() => write!(text, "{}Inf", if value > 0.0 { '+' } else { '-' }),
        value if value.fract() == 0.0 && value.abs() < EXACT => write!(text, "{}", value as i64),
        value if (1e-5..1e17).contains(&value.abs()) => write!(text, "{value}"),
        value => write!(text, "{value:e}"),
    };
}

struct Text<'a>(&'a mut Vec<u8>);

impl std::fmt::Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BYTES: Family = Family {
        name: "node_bytes_total",
        help: "Bytes \\ seen\nhere.",
        kind: MetricType::Counter,
        labels: &["device"],
        source: Source::File("proc/x"),
    };

    fn value_text(value: f64) -> String {
        let mut out = Vec::new();
        write_value(&mut out, Value::Float(value));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn labels_are_sorted_by_name_and_a_buckets_bound_is_last() {
        let mut out = Exposition::new();
        let family = Family { labels: &["zone", "device", "le"], ..BYTES };
        out.add(&family, &[b"1", b"2", b"3"], 1u64);
        let labels = [("le", &b"+Inf"[..]), ("z", b"1"), ("a", b"2")];
        out.add_sample("h", "_bucket", "H.", MetricType::Histogram, labels.into_iter(), 1.0.into());
        let labels = [("quantile", &b"0.5"[..]), ("z", b"1")];
        out.add_sample("s", "", "S.", MetricType::Summary, labels.into_iter(), 1.0.into());
        let text = out.to_text();
        let samples: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            samples,
            [
                "h_bucket{a=\"2\",z=\"1\",le=\"+Inf\"} 1",
                "node_bytes_total{device=\"2\",le=\"3\",zone=\"1\"} 1",
                "s{z=\"1\",quantile=\"0.5\"} 1"
            ]
        );
    }

    #[test]
    fn families_and_samples_are_sorted_and_escaped() {
        let mut out = Exposition::new();
        let other = Family { name: "node_a", labels: &[], kind: MetricType::Untyped, ..BYTES };
        out.add(&BYTES, &[b"eth1"], 2u64);
        out.add(&BYTES, &[b"a\"b\\c\nd\xff"], 1.5);
        out.add(&other, &[], 7u64);
        assert_eq!(
            out.to_text(),
            "# HELP node_a Bytes \\\\ seen\\nhere.\n# TYPE node_a untyped\nnode_a 7\n\
             # HELP node_bytes_total Bytes \\\\ seen\\nhere.\n# TYPE node_bytes_total counter\n\
             node_bytes_total{device=\"a\\\"b\\\\c\\nd\u{fffd}\"} 1.5\n\
             node_bytes_total{device=\"eth1\"} 2\n"
        );
    }

    #[test]
    fn a_second_sample_with_the_same_labels_is_dropped_and_counted() {
        let mut out = Exposition::new();
        out.add(&BYTES, &[b"\xff"], 1u64);
        out.add(&BYTES, &[b"\xfe"], 2u64);
        let mut text = Vec::new();
        let duplicate_series = vec!["node_bytes_total{device=\"\u{fffd}\"}".to_owned()];
        assert_eq!(out.write(&mut text, |_| true), Written { duplicates: 1, duplicate_series });
        assert!(text.ends_with(b"{device=\"\xef\xbf\xbd\"} 1\n"), "the first stays");
    }

    #[test]
    fn a_family_keeps_the_type_of_its_first_sample() {
        let mut out = Exposition::new();
        out.begin(10);
        out.add(&BYTES, &[b"a"], 1u64);
        out.add(&Family { kind: MetricType::Gauge, ..BYTES }, &[b"b"], 1u64);
        let counters = out.end();
        assert_eq!((counters.conflicts, counters.skipped), (1, 1));
        assert_eq!(counters.skipped_items, ["node_bytes_total: a family of this name has another type"]);
        assert!(!out.to_text().contains("\"b\""));
    }

    #[test]
    fn a_limit_leaves_whole_items_and_nothing_of_a_smaller_one_that_follows() {
        const FAMILY: Family = Family {
            name: "m",
            help: "",
            kind: MetricType::Gauge,
            labels: &["device", "n"],
            source: Source::Exporter(""),
        };
        for (limit, whole, dropped) in [(7, 2, 1), (6, 2, 1), (5, 1, 4), (3, 1, 4), (2, 0, 7), (0, 0, 7)] {
            let mut out = Exposition::new();
            out.begin(limit);
            for (device, series) in [("a", 3), ("b", 3), ("c", 1)] {
                out.item();
                for n in 0..series {
                    out.add(&FAMILY, &[device.as_bytes(), n.to_string().as_bytes()], 1u64);
                }
            }
            let counters = out.end();
            let whole = if limit == 7 { 7 } else { 3 * whole };
            let dropped = if limit == 7 { 0 } else { dropped };
            assert_eq!((counters.series, counters.over_limit), (whole, dropped), "{limit}");
            assert_eq!(out.to_text().lines().filter(|line| !line.starts_with('#')).count(), whole);
            out.add(&FAMILY, &[b"d", b"0"], 1u64);
            assert!(out.to_text().contains("m{device=\"d\",n=\"0\"} 1\n"), "the next collector has its own");
        }
    }

    #[test]
    fn the_first_collectors_use_the_common_bytes_and_each_has_its_minimum() {
        const FAMILY: Family = Family {
            name: "m",
            help: "",
            kind: MetricType::Gauge,
            labels: &["device", "n"],
            source: Source::Exporter(""),
        };
        const ALL_BYTES: usize = 1 << 20;
        let mut out = Exposition::new();
        out.set_limit(ALL_BYTES, 3);
        let mut run = |devices: usize| {
            out.begin(usize::MAX);
            for device in 0..devices {
                out.item();
                for n in 0..10 {
                    out.add(&FAMILY, &[device.to_string().as_bytes(), n.to_string().as_bytes()], 1u64);
                }
            }
            out.end()
        };
        let small = run(10);
        assert_eq!((small.series, small.over_limit, small.limit), (100, 0, None));
        let large = run(10_000);
        assert_eq!((large.series % 10, large.series + large.over_limit), (0, 100_000), "whole items");
        assert_eq!(large.limit, Some(Limit::Bytes));
        let late = run(80);
        assert_eq!((late.series, late.limit), (800, None), "it has its minimum");
        let too_much = run(1000);
        assert_eq!((too_much.series % 10, too_much.limit), (0, Some(Limit::Bytes)));
        assert!(too_much.series > 800, "{too_much:?}");
        let bytes = out.checkpoint().bytes();
        assert!((ALL_BYTES / 2..ALL_BYTES + 2 * MIN_COLLECTOR_BYTES).contains(&bytes), "{bytes}");
        out.add(&FAMILY, &[b"own", b"0"], 1u64);
        assert!(out.to_text().contains("m{device=\"own\",n=\"0\"} 1\n"), "what follows all collectors");
    }

    #[test]
    fn a_collector_at_its_limit_is_cut_and_the_rest_counted() {
        let mut out = Exposition::new();
        out.begin(2);
        for name in [b"a", b"b", b"c"] {
            out.add(&BYTES, &[name], 1u64);
        }
        let counters = out.end();
        assert_eq!((counters.series, counters.over_limit, counters.limit), (2, 1, Some(Limit::Series)));
    }

    #[test]
    fn a_counter_below_zero_is_skipped_and_counted() {
        let mut out = Exposition::new();
        out.begin(10);
        out.add(&BYTES, &[b"a"], -1i64);
        out.add(&BYTES, &[b"b"], f64::NAN);
        out.add(&BYTES, &[b"c"], -0.0);
        out.add(&Family { name: "node_b", kind: MetricType::Gauge, ..BYTES }, &[b"d"], -1i64);
        let counters = out.end();
        assert_eq!((counters.series, counters.skipped), (2, 2));
        assert_eq!(counters.skipped_items, ["node_bytes_total: the value of a counter is negative or NaN"]);
    }

    #[test]
    fn the_first_skipped_items_are_described_once_each_and_long_ones_truncated() {
        let mut out = Exposition::new();
        out.begin(10);
        for number in 0..3 * DESCRIBED_ITEMS {
            out.skip(|| format!("{}ä{}", "x".repeat(ITEM_BYTES - 1), number));
            out.skip(|| format!("item {}", number / 2));
        }
        let counters = out.end();
        assert_eq!((counters.skipped, counters.skipped_items.len()), (6 * DESCRIBED_ITEMS, SKIPPED_ITEMS));
        assert_eq!(
            counters.skipped_items[..3],
            ["x".repeat(ITEM_BYTES - 1), "item 0".into(), "item 1".into()]
        );
    }

    #[test]
    fn query_describes_more_skipped_items_than_a_scrape_and_both_count_the_rest() {
        for (skipped, by_scrape, by_query) in
            [(SKIPPED_ITEMS, 0, 0), (100, 100 - SKIPPED_ITEMS, 0), (1007, 1007 - SKIPPED_ITEMS, 7)]
        {
            let unnamed = |mut out: Exposition| {
                out.begin(10);
                (0..skipped).for_each(|number| out.skip(|| format!("item {number}")));
                let counters = out.end();
                assert_eq!(counters.skipped_items.len() + counters.unnamed, skipped);
                counters.unnamed
            };
            assert_eq!(unnamed(Exposition::new()), by_scrape);
            let mut for_query = Exposition::new();
            for_query.describe_more_items();
            assert_eq!(unnamed(for_query), by_query);
        }
        // Equal descriptions are listed once.
        let mut out = Exposition::new();
        out.begin(10);
        (0..200).for_each(|_| out.skip(|| "one".into()));
        assert_eq!(
            out.end(),
            Counters { skipped: 200, skipped_items: vec!["one".into()], ..Counters::default() }
        );
    }

    #[test]
    fn a_name_from_the_host_becomes_a_metric_name() {
        let mut out = Exposition::new();
        let family = Family { name: "node_<FIELD>", labels: &[], ..BYTES };
        out.add_named(&family, "node_a(b)-c", &[], 1u64);
        out.add_named(&family, "node_a(b)-c", &[], 1u64);
        assert!(out.to_text().contains("\nnode_a_b__c 1\n"), "{}", out.to_text());
        assert_eq!(Family { name: "node_<FIELD>_bytes", ..family }.name_of("a"), "node_a_bytes");
        assert_eq!(BYTES.name_of("a"), BYTES.name, "a name that does not vary");
        assert_eq!(metric_name("0"), "_0");
        assert_eq!(metric_name(""), "_");
    }

    #[test]
    fn values_are_short_and_special_ones_are_prometheus_words() {
        for (value, text) in [
            (0.0, "0"),
            (-3.0, "-3"),
            (0.1, "0.1"),
            (1.29024e6, "1290240"),
            (1e300, "1e300"),
            (5e-324, "5e-324"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
        ] {
            assert_eq!(value_text(value), text);
        }
    }

    proptest! {
        #[test]
        fn a_value_reads_back_as_itself(value in any::<f64>().prop_filter("finite", |v| v.is_finite())) {
            prop_assert_eq!(value_text(value).parse::<f64>().unwrap(), value);
            prop_assert!(value_text(value).len() <= 25);
        }

        #[test]
        fn labels_are_sorted_for_any_values(a in "[a,\"\\\\\n={}]{0,8}", b in "[a,\"\\\\\n={}]{0,8}") {
            let labels = [("x", a.as_bytes()), ("y", b.as_bytes())];
            let mut out = Exposition::new();
            out.add_sample("m", "", "", MetricType::Gauge, labels.into_iter(), 1.0.into());
            out.add_sample("m", "", "", MetricType::Gauge, labels.into_iter().rev(), 1.0.into());
            let sorted = written_labels(labels.into_iter());
            prop_assert_eq!(out.sorted_labels("m").collect::<Vec<_>>(), [&sorted[..], &sorted]);
        }

        #[test]
        fn a_series_has_the_labels_that_were_added(
            values in prop::collection::vec(("[a,\"\\\\\n={}ä]{0,8}", any::<f64>()), 0..6),
            suffix in "(_count)?",
        ) {
            let mut out = Exposition::new();
            for (value, number) in &values {
                let labels = [("a", value.as_bytes()), ("b", b""), ("c", value.as_bytes())];
                out.add_sample("m", &suffix, "", MetricType::Untyped, labels.into_iter(), (*number).into());
            }
            let mut expected: Vec<_> = values.iter().map(|(value, _)| value.as_str()).collect();
            expected.sort_unstable();
            expected.dedup();
            let mut found = Vec::new();
            for series in out.series() {
                let labels: Vec<_> = series.labels().collect();
                prop_assert_eq!(labels.len(), 3);
                let value = labels[0].1;
                prop_assert_eq!(&labels[..], [("a", value), ("b", ""), ("c", value)]);
                let (_, number) = values.iter().find(|(first, _)| first == value).unwrap();
                prop_assert_eq!(series.value().as_f64().to_bits(), number.to_bits());
                prop_assert_eq!((series.family(), series.suffix()), ("m", &suffix[..]));
                found.push(value);
            }
            found.sort_unstable();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn any_label_stays_on_its_line(label in proptest::collection::vec(any::<u8>(), 0..60)) {
            let mut out = Exposition::new();
            out.add(&BYTES, &[&label], 1u64);
            prop_assert_eq!(out.to_text().trim_end_matches('\n').split('\n').count(), 3);
        }
    }
}
