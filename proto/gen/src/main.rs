//! Writes what lies in `proto/src/generated` from the `.proto` files, with no protoc: messages and client, the server,
//! and the descriptors.
//!
//! `cargo run -p keyhole-proto-gen` after a change of the contract; this crate's test fails when that was forgotten.

use std::path::{Path, PathBuf};

const PROTO: &str = "keyhole/v1/broker.proto";
const GENERATED: &str = "keyhole.v1.rs";
const SERVER: &str = "keyhole.v1.server.rs";
const DESCRIPTORS: &str = "keyhole.v1.bin";

type Failure = Box<dyn std::error::Error>;

fn proto_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("proto/gen lies in proto/").to_path_buf()
}

fn descriptors() -> Result<prost_types::FileDescriptorSet, Failure> {
    Ok(protox::compile([PROTO], [proto_dir()])?)
}

/// Each file of generated code, and what is to be in it.
fn generate() -> Result<[(&'static str, String); 2], Failure> {
    let code = |builder: tonic_prost_build::Builder| -> Result<String, Failure> {
        let dir = tempfile::tempdir()?;
        builder.build_transport(false).out_dir(dir.path()).compile_fds(descriptors()?)?;
        Ok(std::fs::read_to_string(dir.path().join(GENERATED))?)
    };
    let messages_and_client = tonic_prost_build::configure().build_server(false);
    let server = tonic_prost_build::configure()
        .build_client(false)
        .extern_path(".keyhole.v1", "crate::v1")
        .extern_path(".keyhole.v1.ReadResponse", "crate::Encoded");
    Ok([(GENERATED, code(messages_and_client)?), (SERVER, code(server)?)])
}

/// The descriptors without comments and places, which reflection does not need.
fn encoded_descriptors() -> Result<Vec<u8>, Failure> {
    let mut set = descriptors()?;
    set.file.iter_mut().for_each(|file| file.source_code_info = None);
    Ok(prost::Message::encode_to_vec(&set))
}

fn main() -> Result<(), Failure> {
    let dir = proto_dir().join("src/generated");
    for (name, code) in generate()? {
        std::fs::write(dir.join(name), code)?;
    }
    std::fs::write(dir.join(DESCRIPTORS), encoded_descriptors()?)?;
    println!("wrote {}", dir.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost_types::field_descriptor_proto::Type;
    use prost_types::{DescriptorProto, FileDescriptorProto};

    #[test]
    fn the_committed_code_is_what_the_contract_generates() {
        for (name, code) in generate().expect("the contract compiles") {
            let path = proto_dir().join("src/generated").join(name);
            let committed = std::fs::read_to_string(&path).expect("the generated code is committed");
            assert!(committed == code, "{} is stale: run `cargo run -p keyhole-proto-gen`", path.display());
        }
    }

    #[test]
    fn the_committed_descriptors_are_those_of_the_contract() {
        let path = proto_dir().join("src/generated").join(DESCRIPTORS);
        let committed = std::fs::read(&path).expect("the descriptors are committed");
        assert!(
            committed == encoded_descriptors().expect("the contract compiles"),
            "{} is stale: run `cargo run -p keyhole-proto-gen`",
            path.display()
        );
    }

    /// Fields of `message` that are neither an enum, a bool nor a number.
    fn free_form_fields(message: &DescriptorProto) -> Vec<String> {
        message
            .field
            .iter()
            .filter(|field| {
                matches!(field.r#type(), Type::String | Type::Bytes | Type::Message | Type::Group)
            })
            .map(|field| format!("{}.{}", message.name(), field.name()))
            .collect()
    }

    fn request_messages(file: &FileDescriptorProto) -> Vec<&DescriptorProto> {
        let inputs: Vec<&str> = file
            .service
            .iter()
            .flat_map(|service| &service.method)
            .map(|method| method.input_type().rsplit('.').next().unwrap_or_default())
            .collect();
        file.message_type
            .iter()
            .filter(|message| inputs.contains(&message.name()) || message.name().ends_with("Request"))
            .collect()
    }

    #[test]
    fn a_request_holds_enums_bools_and_numbers_and_nothing_else() {
        let set = descriptors().expect("the contract compiles");
        let requests: Vec<_> = set.file.iter().flat_map(request_messages).collect();
        assert!(requests.len() >= 2, "Read and Describe each have a request");
        let found: Vec<_> = requests.into_iter().flat_map(free_form_fields).collect();
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn the_check_of_requests_sees_a_string() {
        let set = descriptors().expect("the contract compiles");
        let file = DescriptorProto::clone(
            set.file[0]
                .message_type
                .iter()
                .find(|message| message.name() == "Layer")
                .expect("Layer is a message"),
        );
        assert_eq!(free_form_fields(&file), ["Layer.name", "Layer.detail"]);
    }

    #[test]
    fn no_field_is_a_map_since_a_map_has_no_order() {
        let set = descriptors().expect("the contract compiles");
        for message in set.file.iter().flat_map(|file| &file.message_type) {
            assert!(message.nested_type.is_empty(), "{}", message.name());
        }
    }
}
