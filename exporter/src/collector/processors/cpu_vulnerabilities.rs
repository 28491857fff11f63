//! Vulnerabilities of the CPUs: `sys/devices/system/cpu/vulnerabilities/`.
//!
//! <https://docs.kernel.org/admin-guide/hw-vuln/index.html>

use keyhole_proto::v1::Query;

use crate::collector::{CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source};
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "cpu_vulnerabilities",
    default: false,
    help: "CPU vulnerabilities and their mitigations.",
    queries: &[Query::CpuVulnerabilities],
    optional: &[],
    flags: &[],
    families: || vec![INFO],
    new: |_| Ok(Box::new(collect)),
};

const VULNERABILITIES: &str = "sys/devices/system/cpu/vulnerabilities";

const INFO: Family = Family {
    name: "node_cpu_vulnerabilities_info",
    help: "State of the vulnerability, and how the kernel describes it; always 1.",
    kind: MetricType::Gauge,
    labels: &["codename", "mitigation", "state"],
    source: Source::File("sys/devices/system/cpu/vulnerabilities/*"),
};

/// How a file may begin, in any case, and whether the words after the state describe the mitigation.
const STATES: &[(&[u8], bool)] =
    &[(b"not affected", false), (b"vulnerable", true), (b"mitigation", true), (UNKNOWN, true)];
const UNKNOWN: &[u8] = b"unknown";

fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    let vulnerabilities = context.snapshot.dir(VULNERABILITIES);
    for (name, _) in vulnerabilities.files() {
        match vulnerabilities.value(name) {
            Some(value) => {
                let (state, mitigation) = parse(value);
                out.add(&INFO, &[name, &mitigation, state], 1u64);
            }
            None => out.skip(|| format!("{VULNERABILITIES}/{}", name.escape_ascii())),
        }
    }
    Ok(())
}

/// `Mitigation: Retpolines` as its state and the rest; any other text is `unknown`, with the text as it is.
fn parse(value: &[u8]) -> (&'static [u8], Vec<u8>) {
    let begins =
        |state: &[u8]| value.get(..state.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(state));
    match STATES.iter().find(|(state, _)| begins(state)) {
        Some((state, true)) => (state, text::fields(value).skip(1).collect::<Vec<_>>().join(&b' ')),
        Some((state, false)) => (state, Vec::new()),
        None => (UNKNOWN, value.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect, collect_snapshot, local};
    use crate::snapshot::{Content, Snapshot};

    fn of(value: &[u8]) -> String {
        let text = collect(&COLLECTOR, &[("sys/devices/system/cpu/vulnerabilities/x", value)], &[]).unwrap();
        text.replace("node_cpu_vulnerabilities_info{codename=\"x\",", "").replace("} 1\n", "")
    }

    #[test]
    fn each_file_has_a_state_and_what_is_done_about_it() {
        assert_eq!(of(b"Not affected\n"), "mitigation=\"\",state=\"not affected\"");
        assert_eq!(of(b"Vulnerable\n"), "mitigation=\"\",state=\"vulnerable\"");
        assert_eq!(
            of(b"Vulnerable: Safe RET, no microcode\n"),
            "mitigation=\"Safe RET, no microcode\",state=\"vulnerable\""
        );
        assert_eq!(
            of(b"Mitigation: Retpolines, IBPB: conditional\n"),
            "mitigation=\"Retpolines, IBPB: conditional\",state=\"mitigation\""
        );
        assert_eq!(of(b"Unknown: No mitigations\n"), "mitigation=\"No mitigations\",state=\"unknown\"");
    }

    #[test]
    fn an_unknown_state_is_reported_unchanged() {
        assert_eq!(
            of(b"KVM: Mitigation: VMX disabled\n"),
            "mitigation=\"KVM: Mitigation: VMX disabled\",state=\"unknown\""
        );
        assert_eq!(of(b"a\"b\nc\xff"), "mitigation=\"a\\\"b\\nc\u{fffd}\",state=\"unknown\"");
        assert_eq!(of(b""), "mitigation=\"\",state=\"unknown\"");
    }

    #[test]
    fn only_a_file_that_fails_is_skipped() {
        let snapshot = Snapshot::from_files(vec![
            (b"sys/devices/system/cpu/vulnerabilities/a".to_vec(), Content::Errno(5)),
            (b"sys/devices/system/cpu/vulnerabilities/b".to_vec(), Content::bytes(&b"Vulnerable"[..])),
        ]);
        assert_eq!(
            collect_snapshot(&COLLECTOR, &snapshot, &[], &local()).unwrap(),
            "node_cpu_vulnerabilities_info{codename=\"b\",mitigation=\"\",state=\"vulnerable\"} 1\n"
        );
    }

    #[test]
    fn a_kernel_that_lists_none_has_no_series_and_succeeds() {
        assert_eq!(collect(&COLLECTOR, &[], &[]).unwrap(), "");
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(&COLLECTOR, &["sys/devices/system/cpu/vulnerabilities/mds"]);
    }
}
