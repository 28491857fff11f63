//! Errors of IPsec transformation: `proc/1/net/xfrm_stat`.
//!
//! <https://docs.kernel.org/networking/xfrm_proc.html>

use keyhole_proto::v1::Query;

use crate::collector::{CollectError, Collector, Context};
use crate::exposition::{Exposition, Family, Source};
use crate::text;

pub const COLLECTOR: Collector = Collector {
    name: "xfrm",
    default: false,
    help: "Errors of IPsec transformations.",
    queries: &[Query::Xfrm],
    optional: &[],
    flags: &[],
    families: || LINES.iter().map(|(_, family)| *family).collect(),
    new: |_| Ok(Box::new(collect)),
};

const PATH: &str = "proc/1/net/xfrm_stat";

/// The lines: their keys and families.
#[rustfmt::skip]
const LINES: &[(&[u8], Family)] = &[
    line(b"XfrmAcquireError",        "node_xfrm_acquire_error_packets_total",          "Packets dropped because no security association could be acquired."),
    line(b"XfrmFwdHdrError",         "node_xfrm_fwd_hdr_error_packets_total",          "Packets that could not be passed on because of their header."),
    line(b"XfrmInBufferError",       "node_xfrm_in_buffer_error_packets_total",        "Packets received and dropped because there was no buffer."),
    line(b"XfrmInError",             "node_xfrm_in_error_packets_total",               "Packets received and dropped for any other error."),
    line(b"XfrmInHdrError",          "node_xfrm_in_hdr_error_packets_total",           "Packets received with a bad header."),
    line(b"XfrmInNoPols",            "node_xfrm_in_no_pols_packets_total",             "Packets received to whose states no policy is found."),
    line(b"XfrmInNoStates",          "node_xfrm_in_no_states_packets_total",           "Packets received to which no state is found."),
    line(b"XfrmInPolBlock",          "node_xfrm_in_pol_block_packets_total",           "Packets received that a policy discards."),
    line(b"XfrmInPolError",          "node_xfrm_in_pol_error_packets_total",           "Packets received whose policy has an error."),
    line(b"XfrmInStateExpired",      "node_xfrm_in_state_expired_packets_total",       "Packets received whose state has expired."),
    line(b"XfrmInStateInvalid",      "node_xfrm_in_state_invalid_packets_total",       "Packets received whose state is invalid."),
    line(b"XfrmInStateMismatch",     "node_xfrm_in_state_mismatch_packets_total",      "Packets received whose state does not match in its options."),
    line(b"XfrmInStateModeError",    "node_xfrm_in_state_mode_error_packets_total",    "Packets received with an error of their transformation's mode."),
    line(b"XfrmInStateProtoError",   "node_xfrm_in_state_proto_error_packets_total",   "Packets received with an error of their transformation's protocol."),
    line(b"XfrmInStateSeqError",     "node_xfrm_in_state_seq_error_packets_total",     "Packets received with a sequence number outside of the window."),
    line(b"XfrmInTmplMismatch",      "node_xfrm_in_tmpl_mismatch_packets_total",       "Packets received to whose states no template matches."),
    line(b"XfrmOutBundleCheckError", "node_xfrm_out_bundle_check_error_packets_total", "Packets to be sent whose bundle failed its check."),
    line(b"XfrmOutBundleGenError",   "node_xfrm_out_bundle_gen_error_packets_total",   "Packets to be sent for which no bundle could be made."),
    line(b"XfrmOutError",            "node_xfrm_out_error_packets_total",              "Packets to be sent and dropped for any other error."),
    line(b"XfrmOutNoStates",         "node_xfrm_out_no_states_packets_total",          "Packets to be sent to which no state is found."),
    line(b"XfrmOutPolBlock",         "node_xfrm_out_pol_block_packets_total",          "Packets to be sent that a policy discards."),
    line(b"XfrmOutPolDead",          "node_xfrm_out_pol_dead_packets_total",           "Packets to be sent whose policy is dead."),
    line(b"XfrmOutPolError",         "node_xfrm_out_pol_error_packets_total",          "Packets to be sent whose policy has an error."),
    line(b"XfrmOutStateExpired",     "node_xfrm_out_state_expired_packets_total",      "Packets to be sent whose state has expired."),
    line(b"XfrmOutStateInvalid",     "node_xfrm_out_state_invalid_packets_total",      "Packets to be sent whose state is invalid."),
    line(b"XfrmOutStateModeError",   "node_xfrm_out_state_mode_error_packets_total",   "Packets to be sent with an error of their transformation's mode."),
    line(b"XfrmOutStateProtoError",  "node_xfrm_out_state_proto_error_packets_total",  "Packets to be sent with an error of their transformation's protocol."),
    line(b"XfrmOutStateSeqError",    "node_xfrm_out_state_seq_error_packets_total",    "Packets to be sent whose sequence number would overflow."),
];

