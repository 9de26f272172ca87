//! Turns `proto/*.proto` into Rust, without protoc.
//!
//! One thing is changed on the way: wherever an answer or an event holds a `mvccpb.KeyValue`, the generated struct holds
//! the *encoded* message as `Bytes` (an absent one is empty; a real one never is, since keys are not empty). Both have the
//! same bytes on the wire. A stored row already is an encoded KeyValue, so a range copies rows into its answer and a watch
//! event is encoded once for all watchers. A reader that wants the fields calls `KeyValue::decode`.

use prost::Message as _;

const SERVICES_AND_MESSAGES: &[&str] = &[
    "kv.proto",
    "watch.proto",
    "lease.proto",
    "cluster.proto",
    "maintenance.proto",
    "auth.proto",
    "raft_internal.proto",
    "v3lockpb.proto",
    "v3electionpb.proto",
    "grpc/health.proto",
    "grpc/reflection.proto",
    "leasepb.proto",
    "walpb.proto",
    "snappb.proto",
];

#[expect(clippy::disallowed_methods, reason = "a build script, whose host is cargo")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let compiled = protox::compile(SERVICES_AND_MESSAGES, ["proto"])?.encode_to_vec();
    // Who asks at run time what messages look like is told the truth: without the change below.
    let directory = std::env::var("OUT_DIR")?;
    std::fs::write(std::path::Path::new(&directory).join("descriptors.bin"), &compiled)?;
    let mut descriptors = prost_types::FileDescriptorSet::decode(compiled.as_slice())?;
    for message in descriptors.file.iter_mut().flat_map(|file| &mut file.message_type) {
        keep_key_values_encoded(message);
    }
    let mut config = prost_build::Config::new();
    config.bytes(["."]).btree_map(["."]);
    tonic_prost_build::configure().build_transport(false).compile_fds_with_config(descriptors, config)?;
    Ok(())
}

fn keep_key_values_encoded(message: &mut prost_types::DescriptorProto) {
    use prost_types::field_descriptor_proto::Type;
    for field in &mut message.field {
        if field.type_name() == ".mvccpb.KeyValue" {
            field.type_name = None;
            field.set_type(Type::Bytes);
        }
    }
    for nested in &mut message.nested_type {
        keep_key_values_encoded(nested);
    }
}
