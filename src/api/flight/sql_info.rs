//! What the server says about itself and its types.

use arrow_flight::sql::{
    CommandGetSqlInfo, CommandGetXdbcTypeInfo, Nullable, Searchable, SqlInfo, SqlNullOrdering,
    SqlSupportedCaseSensitivity, SqlSupportedTransaction, XdbcDataType, XdbcDatetimeSubcode,
    metadata::{SqlInfoData, SqlInfoDataBuilder, XdbcTypeInfo, XdbcTypeInfoData, XdbcTypeInfoDataBuilder},
};
use datafusion::arrow::{array::RecordBatch, error::ArrowError};
use tonic::Status;

use crate::query::QueryLimits;

/// Words that tools should quote: those that end an unquoted name, as the parser has them.
const KEYWORDS: &[&str] = &["ILIKE", "LIMIT", "OFFSET", "QUALIFY", "REGEXP", "RLIKE", "SIMILAR"];
const NUMERIC: &[&str] = &["abs", "ceil", "exp", "floor", "ln", "log", "power", "round", "sign", "sqrt", "trunc"];
const STRING: &[&str] = &[
    "btrim",
    "concat",
    "length",
    "lower",
    "ltrim",
    "regexp_match",
    "regexp_replace",
    "replace",
    "rtrim",
    "split_part",
    "strpos",
    "substr",
    "upper",
];
const SYSTEM: &[&str] = &["coalesce", "nullif", "version"];
const DATETIME: &[&str] = &["date_bin", "date_part", "date_trunc", "now", "to_timestamp", "to_unixtime"];

/// The answers to GetSqlInfo and GetXdbcTypeInfo.
pub(super) struct About {
    info: SqlInfoData,
    types: XdbcTypeInfoData,
}

impl std::fmt::Debug for About {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("About").finish_non_exhaustive()
    }
}

impl About {
    pub(super) fn try_new(limits: &QueryLimits) -> Result<Self, ArrowError> {
        let failed = |error: arrow_flight::error::FlightError| ArrowError::ExternalError(Box::new(error));
        Ok(Self { info: info(limits).map_err(failed)?, types: types().map_err(failed)? })
    }

    /// The answers with these numbers, or all. Numbers that have no answer are left out, as the protocol wants.
    pub(super) fn info(&self, query: CommandGetSqlInfo) -> Result<RecordBatch, Status> {
        query.into_builder(&self.info).build().map_err(|error| Status::internal(error.to_string()))
    }

    pub(super) fn types(&self, query: CommandGetXdbcTypeInfo) -> Result<RecordBatch, Status> {
        query.into_builder(&self.types).build().map_err(|error| Status::internal(error.to_string()))
    }
}

