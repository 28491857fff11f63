//! Metrics that other programs leave in files: `*.prom` in `--collector.textfile.directory`.
//!
//! A file that is not in the format is refused as a whole, and takes nothing from the others. Of one that is, lines
//! that no exposition may have are left out. Files may add series to one family; a family whose type or help text
//! differs from the first file's is left out, and so is one about the scrape itself. What is left out is
//! named with its file, its line and the reason.
//!
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>

pub mod directories;
mod parse;

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;
use std::path::PathBuf;
use std::time::UNIX_EPOCH;

use self::directories::TextFile;
use crate::collector::{Collect, CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source, Value, written_labels};
use crate::options::{Options, TypedFlag};
use parse::{Labels, Parsed, Sample};

pub const COLLECTOR: Collector = Collector {
    name: "textfile",
    default: true,
    help: "Metrics of *.prom files.",
    queries: &[],
    optional: &[],
    flags: &[DIRECTORY.row],
    families: || vec![MTIME, ERROR, READ],
    new: |options| Ok(Box::new(Textfile::new(options))),
};

const DIRECTORY: TypedFlag<Vec<String>> = TypedFlag::parsed_list(
    "collector.textfile.directory",
    "DIRECTORY",
    "Directory with *.prom files; * and ? are wildcards.",
);

const MTIME: Family = Family {
    name: "node_textfile_mtime_seconds",
    help: "When a text file was last changed, in seconds since the epoch.",
    kind: MetricType::Gauge,
    labels: &["file"],
    source: Source::Exporter("*.prom"),
};
const ERROR: Family = Family {
    name: "node_textfile_scrape_error",
    help: "Whether a text file or a directory of them could not be read as a whole.",
    labels: &[],
    ..MTIME
};
/// Stands for the families of the files.
const READ: Family = Family {
    name: "<NAME>",
    help: "The help text of the file.",
    kind: MetricType::Untyped,
    labels: &[],
    ..MTIME
};

/// The most lines that all files may have together: what a line holds takes many times its room.
const LINES: usize = 200_000;

/// The values of the flags.
#[derive(Debug)]
struct Textfile {
    /// Looked up once: the sandbox leaves these readable, and no others.
    directories: Vec<PathBuf>,
}

impl Textfile {
    fn new(options: &Options) -> Self {
        Self { directories: directories::directories(&DIRECTORY.get(options)) }
    }
}

impl Collect for Textfile {
    fn collect(&self, _: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
        collect(&directories::read(&self.directories), out);
        Ok(())
    }

    fn directories(&self) -> &[PathBuf] {
        &self.directories
    }

    /// A family of the host's takes precedence over one of the same name in a text file.
    fn is_last(&self) -> bool {
        true
    }
}

