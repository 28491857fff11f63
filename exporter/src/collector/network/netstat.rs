//! Counters of the network protocols: `proc/1/net/netstat`, `proc/1/net/snmp` and `proc/1/net/snmp6`.
//!
//! <https://docs.kernel.org/networking/snmp_counter.html>

use keyhole_proto::v1::Query;

use crate::collector::{Collect, CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, MetricType, Source, Value};
use crate::go_regex::GoRegex;
use crate::options::{CachedRegex, Matcher, Options, TypedFlag};
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "netstat",
    default: true,
    help: "Counters of the network protocols.",
    queries: &[Query::NetSnmp],
    optional: &[],
    flags: &[FIELDS.row],
    families: || vec![FIELD],
    new: |options| Ok(Box::new(Netstat::new(options))),
};

const FIELDS: TypedFlag<Option<GoRegex>> = TypedFlag::regexp(
    "collector.netstat.fields",
    "^(.*_(InErrors|InErrs)|Ip_Forwarding|Ip(6|Ext)_(InOctets|OutOctets)|Icmp6?_(InMsgs|OutMsgs)\
             |TcpExt_(Listen.*|Syncookies.*|TCPSynRetrans|TCPTimeouts|TCPOFOQueue|TCPRcvQDrop)\
             |Tcp_(ActiveOpens|InSegs|OutSegs|OutRsts|PassiveOpens|RetransSegs|CurrEstab)\
             |Udp6?_(InDatagrams|OutDatagrams|NoPorts|RcvbufErrors|SndbufErrors))$",
    "Fields to include, as <protocol>_<field>.",
);
const NETSTAT: &str = "proc/1/net/netstat";
const SNMP: &str = "proc/1/net/snmp";
/// Missing where IPv6 is off.
const SNMP6: &str = "proc/1/net/snmp6";

const PREFIX: &str = "node_netstat_";
const FIELD: Family = Family {
    name: "node_netstat_<PROTOCOL>_<FIELD>",
    help: "Counter or setting of the protocol, under the kernel's name.",
    kind: MetricType::Untyped,
    labels: &[],
    source: Source::File("proc/1/net/{netstat,snmp,snmp6}"),
};

/// The values of the flags.
#[derive(Debug)]
struct Netstat {
    /// The fields to take; all of them when there is no expression.
    fields: Option<CachedRegex>,
}

impl Netstat {
    fn new(options: &Options) -> Self {
        Self { fields: FIELDS.get(options).map(CachedRegex::new) }
    }
}

impl Collect for Netstat {
    fn collect(&self, context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
        let mut fields =
            Fields { wanted: self.fields.as_ref().map(CachedRegex::matcher), name: PREFIX.into(), out };
        let mut missing = vec![NETSTAT, SNMP];
        context.for_each_complete(&[NETSTAT, SNMP, SNMP6], |path, text| match path {
            SNMP6 => fields.take_lines(path, text),
            _ if fields.take_pairs(path, text) => missing.retain(|of| *of != path),
            _ => {}
        })?;
        // Every kernel has these two, and something in both.
        match missing[..] {
            [] => Ok(()),
            [path, ..] => Err(CollectError::malformed(path, "missing, or nothing in it")),
        }
    }
}

/// Where the fields go.
struct Fields<'a> {
    /// The fields to take; all of them when there is no expression.
    wanted: Option<Matcher<'a>>,
    /// The name of a family, after its prefix; reused, which saves an allocation a field.
    name: Vec<u8>,
    out: &'a mut Exposition,
}

