//! The kernel's name and version: `proc/sys/kernel/{ostype,osrelease,version,arch}`.
//!
//! These are the same in every container; the node's name is not. It is what `NODE_NAME` says (in a pod, from the
//! downward API), and the exporter's own host name where that is not set, as outside of a container. The domain name
//! is that of the exporter's UTS namespace.
//!
//! <https://man7.org/linux/man-pages/man2/uname.2.html>

use keyhole_proto::v1::Query;

use crate::collector::{CollectError, Collector, Context, Uname};
use crate::exposition::{Exposition, Family, MetricType, Source};

pub const COLLECTOR: Collector = Collector {
    name: "uname",
    default: true,
    help: "Kernel version, machine type and node name.",
    queries: &[],
    optional: &[Query::Kernel],
    flags: &[],
    families: || vec![INFO],
    new: |_| Ok(Box::new(collect)),
};

const INFO: Family = Family {
    name: "node_uname_info",
    help: "Always 1; its labels name the node, its kernel and its machine.",
    kind: MetricType::Gauge,
    labels: &["domainname", "machine", "nodename", "release", "sysname", "version"],
    source: Source::File("proc/sys/kernel/{arch,osrelease,ostype,version}"),
};

fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    let unknown = Uname::default();
    let own = context.local.uname.as_ref().unwrap_or(&unknown);
    // The kernel that answered uname(2) is the host's, so it may stand in for a file that is not there.
    let file = |name: &str, own| context.snapshot.value(format!("proc/sys/kernel/{name}")).unwrap_or(own);
    let release = file("osrelease", &own.release);
    if release.is_empty() {
        return Err(CollectError::NoData("proc/sys/kernel/osrelease".into()));
    }
    let nodename = context.local.node_name.as_ref().map_or(own.nodename.as_slice(), |name| name.as_bytes());
    let labels = [
        own.domainname.as_slice(),
        file("arch", &own.machine),
        nodename,
        release,
        file("ostype", &own.sysname),
        file("version", &own.version),
    ];
    out.add(&INFO, &labels, true);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::LocalData;
    use crate::collector::testing::{accepts_any_bytes, collect, collect_snapshot, local};
    use crate::snapshot::Snapshot;

    const FILES: &[(&str, &[u8])] = &[
        ("proc/sys/kernel/ostype", b"Linux\n"),
        ("proc/sys/kernel/osrelease", b"6.12.1-talos\n"),
        ("proc/sys/kernel/version", b"#1 SMP Mon Jan 1 00:00:00 UTC 2026\n"),
        ("proc/sys/kernel/arch", b"x86_64\n"),
    ];

    fn pods_own() -> LocalData {
        let uname = Uname {
            sysname: b"Linux".to_vec(),
            nodename: b"a-pod".to_vec(),
            release: b"5.4.0".to_vec(),
            version: b"#1".to_vec(),
            machine: b"aarch64".to_vec(),
            domainname: b"(none)".to_vec(),
        };
        LocalData { uname: Some(uname), node_name: None, ..local() }
    }

    #[test]
    fn the_nodes_name_is_the_configured_one() {
        let text = collect(&COLLECTOR, FILES, &[]).unwrap();
        assert_eq!(
            text,
            "node_uname_info{domainname=\"\",machine=\"x86_64\",nodename=\"node-1\",release=\"6.12.1-talos\",\
             sysname=\"Linux\",version=\"#1 SMP Mon Jan 1 00:00:00 UTC 2026\"} 1\n"
        );
    }

    #[test]
    fn an_old_kernel_without_the_files_is_recognised_by_uname() {
        let text = collect_snapshot(&COLLECTOR, &Snapshot::default(), &[], &pods_own()).unwrap();
        assert_eq!(
            text,
            "node_uname_info{domainname=\"(none)\",machine=\"aarch64\",nodename=\"a-pod\",release=\"5.4.0\",\
             sysname=\"Linux\",version=\"#1\"} 1\n"
        );
    }

    #[test]
    fn a_capture_without_the_files_has_no_kernel() {
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(&COLLECTOR, &FILES.iter().map(|(path, _)| *path).collect::<Vec<_>>());
    }
}
