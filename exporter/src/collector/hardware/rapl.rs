//! Energy that parts of the CPUs have used (RAPL): `sys/class/powercap/<zone>/`, which only uid 0 may read.
//!
//! <https://docs.kernel.org/power/powercap/powercap.html>

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use keyhole_proto::v1::Query;

use crate::cli::flags::PATH_SYSFS;
use crate::collector::files::textfile::directories;
use crate::collector::{Collect, CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::options::{Options, TypedFlag};
use crate::snapshot::Content;
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "rapl",
    default: true,
    help: "Energy used by parts of the CPUs (RAPL); requires a broker that runs as root.",
    queries: &[Query::Powercap],
    optional: &[],
    flags: &[ZONE_LABEL.row],
    families: || vec![JOULES, ZONE_JOULES],
    new: |options| Ok(Box::new(Rapl::new(options))),
};

const ZONES: &str = "sys/class/powercap";
const ZONE_LABEL: TypedFlag<bool> = TypedFlag::switch(
    "collector.rapl.enable-zone-label",
    false,
    "Report the zone as the label rapl_zone instead of in the metric's name.",
);

const JOULES: Family = Family {
    name: "node_rapl_<ZONE>_joules_total",
    help: "Joules that the zone has used; starts again from 0 when the hardware's counter is full.",
    kind: MetricType::Counter,
    labels: &["index", "path"],
    source: Source::File("sys/class/powercap/*/{energy_uj,name}"),
};
const ZONE_JOULES: Family =
    Family { name: "node_rapl_joules_total", labels: &["index", "path", "rapl_zone"], ..JOULES };

/// The values of the flags.
#[derive(Debug)]
struct Rapl {
    /// Whether the zone is a label.
    with_label: bool,
    /// What paths begin with.
    root: String,
}

impl Rapl {
    fn new(options: &Options) -> Self {
        // node_exporter emits the path that it reads; the exporter knows it from a flag alone.
        let root = match &*PATH_SYSFS.get(options) {
            "" => PathBuf::from("/sys"),
            root => directories::clean(Path::new(root)),
        };
        Self {
            with_label: ZONE_LABEL.get(options),
            root: root.to_string_lossy().trim_end_matches('/').to_owned(),
        }
    }
}

impl Collect for Rapl {
    fn collect(&self, context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
        let powercap = context.snapshot.dir(ZONES);
        let mut dirs: Vec<Vec<u8>> = powercap.dirs().map(|zone| zone.name().to_vec()).collect();
        dirs.sort_unstable();
        let mut seen = BTreeMap::new();
        let mut failed = None;
        let mut any = false;
        for dir in dirs {
            let zone = powercap.dir(&dir);
            // The directory of a control type, such as intel-rapl, has no name.
            let Some(name) = zone.value("name") else { continue };
            let (name, index) = name_and_index(name, &seen);
            seen.insert(name, index.saturating_add(1));
            let microjoules = match zone.content("energy_uj") {
                Some(Content::Errno(errno)) => {
                    let path = String::from_utf8_lossy(&zone.join("energy_uj")).into_owned();
                    failed = failed.or(Some(CollectError::Unreadable { path, errno: *errno }));
                    continue;
                }
                // A zone that is limited without being measured.
                None => continue,
                Some(_) => zone.unsigned("energy_uj"),
            };
            let Some(microjoules) = microjoules else {
                out.skip(|| format!("{}: no number", zone.join("energy_uj").escape_ascii()));
                continue;
            };
            any = true;
            let joules = microjoules as f64 / 1e6;
            let index = index.to_string();
            let path = [self.root.as_bytes(), b"/class/powercap/", &dir].concat();
            if self.with_label {
                out.add(&ZONE_JOULES, &[index.as_bytes(), &path, name], joules);
            } else {
                let name = text::printable(name).replace(':', "_");
                let name = JOULES.name_of(&name);
                out.add_named(&JOULES, &name, &[index.as_bytes(), &path], joules);
            }
        }
        match failed {
            Some(error) => Err(error),
            None if any => Ok(()),
            None => context.no_devices(Query::Powercap, "RAPL zones"),
        }
    }
}

