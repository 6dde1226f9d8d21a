//! What Flight SQL clients ask about the server: SQL info, catalogs, schemas, tables, types.

use arrow::array::RecordBatch;
use arrow_flight::sql::metadata::{
    SqlInfoData, SqlInfoDataBuilder, XdbcTypeInfo, XdbcTypeInfoData, XdbcTypeInfoDataBuilder,
};
use arrow_flight::sql::{
    CommandGetCatalogs, CommandGetDbSchemas, CommandGetSqlInfo, CommandGetTableTypes, CommandGetTables,
    CommandGetXdbcTypeInfo, Nullable, Searchable, SqlInfo, SqlSupportedTransaction,
    SqlTransactionIsolationLevel, XdbcDataType,
};
use stevedore_common::{Error, Result};

use super::CATALOG;
use crate::engine::{DEFAULT_IDLE_SECONDS, STREAM, SYSTEM_VIEW, TABLE, TableListing};

/// The version of Flight SQL's Arrow format that we speak.
const ARROW_VERSION: &str = "1.3";

/// How long a transaction may be idle, unless its session says otherwise.
const IDLE_TIMEOUT_MS: i32 = (DEFAULT_IDLE_SECONDS * 1_000) as i32;

/// What never changes while the server runs.
pub struct StaticInfo {
    sql_info: SqlInfoData,
    types: XdbcTypeInfoData,
}

fn arrow_error(e: impl std::fmt::Display) -> Error {
    Error::internal(format!("building server information: {e}"))
}

impl StaticInfo {
    pub(super) fn new() -> Result<Self> {
        let mut info = SqlInfoDataBuilder::new();
        info.append(SqlInfo::FlightSqlServerName, "Stevedore");
        info.append(SqlInfo::FlightSqlServerVersion, env!("CARGO_PKG_VERSION"));
        info.append(SqlInfo::FlightSqlServerArrowVersion, ARROW_VERSION);
        info.append(SqlInfo::FlightSqlServerReadOnly, false);
        info.append(SqlInfo::FlightSqlServerSql, true);
        info.append(SqlInfo::FlightSqlServerSubstrait, false);
        info.append(SqlInfo::FlightSqlServerTransaction, SqlSupportedTransaction::Transaction as i32);
        info.append(SqlInfo::FlightSqlServerCancel, true);
        info.append(SqlInfo::FlightSqlServerBulkIngestion, true);
        info.append(SqlInfo::FlightSqlServerIngestTransactionsSupported, true);
        info.append(SqlInfo::FlightSqlServerStatementTimeout, 0i32);
        info.append(SqlInfo::FlightSqlServerTransactionTimeout, IDLE_TIMEOUT_MS);
        info.append(SqlInfo::SqlDdlCatalog, false);
        info.append(SqlInfo::SqlDdlSchema, true);
        info.append(SqlInfo::SqlDdlTable, true);
        // Case-insensitive (SqlSupportedCaseSensitivity), stored as lower case.
        info.append(SqlInfo::SqlIdentifierCase, 1i32);
        info.append(SqlInfo::SqlIdentifierQuoteChar, "\"");
        info.append(SqlInfo::SqlQuotedIdentifierCase, 3i32);
        info.append(SqlInfo::SqlAllTablesAreSelectable, true);
        info.append(SqlInfo::SqlNullOrdering, 0i32);
        info.append(SqlInfo::SqlTransactionsSupported, true);
        // A bit for each level. Snapshot isolation is repeatable read, and more.
        let repeatable_read = 1i32 << SqlTransactionIsolationLevel::SqlTransactionRepeatableRead as i32;
        info.append(SqlInfo::SqlSupportedTransactionsIsolationLevels, repeatable_read);
        info.append(
            SqlInfo::SqlDefaultTransactionIsolation,
            SqlTransactionIsolationLevel::SqlTransactionRepeatableRead as i32,
        );
        info.append(SqlInfo::SqlDataDefinitionCausesTransactionCommit, false);
        info.append(SqlInfo::SqlDataDefinitionsInTransactionsIgnored, false);
        info.append(SqlInfo::SqlSchemaTerm, "database");
        info.append(SqlInfo::SqlCatalogTerm, "catalog");
        Ok(Self { sql_info: info.build().map_err(arrow_error)?, types: xdbc_types()? })
    }

