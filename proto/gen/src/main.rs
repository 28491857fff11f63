//! Generates `proto/src/generated` and `policy/src/generated` from the `.proto` files, without protoc: messages and client,
//! the server, the descriptors, and the enums that the policy table uses.
//!
//! `cargo run -p keyhole-proto-gen` after a change of the API; this crate's test fails when that was forgotten.

use std::path::{Path, PathBuf};

const PROTO: &str = "keyhole/v1/broker.proto";
const HELLO_PROTO: &str = "keyhole/reader/v1/hello.proto";
const GENERATED: &str = "keyhole.v1.rs";
const HELLO: &str = "keyhole.reader.v1.rs";
const ENUMS: &str = "../../../policy/src/generated/enums.rs";
/// The enums that the privileged side needs, which links no library of protobuf.
const SHARED_ENUMS: [&str; 2] = ["Query", "Outcome"];
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
fn generate() -> Result<[(&'static str, String); 4], Failure> {
    let code = |builder: tonic_prost_build::Builder, set, name: &str| -> Result<String, Failure> {
        let dir = tempfile::tempdir()?;
        builder.build_transport(false).out_dir(dir.path()).compile_fds(set)?;
        Ok(std::fs::read_to_string(dir.path().join(name))?)
    };
    let messages_and_client =
        SHARED_ENUMS.iter().fold(tonic_prost_build::configure().build_server(false), |builder, name| {
            builder.extern_path(format!(".keyhole.v1.{name}"), format!("::keyhole_policy::{name}"))
        });
    let server = tonic_prost_build::configure()
        .build_client(false)
        .extern_path(".keyhole.v1", "crate::v1")
        .extern_path(".keyhole.v1.ReadResponse", "crate::Encoded");
    let hello = protox::compile([HELLO_PROTO], [proto_dir()])?;
    Ok([
        (GENERATED, code(messages_and_client, descriptors()?, GENERATED)?),
        (SERVER, code(server, descriptors()?, GENERATED)?),
        (HELLO, code(tonic_prost_build::configure(), hello, HELLO)?),
        (ENUMS, enums(&descriptors()?)?),
    ])
}

/// A value of an enum: as a variant, in the API, its number, and its comment as lines of a docstring.
type EnumValue<'v> = (String, &'v str, i32, String);

/// The code of [`SHARED_ENUMS`]: what prost would generate, without prost.
fn enums(set: &prost_types::FileDescriptorSet) -> Result<String, Failure> {
    const ENUM_OF_FILE: i32 = 5;
    const VALUE_OF_ENUM: i32 = 2;
    let file = set.file.first().ok_or("the API has a file")?;
    let locations = file.source_code_info.as_ref().map_or(&[][..], |info| &info.location);
    let comment = |path: &[i32], indent: &str| {
        let location = locations.iter().find(|location| location.path == path);
        let lines = location.map_or("", |location| location.leading_comments()).lines();
        lines.map(|line| format!("{indent}///{}\n", line.trim_end())).collect::<String>()
    };
    let mut code = format!("// @generated from {PROTO} by `cargo run -p keyhole-proto-gen`.\n");
    for (at, shared) in file.enum_type.iter().enumerate() {
        let name = shared.name();
        if !SHARED_ENUMS.contains(&name) {
            continue;
        }
        let prefix = format!("{}_", name.to_ascii_uppercase());
        let values: Vec<EnumValue<'_>> = (0..)
            .zip(&shared.value)
            .map(|(place, value)| {
                let path = [ENUM_OF_FILE, at as i32, VALUE_OF_ENUM, place];
                let variant = camel_case(value.name().strip_prefix(&prefix).unwrap_or(value.name()));
                (variant, value.name(), value.number(), comment(&path, "    "))
            })
            .collect();
        let all = |line: &dyn Fn(&EnumValue<'_>) -> String| -> String { values.iter().map(line).collect() };
        let variants = all(&|(variant, _, number, comment)| {
            let default = if *number == 0 { "    #[default]\n" } else { "" };
            format!("{comment}{default}    {variant} = {number},\n")
        });
        let names = all(&|(variant, name, ..)| format!("            Self::{variant} => \"{name}\",\n"));
        let numbers =
            all(&|(variant, _, number, _)| format!("            {number} => Ok(Self::{variant}),\n"));
        code += &format!(
            "\n{}#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]\n#[repr(i32)]\n\
             pub enum {name} {{\n{variants}}}\n\nimpl {name} {{\n    \
             /// The name in the API.\n    pub fn as_str_name(&self) -> &'static str {{\n        \
             match self {{\n{names}        }}\n    }}\n}}\n\nimpl TryFrom<i32> for {name} {{\n    \
             type Error = crate::UnknownNumber;\n\n    fn try_from(number: i32) -> Result<Self, Self::Error> {{\n        \
             match number {{\n{numbers}            other => Err(crate::UnknownNumber(other)),\n        }}\n    }}\n}}\n\n\
             impl From<{name}> for i32 {{\n    fn from(value: {name}) -> Self {{\n        value as i32\n    }}\n}}\n",
            comment(&[ENUM_OF_FILE, at as i32], "")
        );
    }
    Ok(code)
}

/// `NET_DEV` as `NetDev`.
fn camel_case(name: &str) -> String {
    let word = |word: &str| word[..1].to_owned() + &word[1..].to_ascii_lowercase();
    name.split('_').map(word).collect()
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
        for (name, code) in generate().expect("the API compiles") {
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
            committed == encoded_descriptors().expect("the API compiles"),
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
    fn a_request_has_enums_bools_and_numbers_and_nothing_else() {
        let set = descriptors().expect("the API compiles");
        let requests: Vec<_> = set.file.iter().flat_map(request_messages).collect();
        assert!(requests.len() >= 2, "Read and Describe each have a request");
        let found: Vec<_> = requests.into_iter().flat_map(free_form_fields).collect();
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn the_check_of_requests_sees_a_string() {
        let set = descriptors().expect("the API compiles");
        let file = DescriptorProto::clone(
            set.file[0]
                .message_type
                .iter()
                .find(|message| message.name() == "Layer")
                .expect("Layer is a message"),
        );
        assert_eq!(free_form_fields(&file), ["Layer.name", "Layer.detail", "Layer.process"]);
    }

    #[test]
    fn no_field_is_a_map_since_a_map_has_no_order() {
        let set = descriptors().expect("the API compiles");
        for message in set.file.iter().flat_map(|file| &file.message_type) {
            assert!(message.nested_type.is_empty(), "{}", message.name());
        }
    }
}