/// Adds the metrics of the files.
pub fn collect(files: &[TextFile], out: &mut Exposition) {
    let mut error = false;
    let mut room = LINES;
    let mut families = Vec::new();
    for file in files {
        let path = file.path.as_str();
        let parsed = match &file.content {
            Ok(text) => take_lines(text, &mut room).and_then(|()| {
                parse::parse(text).map_err(|error| format!("{error}; the whole file is left out"))
            }),
            Err(reason) => Err(reason.clone()),
        };
        match parsed {
            Ok(parsed) => {
                let modified = file.modified.duration_since(UNIX_EPOCH).unwrap_or_default();
                out.add(&MTIME, &[path.as_bytes()], modified.as_secs());
                families.extend(parsed.families.into_iter().map(|family| (path, family)));
                for line in parsed.left_out {
                    error = true;
                    out.skip(|| format!("{path}: {line}; the line is left out"));
                }
            }
            Err(reason) => {
                error = true;
                out.skip(|| format!("{path}: {reason}"));
            }
        }
    }
    let sources = sources(&families);
    let mut kinds: HashMap<&str, MetricType> = HashMap::new();
    let mut helps: HashMap<&str, &str> = HashMap::new();
    let mut names: HashMap<String, &str> = HashMap::new();
    let mut taken = Vec::new();
    for (path, family) in &families {
        let name = family.name.as_str();
        let help = family.help.as_deref();
        let kind = family.kind.unwrap_or(MetricType::Untyped);
        let known = out.kind(name).or_else(|| kinds.get(name).copied());
        let series =
            |name: &str| out.kind(name).is_some() || names.get(name).is_some_and(|of| *of != family.name);
        let collides = || series_names(name, kind).find(|other| series(other) && *other != name);
        let conflict = match helps.get(name) {
            _ if is_own(name) => Some("is the exporter's own".to_owned()),
            _ if known.is_some_and(|known| known != kind) => {
                Some("stands elsewhere with another type".to_owned())
            }
            Some(known) if help.is_some_and(|help| help != *known) => {
                Some("stands elsewhere with another help text".to_owned())
            }
            _ if names.get(name).is_some_and(|of| *of != name) => {
                Some("is the name of samples of another family".to_owned())
            }
            _ => collides().map(|other| format!("has samples named {other}, which is another family")),
        };
        if let Some(conflict) = conflict {
            error = true;
            let line = family.samples.first().map_or(0, |sample| sample.line);
            out.skip(|| format!("{path}: line {line}: {name} {conflict}; the family is left out"));
            continue;
        }
        kinds.insert(name, kind);
        if let Some(help) = help {
            helps.insert(name, help);
        }
        names.extend(series_names(name, kind).map(|series| (series, name)));
        taken.push((*path, family, kind));
    }
    // Before the files' samples: these may reach the limit of series.
    out.add(&ERROR, &[], error);
    let mut series = Series::default();
    for (path, family, kind) in taken {
        let read_from =
            || sources.get(family.name.as_str()).map(|paths| format!("Read from {}.", paths.join(", ")));
        let help = family.help.clone().or_else(read_from).unwrap_or_default();
        add(path, family, kind, &help, &mut series, out);
    }
}

/// The names that a family's samples may have.
fn series_names(name: &str, kind: MetricType) -> impl Iterator<Item = String> {
    let suffixes: &[&str] = match kind {
        MetricType::Histogram => &["_bucket", "_count", "_sum"],
        MetricType::Summary => &["", "_count", "_sum"],
        _ => &[""],
    };
    suffixes.iter().map(move |suffix| format!("{name}{suffix}"))
}

/// The series that were added, to find those that come twice.
#[derive(Default)]
struct Series {
    /// By what they are hashed to: of up to [`LINES`] it takes little room, and files cannot know the keys.
    hashes: HashSet<u64>,
    hasher: RandomState,
    /// Families whose samples of other collectors are among them.
    seeded: HashSet<String>,
}

impl Series {
    /// Whether a series, or a histogram or summary, of this name and these labels comes for the first time.
    fn is_new<'l>(
        &mut self,
        name: &str,
        labels: impl Iterator<Item = &'l (String, String)>,
        out: &Exposition,
    ) -> bool {
        if out.kind(name).is_some() && self.seeded.insert(name.to_owned()) {
            for labels in out.sorted_labels(name) {
                self.hashes.insert(self.hasher.hash_one((name, labels)));
            }
        }
        let labels = written_labels(labels.map(|(name, value)| (name.as_str(), value.as_bytes())));
        self.hashes.insert(self.hasher.hash_one((name, labels)))
    }
}

/// Takes a file's lines from what is left for all of them.
fn take_lines(text: &[u8], room: &mut usize) -> Result<(), String> {
    let lines = text.iter().filter(|byte| **byte == b'\n').count();
    *room = room
        .checked_sub(lines)
        .ok_or_else(|| format!("more than the {LINES} lines that all files may have together"))?;
    Ok(())
}

/// Whether a family is about the scrape itself: a file must not contain those.
fn is_own(name: &str) -> bool {
    name == ERROR.name
        || name == MTIME.name
        || name.starts_with("node_scrape_collector_")
        || name.starts_with("keyhole_")
}