    pub(super) fn sql_info_schema(&self, command: CommandGetSqlInfo) -> arrow::datatypes::SchemaRef {
        command.into_builder(&self.sql_info).schema()
    }

    /// An empty request means all.
    pub(super) fn sql_info(&self, command: CommandGetSqlInfo) -> Result<RecordBatch> {
        command.into_builder(&self.sql_info).build().map_err(|e| Error::invalid(format!("sql info: {e}")))
    }

    pub(super) fn types_schema(&self, command: CommandGetXdbcTypeInfo) -> arrow::datatypes::SchemaRef {
        command.into_builder(&self.types).schema()
    }

    pub(super) fn types(&self, command: CommandGetXdbcTypeInfo) -> Result<RecordBatch> {
        command.into_builder(&self.types).build().map_err(|e| Error::invalid(format!("type info: {e}")))
    }
}

fn xdbc_types() -> Result<XdbcTypeInfoData> {
    let mut builder = XdbcTypeInfoDataBuilder::new();
    let types = [
        ("BOOLEAN", XdbcDataType::XdbcBit, 1),
        ("TINYINT", XdbcDataType::XdbcTinyint, 3),
        ("SMALLINT", XdbcDataType::XdbcSmallint, 5),
        ("INT", XdbcDataType::XdbcInteger, 10),
        ("BIGINT", XdbcDataType::XdbcBigint, 19),
        ("FLOAT", XdbcDataType::XdbcReal, 7),
        ("DOUBLE", XdbcDataType::XdbcDouble, 15),
        ("DECIMAL", XdbcDataType::XdbcDecimal, 38),
        ("DATE", XdbcDataType::XdbcDate, 10),
        ("TIMESTAMP", XdbcDataType::XdbcTimestamp, 26),
        ("VARCHAR", XdbcDataType::XdbcVarchar, i32::MAX),
        ("BINARY", XdbcDataType::XdbcVarbinary, i32::MAX),
        ("VARIANT", XdbcDataType::XdbcVarchar, i32::MAX),
    ];
    for (name, data_type, size) in types {
        builder.append(XdbcTypeInfo {
            type_name: name.into(),
            data_type,
            column_size: Some(size),
            literal_prefix: None,
            literal_suffix: None,
            create_params: None,
            nullable: Nullable::NullabilityNullable,
            case_sensitive: true,
            searchable: Searchable::Full,
            unsigned_attribute: None,
            fixed_prec_scale: false,
            auto_increment: Some(false),
            local_type_name: Some(name.into()),
            minimum_scale: None,
            maximum_scale: None,
            sql_data_type: data_type,
            datetime_subcode: None,
            num_prec_radix: None,
            interval_precision: None,
        });
    }
    builder.build().map_err(arrow_error)
}

pub(super) fn catalogs(command: CommandGetCatalogs) -> Result<RecordBatch> {
    let mut builder = command.into_builder();
    builder.append(CATALOG);
    builder.build().map_err(arrow_error)
}

pub(super) fn schemas(command: CommandGetDbSchemas, databases: &[String]) -> Result<RecordBatch> {
    let mut builder = command.into_builder();
    for database in databases {
        builder.append(CATALOG, database);
    }
    builder.build().map_err(arrow_error)
}

pub(super) fn tables(command: CommandGetTables, tables: &[TableListing]) -> Result<RecordBatch> {
    let mut builder = command.into_builder();
    for table in tables {
        builder
            .append(CATALOG, &table.database, &table.name, table.table_type, &table.schema)
            .map_err(|e| Error::internal(format!("listing table '{}': {e}", table.name)))?;
    }
    builder.build().map_err(arrow_error)
}

pub(super) fn table_types(command: CommandGetTableTypes) -> Result<RecordBatch> {
    let mut builder = command.into_builder();
    for table_type in [STREAM, SYSTEM_VIEW, TABLE] {
        builder.append(table_type);
    }
    builder.build().map_err(arrow_error)
}
