//! Where durable data lies and in what form: the object store, its paths.

mod local_disk;
pub mod paths;
pub mod store;