const fn line(key: &'static [u8], name: &'static str, help: &'static str) -> (&'static [u8], Family) {
    (key, Family::counter(name, help, &[], Source::File(PATH)))
}

fn collect(context: &Context<'_>, out: &mut Exposition) -> Result<(), CollectError> {
    let mut any = false;
    for (name, numbers) in out.rows(PATH, context.require(PATH)?).into_iter().filter_map(text::labelled) {
        let [Some(count)] = numbers[..] else {
            out.skip(|| format!("{PATH}: {} without its one number", name.escape_ascii()));
            continue;
        };
        // Lines of newer kernels are ignored.
        let Some((_, family)) = LINES.iter().find(|(of, _)| *of == name) else { continue };
        out.add(family, &[], count);
        any = true;
    }
    any.then_some(()).ok_or_else(|| CollectError::malformed(PATH, "no line that is known"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::testing::{accepts_any_bytes, collect, skipped};

    #[test]
    fn each_line_is_a_counter() {
        let text: String = LINES
            .iter()
            .enumerate()
            .map(|(at, (name, _))| format!("{:<24}\t{at}\n", name.escape_ascii()))
            .collect();
        let text = collect(&COLLECTOR, &[(PATH, text.as_bytes())], &[]).unwrap();
        assert_eq!(
            text.replace("node_xfrm_", "").replace("_packets_total", ""),
            "acquire_error 0\nfwd_hdr_error 1\nin_buffer_error 2\nin_error 3\nin_hdr_error 4\nin_no_pols 5\n\
             in_no_states 6\nin_pol_block 7\nin_pol_error 8\nin_state_expired 9\nin_state_invalid 10\n\
             in_state_mismatch 11\nin_state_mode_error 12\nin_state_proto_error 13\nin_state_seq_error 14\n\
             in_tmpl_mismatch 15\nout_bundle_check_error 16\nout_bundle_gen_error 17\nout_error 18\n\
             out_no_states 19\nout_pol_block 20\nout_pol_dead 21\nout_pol_error 22\nout_state_expired 23\n\
             out_state_invalid 24\nout_state_mode_error 25\nout_state_proto_error 26\nout_state_seq_error 27\n"
        );
    }

    #[test]
    fn missing_lines_are_absent_and_new_ones_ignored() {
        let text = collect(&COLLECTOR, &[(PATH, b"XfrmInError 1\nXfrmInStateDirError 2\n")], &[]).unwrap();
        assert_eq!(text, "node_xfrm_in_error_packets_total 1\n");
    }

    #[test]
    fn only_a_line_without_exactly_one_number_is_skipped_and_counted() {
        let table =
            b"XfrmInError -1\nXfrmOutError\n\nXfrmInHdrError 7 8\nshiny\nXfrmFwdHdrError 3\nshiny 4\n";
        let text = collect(&COLLECTOR, &[(PATH, table)], &[]).unwrap();
        assert_eq!(text, "node_xfrm_fwd_hdr_error_packets_total 3\n");
        assert_eq!(skipped(&COLLECTOR, &[(PATH, table)], &[]), 5);
    }

    #[test]
    fn a_file_without_any_line_is_malformed_and_a_missing_one_no_data() {
        let result = collect(&COLLECTOR, &[(PATH, b"\xff\n")], &[]);
        assert!(matches!(result, Err(CollectError::Malformed { .. })));
        assert!(matches!(collect(&COLLECTOR, &[], &[]), Err(CollectError::NoData(_))));
    }

    #[test]
    fn any_bytes_are_accepted() {
        accepts_any_bytes(&COLLECTOR, &[PATH]);
    }
}
