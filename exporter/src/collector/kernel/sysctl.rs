//! Kernel parameters that are asked for by name: `proc/sys/`.
//!
//! <https://docs.kernel.org/admin-guide/sysctl/index.html>
//!
//! A request to the broker carries no names, so only those of its policy's lists can be emitted. Values that a namespace has
//! of its own come only from a broker that is in the host's.

use keyhole_policy::pattern::matches;
use keyhole_policy::{Namespace, Root};
use keyhole_proto::v1::Query;

use crate::collector::{Collect, CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source, Value};
use crate::options::{Options, TypedFlag};
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "sysctl",
    default: false,
    help: "Kernel parameters, if the readers can read them.",
    queries: &[],
    optional: QUERIES,
    flags: &[INCLUDE.row, INCLUDE_INFO.row],
    families: || vec![NUMBER, INDEXED, INFO],
    new: |options| Ok(Box::new(Sysctl::new(options))),
};

const QUERIES: &[Query] = &[Query::Sysctl, Query::NetSysctl, Query::NamespaceSysctl];

const INCLUDE: TypedFlag<Vec<String>> = TypedFlag::parsed_list(
    "collector.sysctl.include",
    "PARAMETER",
    "Parameter to report as numbers: fs.file-max, or fs.file-nr:total,current,max with names for its fields.",
);
const INCLUDE_INFO: TypedFlag<Vec<String>> =
    TypedFlag::parsed_list("collector.sysctl.include-info", "PARAMETER", "Parameter to report as text.");

const NUMBER: Family = Family {
    name: "node_sysctl_<NAME>",
    help: "Value of the kernel parameter.",
    kind: MetricType::Untyped,
    labels: &[],
    source: Source::Files(&["proc/sys/*/*", "proc/sys/*/*/*", "proc/sys/*/*/*/*", "proc/sys/*/*/*/*/*"]),
};
const INDEXED: Family = Family { labels: &["index"], ..NUMBER };
const INFO: Family = Family {
    name: "node_sysctl_info",
    help: "A field of the kernel parameter, as text; always 1.",
    kind: MetricType::Gauge,
    labels: &["index", "name", "value"],
    ..NUMBER
};

/// The values of the flags.
#[derive(Debug)]
struct Sysctl {
    /// Parameters to give as numbers.
    numbers: Vec<String>,
    /// Parameters to give as text.
    texts: Vec<String>,
}

impl Sysctl {
    fn new(options: &Options) -> Self {
        Self { numbers: INCLUDE.get(options), texts: INCLUDE_INFO.get(options) }
    }
}

impl Collect for Sysctl {
    fn collect(&self, context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
        let numbers = self.numbers.iter().map(|asked| (INCLUDE.row.name, asked, add_numbers as Add));
        let texts = self.texts.iter().map(|asked| (INCLUDE_INFO.row.name, asked, add_texts as Add));
        let mut failed = Vec::new();
        let mut added = false;
        for (flag, asked, add) in numbers.chain(texts) {
            out.item();
            let (name, keys) = match asked.split_once(':') {
                Some((name, keys)) => (name, keys.split(',').collect()),
                None => (asked.as_str(), Vec::new()),
            };
            let result = read(context, name).and_then(|fields| add(name, &keys, &fields, out));
            added |= result.is_ok();
            if let Err(error) = result {
                failed.push((flag, asked, error));
            }
        }
        let mut failed = failed.into_iter();
        // Without any parameter the collector fails. Its error is the first one, which is reported once.
        let error = if added { None } else { failed.next() };
        for (flag, asked, error) in failed {
            out.skip(|| format!("--{flag}={asked}: {error}"));
        }
        error.map_or(Ok(()), |(.., error)| Err(error))
    }

    fn wants(&self, query: Query) -> bool {
        let mut names = self.numbers.iter().chain(&self.texts);
        names.any(|asked| reads(query, &path(asked.split(':').next().unwrap_or_default())))
    }
}

/// Adds the fields of a parameter: its name, the names for its fields, and the fields.
type Add = fn(&str, &[&str], &[&[u8]], &mut Exposition) -> Result<(), CollectError>;

