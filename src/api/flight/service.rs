//! Flight SQL's calls, each a few lines: decode, ask the engine or the metadata, encode.

use std::sync::Arc;

use arrow_flight::{
    Action, ActionType, FlightDescriptor, FlightInfo, HandshakeRequest, IpcMessage, SchemaAsIpc, Ticket,
    flight_service_server::FlightService,
    sql::{
        ActionBeginTransactionRequest, ActionBeginTransactionResult, ActionCancelQueryRequest, ActionCancelQueryResult,
        ActionClosePreparedStatementRequest, ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult,
        CommandGetCatalogs, CommandGetCrossReference, CommandGetDbSchemas, CommandGetExportedKeys,
        CommandGetImportedKeys, CommandGetPrimaryKeys, CommandGetSqlInfo, CommandGetTableTypes, CommandGetTables,
        CommandGetXdbcTypeInfo, CommandPreparedStatementQuery, CommandPreparedStatementUpdate, CommandStatementIngest,
        CommandStatementQuery, CommandStatementUpdate, DoPutPreparedStatementResult, ProstMessageExt, SqlInfo,
        TicketStatementQuery,
        server::{DoPutError, FlightSqlService, PeekableFlightDataStream},
    },
};
use bytes::Bytes;
use datafusion::arrow::{array::RecordBatch, datatypes::Schema, error::ArrowError, ipc::writer::IpcWriteOptions};
use futures::{StreamExt, stream};
use prost::Message;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    api::flight::{
        actions,
        answer::{self, FlightStream},
        handshake::{self, Handshakes},
        metadata,
        running::Running,
        session::Session,
        sql_info::About,
        statement::Statement,
        status,
    },
    model::tenant::TenantId,
    query::{NamedTable, Prepared, QueryEngine},
};

/// Flight SQL over a [`QueryEngine`].
#[derive(Debug)]
pub struct FlightSql {
    engine: Arc<QueryEngine>,
    about: Result<About, String>,
    running: Running,
}

impl FlightSql {
    pub(super) fn new(engine: Arc<QueryEngine>) -> Self {
        let about = About::try_new(engine.limits()).map_err(|error| error.to_string());
        Self { engine, about, running: Running::default() }
    }

    fn about(&self) -> Result<&About, Status> {
        self.about.as_ref().map_err(|error| Status::internal(error.clone()))
    }

    /// The tables, for who wants to look around.
    pub(super) async fn tables(&self) -> Result<Vec<NamedTable>, Status> {
        self.engine.tables(&TenantId::single()).await.map_err(|error| status(&error))
    }

    /// The schema of the answer to a statement, and a ticket for it.
    pub(super) async fn info_of(
        &self,
        statement: Statement,
        descriptor: FlightDescriptor,
    ) -> Result<Response<FlightInfo>, Status> {
        let prepared = self.prepared(&statement).await?;
        answer::info(&prepared.schema, &statement.ticket(), descriptor)
    }

    async fn prepared(&self, statement: &Statement) -> Result<Prepared, Status> {
        let prepared = self.engine.prepare(statement.request()?).await.map_err(|error| status(&error))?;
        Ok(Prepared { schema: answer::announced(&prepared.schema), ..prepared })
    }

    /// The answer to a statement, which can be cancelled if it came from a ticket.
    pub(super) async fn run(&self, statement: &Statement) -> Result<Response<FlightStream>, Status> {
        let answer = answer::of_requests(Arc::clone(&self.engine), statement.requests()?).await?;
        Ok(Response::new(match statement.id() {
            Some(id) => self.running.enter(id, answer),
            None => answer,
        }))
    }
}

/// FlightInfo of a metadata command: the command is its own ticket.
fn info_of_batch(
    batch: &RecordBatch,
    command: &impl ProstMessageExt,
    request: Request<FlightDescriptor>,
) -> Result<Response<FlightInfo>, Status> {
    answer::info(&batch.schema(), &command.as_any(), request.into_inner())
}

fn read_only(what: &str) -> Status {
    Status::unimplemented(format!("{what} is not possible: this server is read only"))
}

fn ipc_schema(schema: &Schema) -> Result<Bytes, Status> {
    let options = IpcWriteOptions::default();
    let message: IpcMessage = SchemaAsIpc::new(schema, &options)
        .try_into()
        .map_err(|error: ArrowError| Status::internal(error.to_string()))?;
    Ok(message.0)
}

#[tonic::async_trait]
impl FlightSqlService for FlightSql {
    type FlightService = Self;

