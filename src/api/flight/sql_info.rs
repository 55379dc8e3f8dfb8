//! What the server says about itself.

use std::collections::BTreeMap;

use arrow_flight::sql::{
    CommandGetSqlInfo, CommandGetXdbcTypeInfo, SqlInfo, SqlNullOrdering, SqlOuterJoinsSupportLevel,
    SqlSupportedCaseSensitivity, SqlSupportedGroupBy, SqlSupportedResultSetConcurrency, SqlSupportedResultSetType,
    SqlSupportedSubqueries, SqlSupportedTransaction, SqlSupportedUnions, SqlSupportsConvert,
    SqlTransactionIsolationLevel, SupportedSqlGrammar,
    metadata::{SqlInfoData, SqlInfoDataBuilder, XdbcTypeInfoData},
};
use datafusion::arrow::{array::RecordBatch, error::ArrowError};
use tonic::Status;

use crate::{api::flight::xdbc_types, query::QueryLimits};

/// `SupportedAnsi92SqlGrammarLevel.ANSI92_ENTRY_SQL`.
const ANSI92_ENTRY: i32 = 0;

/// Words that tools should quote: those that end an unquoted name, as the parser has them.
const KEYWORDS: &[&str] = &["ILIKE", "LIMIT", "OFFSET", "QUALIFY", "REGEXP", "RLIKE", "SIMILAR"];
const NUMERIC: &[&str] = &[
    "abs",
    "acos",
    "asin",
    "atan",
    "atan2",
    "cbrt",
    "ceil",
    "cos",
    "cot",
    "degrees",
    "exp",
    "factorial",
    "floor",
    "gcd",
    "lcm",
    "ln",
    "log",
    "log10",
    "log2",
    "pi",
    "power",
    "radians",
    "random",
    "round",
    "signum",
    "sin",
    "sqrt",
    "tan",
    "trunc",
];
const STRING: &[&str] = &[
    "ascii",
    "bit_length",
    "btrim",
    "char_length",
    "chr",
    "concat",
    "concat_ws",
    "ends_with",
    "initcap",
    "left",
    "length",
    "lower",
    "lpad",
    "ltrim",
    "octet_length",
    "regexp_like",
    "regexp_match",
    "regexp_replace",
    "repeat",
    "replace",
    "reverse",
    "right",
    "rpad",
    "rtrim",
    "split_part",
    "starts_with",
    "strpos",
    "substr",
    "to_hex",
    "translate",
    "upper",
];
const SYSTEM: &[&str] = &["arrow_cast", "arrow_typeof", "coalesce", "greatest", "least", "nullif", "nvl", "version"];
const DATETIME: &[&str] = &[
    "current_date",
    "current_time",
    "date_bin",
    "date_part",
    "date_trunc",
    "from_unixtime",
    "make_date",
    "now",
    "to_char",
    "to_date",
    "to_timestamp",
    "to_timestamp_micros",
    "to_timestamp_millis",
    "to_timestamp_nanos",
    "to_timestamp_seconds",
    "to_unixtime",
];

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
        Ok(Self { info: info(limits).map_err(failed)?, types: xdbc_types::types().map_err(failed)? })
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
    describe_server(&mut info);
    describe_names(&mut info);
    describe_language(&mut info);
    describe_limits(&mut info, limits);
    describe_jdbc(&mut info);
    info.build()
}

/// What the server does and does not do.
fn describe_server(info: &mut SqlInfoDataBuilder) {
    info.append(SqlInfo::FlightSqlServerName, "tracehouse");
    info.append(SqlInfo::FlightSqlServerVersion, env!("CARGO_PKG_VERSION"));
    info.append(SqlInfo::FlightSqlServerArrowVersion, "1.3");
    info.append(SqlInfo::FlightSqlServerReadOnly, true);
    info.append(SqlInfo::FlightSqlServerSql, true);
    info.append(SqlInfo::FlightSqlServerSubstrait, false);
    // There are no versions of Substrait to name.
    info.append(SqlInfo::FlightSqlServerSubstraitMinVersion, "");
    info.append(SqlInfo::FlightSqlServerSubstraitMaxVersion, "");
    info.append(SqlInfo::FlightSqlServerTransaction, SqlSupportedTransaction::None as i32);
    info.append(SqlInfo::FlightSqlServerCancel, true);
    info.append(SqlInfo::FlightSqlServerBulkIngestion, false);
    info.append(SqlInfo::FlightSqlServerIngestTransactionsSupported, false);
    // Handles hold their statement and do not expire.
    info.append(SqlInfo::FlightSqlServerStatementTimeout, 0);
    info.append(SqlInfo::FlightSqlServerTransactionTimeout, 0);
    info.append(SqlInfo::SqlDdlCatalog, false);
    info.append(SqlInfo::SqlDdlSchema, false);
    info.append(SqlInfo::SqlDdlTable, false);
}

