//! Graphics cards of the amdgpu driver: `sys/class/drm/card<number>/device/`.
//!
//! <https://docs.kernel.org/gpu/amdgpu/driver-misc.html>

use keyhole_proto::v1::Query;

use crate::collector::{CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::snapshot::Dir;
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "drm",
    default: false,
    help: "Graphics cards of the amdgpu driver.",
    queries: &[Query::Drm],
    optional: &[],
    flags: &[],
    families,
    new: |_| Ok(Box::new(collect)),
};

const CARDS: &str = "sys/class/drm";
/// The directory of a card's attributes.
const DEVICE: &str = "sys/class/drm/card#/device";

/// Attributes that are numbers: the file and its family.
#[rustfmt::skip]
const NUMBERS: &[(&str, Family)] = &[
    number("gpu_busy_percent",        "node_drm_gpu_busy_percent",           "Percentage of time that the GPU is busy."),
    number("mem_info_gtt_total",      "node_drm_memory_gtt_size_bytes",      "Bytes of system memory that the GPU may map (GTT)."),
    number("mem_info_gtt_used",       "node_drm_memory_gtt_used_bytes",      "Bytes of system memory that the GPU has mapped (GTT)."),
    number("mem_info_vis_vram_total", "node_drm_memory_vis_vram_size_bytes", "Bytes of the GPU's memory that the CPU can reach."),
    number("mem_info_vis_vram_used",  "node_drm_memory_vis_vram_used_bytes", "Bytes in use of the GPU's memory that the CPU can reach."),
    number("mem_info_vram_total",     "node_drm_memory_vram_size_bytes",     "Bytes of the GPU's memory."),
    number("mem_info_vram_used",      "node_drm_memory_vram_used_bytes",     "Bytes in use of the GPU's memory."),
];

const fn number(file: &'static str, name: &'static str, help: &'static str) -> (&'static str, Family) {
    (file, Family::gauge(name, help, &["card"], Source::FileIn(DEVICE, file)))
}

const INFO: Family = Family {
    name: "node_drm_card_info",
    help: "Attributes of the card that are not numeric; always 1.",
    kind: MetricType::Gauge,
    labels: &["card", "memory_vendor", "power_performance_level", "unique_id", "vendor"],
    source: Source::FileIn(
        DEVICE,
        "{mem_info_vram_vendor,power_dpm_force_performance_level,uevent,unique_id}",
    ),
};

fn families() -> Vec<Family> {
    let numbers = NUMBERS.iter().map(|(_, family)| *family);
    [INFO].into_iter().chain(numbers).collect()
}

fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    for card in context.snapshot.dir(CARDS).dirs() {
        out.item();
        let device = card.dir("device");
        let is_amdgpu = device
            .text("uevent")
            .is_some_and(|uevent| text::lines(uevent).any(|line| line == b"DRIVER=amdgpu"));
        if is_amdgpu {
            add_card(card.name(), &device, out);
        }
    }
    Ok(())
}