/// `package-1` has its index in its name; of several `dram`, each has the next.
fn name_and_index<'a>(name: &'a [u8], seen: &BTreeMap<&'a [u8], u64>) -> (&'a [u8], u64) {
    let indexed =
        text::split_first(name, b'-').and_then(|(name, index)| Some((name, text::unsigned(index)?)));
    indexed.unwrap_or_else(|| (name, seen.get(name).copied().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::Instance;
    use crate::collector::testing::{accepts_any_bytes, collect, collect_snapshot, local};
    use crate::snapshot::Snapshot;

    const FILES: &[(&str, &[u8])] = &[
        ("sys/class/powercap/intel-rapl:0/name", b"package-0\n"),
        ("sys/class/powercap/intel-rapl:0/energy_uj", b"240422366267\n"),
        ("sys/class/powercap/intel-rapl:0:0/name", b"core\n"),
        ("sys/class/powercap/intel-rapl:0:0/energy_uj", b"118821284256\n"),
        ("sys/class/powercap/intel-rapl:10/name", b"package-10\n"),
        ("sys/class/powercap/intel-rapl:10/energy_uj", b"3000000\n"),
        ("sys/class/powercap/intel-rapl:10:0/name", b"core\n"),
        ("sys/class/powercap/intel-rapl:10:0/energy_uj", b"2000000\n"),
    ];

    #[test]
    fn the_zone_is_in_the_name_and_its_index_in_a_label() {
        assert_eq!(
            collect(&COLLECTOR, FILES, &[]).unwrap(),
            "\
node_rapl_core_joules_total{index=\"0\",path=\"/sys/class/powercap/intel-rapl:0:0\"} 118821.284256
node_rapl_core_joules_total{index=\"1\",path=\"/sys/class/powercap/intel-rapl:10:0\"} 2
node_rapl_package_joules_total{index=\"0\",path=\"/sys/class/powercap/intel-rapl:0\"} 240422.366267
node_rapl_package_joules_total{index=\"10\",path=\"/sys/class/powercap/intel-rapl:10\"} 3
"
        );
    }

    #[test]
    fn the_zone_may_be_a_label() {
        let text = collect(&COLLECTOR, &FILES[..2], &["--collector.rapl.enable-zone-label"]).unwrap();
        assert_eq!(
            text,
            "node_rapl_joules_total{index=\"0\",path=\"/sys/class/powercap/intel-rapl:0\",rapl_zone=\"package\"} 240422.366267\n"
        );
    }

    #[test]
    fn the_path_begins_as_node_exporters_would() {
        let files = FILES.iter().map(|(path, bytes)| (path.as_bytes().to_vec(), Content::bytes(*bytes)));
        let snapshot = Snapshot::from_files(files.collect());
        let arguments = ["--path.sysfs=/host/./x/..//sys/".to_owned()];
        let options = crate::cli::flags::parse(arguments).unwrap();
        let mut out = Exposition::new();
        let rapl = Instance::new(&COLLECTOR, &options).unwrap();
        rapl.collect(&Context { snapshot: &snapshot, local: &local() }, &mut out).unwrap();
        assert!(
            out.to_text().contains("path=\"/host/sys/class/powercap/intel-rapl:0\""),
            "{}",
            out.to_text()
        );
    }

    #[test]
    fn a_counter_that_is_denied_is_unreadable_and_not_zero() {
        let snapshot = Snapshot::from_files(vec![
            (b"sys/class/powercap/intel-rapl:0/name".to_vec(), Content::bytes(&b"package-0"[..])),
            (b"sys/class/powercap/intel-rapl:0/energy_uj".to_vec(), Content::Errno(13)),
        ]);
        let path = "sys/class/powercap/intel-rapl:0/energy_uj".to_owned();
        assert_eq!(
            collect_snapshot(&COLLECTOR, &snapshot, &[], &local()),
            Err(CollectError::Unreadable { path, errno: 13 })
        );
    }

    #[test]
    fn a_host_without_zones_has_no_data() {
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
        let unmeasured: &[(&str, &[u8])] = &[("sys/class/powercap/dtpm:0/name", b"dtpm\n")];
        assert!(matches!(collect(&COLLECTOR, unmeasured, &[]), Err(CollectError::NoData(_))));
    }

    #[test]
    fn hostile_names_become_metric_names_and_only_a_malformed_number_is_skipped() {
        let files: &[(&str, &[u8])] = &[
            ("sys/class/powercap/a/name", b"a:b\"\n{c}\xff-1-2\n"),
            ("sys/class/powercap/a/energy_uj", b"1000000\n"),
            ("sys/class/powercap/b/name", b"b\n"),
            ("sys/class/powercap/b/energy_uj", b"-1\n"),
        ];
        let text = collect(&COLLECTOR, files, &[]).unwrap();
        assert_eq!(
            text,
            "node_rapl_a_b___c_____1_2_joules_total{index=\"0\",path=\"/sys/class/powercap/a\"} 1\n"
        );
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(&COLLECTOR, &[FILES[0].0, FILES[1].0, FILES[2].0, FILES[3].0]);
    }
}