/// Names, how they are quoted, and what there is of each kind.
fn describe_names(info: &mut SqlInfoDataBuilder) {
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
    info.append(SqlInfo::SqlSchemaTerm, "schema");
    info.append(SqlInfo::SqlProcedureTerm, "procedure");
    info.append(SqlInfo::SqlCatalogTerm, "catalog");
    info.append(SqlInfo::SqlCatalogAtStart, true);
}

/// What the language can.
fn describe_language(info: &mut SqlInfoDataBuilder) {
    info.append(SqlInfo::SqlSupportsColumnAliasing, true);
    info.append(SqlInfo::SqlNullPlusNullIsNull, true);
    info.append(SqlInfo::SqlSupportsConvert, conversions());
    info.append(SqlInfo::SqlSupportsTableCorrelationNames, true);
    info.append(SqlInfo::SqlSupportsDifferentTableCorrelationNames, false);
    info.append(SqlInfo::SqlSupportsExpressionsInOrderBy, true);
    info.append(SqlInfo::SqlSupportsOrderByUnrelated, true);
    let group_by =
        [SqlSupportedGroupBy::SqlGroupByUnrelated as i32, SqlSupportedGroupBy::SqlGroupByBeyondSelect as i32];
    info.append(SqlInfo::SqlSupportedGroupBy, bits(&group_by));
    info.append(SqlInfo::SqlSupportsLikeEscapeClause, true);
    info.append(SqlInfo::SqlSupportsNonNullableColumns, false);
    let grammar = [SupportedSqlGrammar::SqlMinimumGrammar as i32, SupportedSqlGrammar::SqlCoreGrammar as i32];
    info.append(SqlInfo::SqlSupportedGrammar, bits(&grammar));
    info.append(SqlInfo::SqlAnsi92SupportedLevel, bits(&[ANSI92_ENTRY]));
    info.append(SqlInfo::SqlSupportsIntegrityEnhancementFacility, false);
    let joins =
        [SqlOuterJoinsSupportLevel::SqlLimitedOuterJoins as i32, SqlOuterJoinsSupportLevel::SqlFullOuterJoins as i32];
    info.append(SqlInfo::SqlOuterJoinsSupportLevel, bits(&joins));
    info.append(SqlInfo::SqlSchemasSupportedActions, 0);
    info.append(SqlInfo::SqlCatalogsSupportedActions, 0);
    info.append(SqlInfo::SqlSupportedPositionedCommands, 0);
    info.append(SqlInfo::SqlSelectForUpdateSupported, false);
    info.append(SqlInfo::SqlStoredProceduresSupported, false);
    let subqueries = [
        SqlSupportedSubqueries::SqlSubqueriesInComparisons as i32,
        SqlSupportedSubqueries::SqlSubqueriesInExists as i32,
        SqlSupportedSubqueries::SqlSubqueriesInIns as i32,
    ];
    info.append(SqlInfo::SqlSupportedSubqueries, bits(&subqueries));
    info.append(SqlInfo::SqlCorrelatedSubqueriesSupported, true);
    let unions = [SqlSupportedUnions::SqlUnion as i32, SqlSupportedUnions::SqlUnionAll as i32];
    info.append(SqlInfo::SqlSupportedUnions, bits(&unions));
}

