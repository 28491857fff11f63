//! NVMe controllers and their namespaces: `sys/class/nvme/<controller>/`.
//!
//! <https://docs.kernel.org/nvme/index.html>

use keyhole_proto::v1::Query;

use crate::collector::{CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::snapshot::Dir;
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "nvme",
    default: true,
    help: "NVMe controllers and the sizes of their namespaces.",
    queries: &[Query::Nvme],
    optional: &[],
    flags: &[],
    families: || vec![INFO, NAMESPACE_INFO, CAPACITY, SIZE, USED, BLOCK_SIZE],
    new: |_| Ok(Box::new(collect)),
};

const INFO: Family = Family {
    name: "node_nvme_info",
    help: "Attributes of the controller that are not numeric; always 1.",
    kind: MetricType::Gauge,
    labels: &["cntlid", "device", "firmware_revision", "model", "serial", "state"],
    source: Source::File("sys/class/nvme/nvme#/{cntlid,firmware_rev,model,serial,state}"),
};
const NAMESPACE_INFO: Family = Family {
    name: "node_nvme_namespace_info",
    help: "State of the controller's access to the namespace; always 1.",
    labels: &["ana_state", "device", "nsid"],
    source: Source::File("sys/class/nvme/nvme#/nvme#n#/ana_state"),
    ..INFO
};
const CAPACITY: Family = Family {
    name: "node_nvme_namespace_capacity_bytes",
    help: "Bytes that the namespace has room for.",
    source: Source::File("sys/class/nvme/nvme#/nvme#n#/size"),
    ..USED
};
const SIZE: Family = Family {
    name: "node_nvme_namespace_size_bytes",
    help: "Bytes from the first to the last block of the namespace.",
    ..CAPACITY
};
const USED: Family = Family {
    name: "node_nvme_namespace_used_bytes",
    help: "Bytes of the namespace that the device has allocated.",
    labels: &["device", "nsid"],
    source: Source::Files(&[
        "sys/class/nvme/nvme#/nvme#n#/nuse",
        "sys/class/nvme/nvme#/nvme#n#/queue/logical_block_size",
    ]),
    ..INFO
};
const BLOCK_SIZE: Family = Family {
    name: "node_nvme_namespace_logical_block_size_bytes",
    help: "Bytes of the smallest block that the namespace can be asked for.",
    source: Source::File("sys/class/nvme/nvme#/nvme#n#/queue/logical_block_size"),
    ..USED
};

/// The unit of `size`, independent of the logical block size; `nuse` counts logical blocks.
const SECTOR_BYTES: u64 = 512;

fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    let mut any = false;
    for controller in context.snapshot.dir("sys/class/nvme").dirs() {
        any = true;
        out.item();
        match controller.labels(["cntlid", "firmware_rev", "model", "serial", "state"]) {
            Some([id, firmware, model, serial, state]) => {
                out.add(&INFO, &[id, controller.name(), firmware, model, serial, state], 1u64);
            }
            None => out.skip_half_read(controller.path()),
        }
        for namespace in controller.dirs() {
            collect_namespace(controller.name(), &namespace, out);
        }
    }
    if any { Ok(()) } else { context.no_devices(Query::Nvme, "NVMe controllers") }
}

