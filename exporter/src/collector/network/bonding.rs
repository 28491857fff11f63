//! Bonding masters and their slaves: `sys/class/net/bonding_masters` and `sys/class/net/<master>/`.
//!
//! <https://docs.kernel.org/networking/bonding.html>

use keyhole_proto::v1::Query;

use crate::collector::{CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::snapshot::Dir;
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "bonding",
    default: true,
    help: "Slaves of bonding interfaces: how many there are, and how many are up.",
    queries: &[Query::Bonding],
    optional: &[],
    flags: &[],
    families: || vec![SLAVES, ACTIVE],
    new: |_| Ok(Box::new(collect)),
};

const MASTERS: &str = "sys/class/net/bonding_masters";

const SLAVES: Family = Family {
    name: "node_bonding_slaves",
    help: "Slaves that the bonding interface has.",
    kind: MetricType::Gauge,
    labels: &["master"],
    source: Source::Files(&["sys/class/net/bonding_masters", "sys/class/net/*/bonding/slaves"]),
};
const ACTIVE: Family = Family {
    name: "node_bonding_active",
    help: "Slaves of the bonding interface whose link is up.",
    source: Source::Files(&[
        "sys/class/net/bonding_masters",
        "sys/class/net/*/{lower,slave}_*/bonding_slave/mii_status",
    ]),
    ..SLAVES
};

/// What the kernel writes in place of the names that a page does not hold.
const MORE: &[u8] = b"++more++";

fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    let net = context.snapshot.dir("sys/class/net");
    for name in text::fields(context.require(MASTERS)?) {
        out.item();
        if name == MORE {
            out.skip(|| format!("{MASTERS}: more names than a page holds"));
            continue;
        }
        let master = net.dir(name);
        let Some(slaves) = master.text("bonding/slaves").filter(|slaves| whole(slaves)) else {
            out.skip(|| "a master's slaves cannot be known".to_owned());
            continue;
        };
        out.add(&SLAVES, &[name], text::fields(slaves).count());
        // A slave that left between two reads has no status: how many are up is then unknown, not one less.
        let active = text::fields(slaves)
            .try_fold(0u64, |active, slave| Some(active + u64::from(status(&master, slave)? == b"up")));
        match active {
            Some(active) => out.add(&ACTIVE, &[name], active),
            None => out.skip(|| "a slave without mii_status".to_owned()),
        }
    }
    Ok(())
}

fn whole(names: &[u8]) -> bool {
    text::fields(names).all(|name| name != MORE)
}

/// The link status of a slave. Its directory is reached by `lower_<slave>`, on older kernels by `slave_<slave>`.
fn status<'a>(master: &Dir<'a>, slave: &[u8]) -> Option<&'a [u8]> {
    [&b"lower_"[..], b"slave_"]
        .iter()
        .find_map(|link| master.value([link, slave, b"/bonding_slave/mii_status"].concat()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect};

    #[test]
    fn a_slave_is_found_by_its_new_and_its_old_link() {
        let files: [(&str, &[u8]); 7] = [
            (MASTERS, b"bond0 dmz int\n"),
            ("sys/class/net/bond0/bonding/slaves", b"\n"),
            ("sys/class/net/dmz/bonding/slaves", b"eth0 eth4\n"),
            ("sys/class/net/dmz/lower_eth0/bonding_slave/mii_status", b"up\n"),
            ("sys/class/net/dmz/lower_eth4/bonding_slave/mii_status", b"going down\n"),
            ("sys/class/net/int/bonding/slaves", b"eth5"),
            ("sys/class/net/int/slave_eth5/bonding_slave/mii_status", b"up"),
        ];
        assert_eq!(
            collect(&COLLECTOR, &files, &[]).unwrap(),
            "node_bonding_active{master=\"bond0\"} 0\nnode_bonding_active{master=\"dmz\"} 1\n\
             node_bonding_active{master=\"int\"} 1\nnode_bonding_slaves{master=\"bond0\"} 0\n\
             node_bonding_slaves{master=\"dmz\"} 2\nnode_bonding_slaves{master=\"int\"} 1\n"
        );
    }

    #[test]
    fn a_slave_without_a_status_leaves_the_active_unknown() {
        let files: [(&str, &[u8]); 3] = [
            (MASTERS, b"bond0 gone\n"),
            ("sys/class/net/bond0/bonding/slaves", b"eth0 eth1\n"),
            ("sys/class/net/bond0/lower_eth0/bonding_slave/mii_status", b"up\n"),
        ];
        assert_eq!(collect(&COLLECTOR, &files, &[]).unwrap(), "node_bonding_slaves{master=\"bond0\"} 2\n");
    }

    #[test]
    fn the_kernels_marker_for_more_names_is_no_name() {
        let files: [(&str, &[u8]); 3] = [
            (MASTERS, b"bond0 ++more++ "),
            ("sys/class/net/bond0/bonding/slaves", b"eth0 ++more++ \n"),
            ("sys/class/net/++more++/bonding/slaves", b"\n"),
        ];
        assert_eq!(collect(&COLLECTOR, &files, &[]).unwrap(), "");
    }

    #[test]
    fn a_master_may_have_any_name_that_the_kernel_allows() {
        let files: [(&str, &[u8]); 4] = [
            (MASTERS, b"a\"b) \xff\n"),
            ("sys/class/net/a\"b)/bonding/slaves", b"s:1\n"),
            ("sys/class/net/a\"b)/lower_s:1/bonding_slave/mii_status", b"up\n"),
            ("sys/class/net/b/bonding/slaves", b"\n"),
        ];
        assert_eq!(
            collect(&COLLECTOR, &files, &[]).unwrap(),
            "node_bonding_active{master=\"a\\\"b)\"} 1\nnode_bonding_slaves{master=\"a\\\"b)\"} 1\n"
        );
    }

    #[test]
    fn without_the_module_there_is_no_data() {
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(
            &COLLECTOR,
            &[
                MASTERS,
                "sys/class/net/a/bonding/slaves",
                "sys/class/net/a/lower_b/bonding_slave/mii_status",
                "sys/class/net/a/slave_b/bonding_slave/mii_status",
            ],
        );
    }
}
