//! Bulk ingestion: `CommandStatementIngest` as a request to the engine.

use arrow::datatypes::Schema;
use arrow_flight::FlightData;
use arrow_flight::sql::server::PeekableFlightDataStream;
use arrow_flight::sql::{CommandStatementIngest, TableExistsOption, TableNotExistOption};
use futures::TryStreamExt;
use stevedore_common::{Error, Result};
use tonic::Status;

use super::{FlightSql, unsupported};
use crate::api::sessions::ClientSession;
use crate::engine::{CATALOG, IngestMode, IngestRequest};
use stevedore_status::{error_of_status, status_of};

impl FlightSql {
    /// Writes a client's rows to a table. Answers how many.
    pub(super) async fn ingest(
        &self,
        session: &ClientSession,
        command: CommandStatementIngest,
        mut rows: PeekableFlightDataStream,
    ) -> std::result::Result<i64, Status> {
        if command.temporary {
            return unsupported("temporary tables");
        }
        let request = request_of(&command).map_err(status_of)?;
        let first = rows.peek().await.and_then(|first| first.as_ref().ok());
        let schema = first.and_then(schema_of).ok_or_else(|| {
            status_of(Error::invalid("the data to ingest begins with no Arrow schema that can be read"))
        })?;
        let handle = self.handle(session, request.to_string(), command.transaction_id.as_deref()).await?;
        let rows = rows.map_err(|status| error_of_status(&status));
        let rows = self.engine.ingest(&handle, &request, &schema, rows).await.map_err(status_of)?;
        Ok(i64::try_from(rows).unwrap_or(i64::MAX))
    }
}

fn schema_of(message: &FlightData) -> Option<Schema> {
    // What is no flatbuffer of a schema is an error here, not a panic: the bytes are verified.
    if message.data_header.is_empty() {
        return None;
    }
    Schema::try_from(message).ok()
}

fn request_of(command: &CommandStatementIngest) -> Result<IngestRequest> {
    if let Some(catalog) = command.catalog.as_deref().filter(|name| !name.is_empty() && *name != CATALOG) {
        return Err(Error::not_found(format!("catalog '{catalog}' does not exist"))
            .hint(format!("there is one: {CATALOG}; databases are schemas in it")));
    }
    if let Some(option) = command.options.keys().min() {
        return Err(Error::invalid(format!("unknown option '{option}' of a bulk ingestion; there are none")));
    }
    if command.table.is_empty() {
        return Err(Error::invalid("a bulk ingestion names no table"));
    }
    let definition = command.table_definition_options.unwrap_or_default();
    let mode = match (definition.if_not_exist(), definition.if_exists()) {
        (TableNotExistOption::Create, TableExistsOption::Fail) => IngestMode::Create,
        (TableNotExistOption::Create, TableExistsOption::Append) => IngestMode::CreateOrAppend,
        (TableNotExistOption::Create, TableExistsOption::Replace) => IngestMode::Replace,
        (TableNotExistOption::Fail, TableExistsOption::Append) => IngestMode::Append,
        (TableNotExistOption::Fail, TableExistsOption::Replace) => IngestMode::ReplaceExisting,
        (TableNotExistOption::Fail, TableExistsOption::Fail) => {
            return Err(Error::invalid(
                "a bulk ingestion that fails where its table exists and where it does not",
            ));
        }
        (TableNotExistOption::Unspecified, _) => return Err(unspecified("if_not_exist", "CREATE, FAIL")),
        (_, TableExistsOption::Unspecified) => return Err(unspecified("if_exists", "FAIL, APPEND, REPLACE")),
    };
    Ok(IngestRequest {
        database: command.schema.clone().filter(|name| !name.is_empty()),
        table: command.table.clone(),
        mode,
    })
}

fn unspecified(option: &str, allowed: &str) -> Error {
    Error::invalid(format!("a bulk ingestion leaves {option} open; allowed: {allowed}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use arrow_flight::sql::TableDefinitionOptions;

    use super::*;

    fn command(if_not_exist: TableNotExistOption, if_exists: TableExistsOption) -> CommandStatementIngest {
        let definition =
            TableDefinitionOptions { if_not_exist: if_not_exist.into(), if_exists: if_exists.into() };
        CommandStatementIngest {
            table_definition_options: Some(definition),
            table: "t".into(),
            ..CommandStatementIngest::default()
        }
    }

    #[test]
    fn a_request_says_where_its_rows_go() {
        let append = command(TableNotExistOption::Fail, TableExistsOption::Append);
        let named = CommandStatementIngest {
            schema: Some("roads".into()),
            catalog: Some(CATALOG.into()),
            ..append.clone()
        };
        let request = request_of(&named).unwrap();
        assert_eq!((request.database.as_deref(), request.mode), (Some("roads"), IngestMode::Append));
        assert_eq!(request_of(&append).unwrap().database, None);

        let elsewhere = CommandStatementIngest { catalog: Some("other".into()), ..append.clone() };
        assert!(
            request_of(&elsewhere).unwrap_err().to_string().starts_with("catalog 'other' does not exist")
        );
        let options = [("speed".to_owned(), "fast".to_owned())].into();
        let optional = CommandStatementIngest { options, ..append };
        assert!(request_of(&optional).unwrap_err().to_string().contains("unknown option 'speed'"));
    }

    #[test]
    fn what_is_left_open_is_an_error_that_names_it() {
        let open = command(TableNotExistOption::Unspecified, TableExistsOption::Append);
        assert!(request_of(&open).unwrap_err().to_string().contains("if_not_exist"));
        let open = command(TableNotExistOption::Create, TableExistsOption::Unspecified);
        assert!(request_of(&open).unwrap_err().to_string().contains("if_exists"));
        let none = CommandStatementIngest { table_definition_options: None, ..open };
        assert!(request_of(&none).is_err());
        let never = command(TableNotExistOption::Fail, TableExistsOption::Fail);
        assert!(request_of(&never).is_err());
    }
}
