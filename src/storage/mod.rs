//! Spans at rest: where they lie, how they are written to Parquet, and how files and buffered batches are read as one
//! table.
//!
//! In comes a [`SpanBatch`](crate::model::batch::SpanBatch): [`promoter`] chooses which attributes get a column, [`writer`]
//! sorts the rows ([`order`]), drops promoted columns without a value, lists the attributes in the footer ([`footer`]) and
//! gives the bytes of one file per UTC day; [`stitch`] makes one file of several. [`paths`] and [`store`] say where files go,
//! [`remote`] what lies between this process and a bucket. Out goes an execution plan: [`scan`] reads any mix of such files
//! and of batches that are in no file yet.
//!
//! A query is planned on logical columns, where an attribute is an entry of a map; files and batches have promoted columns
//! of their own choice. The scan's [`adapter`](scan::adapter) bridges the two, file by file and batch by batch, in predicates and in
//! output columns.
//! **Promotion never changes an answer**: any query over any division of spans into files and batches, whatever they
//! promote, answers as over one table of whole maps. `tests/it/promotion.rs` holds the code to it.
//!
//! Where a column's dictionaries have all of its values, [`dictionary`] tells them without reading rows; [`map_values`] reads the
//! values of one key of the maps without putting maps together. A query that counts all values of many columns reads their codes
//! itself ([`apart`]).
//!
//! A file also says which traces it can hold ([`trace_filters`]), so that a look-up by id opens the files that it needs. A
//! query that wants all spans of many traces names them as one predicate ([`trace_set`]), one that wants single spans their
//! starts ([`start_set`]). Where the spans of traces lie in files, and which are roots, is kept in memory ([`trace_rows`]).
//!
//! Which files exist is not known here: a scan is told by the catalogue's snapshot.

mod local_disk;
pub mod paths;
pub mod remote;
pub mod store;

pub mod footer;
pub mod order;
pub mod promoter;
pub mod stitch;
pub mod writer;

pub(crate) mod apart;
pub mod dictionary;
pub(crate) mod dictionary_page;
pub mod map_values;
pub(crate) mod pages;
pub mod scan;
pub(crate) mod start_set;
pub mod trace_filters;
pub(crate) mod trace_rows;
pub(crate) mod trace_set;

pub(crate) mod chunks;
mod kept;
mod trace_filter;