/// Which files each family comes from.
fn sources<'f>(families: &'f [(&'f str, Parsed)]) -> HashMap<&'f str, Vec<&'f str>> {
    let mut sources: HashMap<&str, Vec<&str>> = HashMap::new();
    for (path, family) in families {
        sources.entry(&family.name).or_default().push(path);
    }
    sources
}

fn add(path: &str, family: &Parsed, kind: MetricType, help: &str, series: &mut Series, out: &mut Exposition) {
    let add_sample = |sample: &Sample, out: &mut Exposition| {
        let labels = sample.labels.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        out.add_sample(&family.name, sample.suffix, help, kind, labels, Value::Float(sample.value));
    };
    // As in node_exporter, this is not an error of the file: others may have the series first.
    let skip = |sample: &Sample, out: &mut Exposition| {
        let name = [&family.name, sample.suffix].concat();
        let line = sample.line;
        out.skip(|| {
            format!("{path}: line {line}: a series of {name} that is there already; the line is left out")
        });
    };
    out.item();
    let Some(own) = kind.own_label() else {
        for sample in &family.samples {
            out.item();
            if series.is_new(&family.name, sample.labels.iter(), out) {
                add_sample(sample, out);
            } else {
                skip(sample, out);
            }
        }
        return;
    };
    // One item: a limit leaves no part of a histogram.
    for metric in metrics(path, family, own, out) {
        let labels = metric.first().into_iter().flat_map(|sample| without(sample, own));
        if !series.is_new(&family.name, labels, out) {
            metric.iter().for_each(|sample| skip(sample, out));
            continue;
        }
        metric.iter().for_each(|sample| add_sample(sample, out));
        if kind == MetricType::Histogram
            && let Some(bucket) = last_bucket(&metric)
        {
            add_sample(&bucket, out);
        }
    }
}

/// The labels of a sample's metric: all but the bucket's or quantile's own.
fn without<'s>(sample: &'s Sample, own: &str) -> impl Iterator<Item = &'s (String, String)> {
    sample.labels.iter().filter(move |(name, _)| name != own)
}

/// The samples of each histogram or summary of a family. Of two lines for the same series, such as the buckets `le="1"` and
/// `le="1.0"`, the last one counts, as in node_exporter.
fn metrics<'s>(path: &str, family: &'s Parsed, own: &str, out: &mut Exposition) -> Vec<Vec<&'s Sample>> {
    let mut metrics: Vec<Vec<&Sample>> = Vec::new();
    let mut by_labels: HashMap<Vec<&(String, String)>, usize> = HashMap::new();
    let mut by_series: HashMap<(&Labels, &str), (usize, usize)> = HashMap::new();
    for sample in &family.samples {
        if let Some((metric, at)) = by_series.get(&(&sample.labels, sample.suffix)).copied() {
            let first = std::mem::replace(&mut metrics[metric][at], sample);
            let name = [&family.name, sample.suffix].concat();
            out.skip(|| {
                format!(
                    "{path}: line {}: the series of {name} stands again in line {}; the line is left out",
                    first.line, sample.line
                )
            });
            continue;
        }
        let metric = *by_labels.entry(without(sample, own).collect()).or_insert_with(|| {
            metrics.push(Vec::new());
            metrics.len() - 1
        });
        by_series.insert((&sample.labels, sample.suffix), (metric, metrics[metric].len()));
        metrics[metric].push(sample);
    }
    metrics
}

