//! Counters of virtual memory: `proc/vmstat`.
//!
//! <https://man7.org/linux/man-pages/man5/proc_vmstat.5.html>

use keyhole_proto::v1::Query;

use crate::collector::{Collect, CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::go_regex::GoRegex;
use crate::options::{CachedRegex, Options, TypedFlag};
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "vmstat",
    default: true,
    help: "Counters of virtual memory: page faults, paging, swapping, OOM kills.",
    queries: &[Query::Vmstat],
    optional: &[],
    flags: &[FIELDS_FLAG.row],
    families: || vec![FIELD],
    new: |options| Ok(Box::new(Vmstat::new(options))),
};

const PATH: &str = "proc/vmstat";
const FIELDS_FLAG: TypedFlag<Option<GoRegex>> =
    TypedFlag::regexp("collector.vmstat.fields", "^(oom_kill|pgpg|pswp|pg.*fault).*", "Fields to include.");

const FIELD: Family = Family {
    name: "node_vmstat_<FIELD>",
    help: "Value of this name in the kernel's virtual memory statistics.",
    kind: MetricType::Untyped,
    labels: &[],
    source: Source::File(PATH),
};

/// The values of the flags.
#[derive(Debug)]
struct Vmstat {
    /// The fields to take; all of them when there is no expression.
    fields: Option<CachedRegex>,
}

impl Vmstat {
    fn new(options: &Options) -> Self {
        Self { fields: FIELDS_FLAG.get(options).map(CachedRegex::new) }
    }
}

impl Collect for Vmstat {
    fn collect(&self, context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
        let mut wanted = self.fields.as_ref().map(CachedRegex::matcher);
        let mut any = false;
        for line in text::lines(context.require(PATH)?) {
            let mut fields = text::fields(line);
            let (Some(name), Some(value)) = (fields.next(), fields.next().and_then(text::unsigned)) else {
                out.skip(|| format!("{PATH}: {}", line.escape_ascii()));
                continue;
            };
            any = true;
            if wanted.as_mut().is_none_or(|wanted| wanted.is_match(name)) {
                out.add_named(&FIELD, &FIELD.name_of(&text::printable(name)), &[], value);
            }
        }
        any.then_some(()).ok_or_else(|| CollectError::malformed(PATH, "no line with a name and a number"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect, skipped};

    const VMSTAT: &[u8] = b"nr_free_pages 977769\n\
        pgpgin 7344136\n\
        pswpout 35045\n\
        pgfault 2320168809\n\
        pgmajfault 507162\n\
        oom_kill 1\n\
        thp_fault_alloc 142261\n";

    #[test]
    fn faults_paging_swapping_and_kills_are_reported_by_default() {
        assert_eq!(
            collect(&COLLECTOR, &[(PATH, VMSTAT)], &[]).unwrap(),
            "node_vmstat_oom_kill 1\n\
             node_vmstat_pgfault 2320168809\n\
             node_vmstat_pgmajfault 507162\n\
             node_vmstat_pgpgin 7344136\n\
             node_vmstat_pswpout 35045\n"
        );
    }

    #[test]
    fn the_flag_chooses_fields_and_an_empty_one_chooses_all() {
        let text = collect(&COLLECTOR, &[(PATH, VMSTAT)], &["--collector.vmstat.fields=^thp_"]).unwrap();
        assert_eq!(text, "node_vmstat_thp_fault_alloc 142261\n");
        let text = collect(&COLLECTOR, &[(PATH, VMSTAT)], &["--collector.vmstat.fields="]).unwrap();
        assert_eq!(text.lines().count(), 7);
    }

    #[test]
    fn a_kernel_without_a_selected_field_reports_the_others() {
        // Before Linux 4.13 there is no oom_kill.
        let text = collect(&COLLECTOR, &[(PATH, b"nr_free_pages 9\npgpgin 1\n")], &[]).unwrap();
        assert_eq!(text, "node_vmstat_pgpgin 1\n");
    }

    #[test]
    fn a_file_with_no_selected_field_is_no_failure() {
        assert_eq!(collect(&COLLECTOR, &[(PATH, b"nr_free_pages 9\n")], &[]).unwrap(), "");
    }

    #[test]
    fn only_a_malformed_line_is_skipped() {
        let files: &[(&str, &[u8])] = &[(
            PATH,
            b"pgpgin\npgpgout x\n\npswpin 3 4\npswpout -5\npgfault 1.5\noom_kill 18446744073709551616\n",
        )];
        assert_eq!(collect(&COLLECTOR, files, &[]).unwrap(), "node_vmstat_pswpin 3\n");
        assert_eq!(skipped(&COLLECTOR, files, &[]), 6);
    }

    #[test]
    fn a_hostile_name_becomes_a_metric_name() {
        let text = collect(&COLLECTOR, &[(PATH, b"pgpg\"}\xff) 3\n")], &[]).unwrap();
        let (name, value) = text.trim_end().split_once(' ').unwrap();
        assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'), "{text}");
        assert_eq!(value, "3");
    }

    #[test]
    fn a_file_without_any_number_is_malformed_and_a_missing_one_no_data() {
        assert!(matches!(
            collect(&COLLECTOR, &[(PATH, b"pgpgin\n")], &[]),
            Err(CollectError::Malformed { .. })
        ));
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(&COLLECTOR, &[PATH]);
    }
}
