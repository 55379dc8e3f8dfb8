//! Why a table could not be read or changed.

use arrow::datatypes::DataType;
use object_store::path::Path;

use crate::{
    catalog::FORMAT_VERSION,
    error::{Error, ErrorKind},
    storage::store::StoreError,
};

/// Why a table could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The object store failed before anything was written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file that the commit replaces or deletes is no longer live: another compaction or deletion won.
    #[error("file {path} of table {table} is no longer live; another commit replaced it")]
    NotLive {
        /// The table's folder.
        table: Path,
        /// The file, relative to the folder.
        path: String,
    },
    /// Other writers were faster every time.
    #[error("commit to table {table} lost {attempts} times against other writers")]
    Contended {
        /// The table's folder.
        table: Path,
        /// How often it was tried.
        attempts: u32,
    },
    /// It is not known whether the commit landed. Its files must stay; committing it again settles the matter.
    #[error("it is not known whether commit {version} of table {table} landed: {source}")]
    Unclear {
        /// The table's folder.
        table: Path,
        /// The number that the commit would have.
        version: u64,
        /// What the store said last.
        source: Box<StoreError>,
    },
    /// The table was written by a newer release.
    #[error("table {table} has on-disk format version {found}, this release reads up to {FORMAT_VERSION}; upgrade it")]
    NewerFormat {
        /// The table's folder.
        table: Path,
        /// Its version, as written.
        found: String,
    },
    /// Another writer switched on something of Delta that is not understood here.
    #[error("table {table} needs {needed}, which is not supported")]
    UnsupportedTable {
        /// The table's folder.
        table: Path,
        /// Protocol version or feature.
        needed: String,
    },
    /// An object of the log cannot be understood.
    #[error("log of table {table} is corrupt: {detail}")]
    Corrupt {
        /// The table's folder.
        table: Path,
        /// Which object, and what is wrong with it.
        detail: String,
    },
    /// A column was declared with another type before; types are fixed for good.
    #[error("column {column} of table {table} is declared as {declared}, not {wanted}")]
    ColumnType {
        /// The table's folder.
        table: Path,
        /// The column.
        column: String,
        /// The type in the table.
        declared: String,
        /// The type that the commit's files have.
        wanted: String,
    },
    /// The table format has no such type.
    #[error("column {column} has type {data_type}, which a table cannot hold")]
    ColumnNotStorable {
        /// The column.
        column: String,
        /// Its type.
        data_type: DataType,
    },
    /// The table format has no such name.
    #[error(
        "column name {column:?} is not allowed: a table's column names have no space, control character or any of ,;{{}}()="
    )]
    ColumnName {
        /// The column.
        column: String,
    },
    /// The caller's commit is not one that can be written.
    #[error("commit to table {table} is invalid: {detail}")]
    InvalidCommit {
        /// The table's folder.
        table: Path,
        /// What is wrong.
        detail: String,
    },
    /// The Delta library could not read the log or write a checkpoint.
    #[error("log of table {table} cannot be replayed: {source}")]
    Kernel {
        /// The table's folder.
        table: Path,
        /// What the library said.
        source: Box<delta_kernel::KernelError>,
    },
    /// A background thread ended before its work did.
    #[error("work on table {table} was interrupted")]
    Interrupted {
        /// The table's folder.
        table: Path,
    },
}

impl From<CatalogError> for Error {
    fn from(error: CatalogError) -> Self {
        let kind = match &error {
            CatalogError::Store(_)
            | CatalogError::Contended { .. }
            | CatalogError::Unclear { .. }
            | CatalogError::NotLive { .. }
            | CatalogError::Interrupted { .. } => ErrorKind::Unavailable,
            CatalogError::NewerFormat { .. }
            | CatalogError::UnsupportedTable { .. }
            | CatalogError::Corrupt { .. }
            | CatalogError::Kernel { .. } => ErrorKind::Corrupt,
            CatalogError::ColumnType { .. }
            | CatalogError::ColumnNotStorable { .. }
            | CatalogError::ColumnName { .. }
            | CatalogError::InvalidCommit { .. } => ErrorKind::Internal,
        };
        Error::new(kind, error.to_string()).with_source(error)
    }
}
