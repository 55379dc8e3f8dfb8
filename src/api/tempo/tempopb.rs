//! The messages and the service of `proto/tempopb/tempo.proto`, as generated from it.

#![expect(
    unused_qualifications,
    clippy::allow_attributes,
    clippy::clone_on_ref_ptr,
    reason = "the generator has rules of its own"
)]

include!(concat!(env!("CARGO_MANIFEST_DIR"), "/proto/generated/tempopb.rs"));
