//! NVMe subsystems and the paths to them: `sys/class/nvme-subsystem/<subsystem>/`.
//!
//! <https://docs.kernel.org/admin-guide/nvme-multipath.html>

use keyhole_proto::v1::Query;

use crate::collector::{CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "nvmesubsystem",
    default: false,
    help: "NVMe subsystems and the state of the paths to them.",
    queries: &[Query::NvmeSubsystem],
    optional: &[],
    flags: &[],
    families: || vec![INFO, NAMESPACE_INFO, PATHS, PATHS_LIVE, PATH_STATE],
    new: |_| Ok(Box::new(collect)),
};

const INFO: Family = Family {
    name: "node_nvmesubsystem_info",
    help: "Attributes of the subsystem that are not numeric; always 1.",
    kind: MetricType::Gauge,
    labels: &["iopolicy", "model", "nqn", "serial", "subsystem"],
    source: Source::File("sys/class/nvme-subsystem/nvme-subsys#/{iopolicy,model,serial,subsysnqn}"),
};
const NAMESPACE_INFO: Family = Family {
    name: "node_nvmesubsystem_namespace_info",
    help: "Block device of a namespace of the subsystem; always 1.",
    labels: &["device", "subsystem"],
    source: Source::File("sys/class/nvme-subsystem/nvme-subsys#/nvme#n#/size"),
    ..INFO
};
const PATHS: Family = Family {
    name: "node_nvmesubsystem_paths",
    help: "Controllers by which the subsystem can be reached.",
    labels: &["subsystem"],
    source: Source::File("sys/class/nvme-subsystem/nvme-subsys#/nvme#/{state,transport}"),
    ..INFO
};
const PATHS_LIVE: Family = Family {
    name: "node_nvmesubsystem_paths_live",
    help: "Controllers of the subsystem that are live.",
    ..PATHS
};
const PATH_STATE: Family = Family {
    name: "node_nvmesubsystem_path_state",
    help: "Whether the controller is in this state.",
    labels: &["controller", "state", "subsystem", "transport"],
    ..PATHS
};

/// The kernel's names of states, and ours.
const STATES: &[(&[u8], &[u8])] = &[
    (b"connecting", b"connecting"),
    (b"dead", b"dead"),
    (b"deleting", b"deleting"),
    (b"deleting (no IO)", b"deleting"),
    (b"live", b"live"),
    (b"new", b"new"),
    (b"resetting", b"resetting"),
];
const UNKNOWN: &[u8] = b"unknown";

fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    let mut any = false;
    for subsystem in context.snapshot.dir("sys/class/nvme-subsystem").dirs() {
        out.item();
        any = true;
        match subsystem.labels(["iopolicy", "model", "subsysnqn", "serial"]) {
            Some([policy, model, nqn, serial]) => {
                out.add(&INFO, &[policy, model, nqn, serial, subsystem.name()], 1u64);
            }
            None => out.skip_half_read(subsystem.path()),
        }

        let (mut paths, mut live) = (0u64, 0u64);
        for child in subsystem.dirs() {
            // A namespace is nvme0n1, a controller nvme0.
            let number = child.name().strip_prefix(b"nvme").unwrap_or_default();
            if number.contains(&b'n') {
                out.add(&NAMESPACE_INFO, &[child.name(), subsystem.name()], 1u64);
            }
            if text::unsigned(number).is_none() {
                continue;
            }
            let raw = child.value("state").unwrap_or_default();
            let state = STATES.iter().find(|(kernels, _)| *kernels == raw).map_or(UNKNOWN, |(_, ours)| *ours);
            paths += 1;
            live += u64::from(state == b"live");
            let transport = child.value("transport").unwrap_or_default();
            let ours = STATES.iter().map(|(_, ours)| *ours).filter(|ours| *ours != b"deleting");
            for of in ours.chain([&b"deleting"[..], UNKNOWN]) {
                out.add(&PATH_STATE, &[child.name(), of, subsystem.name(), transport], of == state);
            }
        }
        out.add(&PATHS, &[subsystem.name()], paths);
        out.add(&PATHS_LIVE, &[subsystem.name()], live);
    }
    if any { Ok(()) } else { context.no_devices(Query::NvmeSubsystem, "NVMe subsystems") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect};

    const FILES: &[(&str, &str)] = &[
        ("iopolicy", "round-robin\n"),
        ("model", "Dell \"PowerStore\"\n"),
        ("nvme0/state", "live\n"),
        ("nvme0/transport", "fc\n"),
        ("nvme0n1/size", "8\n"),
        ("nvme3/state", "deleting (no IO)\n"),
        ("nvme3/transport", "fc\n"),
        ("serial", "SN12345678\n"),
        ("subsysnqn", "nqn.2014-08.org.nvmexpress:uuid:a34c4f3a\n"),
    ];

    fn subsystem(files: &[(&str, &str)]) -> String {
        let path = |file: &str| format!("sys/class/nvme-subsystem/nvme-subsys0/{file}");
        let files: Vec<(String, &[u8])> =
            files.iter().map(|(file, text)| (path(file), text.as_bytes())).collect();
        let files: Vec<(&str, &[u8])> = files.iter().map(|(path, text)| (path.as_str(), *text)).collect();
        collect(&COLLECTOR, &files, &[]).unwrap().replace("node_nvmesubsystem_", "")
    }

    #[test]
    fn a_subsystem_its_namespaces_and_paths_are_reported() {
        let text = subsystem(FILES);
        for line in [
            "info{iopolicy=\"round-robin\",model=\"Dell \\\"PowerStore\\\"\",\
             nqn=\"nqn.2014-08.org.nvmexpress:uuid:a34c4f3a\",serial=\"SN12345678\",subsystem=\"nvme-subsys0\"} 1\n",
            "namespace_info{device=\"nvme0n1\",subsystem=\"nvme-subsys0\"} 1\n",
            "path_state{controller=\"nvme0\",state=\"live\",subsystem=\"nvme-subsys0\",transport=\"fc\"} 1\n",
            "path_state{controller=\"nvme0\",state=\"dead\",subsystem=\"nvme-subsys0\",transport=\"fc\"} 0\n",
            "path_state{controller=\"nvme3\",state=\"deleting\",subsystem=\"nvme-subsys0\",transport=\"fc\"} 1\n",
            "paths{subsystem=\"nvme-subsys0\"} 2\n",
            "paths_live{subsystem=\"nvme-subsys0\"} 1\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
        assert_eq!(text.lines().count(), 2 + 2 * 7 + 2, "each path has each of seven states once");
    }

    #[test]
    fn a_future_kernels_state_and_one_that_cannot_be_read_are_unknown() {
        let text = subsystem(&[("nvme0/state", "napping\n"), ("nvme1/transport", "tcp\n")]);
        assert_eq!(text.matches("state=\"unknown\"").count(), 2);
        assert!(text.contains(
            "controller=\"nvme0\",state=\"unknown\",subsystem=\"nvme-subsys0\",transport=\"\"} 1\n"
        ));
        assert!(text.contains(
            "controller=\"nvme1\",state=\"unknown\",subsystem=\"nvme-subsys0\",transport=\"tcp\"} 1\n"
        ));
    }

    #[test]
    fn a_kernel_without_multipath_reports_what_it_has() {
        let text = subsystem(&[("subsysnqn", "nqn.x\n")]);
        assert!(
            text.contains("info{iopolicy=\"\",model=\"\",nqn=\"nqn.x\"") && text.contains("paths{"),
            "{text}"
        );
    }

    #[test]
    fn a_host_without_subsystems_has_no_data() {
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
    }

    #[test]
    fn any_bytes_are_accepted() {
        let path = |file: &str| format!("sys/class/nvme-subsystem/nvme-subsys0/{file}");
        let paths: Vec<String> = FILES.iter().map(|(file, _)| path(file)).collect();
        accepts_any_bytes(&COLLECTOR, &paths.iter().map(String::as_str).collect::<Vec<_>>());
    }
}
