//! What a zygote and a reader report of themselves when they are ready: `keyhole/reader/v1/hello.proto`.

use keyhole_os::Layer;

use crate::encode::{bytes, fixed, number};
use crate::host::Host;
use crate::output::message;

/// A report; of a zygote without a host.
#[derive(Debug)]
pub struct Hello<'h> {
    pub generation: u32,
    pub layers: &'h [Layer],
    pub host: Option<&'h Host>,
}

impl Hello<'_> {
    /// The message of the contract.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        number(&mut out, 1, self.generation.into());
        bytes(&mut out, 2, env!("CARGO_PKG_VERSION").as_bytes());
        fixed(&mut out, 3, keyhole_policy::digest());
        for layer in self.layers {
            message(&mut out, 4, |out| {
                bytes(out, 1, layer.name.as_bytes());
                number(out, 2, layer.in_force.into());
                bytes(out, 3, layer.detail.as_bytes());
            });
        }
        let Some(host) = self.host else { return out };
        let view = host.view();
        number(&mut out, 5, view.proc_is_hosts.into());
        bytes(&mut out, 6, view.proc_reason.as_bytes());
        number(&mut out, 7, view.sys_is_hosts.into());
        bytes(&mut out, 8, view.sys_reason.as_bytes());
        for (query, outcome, reason) in host.unavailable() {
            message(&mut out, 9, |out| {
                number(out, 1, query as u64);
                number(out, 2, outcome as u64);
                bytes(out, 3, reason.as_bytes());
            });
        }
        out
    }
}