/// The fields of a parameter, at least one.
fn read<'a>(context: &Context<'a>, name: &str) -> Result<Vec<&'a [u8]>, CollectError> {
    let path = path(name);
    let Some(query) = QUERIES.iter().find(|query| reads(**query, &path)) else {
        return Err(CollectError::malformed(&path, "not among the kernel parameters that the broker offers"));
    };
    context.require_answered(*query)?;
    let text = context.require_complete(&path).map_err(|error| match (error, namespace(*query, &path)) {
        // Of a query whose files are of several namespaces, a reader opens those that are the host's.
        (CollectError::NoData(path), Some(namespace)) => CollectError::NoData(format!(
            "{path}, or the broker is not in its {} namespace",
            namespace.name()
        )),
        (error, _) => error,
    })?;
    let fields: Vec<&[u8]> = text::fields(text).collect();
    if fields.is_empty() { Err(CollectError::malformed(&path, "empty")) } else { Ok(fields) }
}

/// Numbers: one alone, several under their index or under the names that the flag has for them.
fn add_numbers(
    name: &str,
    keys: &[&str],
    fields: &[&[u8]],
    out: &mut Exposition,
) -> Result<(), CollectError> {
    let numbers: Option<Vec<Value>> = fields.iter().map(|field| number(field)).collect();
    let numbers = numbers.ok_or_else(|| CollectError::malformed(&path(name), "not all numbers"))?;
    let metric = NUMBER.name.replace("<NAME>", &name.replace(':', "_"));
    match (&*numbers, keys) {
        ([number], []) => out.add_named(&NUMBER, &metric, &[], *number),
        (_, []) => {
            for (index, number) in numbers.iter().enumerate() {
                out.add_named(&INDEXED, &metric, &[index.to_string().as_bytes()], *number);
            }
        }
        ([_, _, ..], _) if keys.len() == numbers.len() => {
            for (key, number) in keys.iter().zip(numbers) {
                out.add_named(&NUMBER, &format!("{metric}_{key}"), &[], number);
            }
        }
        _ => return Err(mismatch(name, keys, fields)),
    }
    Ok(())
}

fn add_texts(name: &str, keys: &[&str], fields: &[&[u8]], out: &mut Exposition) -> Result<(), CollectError> {
    if !keys.is_empty() {
        return Err(mismatch(name, keys, fields));
    }
    for (index, field) in fields.iter().enumerate() {
        out.add(&INFO, &[index.to_string().as_bytes(), name.as_bytes(), field], 1u64);
    }
    Ok(())
}

fn mismatch(name: &str, keys: &[&str], fields: &[&[u8]]) -> CollectError {
    let item = format!("{} names for {} fields", keys.len(), fields.len());
    CollectError::malformed(&path(name), item)
}

/// A limit may be as large as an unsigned number gets.
fn number(field: &[u8]) -> Option<Value> {
    text::unsigned(field).map(Value::from).or_else(|| text::signed(field).map(Value::from))
}

/// `fs.inotify.max_user_watches` as its file.
fn path(name: &str) -> String {
    format!("proc/sys/{}", name.replace('.', "/"))
}

/// Whether the policy has this file read for a query.
fn reads(query: Query, path: &str) -> bool {
    source(query, path).is_some()
}

/// The namespace that has a value of its own there.
fn namespace(query: Query, path: &str) -> Option<Namespace> {
    match source(query, path)?.root {
        Root::ProcIn(namespace) => Some(namespace),
        _ => None,
    }
}