fn info(limits: &QueryLimits) -> arrow_flight::error::Result<SqlInfoData> {
    let mut info = SqlInfoDataBuilder::new();
    info.append(SqlInfo::FlightSqlServerName, "tracehouse");
    info.append(SqlInfo::FlightSqlServerVersion, env!("CARGO_PKG_VERSION"));
    info.append(SqlInfo::FlightSqlServerArrowVersion, "1.3");
    info.append(SqlInfo::FlightSqlServerReadOnly, true);
    info.append(SqlInfo::FlightSqlServerSql, true);
    info.append(SqlInfo::FlightSqlServerSubstrait, false);
    info.append(SqlInfo::FlightSqlServerTransaction, SqlSupportedTransaction::None as i32);
    info.append(SqlInfo::FlightSqlServerCancel, false);
    info.append(SqlInfo::FlightSqlServerBulkIngestion, false);
    info.append(SqlInfo::FlightSqlServerIngestTransactionsSupported, false);
    let timeout_ms = i32::try_from(limits.timeout.as_millis()).unwrap_or(i32::MAX);
    info.append(SqlInfo::FlightSqlServerStatementTimeout, timeout_ms);
    info.append(SqlInfo::FlightSqlServerTransactionTimeout, 0);
    info.append(SqlInfo::SqlDdlCatalog, false);
    info.append(SqlInfo::SqlDdlSchema, false);
    info.append(SqlInfo::SqlDdlTable, false);
    info.append(SqlInfo::SqlIdentifierCase, SqlSupportedCaseSensitivity::SqlCaseSensitivityLowercase as i32);
    info.append(SqlInfo::SqlIdentifierQuoteChar, "\"");
    info.append(
        SqlInfo::SqlQuotedIdentifierCase,
        SqlSupportedCaseSensitivity::SqlCaseSensitivityCaseInsensitive as i32,
    );
    info.append(SqlInfo::SqlAllTablesAreSelectable, true);
    info.append(SqlInfo::SqlNullOrdering, SqlNullOrdering::SqlNullsSortedHigh as i32);
    info.append(SqlInfo::SqlKeywords, KEYWORDS);
    info.append(SqlInfo::SqlNumericFunctions, NUMERIC);
    info.append(SqlInfo::SqlStringFunctions, STRING);
    info.append(SqlInfo::SqlSystemFunctions, SYSTEM);
    info.append(SqlInfo::SqlDatetimeFunctions, DATETIME);
    info.append(SqlInfo::SqlSearchStringEscape, "\\");
    info.append(SqlInfo::SqlExtraNameCharacters, "");
    info.append(SqlInfo::SqlSupportsColumnAliasing, true);
    info.append(SqlInfo::SqlNullPlusNullIsNull, true);
    info.append(SqlInfo::SqlSupportsTableCorrelationNames, true);
    info.append(SqlInfo::SqlSupportsExpressionsInOrderBy, true);
    info.append(SqlInfo::SqlSupportsOrderByUnrelated, true);
    info.append(SqlInfo::SqlSchemaTerm, "schema");
    info.append(SqlInfo::SqlCatalogTerm, "catalog");
    info.append(SqlInfo::SqlCatalogAtStart, true);
    info.append(SqlInfo::SqlSelectForUpdateSupported, false);
    info.append(SqlInfo::SqlMaxStatementLength, i64::try_from(limits.text_bytes_max).unwrap_or(i64::MAX));
    info.build()
}

/// Types of columns and parameters that ODBC programs can name.
fn types() -> arrow_flight::error::Result<XdbcTypeInfoData> {
    let mut builder = XdbcTypeInfoDataBuilder::new();
    let numbers = [
        ("BOOLEAN", XdbcDataType::XdbcBit, 1),
        ("INTEGER", XdbcDataType::XdbcInteger, 32),
        ("BIGINT", XdbcDataType::XdbcBigint, 64),
        ("DOUBLE", XdbcDataType::XdbcDouble, 53),
    ];
    for (name, data_type, size) in numbers {
        builder.append(XdbcTypeInfo {
            unsigned_attribute: Some(false),
            num_prec_radix: Some(2),
            ..described(name, data_type, size)
        });
    }
    let quoted = [
        ("VARCHAR", XdbcDataType::XdbcVarchar, i32::MAX),
        ("DATE", XdbcDataType::XdbcDate, 10),
        ("TIMESTAMP", XdbcDataType::XdbcTimestamp, 35),
    ];
    for (name, data_type, size) in quoted {
        let (sql_data_type, datetime_subcode) = match data_type {
            // The protocol has one number for the subcodes of years and of dates.
            XdbcDataType::XdbcDate => (XdbcDataType::XdbcDatetime, Some(XdbcDatetimeSubcode::XdbcSubcodeYear)),
            XdbcDataType::XdbcTimestamp => {
                (XdbcDataType::XdbcDatetime, Some(XdbcDatetimeSubcode::XdbcSubcodeTimestamp))
            }
            other => (other, None),
        };
        builder.append(XdbcTypeInfo {
            literal_prefix: Some("'".to_owned()),
            literal_suffix: Some("'".to_owned()),
            case_sensitive: data_type == XdbcDataType::XdbcVarchar,
            sql_data_type,
            datetime_subcode,
            ..described(name, data_type, size)
        });
    }
    builder.build()
}

fn described(name: &str, data_type: XdbcDataType, column_size: i32) -> XdbcTypeInfo {
    XdbcTypeInfo {
        type_name: name.to_owned(),
        data_type,
        sql_data_type: data_type,
        column_size: Some(column_size),
        nullable: Nullable::NullabilityNullable,
        searchable: Searchable::Full,
        local_type_name: Some(name.to_owned()),
        ..XdbcTypeInfo::default()
    }
}
