//! The gRPC API of keyhole-broker: the code generated from `keyhole/v1/broker.proto`.
//!
//! What is generated is committed, so that the broker's build runs no code generator; `proto/gen` writes it and
//! proves it fresh (`docs/adr/0001-generated-code-is-committed.md`).
#![forbid(unsafe_code)]

use prost::DecodeError;
use prost::bytes::{Buf, BufMut};
use prost::encoding::{DecodeContext, WireType};

/// Package `keyhole.v1`.
#[allow(missing_docs, unreachable_pub)]
#[allow(clippy::all)]
#[rustfmt::skip]
pub mod v1 {
    include!("generated/keyhole.v1.rs");

    pub use keyhole_policy::{Outcome, Query};
}

/// Package `keyhole.reader.v1`: the hello of the zygote and of each reader.
#[allow(missing_docs, unreachable_pub)]
#[allow(clippy::all)]
#[rustfmt::skip]
pub mod reader {
    include!("generated/keyhole.reader.v1.rs");
}

/// The server of package `keyhole.v1`, which sends responses to Read that are already encoded.
#[allow(missing_docs, unreachable_pub)]
#[allow(clippy::all)]
#[rustfmt::skip]
pub mod server {
    include!("generated/keyhole.v1.server.rs");
}

/// A message that a reader has encoded: it is forwarded and never decoded.
#[derive(Debug)]
pub struct Encoded(pub prost::bytes::Bytes);

impl prost::Message for Encoded {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        buffer.put_slice(&self.0);
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    /// Never called: the type has no `Default`, so no message can be decoded as it.
    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        prost::encoding::skip_field(wire_type, tag, buffer, context)
    }

    fn clear(&mut self) {
        self.0 = prost::bytes::Bytes::new();
    }
}

/// The .proto file, for clients that want to print or compile it.
pub const BROKER_PROTO: &str = include_str!("../keyhole/v1/broker.proto");

/// The same as a `google.protobuf.FileDescriptorSet`, for gRPC's reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!("generated/keyhole.v1.bin");
