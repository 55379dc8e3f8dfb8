//! The types that columns and parameters can have, for programs that ask by GetXdbcTypeInfo.

use arrow_flight::sql::{
    Nullable, Searchable, XdbcDataType, XdbcDatetimeSubcode,
    metadata::{XdbcTypeInfo, XdbcTypeInfoData, XdbcTypeInfoDataBuilder},
};

/// Types that ODBC programs can name.
pub(super) fn types() -> arrow_flight::error::Result<XdbcTypeInfoData> {
    let mut builder = XdbcTypeInfoDataBuilder::new();
    let numbers = [
        ("BOOLEAN", XdbcDataType::XdbcBit, 1, 2),
        ("TINYINT", XdbcDataType::XdbcTinyint, 8, 2),
        ("SMALLINT", XdbcDataType::XdbcSmallint, 16, 2),
        ("INTEGER", XdbcDataType::XdbcInteger, 32, 2),
        ("BIGINT", XdbcDataType::XdbcBigint, 64, 2),
        ("REAL", XdbcDataType::XdbcReal, 24, 2),
        ("DOUBLE", XdbcDataType::XdbcDouble, 53, 2),
        ("DECIMAL", XdbcDataType::XdbcDecimal, 38, 10),
    ];
    for (name, data_type, size, radix) in numbers {
        builder.append(XdbcTypeInfo {
            unsigned_attribute: Some(false),
            num_prec_radix: Some(radix),
            ..described(name, data_type, size)
        });
    }
    let quoted = [
        ("VARCHAR", XdbcDataType::XdbcVarchar, i32::MAX),
        ("VARBINARY", XdbcDataType::XdbcVarbinary, i32::MAX),
        ("DATE", XdbcDataType::XdbcDate, 10),
        ("TIME", XdbcDataType::XdbcTime, 18),
        ("TIMESTAMP", XdbcDataType::XdbcTimestamp, 35),
    ];
    for (name, data_type, size) in quoted {
        let (sql_data_type, datetime_subcode) = match data_type {
            // The protocol has one number for the subcodes of years and of dates.
            XdbcDataType::XdbcDate => (XdbcDataType::XdbcDatetime, Some(XdbcDatetimeSubcode::XdbcSubcodeYear)),
            XdbcDataType::XdbcTime => (XdbcDataType::XdbcDatetime, Some(XdbcDatetimeSubcode::XdbcSubcodeTime)),
            XdbcDataType::XdbcTimestamp => {
                (XdbcDataType::XdbcDatetime, Some(XdbcDatetimeSubcode::XdbcSubcodeTimestamp))
            }
            other => (other, None),
        };
        builder.append(XdbcTypeInfo {
            literal_prefix: Some(if data_type == XdbcDataType::XdbcVarbinary { "X'" } else { "'" }.to_owned()),
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