fn collect_namespace(controller: &[u8], namespace: &Dir<'_>, out: &mut Exposition) {
    let Some((_, id)) = text::split_last(namespace.name(), b'n') else { return };
    if namespace.is_half_read(["ana_state"]) {
        out.skip_half_read(namespace.path());
    } else {
        let state = namespace.value("ana_state").unwrap_or(b"unknown");
        out.add(&NAMESPACE_INFO, &[state, controller, id], 1u64);
    }

    let block_size = namespace.unsigned("queue/logical_block_size");
    let size = namespace.unsigned("size").and_then(|sectors| sectors.checked_mul(SECTOR_BYTES));
    let used = namespace.unsigned("nuse").zip(block_size).and_then(|(blocks, size)| blocks.checked_mul(size));
    for (family, value) in [(&BLOCK_SIZE, block_size), (&CAPACITY, size), (&SIZE, size), (&USED, used)] {
        if let Some(value) = value {
            out.add(family, &[controller, id], value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect};

    const CONTROLLER: &[(&str, &str)] = &[
        ("cntlid", "1997\n"),
        ("firmware_rev", "1B2QEXP7\n"),
        ("model", "Samsung SSD 970 PRO 512GB               \n"),
        ("serial", "S680HF8N190894I     \n"),
        ("state", "live\n"),
    ];
    const NAMESPACE: &[(&str, &str)] = &[
        ("nvme0n1/ana_state", "optimized\n"),
        ("nvme0n1/nuse", "488281250\n"),
        ("nvme0n1/queue/logical_block_size", "4096\n"),
        ("nvme0n1/size", "3906250000\n"),
    ];

    fn nvme(files: &[(&str, &str)]) -> String {
        let files: Vec<(String, &[u8])> = files
            .iter()
            .map(|(file, text)| (format!("sys/class/nvme/nvme0/{file}"), text.as_bytes()))
            .collect();
        let files: Vec<(&str, &[u8])> = files.iter().map(|(path, text)| (path.as_str(), *text)).collect();
        collect(&COLLECTOR, &files, &[]).unwrap()
    }

    #[test]
    fn a_controller_is_described_without_the_padding_of_its_names() {
        assert_eq!(
            nvme(CONTROLLER),
            "node_nvme_info{cntlid=\"1997\",device=\"nvme0\",firmware_revision=\"1B2QEXP7\",\
             model=\"Samsung SSD 970 PRO 512GB\",serial=\"S680HF8N190894I\",state=\"live\"} 1\n"
        );
    }

    #[test]
    fn sizes_are_in_sectors_of_512_bytes_even_when_blocks_are_larger() {
        assert_eq!(
            nvme(NAMESPACE).replace("node_nvme_namespace_", "").replace("{device=\"nvme0\",nsid=\"1\"}", ""),
            "node_nvme_info{cntlid=\"\",device=\"nvme0\",firmware_revision=\"\",model=\"\",serial=\"\",state=\"\"} 1\n\
             capacity_bytes 2000000000000\n\
             info{ana_state=\"optimized\",device=\"nvme0\",nsid=\"1\"} 1\n\
             logical_block_size_bytes 4096\nsize_bytes 2000000000000\nused_bytes 2000000000000\n"
        );
    }

    #[test]
    fn what_an_old_kernel_lacks_is_absent() {
        let text = nvme(&[("state", "live"), ("nvme0n12/size", "8"), ("nvme0n12/nuse", "1"), ("shiny", "1")]);
        assert!(text.contains("size_bytes{device=\"nvme0\",nsid=\"12\"} 4096\n"), "{text}");
        assert!(text.contains("info{ana_state=\"unknown\",device=\"nvme0\",nsid=\"12\"} 1\n"), "{text}");
        assert!(!text.contains("used") && !text.contains("logical"), "{text}");
    }

    #[test]
    fn only_a_malformed_or_too_large_number_is_skipped() {
        let text = nvme(&[
            ("nvme0n1/size", "18446744073709551615"),
            ("nvme0n1/nuse", "-1"),
            ("nvme0n1/queue/logical_block_size", "512"),
        ]);
        assert_eq!(text.lines().count(), 3, "{text}");
    }

    #[test]
    fn names_may_have_any_bytes() {
        let text = nvme(&[("model", "a \"b\"\\\nc\u{fffd}")]);
        assert!(text.contains("model=\"a \\\"b\\\"\\\\\\nc\u{fffd}\""), "{text}");
    }

    #[test]
    fn a_host_without_controllers_has_no_data() {
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
    }

    #[test]
    fn any_bytes_are_accepted() {
        let files = CONTROLLER.iter().chain(NAMESPACE);
        let paths: Vec<String> = files.map(|(file, _)| format!("sys/class/nvme/nvme0/{file}")).collect();
        accepts_any_bytes(&COLLECTOR, &paths.iter().map(String::as_str).collect::<Vec<_>>());
    }
}