impl Fields<'_> {
    /// Takes lines in pairs: `Tcp: InSegs OutSegs`, then `Tcp: 5 7`; false when there is no pair.
    fn take_pairs(&mut self, path: &str, text: &[u8]) -> bool {
        let mut any = false;
        let mut header: Option<(&[u8], &[u8])> = None;
        let mut pairs = Vec::new();
        for line in text::lines(text) {
            let Some((protocol, values)) = text::split_first(line, b':') else {
                self.out.skip(|| format!("{path}: a line without a protocol"));
                continue;
            };
            let Some((_, names)) = header.take_if(|(of, _)| *of == protocol) else {
                if let Some((alone, _)) = header.replace((protocol, values)) {
                    self.skip_alone(path, alone);
                }
                continue;
            };
            any = true;
            let mut values = text::fields(values);
            pairs.clear();
            pairs.extend(text::fields(names).map(|name| (name, values.next())));
            if values.next().is_some() || pairs.last().is_some_and(|(_, value)| value.is_none()) {
                self.out.skip(|| format!("{path}: more or fewer values than names"));
                continue;
            }
            for (name, value) in &pairs {
                self.take(path, protocol, name, value.unwrap_or_default());
            }
        }
        if let Some((alone, _)) = header {
            self.skip_alone(path, alone);
        }
        any
    }

    fn skip_alone(&mut self, path: &str, protocol: &[u8]) {
        self.out.skip(|| format!("{path}: {} with one line of its two", protocol.escape_ascii()));
    }

    /// Takes lines of one field: `Ip6InOctets 460`. The protocol ends with the first 6.
    fn take_lines(&mut self, path: &str, text: &[u8]) {
        for line in text::lines(text) {
            let mut fields = text::fields(line);
            let (Some(field), Some(value)) = (fields.next(), fields.next()) else {
                self.out.skip(|| format!("{path}: a line without a name and a value"));
                continue;
            };
            let six = field.iter().position(|&byte| byte == b'6');
            let Some((protocol, name)) = six.and_then(|six| field.split_at_checked(six + 1)) else {
                self.out.skip(|| format!("{path}: a name without a 6"));
                continue;
            };
            self.take(path, protocol, name, value);
        }
    }

    fn take(&mut self, path: &str, protocol: &[u8], field: &[u8], value: &[u8]) {
        self.name.truncate(PREFIX.len());
        for part in [protocol, b"_", field] {
            self.name.extend_from_slice(part);
        }
        let key = &self.name[PREFIX.len()..];
        if self.wanted.as_mut().is_some_and(|wanted| !wanted.is_match(key)) {
            return;
        }
        let number = text::unsigned(value).map(Value::from).or_else(|| text::signed(value).map(Value::from));
        match number {
            Some(number) => self.out.add_named(&FIELD, &text::printable(&self.name), &[], number),
            None => self.out.skip(|| format!("{path}: a value that is no number")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect, collect_with_result, local, skipped};
    use crate::snapshot::{Content, Snapshot};

    const ALL: &[&str] = &["--collector.netstat.fields="];

    /// A file that gives no sample, beside the one under test.
    const BESIDE: &[u8] = b"None:\nNone:\n";

    fn snmp(text: &[u8], flags: &[&str]) -> String {
        collect(&COLLECTOR, &[(NETSTAT, BESIDE), (SNMP, text)], flags).unwrap()
    }

    #[test]
    fn the_default_fields_are_read_from_three_files() {
        let files: [(&str, &[u8]); 3] = [
            (
                NETSTAT,
                b"TcpExt: SyncookiesSent ListenOverflows TCPTimeouts TW\nTcpExt: 1 2 3 4\n\
                  IpExt: InNoRoutes InOctets OutOctets\nIpExt: 0 18446744073709551615 7\n\
                  MPTcpExt: MPCapableSYNRX\nMPTcpExt: 0\n",
            ),
            (
                SNMP,
                b"Ip: Forwarding DefaultTTL\nIp: 1 64\nIcmp: InMsgs InErrors\nIcmp: 104 2\n\
                  IcmpMsg: InType3 OutType3\nIcmpMsg: 104 120\nTcp: RtoMin MaxConn CurrEstab InErrs\nTcp: 200 -1 9 5\n",
            ),
            (SNMP6, b"Ip6InOctets                     \t460\nIcmp6InErrors \t1\nUdpLite6InErrors\t0\n"),
        ];
        assert_eq!(
            collect(&COLLECTOR, &files, &[]).unwrap(),
            "node_netstat_Icmp6_InErrors 1\nnode_netstat_Icmp_InErrors 2\nnode_netstat_Icmp_InMsgs 104\n\
             node_netstat_Ip6_InOctets 460\nnode_netstat_IpExt_InOctets 18446744073709551615\n\
             node_netstat_IpExt_OutOctets 7\nnode_netstat_Ip_Forwarding 1\n\
             node_netstat_TcpExt_ListenOverflows 2\nnode_netstat_TcpExt_SyncookiesSent 1\n\
             node_netstat_TcpExt_TCPTimeouts 3\nnode_netstat_Tcp_CurrEstab 9\nnode_netstat_Tcp_InErrs 5\n\
             node_netstat_UdpLite6_InErrors 0\n"
        );
    }

    #[test]
    fn the_expression_chooses_and_an_empty_one_takes_all() {
        let tcp = b"Tcp: MaxConn CurrEstab\nTcp: -1 9\n";
        assert_eq!(snmp(tcp, &["--collector.netstat.fields=^Tcp_Max"]), "node_netstat_Tcp_MaxConn -1\n");
        assert_eq!(snmp(tcp, ALL), "node_netstat_Tcp_CurrEstab 9\nnode_netstat_Tcp_MaxConn -1\n");
    }

    #[test]
    fn a_line_without_its_pair_breaks_no_other_pair() {
        let text = b"Ip: Forwarding\nTcp: InSegs\nTcp: 5\nno protocol\nUdp: InErrors\nUdp: 1 2\nIcmp: InMsgs\nIcmp: 3\n";
        assert_eq!(snmp(text, &[]), "node_netstat_Icmp_InMsgs 3\nnode_netstat_Tcp_InSegs 5\n");
        assert_eq!(skipped(&COLLECTOR, &[(NETSTAT, BESIDE), (SNMP, text)], &[]), 3);
    }

    #[test]
    fn a_heading_without_its_values_and_values_without_their_heading_are_counted() {
        for alone in ["TcpExt: A B\nIpExt: InOctets\nIpExt: 3\n", "IpExt: InOctets\nIpExt: 3\nTcpExt: 1 2\n"]
        {
            let files = [(NETSTAT, alone.as_bytes()), (SNMP, BESIDE)];
            assert_eq!(collect(&COLLECTOR, &files, &[]).unwrap(), "node_netstat_IpExt_InOctets 3\n");
            assert_eq!(skipped(&COLLECTOR, &files, &[]), 1);
        }
    }

    #[test]
    fn only_a_value_that_is_no_number_is_skipped() {
        assert_eq!(snmp(b"Tcp: InSegs OutSegs\nTcp: x 5\n", &[]), "node_netstat_Tcp_OutSegs 5\n");
    }

    #[test]
    fn a_name_without_a_protocol_is_skipped_in_the_ipv6_file() {
        let files = [(NETSTAT, BESIDE), (SNMP, BESIDE), (SNMP6, &b"Plain 1\nalone\nUdp6NoPorts 2\n"[..])];
        let text = collect(&COLLECTOR, &files, ALL).unwrap();
        assert_eq!(text, "node_netstat_Udp6_NoPorts 2\n");
    }

    #[test]
    fn a_field_of_any_name_makes_a_valid_metric() {
        assert_eq!(snmp(b"T\"p: In\xff\nT\"p: 1\n", ALL), "node_netstat_T_p_In___ 1\n");
    }

    #[test]
    fn a_line_without_a_protocol_breaks_no_pair() {
        for line in ["", "   ", "nonsense"] {
            let text = snmp(format!("Tcp: InSegs\n{line}\nTcp: 1\n{line}\nUdp: A\nUdp: 2\n").as_bytes(), ALL);
            assert_eq!(text, "node_netstat_Tcp_InSegs 1\nnode_netstat_Udp_A 2\n", "{line:?}");
        }
    }

    #[test]
    fn without_any_of_the_files_there_is_no_data() {
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
    }

    #[test]
    fn a_missing_file_that_every_kernel_has_is_an_error_and_the_others_are_reported() {
        let tcp = b"Tcp: InSegs\nTcp: 5\n";
        for (main, other) in [(NETSTAT, SNMP), (SNMP, NETSTAT)] {
            for text in [None, Some(&b""[..]), Some(b"\n"), Some(b"Tcp: InSegs\n")] {
                let mut files = vec![(other.into(), Content::bytes(&tcp[..]))];
                files.extend(text.map(|text| (main.into(), Content::bytes(text))));
                let (text, result) =
                    collect_with_result(&COLLECTOR, &Snapshot::from_files(files), &[], &local());
                assert_eq!(text, "node_netstat_Tcp_InSegs 5\n");
                assert_eq!(result.unwrap_err().to_string(), format!("{main}: missing, or nothing in it"));
            }
        }
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(&COLLECTOR, &[NETSTAT, SNMP, SNMP6]);
    }

    proptest::proptest! {
        #[test]
        fn any_pairs_of_lines_result_in_at_most_one_sample_per_word(text in "((Ip|Tcp):( [a-z0-9-]{0,4}){0,4}\\n){0,8}") {
            let words = text.split_ascii_whitespace().count();
            let files = vec![(SNMP.into(), Content::bytes(text.into_bytes()))];
            let (text, _) = collect_with_result(&COLLECTOR, &Snapshot::from_files(files), ALL, &local());
            proptest::prop_assert!(text.lines().count() <= words);
        }
    }
}