/// The largest of things; 0 where there is no limit of its own.
fn describe_limits(info: &mut SqlInfoDataBuilder, limits: &QueryLimits) {
    for unlimited in [
        SqlInfo::SqlMaxBinaryLiteralLength,
        SqlInfo::SqlMaxCharLiteralLength,
        SqlInfo::SqlMaxColumnNameLength,
        SqlInfo::SqlMaxColumnsInGroupBy,
        SqlInfo::SqlMaxColumnsInIndex,
        SqlInfo::SqlMaxColumnsInOrderBy,
        SqlInfo::SqlMaxColumnsInSelect,
        SqlInfo::SqlMaxColumnsInTable,
        SqlInfo::SqlMaxConnections,
        SqlInfo::SqlMaxCursorNameLength,
        SqlInfo::SqlMaxIndexLength,
        SqlInfo::SqlDbSchemaNameLength,
        SqlInfo::SqlMaxProcedureNameLength,
        SqlInfo::SqlMaxCatalogNameLength,
        SqlInfo::SqlMaxRowSize,
        SqlInfo::SqlMaxTableNameLength,
        SqlInfo::SqlMaxTablesInSelect,
        SqlInfo::SqlMaxUsernameLength,
    ] {
        info.append(unlimited, 0i64);
    }
    info.append(SqlInfo::SqlMaxRowSizeIncludesBlobs, true);
    info.append(SqlInfo::SqlMaxStatementLength, i64::try_from(limits.text_bytes_max).unwrap_or(i64::MAX));
    info.append(SqlInfo::SqlMaxStatements, i64::try_from(limits.concurrency_max).unwrap_or(i64::MAX));
}

/// What JDBC has questions about and this server has not.
fn describe_jdbc(info: &mut SqlInfoDataBuilder) {
    // The protocol's text wants an int32 here; the JDBC driver reads an int64 and fails on anything else.
    info.append(SqlInfo::SqlDefaultTransactionIsolation, SqlTransactionIsolationLevel::SqlTransactionNone as i64);
    info.append(SqlInfo::SqlTransactionsSupported, false);
    let levels = [SqlTransactionIsolationLevel::SqlTransactionNone as i32];
    info.append(SqlInfo::SqlSupportedTransactionsIsolationLevels, bits(&levels));
    info.append(SqlInfo::SqlDataDefinitionCausesTransactionCommit, false);
    info.append(SqlInfo::SqlDataDefinitionsInTransactionsIgnored, false);
    let forward = [SqlSupportedResultSetType::SqlResultSetTypeForwardOnly as i32];
    info.append(SqlInfo::SqlSupportedResultSetTypes, bits(&forward));
    let read_only = [SqlSupportedResultSetConcurrency::SqlResultSetConcurrencyReadOnly as i32];
    info.append(SqlInfo::SqlSupportedConcurrenciesForResultSetForwardOnly, bits(&read_only));
    info.append(SqlInfo::SqlSupportedConcurrenciesForResultSetUnspecified, 0);
    info.append(SqlInfo::SqlSupportedConcurrenciesForResultSetScrollSensitive, 0);
    info.append(SqlInfo::SqlSupportedConcurrenciesForResultSetScrollInsensitive, 0);
    info.append(SqlInfo::SqlBatchUpdatesSupported, false);
    info.append(SqlInfo::SqlSavepointsSupported, false);
    info.append(SqlInfo::SqlNamedParametersSupported, false);
    info.append(SqlInfo::SqlLocatorsUpdateCopy, false);
    info.append(SqlInfo::SqlStoredFunctionsUsingCallSyntaxSupported, false);
}

/// A bit for each of these numbers.
fn bits(numbers: &[i32]) -> i32 {
    numbers.iter().fold(0, |bits, number| bits | 1 << number)
}

/// Which types CAST turns into which others.
fn conversions() -> BTreeMap<i32, Vec<i32>> {
    use SqlSupportsConvert as Convert;
    let numbers = [
        Convert::SqlConvertBigint as i32,
        Convert::SqlConvertBit as i32,
        Convert::SqlConvertDecimal as i32,
        Convert::SqlConvertFloat as i32,
        Convert::SqlConvertInteger as i32,
        Convert::SqlConvertReal as i32,
        Convert::SqlConvertSmallint as i32,
        Convert::SqlConvertTinyint as i32,
    ];
    let times = [Convert::SqlConvertDate as i32, Convert::SqlConvertTime as i32, Convert::SqlConvertTimestamp as i32];
    let (date, timestamp, text) = (times[0], times[2], Convert::SqlConvertVarchar as i32);
    let mut all: BTreeMap<i32, Vec<i32>> =
        numbers.iter().map(|number| (*number, numbers.iter().copied().chain([text]).collect())).collect();
    all.insert(text, numbers.iter().chain(&times).copied().collect());
    all.insert(date, vec![timestamp, text]);
    all.insert(times[1], vec![text]);
    all.insert(timestamp, vec![date, times[1], text]);
    all
}
