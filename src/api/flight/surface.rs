//! The Flight service around [`FlightSql`]: what its trait leaves unanswered.
//!
//! C++ and Java clients ask for schemas and poll for plans; both are what GetFlightInfo says. Clients that know Flight but
//! not Flight SQL, such as `pyarrow.flight`, need no protobuf messages:
//!
//! | they send | which is |
//! |---|---|
//! | ListFlights | a FlightInfo for each table, its path as the descriptor |
//! | a descriptor with a path: table, or schema and table, or catalogue, schema and table | all of the table |
//! | a descriptor with a command, or a ticket, that is text | a statement |

use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest, PollInfo,
    SchemaResult, Ticket, flight_descriptor::DescriptorType, flight_service_server::FlightService, sql::Any,
};
use futures::{StreamExt, TryStreamExt, future::ready, stream};
use prost::Message;
use tonic::{Request, Response, Status, Streaming, metadata::MetadataMap};

use crate::{
    api::flight::{FlightSql, answer, statement::Statement},
    query::NamedTable,
};

/// How the types of Flight SQL's messages begin; text does not begin with a newline and such a name.
const TYPE_PREFIX: &str = "type.googleapis.com/";

/// Actions that the trait lists and that there are not.
const ABSENT_ACTIONS: [&str; 5] =
    ["CreatePreparedSubstraitPlan", "BeginTransaction", "EndTransaction", "BeginSavepoint", "EndSavepoint"];

/// The whole of the Flight protocol.
#[derive(Debug)]
pub struct Surface {
    inner: FlightSql,
}

impl Surface {
    pub(super) fn new(inner: FlightSql) -> Self {
        Self { inner }
    }
}

#[tonic::async_trait]
impl FlightService for Surface {
    type HandshakeStream = <FlightSql as FlightService>::HandshakeStream;
    type ListFlightsStream = <FlightSql as FlightService>::ListFlightsStream;
    type DoGetStream = <FlightSql as FlightService>::DoGetStream;
    type DoPutStream = <FlightSql as FlightService>::DoPutStream;
    type DoActionStream = <FlightSql as FlightService>::DoActionStream;
    type ListActionsStream = <FlightSql as FlightService>::ListActionsStream;
    type DoExchangeStream = <FlightSql as FlightService>::DoExchangeStream;

    async fn handshake(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        self.inner.handshake(request).await
    }

    async fn list_flights(&self, _: Request<Criteria>) -> Result<Response<Self::ListFlightsStream>, Status> {
        let mut flights = Vec::new();
        for NamedTable { schema, name, columns } in self.inner.tables().await? {
            let path = vec![schema, name];
            let statement = Statement::of_table(&path, &MetadataMap::new())?;
            let descriptor = FlightDescriptor::new_path(path);
            flights.push(answer::info(&columns, &statement.ticket(), descriptor).map(Response::into_inner));
        }
        Ok(Response::new(stream::iter(flights).boxed()))
    }

    async fn get_flight_info(&self, request: Request<FlightDescriptor>) -> Result<Response<FlightInfo>, Status> {
        let descriptor = request.get_ref();
        let statement = if descriptor.r#type() == DescriptorType::Path {
            Some(Statement::of_table(&descriptor.path, request.metadata())?)
        } else {
            text(&descriptor.cmd).map(|text| Statement::from_call(text, request.metadata())).transpose()?
        };
        match statement {
            Some(statement) => self.inner.info_of(statement, request.into_inner()).await,
            None => self.inner.get_flight_info(request).await,
        }
    }

    async fn poll_flight_info(&self, request: Request<FlightDescriptor>) -> Result<Response<PollInfo>, Status> {
        let info = self.get_flight_info(request).await?;
        // Without a descriptor to poll again, the plan is complete.
        Ok(info.map(|info| PollInfo { progress: Some(1.0), ..PollInfo::new().with_info(info) }))
    }

    async fn get_schema(&self, request: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        let info = self.get_flight_info(request).await?;
        Ok(info.map(|info| SchemaResult { schema: info.schema }))
    }

    async fn do_get(&self, request: Request<Ticket>) -> Result<Response<Self::DoGetStream>, Status> {
        match text(&request.get_ref().ticket) {
            Some(text) => self.inner.run(&Statement::from_call(text, request.metadata())?).await,
            None => self.inner.do_get(request).await,
        }
    }

    async fn do_put(&self, request: Request<Streaming<FlightData>>) -> Result<Response<Self::DoPutStream>, Status> {
        self.inner.do_put(request).await
    }

    async fn do_action(&self, request: Request<Action>) -> Result<Response<Self::DoActionStream>, Status> {
        self.inner.do_action(request).await
    }

    async fn list_actions(&self, request: Request<Empty>) -> Result<Response<Self::ListActionsStream>, Status> {
        let listed = self.inner.list_actions(request).await?;
        let there = |action: &ActionType| !ABSENT_ACTIONS.contains(&action.r#type.as_str());
        Ok(listed.map(|actions| actions.try_filter(move |action| ready(there(action))).boxed()))
    }

    async fn do_exchange(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoExchangeStream>, Status> {
        self.inner.do_exchange(request).await
    }
}

/// The statement in a command or ticket that is none of Flight SQL's messages.
fn text(bytes: &[u8]) -> Option<String> {
    if bytes.is_empty() || Any::decode(bytes).is_ok_and(|any| any.type_url.starts_with(TYPE_PREFIX)) {
        return None;
    }
    String::from_utf8(bytes.to_vec()).ok()
}
