//! The Rust code of `proto/` is what the compiler makes of it now. `TRACEHOUSE_BLESS=1` writes it.

use std::{fs, path::Path};

#[test]
fn the_code_of_the_streaming_query_service_is_fresh() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let committed = root.join("proto/generated/tempopb.rs");
    let descriptors = protox::compile(["tempopb/tempo.proto"], [root.join("proto")]).unwrap();
    let out = tempfile::tempdir().unwrap();
    tonic_prost_build::configure()
        .out_dir(out.path())
        .build_transport(false)
        .extern_path(".opentelemetry.proto.common.v1", "::opentelemetry_proto::tonic::common::v1")
        .btree_map(".")
        .compile_fds(descriptors)
        .unwrap();
    let generated = fs::read_to_string(out.path().join("tempopb.rs")).unwrap();
    if std::env::var_os("TRACEHOUSE_BLESS").is_some() {
        fs::write(&committed, &generated).unwrap();
    }
    let committed = fs::read_to_string(&committed).unwrap_or_default();
    assert!(committed == generated, "proto/generated/tempopb.rs is stale: run this test with TRACEHOUSE_BLESS=1");
}