fn add_card(card: &[u8], device: &Dir<'_>, out: &mut Exposition) {
    for (file, family) in NUMBERS {
        // Which attributes there are depends on the GPU; reading those of a GPU that sleeps fails.
        let Some(value) = device.value(file) else { continue };
        match text::unsigned(value) {
            Some(value) => out.add(family, &[card], value),
            None => out.skip(|| format!("{}: {}", family.source, value.escape_ascii())),
        }
    }
    match device.labels(["mem_info_vram_vendor", "power_dpm_force_performance_level", "unique_id"]) {
        Some([vendor, level, id]) => out.add(&INFO, &[card, vendor, level, id, b"amd"], 1u64),
        None => out.skip_half_read(device.path()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect, collect_snapshot, local};
    use crate::snapshot::{Content, Snapshot};

    const UEVENT: (&str, &[u8]) =
        ("sys/class/drm/card0/device/uevent", b"DRIVER=amdgpu\nPCI_CLASS=30000\nPCI_ID=1002:687F\n");

    #[test]
    fn numbers_are_metrics_and_texts_are_labels() {
        let paths: Vec<String> =
            NUMBERS.iter().map(|(file, _)| format!("sys/class/drm/card0/device/{file}")).collect();
        let mut files: Vec<(&str, &[u8])> = paths.iter().map(|path| (&**path, &b"4\n"[..])).collect();
        files.extend([
            UEVENT,
            ("sys/class/drm/card0/device/mem_info_vram_vendor", b"samsung\n"),
            ("sys/class/drm/card0/device/power_dpm_force_performance_level", b"manual\n"),
            ("sys/class/drm/card0/device/unique_id", b"0123456789abcdef\n"),
        ]);
        assert_eq!(
            collect(&COLLECTOR, &files, &[]).unwrap(),
            "\
node_drm_card_info{card=\"card0\",memory_vendor=\"samsung\",power_performance_level=\"manual\",unique_id=\"0123456789abcdef\",vendor=\"amd\"} 1
node_drm_gpu_busy_percent{card=\"card0\"} 4
node_drm_memory_gtt_size_bytes{card=\"card0\"} 4
node_drm_memory_gtt_used_bytes{card=\"card0\"} 4
node_drm_memory_vis_vram_size_bytes{card=\"card0\"} 4
node_drm_memory_vis_vram_used_bytes{card=\"card0\"} 4
node_drm_memory_vram_size_bytes{card=\"card0\"} 4
node_drm_memory_vram_used_bytes{card=\"card0\"} 4
"
        );
    }

    #[test]
    fn a_card_of_another_driver_is_ignored() {
        let files: &[(&str, &[u8])] = &[
            ("sys/class/drm/card0/device/uevent", b"DRIVER=i915\nMODALIAS=DRIVER=amdgpu\n"),
            ("sys/class/drm/card0/device/gpu_busy_percent", b"4\n"),
            ("sys/class/drm/card1/device/gpu_busy_percent", b"4\n"),
        ];
        assert_eq!(collect(&COLLECTOR, files, &[]).unwrap(), "");
    }

    #[test]
    fn attributes_that_a_card_lacks_are_absent_and_its_text_may_have_any_bytes() {
        let snapshot = Snapshot::from_files(vec![
            (UEVENT.0.replace("card0", "card10").into_bytes(), Content::bytes(UEVENT.1)),
            (b"sys/class/drm/card10/device/gpu_busy_percent".to_vec(), Content::Errno(1)),
            (b"sys/class/drm/card10/device/mem_info_vram_used".to_vec(), Content::bytes(&b"x"[..])),
            (b"sys/class/drm/card10/device/unique_id".to_vec(), Content::bytes(&b"a\"\nb\xff"[..])),
        ]);
        assert_eq!(
            collect_snapshot(&COLLECTOR, &snapshot, &[], &local()).unwrap(),
            "node_drm_card_info{card=\"card10\",memory_vendor=\"\",power_performance_level=\"\",\
             unique_id=\"a\\\"\\nb\u{fffd}\",vendor=\"amd\"} 1\n"
        );
    }

    #[test]
    fn a_host_without_cards_has_no_series_and_succeeds() {
        assert_eq!(collect(&COLLECTOR, &[], &[]).unwrap(), "");
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(&COLLECTOR, &[UEVENT.0, "sys/class/drm/card0/device/gpu_busy_percent"]);
    }

    proptest::proptest! {
        #[test]
        fn any_attributes_of_a_card_are_parsed_without_a_panic(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..40),
        ) {
            let files = [
                UEVENT,
                ("sys/class/drm/card0/device/gpu_busy_percent", &bytes),
                ("sys/class/drm/card0/device/unique_id", &bytes),
            ];
            let _ = collect(&COLLECTOR, &files, &[]);
        }
    }
}