    async fn do_handshake(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Handshakes>, Status> {
        handshake::answer(request.metadata())
    }

    async fn get_flight_info_statement(
        &self,
        query: CommandStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let statement = Statement::from_call(query.query, request.metadata())?;
        self.info_of(statement, request.into_inner()).await
    }

    async fn do_get_statement(
        &self,
        ticket: TicketStatementQuery,
        _: Request<Ticket>,
    ) -> Result<Response<FlightStream>, Status> {
        self.run(&Statement::from_handle(&ticket.statement_handle)?).await
    }

    async fn do_action_create_prepared_statement(
        &self,
        query: ActionCreatePreparedStatementRequest,
        request: Request<Action>,
    ) -> Result<ActionCreatePreparedStatementResult, Status> {
        let statement = Statement::from_call(query.query, request.metadata())?;
        let prepared = self.prepared(&statement).await?;
        Ok(ActionCreatePreparedStatementResult {
            prepared_statement_handle: statement.handle().into(),
            dataset_schema: ipc_schema(&prepared.schema)?,
            parameter_schema: ipc_schema(&prepared.parameters)?,
        })
    }

    /// Handles hold everything, so there is nothing to close.
    async fn do_action_close_prepared_statement(
        &self,
        _: ActionClosePreparedStatementRequest,
        _: Request<Action>,
    ) -> Result<(), Status> {
        Ok(())
    }

    async fn do_put_prepared_statement_query(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<DoPutPreparedStatementResult, Status> {
        let statement = Statement::from_handle(&query.prepared_statement_handle)?;
        let bound = statement.bound(request.into_inner()).await?;
        Ok(DoPutPreparedStatementResult { prepared_statement_handle: Some(bound.handle().into()) })
    }

    async fn get_flight_info_prepared_statement(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let statement = Statement::from_handle(&query.prepared_statement_handle)?;
        self.info_of(statement, request.into_inner()).await
    }

    async fn do_get_prepared_statement(
        &self,
        query: CommandPreparedStatementQuery,
        _: Request<Ticket>,
    ) -> Result<Response<FlightStream>, Status> {
        self.run(&Statement::from_handle(&query.prepared_statement_handle)?).await
    }

    async fn get_flight_info_catalogs(
        &self,
        query: CommandGetCatalogs,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        info_of_batch(&metadata::catalogs(&self.engine, query)?, &query, request)
    }

    async fn do_get_catalogs(
        &self,
        query: CommandGetCatalogs,
        _: Request<Ticket>,
    ) -> Result<Response<FlightStream>, Status> {
        Ok(answer::of_batch(metadata::catalogs(&self.engine, query)?))
    }

    async fn get_flight_info_schemas(
        &self,
        query: CommandGetDbSchemas,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        answer::info(&metadata::schemas_schema(query.clone()), &query.as_any(), request.into_inner())
    }

    async fn do_get_schemas(
        &self,
        query: CommandGetDbSchemas,
        _: Request<Ticket>,
    ) -> Result<Response<FlightStream>, Status> {
        Ok(answer::of_batch(metadata::schemas(&self.engine, query).await?))
    }

    async fn get_flight_info_tables(
        &self,
        query: CommandGetTables,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        answer::info(&metadata::tables_schema(query.clone()), &query.as_any(), request.into_inner())
    }

    async fn do_get_tables(
        &self,
        query: CommandGetTables,
        _: Request<Ticket>,
    ) -> Result<Response<FlightStream>, Status> {
        Ok(answer::of_batch(metadata::tables(&self.engine, query).await?))
    }

    async fn get_flight_info_table_types(
        &self,
        query: CommandGetTableTypes,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        info_of_batch(&metadata::table_types(query)?, &query, request)
    }

    async fn do_get_table_types(
        &self,
        query: CommandGetTableTypes,
        _: Request<Ticket>,
    ) -> Result<Response<FlightStream>, Status> {
        Ok(answer::of_batch(metadata::table_types(query)?))
    }

    async fn get_flight_info_sql_info(
        &self,
        query: CommandGetSqlInfo,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        info_of_batch(&self.about()?.info(query.clone())?, &query, request)
    }

    async fn do_get_sql_info(
        &self,
        query: CommandGetSqlInfo,
        _: Request<Ticket>,
    ) -> Result<Response<FlightStream>, Status> {
        Ok(answer::of_batch(self.about()?.info(query)?))
    }

    async fn get_flight_info_xdbc_type_info(
        &self,
        query: CommandGetXdbcTypeInfo,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        info_of_batch(&self.about()?.types(query)?, &query, request)
    }

    async fn do_get_xdbc_type_info(
        &self,
        query: CommandGetXdbcTypeInfo,
        _: Request<Ticket>,
    ) -> Result<Response<FlightStream>, Status> {
        Ok(answer::of_batch(self.about()?.types(query)?))
    }

    async fn get_flight_info_primary_keys(
        &self,
        query: CommandGetPrimaryKeys,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        info_of_batch(&metadata::primary_keys(), &query, request)
    }

    async fn do_get_primary_keys(
        &self,
        _: CommandGetPrimaryKeys,
        _: Request<Ticket>,
    ) -> Result<Response<FlightStream>, Status> {
        Ok(answer::of_batch(metadata::primary_keys()))
    }

    async fn get_flight_info_exported_keys(
        &self,
        query: CommandGetExportedKeys,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        info_of_batch(&metadata::foreign_keys(), &query, request)
    }

    async fn do_get_exported_keys(
        &self,
        _: CommandGetExportedKeys,
        _: Request<Ticket>,
    ) -> Result<Response<FlightStream>, Status> {
        Ok(answer::of_batch(metadata::foreign_keys()))
    }

    async fn get_flight_info_imported_keys(
        &self,
        query: CommandGetImportedKeys,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        info_of_batch(&metadata::foreign_keys(), &query, request)
    }

    async fn do_get_imported_keys(
        &self,
        _: CommandGetImportedKeys,
        _: Request<Ticket>,
    ) -> Result<Response<FlightStream>, Status> {
        Ok(answer::of_batch(metadata::foreign_keys()))
    }

    async fn get_flight_info_cross_reference(
        &self,
        query: CommandGetCrossReference,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        info_of_batch(&metadata::foreign_keys(), &query, request)
    }

    async fn do_get_cross_reference(
        &self,
        _: CommandGetCrossReference,
        _: Request<Ticket>,
    ) -> Result<Response<FlightStream>, Status> {
        Ok(answer::of_batch(metadata::foreign_keys()))
    }

    async fn do_put_error_callback(
        &self,
        _: Request<PeekableFlightDataStream>,
        error: DoPutError,
    ) -> Result<Response<<Self as FlightService>::DoPutStream>, Status> {
        Err(Status::invalid_argument(error.to_string()))
    }

    async fn do_put_statement_update(
        &self,
        _: CommandStatementUpdate,
        _: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        Err(read_only("an update"))
    }

    async fn do_put_statement_ingest(
        &self,
        _: CommandStatementIngest,
        _: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        Err(read_only("ingestion over Flight SQL"))
    }

    async fn do_put_prepared_statement_update(
        &self,
        _: CommandPreparedStatementUpdate,
        _: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        Err(read_only("an update"))
    }

    async fn do_action_begin_transaction(
        &self,
        _: ActionBeginTransactionRequest,
        _: Request<Action>,
    ) -> Result<ActionBeginTransactionResult, Status> {
        Err(read_only("a transaction"))
    }

    async fn do_action_cancel_query(
        &self,
        query: ActionCancelQueryRequest,
        _: Request<Action>,
    ) -> Result<ActionCancelQueryResult, Status> {
        let info = FlightInfo::decode(query.info).map_err(|error| {
            Status::invalid_argument(format!("CancelQuery: the FlightInfo cannot be read: {error}"))
        })?;
        // The numbers of the two results mean the same.
        Ok(ActionCancelQueryResult { result: actions::cancel(&info, &self.running) as i32 })
    }

    async fn do_action_fallback(
        &self,
        request: Request<Action>,
    ) -> Result<Response<<Self as FlightService>::DoActionStream>, Status> {
        let session = Session::of_call(request.metadata());
        let answer = actions::answer(request.get_ref(), session, self.engine.namespace(), &self.running)?;
        let body = arrow_flight::Result::new(answer.body);
        let mut response: Response<<Self as FlightService>::DoActionStream> =
            Response::new(stream::iter([Ok(body)]).boxed());
        if let Some(cookie) = answer.cookie {
            let cookie = cookie.parse().map_err(|_| Status::internal("a cookie that is no header"))?;
            response.metadata_mut().insert("set-cookie", cookie);
        }
        Ok(response)
    }

    async fn list_custom_actions(&self) -> Option<Vec<Result<ActionType, Status>>> {
        let action = |(name, description): &(&str, &str)| {
            Ok(ActionType { r#type: (*name).to_owned(), description: (*description).to_owned() })
        };
        Some(actions::KNOWN.iter().map(action).collect())
    }

    /// What the server says about itself is fixed when it is built.
    async fn register_sql_info(&self, _: i32, _: &SqlInfo) {}
}
