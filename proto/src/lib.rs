//! The contract between keyhole-broker and its clients: the code generated from `keyhole/v1/broker.proto`.
//!
//! The generated file is committed, so that the broker's build runs no code generator; `proto/gen` writes it and
//! proves it fresh (`docs/adr/0001-generated-code-is-committed.md`).
#![forbid(unsafe_code)]

/// Package `keyhole.v1`.
#[allow(missing_docs, unreachable_pub)]
#[allow(clippy::all)]
#[rustfmt::skip]
pub mod v1 {
    include!("generated/keyhole.v1.rs");
}

/// The contract itself, for clients that want to show or compile it.
pub const BROKER_PROTO: &str = include_str!("../keyhole/v1/broker.proto");

/// The same as a `google.protobuf.FileDescriptorSet`, for gRPC's reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!("generated/keyhole.v1.bin");
