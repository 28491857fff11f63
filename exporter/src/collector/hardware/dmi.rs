//! The firmware's description of the machine (DMI): `sys/class/dmi/id/`.
//!
//! <https://docs.kernel.org/admin-guide/abi-testing.html> (`/sys/class/dmi/id/`)

use keyhole_proto::v1::Query;

use crate::collector::{CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source, Value};
use crate::snapshot::Content;
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "dmi",
    default: true,
    help: "Vendor, model and firmware of the machine; serial numbers if the broker runs as root.",
    queries: &[Query::Dmi],
    optional: &[],
    flags: &[],
    families: || vec![INFO],
    new: |_| Ok(Box::new(collect)),
};

const ID: &str = "sys/class/dmi/id";

/// Its labels are those whose files could be read.
const INFO: Family = Family {
    name: "node_dmi_info",
    help: "The firmware's description of the machine; always 1.",
    kind: MetricType::Gauge,
    labels: &[
        "bios_date",
        "bios_release",
        "bios_vendor",
        "bios_version",
        "board_asset_tag",
        "board_name",
        "board_serial",
        "board_vendor",
        "board_version",
        "chassis_asset_tag",
        "chassis_serial",
        "chassis_vendor",
        "chassis_version",
        "product_family",
        "product_name",
        "product_serial",
        "product_sku",
        "product_uuid",
        "product_version",
        "system_vendor",
    ],
    source: Source::File("sys/class/dmi/id/*"),
};

fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    let id = context.snapshot.dir(ID);
    let mut labels: Vec<(&str, &[u8])> = Vec::new();
    for &label in INFO.labels {
        match id.content(file(label)) {
            Some(Content::Bytes { bytes, .. }) => labels.push((label, text::trim(bytes))),
            // Only uid 0 may read serial numbers: that is no surprise.
            Some(Content::Errno(1 | 13)) | None => {}
            Some(other) => out.skip(|| format!("{ID}/{}: {other:?}", file(label))),
        }
    }
    if labels.is_empty() {
        return Err(CollectError::NoData("DMI".into()));
    }
    out.add_sample(INFO.name, "", INFO.help, INFO.kind, labels.into_iter(), Value::Unsigned(1));
    Ok(())
}

fn file(label: &str) -> &str {
    match label {
        "system_vendor" => "sys_vendor",
        label => label,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect, collect_snapshot, local};
    use crate::snapshot::Snapshot;

    #[test]
    fn labels_are_what_could_be_read() {
        let snapshot = Snapshot::from_files(vec![
            (b"sys/class/dmi/id/bios_vendor".to_vec(), Content::bytes(&b"Dell Inc.\n"[..])),
            (b"sys/class/dmi/id/chassis_asset_tag".to_vec(), Content::bytes(&b"\n"[..])),
            (b"sys/class/dmi/id/product_serial".to_vec(), Content::Errno(13)),
            (b"sys/class/dmi/id/product_name".to_vec(), Content::Errno(5)),
            (b"sys/class/dmi/id/sys_vendor".to_vec(), Content::bytes(&b"Dell Inc.\n"[..])),
        ]);
        assert_eq!(
            collect_snapshot(&COLLECTOR, &snapshot, &[], &local()).unwrap(),
            "node_dmi_info{bios_vendor=\"Dell Inc.\",chassis_asset_tag=\"\",system_vendor=\"Dell Inc.\"} 1\n"
        );
    }

    #[test]
    fn every_label_has_its_file() {
        for label in INFO.labels {
            let path = format!("{ID}/{}", file(label));
            let text = collect(&COLLECTOR, &[(&path, b"x\n")], &[]).unwrap();
            assert_eq!(text, format!("node_dmi_info{{{label}=\"x\"}} 1\n"));
        }
    }

    #[test]
    fn firmware_may_write_anything() {
        let text = collect(&COLLECTOR, &[("sys/class/dmi/id/product_version", b"\xff[\xff\"}\n{\n")], &[]);
        assert_eq!(text.unwrap(), "node_dmi_info{product_version=\"\u{fffd}[\u{fffd}\\\"}\\n{\"} 1\n");
    }

    #[test]
    fn a_machine_without_dmi_has_no_data() {
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(&COLLECTOR, &["sys/class/dmi/id/bios_date", "sys/class/dmi/id/product_uuid"]);
    }
}