fn source(query: Query, path: &str) -> Option<&'static keyhole_policy::Source> {
    keyhole_policy::row(query)?.sources.iter().find(|source| {
        let below = path.strip_prefix(source.root.name()).and_then(|path| path.strip_prefix('/'));
        below.is_some_and(|below| matches(source.pattern.as_bytes(), below.as_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{
        accepts_any_bytes, collect, collect_snapshot, instance, local, skipped_of,
    };
    use crate::snapshot::{Content, Report, Snapshot};
    use keyhole_proto::v1::Outcome;

    const FILES: &[(&str, &[u8])] = &[
        ("proc/sys/fs/file-nr", b"1024\t0\t1631329\n"),
        ("proc/sys/fs/file-max", b"9223372036854775807\n"),
        ("proc/sys/kernel/seccomp/actions_avail", b"kill_process trap\n"),
        ("proc/sys/kernel/perf_event_paranoid", b"-1\n"),
        ("proc/sys/kernel/threads-max", b"7801\n"),
    ];

    #[test]
    fn one_number_has_no_index_and_each_of_several_has_one() {
        let flags = [
            "--collector.sysctl.include=kernel.threads-max",
            "--collector.sysctl.include=kernel.perf_event_paranoid",
            "--collector.sysctl.include=fs.file-max",
            "--collector.sysctl.include=fs.file-nr",
        ];
        assert_eq!(
            collect(&COLLECTOR, FILES, &flags).unwrap(),
            "node_sysctl_fs_file_max 9223372036854775807\n\
             node_sysctl_fs_file_nr{index=\"0\"} 1024\n\
             node_sysctl_fs_file_nr{index=\"1\"} 0\n\
             node_sysctl_fs_file_nr{index=\"2\"} 1631329\n\
             node_sysctl_kernel_perf_event_paranoid -1\n\
             node_sysctl_kernel_threads_max 7801\n"
        );
    }

    #[test]
    fn fields_have_the_names_that_the_flag_lists() {
        let flags = ["--collector.sysctl.include=fs.file-nr:total,current,max"];
        assert_eq!(
            collect(&COLLECTOR, FILES, &flags).unwrap(),
            "node_sysctl_fs_file_nr_current 0\n\
             node_sysctl_fs_file_nr_max 1631329\n\
             node_sysctl_fs_file_nr_total 1024\n"
        );
    }

    #[test]
    fn a_series_limit_leaves_whole_parameters() {
        let files =
            FILES.iter().map(|(path, text)| (path.as_bytes().to_vec(), Content::bytes(text.to_vec())));
        let snapshot = Snapshot::from_files(files.collect());
        let asked = ["kernel.threads-max", "fs.file-nr:total,current,max"];
        let added = asked.map(|name| format!("--{}={name}", INCLUDE.row.name));
        let sysctl = instance(&COLLECTOR, &added.each_ref().map(String::as_str));
        for (limit, whole) in [(4, 4), (3, 1), (2, 1), (1, 1)] {
            let mut out = Exposition::new();
            out.begin(limit);
            sysctl.collect(&Context { snapshot: &snapshot, local: &local() }, &mut out).unwrap();
            assert_eq!(out.end().series, whole, "{limit}");
        }
    }

    #[test]
    fn texts_are_labels() {
        let flags = [
            "--collector.sysctl.include-info=kernel.seccomp.actions_avail",
            "--collector.sysctl.include-info=kernel.threads-max",
        ];
        assert_eq!(
            collect(&COLLECTOR, FILES, &flags).unwrap(),
            "node_sysctl_info{index=\"0\",name=\"kernel.seccomp.actions_avail\",value=\"kill_process\"} 1\n\
             node_sysctl_info{index=\"0\",name=\"kernel.threads-max\",value=\"7801\"} 1\n\
             node_sysctl_info{index=\"1\",name=\"kernel.seccomp.actions_avail\",value=\"trap\"} 1\n"
        );
    }

    fn error(flag: &str) -> String {
        collect(&COLLECTOR, FILES, &[flag]).unwrap_err().to_string()
    }

    #[test]
    fn parameters_that_the_broker_does_not_support_are_errors_and_not_read() {
        let key = ("proc/sys/net/ipv4/tcp_fastopen_key", &b"0-0-0-0\n"[..]);
        let flags = ["--collector.sysctl.include-info=net.ipv4.tcp_fastopen_key"];
        assert_eq!(
            collect(&COLLECTOR, &[key], &flags).unwrap_err().to_string(),
            "proc/sys/net/ipv4/tcp_fastopen_key: not among the kernel parameters that the broker offers"
        );
        for name in ["", ".", "fs", "fs.file-nr.x", "fs.{file-nr,file-max}", "fs/../fs/file-nr", "fs.inotify"]
        {
            let text = error(&format!("--collector.sysctl.include-info={name}"));
            assert!(text.ends_with("that the broker offers"), "{name}: {text}");
        }
    }

    #[test]
    fn each_parameter_belongs_to_one_query_and_only_that_is_sent() {
        for (name, query) in [
            ("vm.swappiness", Query::Sysctl),
            ("vm.user_reserve_kbytes", Query::Sysctl),
            ("fs.inotify.max_user_watches", Query::Sysctl),
            ("kernel.yama.ptrace_scope", Query::Sysctl),
            ("net.ipv4.tcp_rmem", Query::NetSysctl),
            ("net.ipv4.conf.all.rp_filter", Query::NetSysctl),
            ("net.ipv4.ip_local_port_range:low,high", Query::NetSysctl),
            ("net.core.somaxconn", Query::NetSysctl),
            ("net.netfilter.nf_conntrack_count", Query::NetSysctl),
            ("net.netfilter.nf_conntrack_max", Query::Sysctl),
            ("kernel.pid_max", Query::NamespaceSysctl),
            ("vm.memfd_noexec", Query::NamespaceSysctl),
            ("kernel.sem:semmsl,semmns,semopm,semmni", Query::NamespaceSysctl),
        ] {
            let sysctl = instance(&COLLECTOR, &[&format!("--{}={name}", INCLUDE.row.name)]);
            assert_eq!(sysctl.queries().collect::<Vec<_>>(), [query], "{name}");
        }
    }

    #[test]
    fn a_parameter_in_a_namespace_of_the_brokers_own_fails_with_the_reason_and_the_others_are_reported() {
        let mut snapshot =
            Snapshot::from_files(vec![(b"proc/sys/vm/swappiness".to_vec(), Content::bytes(&b"60\n"[..]))]);
        let report = Report { outcome: Outcome::ContainerView, elapsed_ns: 0, bytes: 0, left_out: 0 };
        snapshot.set_report(Query::NetSysctl, report);
        snapshot.set_reason(Query::NetSysctl, "another network namespace");
        let net = "--collector.sysctl.include=net.core.somaxconn";
        assert_eq!(
            collect_snapshot(&COLLECTOR, &snapshot, &[net], &local()).unwrap_err().to_string(),
            "query NET_SYSCTL: CONTAINER_VIEW (another network namespace)"
        );
        let both = [net, "--collector.sysctl.include=vm.swappiness"];
        let added = collect_snapshot(&COLLECTOR, &snapshot, &both, &local());
        assert_eq!(added.unwrap(), "node_sysctl_vm_swappiness 60\n");
    }

    #[test]
    fn one_that_is_missing_of_several_namespaces_may_lie_in_another() {
        assert_eq!(
            error("--collector.sysctl.include=user.max_user_namespaces"),
            "the host has no proc/sys/user/max_user_namespaces, or the broker is not in its user namespace"
        );
    }

    #[test]
    fn the_example_of_node_exporters_documentation_is_reported() {
        let files: &[(&str, &[u8])] = &[
            ("proc/sys/vm/user_reserve_kbytes", b"131072\n"),
            ("proc/sys/kernel/core_pattern", b"core\n"),
            ("proc/sys/kernel/seccomp/actions_avail", b"kill_process trap\n"),
        ];
        let flags = [
            "--collector.sysctl.include=vm.user_reserve_kbytes",
            "--collector.sysctl.include-info=kernel.core_pattern",
            "--collector.sysctl.include-info=kernel.seccomp.actions_avail",
        ];
        let text = collect(&COLLECTOR, files, &flags).unwrap();
        assert!(text.contains("node_sysctl_vm_user_reserve_kbytes 131072\n"), "{text}");
        assert!(
            text.contains("node_sysctl_info{index=\"0\",name=\"kernel.core_pattern\",value=\"core\"} 1\n"),
            "{text}"
        );
    }

    #[test]
    fn a_mismatch_of_names_and_fields_is_an_error() {
        let of = |name| error(&format!("--collector.sysctl.include={name}"));
        assert_eq!(of("fs.file-nr:total,max"), "proc/sys/fs/file-nr: 2 names for 3 fields");
        assert_eq!(of("kernel.threads-max:max"), "proc/sys/kernel/threads-max: 1 names for 1 fields");
        assert_eq!(
            of("kernel.seccomp.actions_avail"),
            "proc/sys/kernel/seccomp/actions_avail: not all numbers"
        );
        assert_eq!(of("vm.swappiness"), "the host has no proc/sys/vm/swappiness");
        assert_eq!(
            error("--collector.sysctl.include-info=fs.file-nr:a,b,c"),
            "proc/sys/fs/file-nr: 3 names for 3 fields"
        );
    }

    #[test]
    fn one_that_fails_is_skipped_and_the_others_are_reported() {
        let snapshot = Snapshot::from_files(vec![
            (b"proc/sys/fs/file-nr".to_vec(), Content::Errno(13)),
            (b"proc/sys/vm/swappiness".to_vec(), Content::bytes(&b"60\n"[..])),
            (b"proc/sys/fs/file-max".to_vec(), Content::bytes(&b" \n"[..])),
        ]);
        let flags = [
            "--collector.sysctl.include=fs.file-nr",
            "--collector.sysctl.include=vm.swappiness",
            "--collector.sysctl.include=fs.file-max",
        ];
        let added = collect_snapshot(&COLLECTOR, &snapshot, &flags, &local());
        assert_eq!(added.unwrap(), "node_sysctl_vm_swappiness 60\n");
        assert_eq!(skipped_of(&COLLECTOR, &snapshot, &flags), 2);
        // Without any the collector fails with the first, and only the others are reported besides.
        for (flags, skipped) in [(vec![flags[0], flags[2]], 1), (vec![flags[0]], 0)] {
            let mut out = Exposition::new();
            out.begin(usize::MAX);
            let context = Context { snapshot: &snapshot, local: &local() };
            let error = instance(&COLLECTOR, &flags).collect(&context, &mut out).unwrap_err();
            assert_eq!(error.to_string(), "proc/sys/fs/file-nr: errno 13");
            let counters = out.end();
            assert_eq!((counters.skipped, counters.skipped_items.len()), (skipped, skipped));
        }
    }

    #[test]
    fn hostile_fields_are_labels_and_hostile_names_are_metric_names() {
        let files: &[(&str, &[u8])] =
            &[("proc/sys/fs/file-nr", b"1 2"), ("proc/sys/kernel/panic", b"a\"\\\xff")];
        let flags = [
            "--collector.sysctl.include=fs.file-nr:a:\"{b},ü",
            "--collector.sysctl.include-info=kernel.panic",
        ];
        assert_eq!(
            collect(&COLLECTOR, files, &flags).unwrap(),
            "node_sysctl_fs_file_nr___ 2\nnode_sysctl_fs_file_nr_a:__b_ 1\n\
             node_sysctl_info{index=\"0\",name=\"kernel.panic\",value=\"a\\\"\\\\\u{fffd}\"} 1\n"
        );
    }

    #[test]
    fn without_a_flag_nothing_is_reported() {
        assert_eq!(collect(&COLLECTOR, FILES, &[]).unwrap(), "");
        accepts_any_bytes(&COLLECTOR, &["proc/sys/fs/file-nr"]);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_under_any_flag_are_parsed_without_a_panic(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..60),
            keys in "(:[a-z,]{0,6})?",
        ) {
            for flag in [INCLUDE, INCLUDE_INFO] {
                let flag = format!("--{}=fs.file-nr{keys}", flag.row.name);
                let _ = collect(&COLLECTOR, &[("proc/sys/fs/file-nr", &bytes)], &[&flag]);
            }
        }
    }
}
