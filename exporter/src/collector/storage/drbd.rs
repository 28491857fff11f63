//! Replicated block devices: `proc/drbd`, as DRBD 8 writes it. DRBD 9 has no devices in it.
//!
//! <https://linbit.com/drbd-user-guide/users-guide-drbd-8-4/> (`/proc/drbd`)

use keyhole_proto::v1::Query;

use crate::collector::{CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, Source};
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "drbd",
    default: false,
    help: "Replicated block devices of DRBD 8.",
    queries: &[Query::Drbd],
    optional: &[],
    flags: &[],
    families,
    new: |_| Ok(Box::new(collect)),
};

const PATH: &str = "proc/drbd";

const CONNECTED: Family = Family::gauge(
    "node_drbd_connected",
    "Whether the device is connected to its peer.",
    &["device"],
    Source::File(PATH),
);
const PRIMARY: Family = Family::gauge(
    "node_drbd_node_role_is_primary",
    "Whether the device has the primary role on this node.",
    &["device", "node"],
    Source::File(PATH),
);
const UP_TO_DATE: Family = Family {
    name: "node_drbd_disk_state_is_up_to_date",
    help: "Whether the disk is up to date on this node.",
    ..PRIMARY
};

const KIB: i64 = 1024;

/// A number: its key, what it is multiplied by, and its family.
type Number = (&'static [u8], i64, Family);

#[rustfmt::skip]
const NUMBERS: [Number; 12] = [
    counter(b"al", 1,   "node_drbd_activitylog_writes_total",     "Writes of the activity log."),
    gauge(b"ap",   1,   "node_drbd_application_pending",          "Requests given to the device and not answered yet."),
    counter(b"bm", 1,   "node_drbd_bitmap_writes_total",          "Writes of the bitmap."),
    counter(b"dr", KIB, "node_drbd_disk_read_bytes_total",        "Bytes read from the disk of this node."),
    counter(b"dw", KIB, "node_drbd_disk_written_bytes_total",     "Bytes written to the disk of this node."),
    gauge(b"ep",   1,   "node_drbd_epochs",                       "Epochs between two write barriers that are under way."),
    gauge(b"lo",   1,   "node_drbd_local_pending",                "Requests to the disk of this node that are under way."),
    counter(b"nr", KIB, "node_drbd_network_received_bytes_total", "Bytes received from the peer."),
    counter(b"ns", KIB, "node_drbd_network_sent_bytes_total",     "Bytes sent to the peer."),
    gauge(b"oos",  KIB, "node_drbd_out_of_sync_bytes",            "Bytes that are not the same on both nodes."),
    gauge(b"pe",   1,   "node_drbd_remote_pending",               "Requests sent to the peer that it has not answered yet."),
    gauge(b"ua",   1,   "node_drbd_remote_unacknowledged",        "Requests of the peer that this node has not answered yet."),
];

const fn gauge(key: &'static [u8], factor: i64, name: &'static str, help: &'static str) -> Number {
    (key, factor, Family::gauge(name, help, &["device"], Source::File(PATH)))
}

const fn counter(key: &'static [u8], factor: i64, name: &'static str, help: &'static str) -> Number {
    (key, factor, Family::counter(name, help, &["device"], Source::File(PATH)))
}

/// Pairs of states, this node's and the peer's, by their keys, and the state that is looked for.
const PAIRS: &[(&[u8], &[u8], &Family)] = &[(b"ro", b"Primary", &PRIMARY), (b"ds", b"UpToDate", &UP_TO_DATE)];

fn families() -> Vec<Family> {
    let numbers = NUMBERS.iter().map(|(.., family)| *family);
    numbers.chain([PRIMARY, UP_TO_DATE, CONNECTED]).collect()
}

fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    let mut device: Option<String> = None;
    for word in text::fields(context.require_complete(PATH)?) {
        let Some((key, value)) = text::split_first(word, b':') else { continue };
        // `1:` begins a device.
        if let (Some(number), b"") = (text::unsigned(key), value) {
            out.item();
            device = Some(format!("drbd{number}"));
            continue;
        }
        let Some(device) = device.as_deref().map(str::as_bytes) else { continue };
        if let Some((_, factor, family)) = NUMBERS.iter().find(|(of, ..)| *of == key) {
            match text::signed(value).and_then(|value| value.checked_mul(*factor)) {
                Some(value) => out.add(family, &[device], value),
                None => out.skip(|| format!("{PATH}: {}", word.escape_ascii())),
            }
        } else if let Some((_, looked_for, family)) = PAIRS.iter().find(|(of, ..)| *of == key) {
            for (node, state) in [&b"local"[..], b"remote"].iter().zip(value.split(|byte| *byte == b'/')) {
                out.add(family, &[device, node], state == *looked_for);
            }
        } else if key == b"cs" {
            out.add(&CONNECTED, &[device], value == b"Connected");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect};

    const DRBD: &[u8] = b"version: 8.4.3 (api:1/proto:86-101)\nsrcversion: 1A9F77B1CA5FF92235C2213 \n\n \
1: cs:Connected ro:Primary/Secondary ds:UpToDate/Inconsistent C r-----\n    \
ns:17324442 nr:10961011 dw:28263521 dr:118696670 al:1100 bm:221 lo:12345 pe:12346 ua:12347 ap:12348 ep:1 wo:d oos:12349\n\
\t[>....................] sync'ed:  0.4% (123/456)M\n\tfinish: 0:07:23 speed: 58,440 (58,440) K/sec\n 2: cs:Unconfigured\n";

    #[test]
    fn a_device_is_reported_in_bytes_and_states() {
        assert_eq!(
            collect(&COLLECTOR, &[(PATH, DRBD)], &[]).unwrap().replace("node_drbd_", ""),
            "activitylog_writes_total{device=\"drbd1\"} 1100\napplication_pending{device=\"drbd1\"} 12348\n\
             bitmap_writes_total{device=\"drbd1\"} 221\nconnected{device=\"drbd1\"} 1\n\
             connected{device=\"drbd2\"} 0\ndisk_read_bytes_total{device=\"drbd1\"} 121545390080\n\
             disk_state_is_up_to_date{device=\"drbd1\",node=\"local\"} 1\n\
             disk_state_is_up_to_date{device=\"drbd1\",node=\"remote\"} 0\n\
             disk_written_bytes_total{device=\"drbd1\"} 28941845504\nepochs{device=\"drbd1\"} 1\n\
             local_pending{device=\"drbd1\"} 12345\nnetwork_received_bytes_total{device=\"drbd1\"} 11224075264\n\
             network_sent_bytes_total{device=\"drbd1\"} 17740228608\n\
             node_role_is_primary{device=\"drbd1\",node=\"local\"} 1\n\
             node_role_is_primary{device=\"drbd1\",node=\"remote\"} 0\nout_of_sync_bytes{device=\"drbd1\"} 12645376\n\
             remote_pending{device=\"drbd1\"} 12346\nremote_unacknowledged{device=\"drbd1\"} 12347\n"
        );
    }

    #[test]
    fn missing_new_and_malformed_fields_affect_no_other() {
        let text = b" 0: cs:WFConnection ro:Primary ns:x al:9223372036854775807 dr:9223372036854775807 new:1 ep:-1\n";
        assert_eq!(
            collect(&COLLECTOR, &[(PATH, text)], &[]).unwrap(),
            "node_drbd_activitylog_writes_total{device=\"drbd0\"} 9223372036854775807\n\
             node_drbd_connected{device=\"drbd0\"} 0\nnode_drbd_epochs{device=\"drbd0\"} -1\n\
             node_drbd_node_role_is_primary{device=\"drbd0\",node=\"local\"} 1\n"
        );
    }

    #[test]
    fn a_version_without_devices_has_no_series_and_a_host_without_drbd_no_data() {
        assert_eq!(collect(&COLLECTOR, &[(PATH, b"version: 9.1.0 (api:2)\nns:1\n")], &[]).unwrap(), "");
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(&COLLECTOR, &[PATH]);
    }
}
