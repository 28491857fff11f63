//! SELinux: `sys/fs/selinux/enforce`, and `sys/fs/selinux/initial_contexts/kernel`.
//!
//! <https://docs.kernel.org/admin-guide/LSM/SELinux.html>
//!
//! `node_selinux_config_mode` is not emitted: /etc/selinux/config of this container is not the host's.

use keyhole_proto::v1::{Outcome, Query};

use crate::collector::{CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "selinux",
    default: true,
    help: "Whether SELinux is enabled and enforcing.",
    queries: &[Query::Selinux],
    optional: &[],
    flags: &[],
    families: || vec![ENABLED, MODE],
    new: |_| Ok(Box::new(collect)),
};

const PATH: &str = "sys/fs/selinux/enforce";
/// The context of the kernel itself: the bare word `kernel` while no policy is loaded, which libselinux checks too.
const CONTEXT: &str = "sys/fs/selinux/initial_contexts/kernel";

const ENABLED: Family = Family {
    name: "node_selinux_enabled",
    help: "Whether SELinux is enabled.",
    kind: MetricType::Gauge,
    labels: &[],
    source: Source::Files(&[PATH, CONTEXT]),
};
const MODE: Family = Family {
    name: "node_selinux_current_mode",
    help: "Mode of SELinux: 0 permissive (denials are only logged), 1 enforcing.",
    ..ENABLED
};

fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    match context.require(PATH) {
        Ok(mode) => {
            let mode = text::signed(text::trim(mode));
            let mode = mode.ok_or_else(|| CollectError::malformed(PATH, "no number"))?;
            if has_no_policy(context) {
                out.add(&ENABLED, &[], false);
                return Ok(());
            }
            out.add(&ENABLED, &[], true);
            out.add(&MODE, &[], mode);
            Ok(())
        }
        // Only a broker that sees the host knows that it is absent.
        Err(CollectError::NoData(_)) if absent(context) => {
            out.add(&ENABLED, &[], false);
            Ok(())
        }
        Err(error) => Err(error),
    }
}

fn has_no_policy(context: &Context<'_>) -> bool {
    let context = context.snapshot.text(CONTEXT).unwrap_or_default();
    // It ends with a NUL.
    context.strip_suffix(b"\0").unwrap_or(context).trim_ascii() == b"kernel"
}

fn absent(context: &Context<'_>) -> bool {
    context.snapshot.report(Query::Selinux).is_some_and(|report| report.outcome == Outcome::Absent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect, collect_snapshot, local};
    use crate::snapshot::{Content, Report, Snapshot};

    #[test]
    fn an_enabled_selinux_enforces_or_permits() {
        assert_eq!(
            collect(&COLLECTOR, &[(PATH, b"1")], &[]).unwrap(),
            "node_selinux_current_mode 1\nnode_selinux_enabled 1\n"
        );
        assert_eq!(
            collect(&COLLECTOR, &[(PATH, b"0\n")], &[]).unwrap(),
            "node_selinux_current_mode 0\nnode_selinux_enabled 1\n"
        );
    }

    #[test]
    fn without_a_policy_it_is_not_enabled() {
        let with = |context: &[u8]| collect(&COLLECTOR, &[(PATH, b"0"), (CONTEXT, context)], &[]).unwrap();
        for none in [&b"kernel"[..], b"kernel\0", b"kernel\n"] {
            assert_eq!(with(none), "node_selinux_enabled 0\n");
        }
        for loaded in [&b"system_u:system_r:kernel_t:s0\0"[..], b"", b"kernel_t"] {
            assert_eq!(with(loaded), "node_selinux_current_mode 0\nnode_selinux_enabled 1\n");
        }
    }

    #[test]
    fn it_is_disabled_only_where_the_broker_found_no_files() {
        let after = |outcome| {
            let mut snapshot = Snapshot::default();
            snapshot.set_report(Query::Selinux, Report { outcome, elapsed_ns: 0, bytes: 0, left_out: 0 });
            collect_snapshot(&COLLECTOR, &snapshot, &[], &local())
        };
        assert_eq!(after(Outcome::Absent).unwrap(), "node_selinux_enabled 0\n");
        assert!(matches!(after(Outcome::ContainerView), Err(CollectError::NoData(_))));
        assert!(matches!(after(Outcome::TimedOut), Err(CollectError::NoData(_))));
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
    }

    #[test]
    fn an_unreadable_or_malformed_file_is_not_reported() {
        let snapshot = Snapshot::from_files(vec![(PATH.into(), Content::Errno(13))]);
        let refused = CollectError::Unreadable { path: PATH.into(), errno: 13 };
        assert_eq!(collect_snapshot(&COLLECTOR, &snapshot, &[], &local()), Err(refused));
        let result = collect(&COLLECTOR, &[(PATH, b"enforcing\xff")], &[]);
        assert!(matches!(result, Err(CollectError::Malformed { .. })));
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(&COLLECTOR, &[PATH, CONTEXT]);
    }
}
