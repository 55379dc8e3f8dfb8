//! A SQL client over Flight SQL: arrow-flight's own.

use arrow::array::{AsArray, RecordBatch};
use arrow_flight::sql::client::FlightSqlServiceClient;
use futures::TryStreamExt;
use tonic::transport::{Channel, Endpoint};

/// Runs one statement against a server and returns all batches; an error is the text that a user sees.
pub(crate) async fn query(address: &str, text: &str) -> Result<Vec<RecordBatch>, String> {
    let channel = connect(address).await?;
    let mut client = FlightSqlServiceClient::new(channel);
    let info = client.execute(text.to_owned(), None).await.map_err(|cause| cause.to_string())?;
    let mut batches = Vec::new();
    for endpoint in info.endpoint {
        let ticket = endpoint.ticket.ok_or("endpoint without ticket")?;
        let stream = client.do_get(ticket).await.map_err(|cause| cause.to_string())?;
        batches.extend(stream.try_collect::<Vec<_>>().await.map_err(|cause| cause.to_string())?);
    }
    Ok(batches)
}

async fn connect(address: &str) -> Result<Channel, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|cause| cause.to_string())?;
    endpoint.connect().await.map_err(|cause| cause.to_string())
}

/// The values of a text column, over all batches.
pub(crate) fn text_column(batches: &[RecordBatch], name: &str) -> Vec<String> {
    batches
        .iter()
        .flat_map(|batch| batch[name].as_string::<i32>().iter())
        .map(|value| value.unwrap_or_default().to_owned())
        .collect()
}