/// The bucket `+Inf` of a histogram whose writer left it out: it has the value of the count.
fn last_bucket(metric: &[&Sample]) -> Option<Sample> {
    let is_infinite = |(name, value): &(String, String)| name == "le" && value == "+Inf";
    if metric.iter().any(|sample| sample.labels.iter().any(is_infinite)) {
        return None;
    }
    let count = metric.iter().find(|sample| sample.suffix == "_count")?;
    let mut labels = count.labels.clone();
    labels.push(("le".into(), "+Inf".into()));
    Some(Sample { suffix: "_bucket", labels, value: count.value, line: count.line })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::collector::testing::{collect_snapshot, local};
    use crate::snapshot::Snapshot;

    fn text_files(files: &[(&str, &str)]) -> Vec<TextFile> {
        let file = |(path, text): &(&str, &str)| TextFile {
            path: (*path).into(),
            modified: UNIX_EPOCH + Duration::from_millis(5700),
            content: Ok(text.as_bytes().to_vec()),
        };
        files.iter().map(file).collect()
    }

    fn collect(files: &[(&str, &str)]) -> String {
        let mut out = Exposition::new();
        super::collect(&text_files(files), &mut out);
        let text = out.to_text();
        text.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect()
    }

    /// What is left out of the files, in words.
    fn left_out(files: &[(&str, &str)]) -> Vec<String> {
        let mut out = Exposition::new();
        let load = Family {
            name: "node_load1",
            help: "Load.",
            kind: MetricType::Gauge,
            labels: &["z", "a"],
            source: Source::Exporter(""),
        };
        out.add(&load, &[b"1", b"2"], 1u64);
        out.begin(usize::MAX);
        super::collect(&text_files(files), &mut out);
        let counters = out.end();
        assert_eq!(counters.skipped, counters.skipped_items.len());
        let mut text = Vec::new();
        assert_eq!(out.write(&mut text, |_| true).duplicates, 0, "a series that comes twice is found before");
        counters.skipped_items
    }

    #[test]
    fn each_skipped_line_is_reported_with_its_file_its_number_and_the_reason() {
        let summary = "# TYPE s summary\ns{quantile=\"1\"} 1\ns_count 1\n";
        for (files, reason) in [
            (
                &[("a", "x 1\ny{\n")][..],
                "a: line 2: a label name must stand here; the whole file is left out",
            ),
            (
                &[("a", "x{__d=\"1\"} 1\ny 1\n")],
                "a: line 1: the label name __d is reserved: it begins with __; the line is left out",
            ),
            (
                &[("a", "m 1\n"), ("b", "n 1\n# TYPE m gauge\nm{x=\"1\"} 1\n")],
                "b: line 3: m stands elsewhere with another type; the family is left out",
            ),
            (
                &[("a", "m 1\n"), ("b", "n 1\nm 1\n")],
                "b: line 2: a series of m that is there already; the line is left out",
            ),
            (
                &[("a", "m{x=\"1\"} 1\nm{x=\"1\",y=\"\"} 1\n")],
                "a: line 2: a series of m that is there already; the line is left out",
            ),
            (
                &[("a", "# TYPE node_load1 gauge\nnode_load1{z=\"1\",a=\"2\"} 1\n")],
                "a: line 2: a series of node_load1 that is there already; the line is left out",
            ),
            (
                &[("a", "# TYPE node_load1 counter\nnode_load1 1\n")],
                "a: line 2: node_load1 stands elsewhere with another type; the family is left out",
            ),
            (
                &[("a", "node_textfile_mtime_seconds{file=\"x\"} 1\n")],
                "a: line 1: node_textfile_mtime_seconds is the exporter's own; the family is left out",
            ),
            (
                &[("a", summary), ("b", "s_count 2\n")],
                "b: line 1: s_count is the name of samples of another family; the family is left out",
            ),
            (
                &[("a", "s_count 2\n"), ("b", summary)],
                "b: line 2: s has samples named s_count, which is another family; the family is left out",
            ),
            (
                &[("a", "# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"1.0\"} 2\n")],
                "a: line 2: the series of h_bucket stands again in line 3; the line is left out",
            ),
            (
                &[("a", "# TYPE h histogram\nh_count 1\n"), ("b", "# TYPE h histogram\nh_sum 2\n")],
                "b: line 2: a series of h_sum that is there already; the line is left out",
            ),
        ] {
            assert_eq!(left_out(files), [reason]);
        }
    }

    #[test]
    fn a_reserved_label_takes_its_line_and_no_other() {
        let text = collect(&[("x", "a_total{__device=\"vda\"} 1\nb_total{device=\"vda\"} 2\n")]);
        assert_eq!(
            text,
            "b_total{device=\"vda\"} 2\nnode_textfile_mtime_seconds{file=\"x\"} 5\nnode_textfile_scrape_error 1\n"
        );
    }

    #[test]
    fn without_files_there_is_no_error() {
        assert_eq!(collect(&[]), "node_textfile_scrape_error 0\n");
    }

    #[test]
    fn every_type_is_exported_as_it_was_written() {
        let text = collect(&[(
            "/d/a.prom",
            "# HELP c_total Things.\n# TYPE c_total counter\nc_total{a=\"\",b=\"x\"} 1e3\n# TYPE g gauge\ng -0.5\nu NaN\n\
             # TYPE s summary\ns{quantile=\"0.5\"} 1\ns_sum 2\ns_count 3\n\
             # TYPE h histogram\nh_bucket{le=\"1000000\"} 5\nh_sum 7\nh_count 8\n\
             # TYPE i histogram\ni_bucket{le=\"1\"} 5\n# TYPE t summary\nt{quantile=\"0.5\"} 1\n",
        )]);
        assert_eq!(
            text,
            "c_total{b=\"x\"} 1000\n\
             g -0.5\n\
             h_bucket{le=\"1e+06\"} 5\n\
             h_bucket{le=\"+Inf\"} 8\n\
             h_sum 7\n\
             h_count 8\n\
             i_bucket{le=\"1\"} 5\n\
             node_textfile_mtime_seconds{file=\"/d/a.prom\"} 5\n\
             node_textfile_scrape_error 0\n\
             s{quantile=\"0.5\"} 1\n\
             s_sum 2\n\
             s_count 3\n\
             t{quantile=\"0.5\"} 1\n\
             u NaN\n"
        );
    }

    #[test]
    fn buckets_and_quantiles_are_written_by_number_then_the_sum_and_the_count() {
        let text = collect(&[(
            "a",
            "# TYPE h histogram\nh_count{x=\"b\"} 9\nh_bucket{x=\"a\",le=\"10\"} 3\nh_bucket{x=\"a\",le=\"+Inf\"} 5\n\
             h_bucket{x=\"a\",le=\"2\"} 1\nh_bucket{x=\"a\",le=\"-1e+06\"} 0\nh_count{x=\"a\"} 5\nh_sum{x=\"a\"} 4\n\
             # TYPE s summary\ns_count 5\ns{quantile=\"1\"} 9\ns{quantile=\"0.99\"} NaN\ns{quantile=\"1e-05\"} 0\ns_sum 4\n",
        )]);
        let expected = "h_bucket{x=\"a\",le=\"-1e+06\"} 0\nh_bucket{x=\"a\",le=\"2\"} 1\nh_bucket{x=\"a\",le=\"10\"} 3\n\
             h_bucket{x=\"a\",le=\"+Inf\"} 5\nh_sum{x=\"a\"} 4\nh_count{x=\"a\"} 5\n\
             h_bucket{x=\"b\",le=\"+Inf\"} 9\nh_count{x=\"b\"} 9\n";
        assert!(text.starts_with(expected), "{text}");
        let expected =
            "s{quantile=\"1e-05\"} 0\ns{quantile=\"0.99\"} NaN\ns{quantile=\"1\"} 9\ns_sum 4\ns_count 5\n";
        assert!(text.ends_with(expected), "{text}");
    }

    #[test]
    fn of_two_lines_for_one_bucket_or_quantile_the_last_one_counts() {
        let text = collect(&[(
            "a",
            "# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"1.0\"} 2\nh_sum 3\nh_sum 4\nh_count 5\nh_count 6\n\
             # TYPE s summary\ns{quantile=\"0.5\"} 1\ns{quantile=\".50\"} 2\n",
        )]);
        let expected = "h_bucket{le=\"1\"} 2\nh_bucket{le=\"+Inf\"} 6\nh_sum 4\nh_count 6\n";
        assert!(text.starts_with(expected) && text.ends_with("s{quantile=\"0.5\"} 2\n"), "{text}");
        assert!(text.contains("node_textfile_scrape_error 0\n"), "{text}");
    }

    #[test]
    fn a_histogram_that_two_files_have_is_the_first_ones() {
        let one = "# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_count 1\n";
        let two = "# TYPE h histogram\nh_bucket{le=\"2\"} 7\nh_sum 7\nh_bucket{x=\"1\",le=\"2\"} 8\n";
        let text = collect(&[("a", one), ("b", two)]);
        let expected =
            "h_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 1\nh_count 1\nh_bucket{x=\"1\",le=\"2\"} 8\nnode_";
        assert!(text.starts_with(expected), "{text}");
    }

    #[test]
    fn a_blank_help_text_is_none() {
        let mut out = Exposition::new();
        super::collect(&text_files(&[("a", "# HELP m \nm 1\n")]), &mut out);
        assert_eq!(out.help("m"), Some("Read from a."));
        let text = collect(&[("a", "# HELP m One.\nm{x=\"1\"} 1\n"), ("b", "# HELP m \nm{x=\"2\"} 2\n")]);
        assert!(text.starts_with("m{x=\"1\"} 1\nm{x=\"2\"} 2\n"), "{text}");
    }

    #[test]
    fn a_malformed_file_is_reported_and_the_others_exported() {
        let text =
            collect(&[("/d/a.prom", "a 1\nb"), ("/d/b.prom", "b 2\n"), ("/d/c.prom", "c 3 1700000000000\n")]);
        assert_eq!(
            text,
            "b 2\nnode_textfile_mtime_seconds{file=\"/d/b.prom\"} 5\nnode_textfile_scrape_error 1\n"
        );
    }

    #[test]
    fn an_unreadable_directory_is_an_error() {
        let flags = ["--collector.textfile.directory=/proc/none"];
        let text = collect_snapshot(&COLLECTOR, &Snapshot::default(), &flags, &local()).unwrap();
        assert_eq!(text, "node_textfile_scrape_error 1\n");
    }

    #[test]
    fn files_share_a_family_and_the_first_of_two_equal_series_is_exported() {
        let text = collect(&[("a", "m{x=\"1\"} 1\n"), ("b", "m{x=\"2\"} 2\nm{x=\"1\",y=\"\"} 3\n")]);
        assert!(text.contains("m{x=\"1\"} 1\nm{x=\"2\"} 2\n") && !text.contains(" 3\n"), "{text}");
        assert!(text.contains("node_textfile_scrape_error 0\n"));
    }

    #[test]
    fn a_family_with_another_type_or_help_text_is_left_out_and_reported() {
        for other in ["# TYPE m counter\nm{x=\"2\"} 2\n", "# HELP m Else.\n# TYPE m gauge\nm{x=\"2\"} 2\n"] {
            let text =
                collect(&[("a", "# HELP m One.\n# TYPE m gauge\nm 1\n"), ("b", &format!("{other}n 3\n"))]);
            assert!(text.contains("\nm 1\n") || text.starts_with("m 1\n"), "{text}");
            assert!(!text.contains("x=\"2\"") && text.contains("n 3\n"), "{text}");
            assert!(text.contains("node_textfile_scrape_error 1\n"), "{text}");
        }
    }

    #[test]
    fn a_file_does_not_speak_for_the_scrape() {
        for own in
            ["node_textfile_scrape_error", "node_scrape_collector_success{collector=\"cpu\"}", "keyhole_x"]
        {
            let text = collect(&[("a", &format!("{own} 7\nm 1\n"))]);
            assert_eq!(
                text,
                "m 1\nnode_textfile_mtime_seconds{file=\"a\"} 5\nnode_textfile_scrape_error 1\n"
            );
        }
    }

    #[test]
    fn the_error_is_reported_even_when_the_files_reach_the_limit_of_series() {
        let mut out = Exposition::new();
        out.begin(2);
        super::collect(&text_files(&[("a", "m 1\nn 2\n"), ("b", "broken")]), &mut out);
        assert!(out.to_text().contains("node_textfile_scrape_error 1\n"), "{}", out.to_text());
    }

    #[test]
    fn more_lines_than_a_scrape_should_have_are_refused_and_small_files_exported() {
        assert_eq!(LINES, 200_000);
        let many = "m 1\n".repeat(LINES);
        let text = collect(&[("a", "a 1\n"), ("b", &many), ("c", "c 3\n")]);
        assert!(!text.contains("\nm 1\n") && text.starts_with("a 1\nc 3\n"), "{}", text.len());
        assert!(text.ends_with("node_textfile_scrape_error 1\n"));
    }

    #[test]
    fn a_family_without_a_help_text_names_its_files() {
        let mut out = Exposition::new();
        super::collect(&text_files(&[("a", "m{x=\"1\"} 1\n"), ("b", "m{x=\"2\"} 2\n")]), &mut out);
        assert_eq!(out.help("m"), Some("Read from a, b."));
    }
}
