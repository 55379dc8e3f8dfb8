//! The nouns: ids, tenants, time ranges, attributes, and the Arrow shapes that spans travel and rest in.
//!
//! Nothing here reads a wire format or a file. [`batch::SpanBatch`] is what every receiver produces, the log stores,
//! the buffer holds and the flush writes; [`schema`] names its columns; [`promotion`] says which attributes have a
//! column of their own, and [`keys`] which ones a batch or a file holds at all.

mod attribute_columns;
pub mod attributes;
pub mod batch;
pub mod builder;
pub(crate) mod gather;
pub mod ids;
mod key_table;
pub mod keys;
pub mod promotion;
pub(crate) mod reshape;
pub mod schema;
pub mod tenant;
pub mod time;
