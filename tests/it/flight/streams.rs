//! Answers on their way: the size of messages, a client that is slow, and one that goes away.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use arrow_flight::{
    Action, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, FlightClient, FlightDescriptor, FlightInfo,
    Ticket,
    flight_service_client::FlightServiceClient,
    sql::{ActionCancelQueryRequest, ProstMessageExt},
};
use datafusion::{
    catalog::{TableProvider, streaming::StreamingTable},
    execution::{SendableRecordBatchStream, TaskContext},
    physical_plan::{stream::RecordBatchStreamAdapter, streaming::PartitionStream},
};
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use prost::Message;
use tonic::transport::Channel;
use tracehouse::{
    clock::ManualClock,
    metrics::Metrics,
    model::{schema::logical_schema, tenant::TenantId},
    query::{EngineOptions, QueryEngine, QueryLimits},
};

use super::{Server, client, server};
use crate::query::data::{START, of_json, plain_span};

/// How long a query may live on after its client is gone.
const GONE: Duration = Duration::from_secs(1);

/// A table that counts the rows that are taken from it.
#[derive(Debug)]
struct Counted {
    batch: RecordBatch,
    batches: usize,
    rows: Arc<AtomicU64>,
}

impl PartitionStream for Counted {
    fn schema(&self) -> &SchemaRef {
        self.batch.schema_ref()
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (batch, rows) = (self.batch.clone(), Arc::clone(&self.rows));
        let batches = stream::repeat_with(move || {
            rows.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
            Ok(batch.clone())
        });
        Box::pin(RecordBatchStreamAdapter::new(self.batch.schema(), batches.take(self.batches)))
    }
}

/// A server over a table of `batches` times 1,000 spans.
struct Large {
    server: Server,
    rows: Arc<AtomicU64>,
    metrics: Arc<Metrics>,
}

async fn large(batches: usize) -> Large {
    let lines: Vec<_> = (0..1000).map(|span| plain_span(1, span, true, 0, "shop", false)).collect();
    let rows = Arc::new(AtomicU64::new(0));
    let partition = Counted { batch: of_json(&lines.join("\n")), batches, rows: Arc::clone(&rows) };
    let table = StreamingTable::try_new(logical_schema(), vec![Arc::new(partition)]).unwrap();
    let table: Arc<dyn TableProvider> = Arc::new(table);
    let metrics = Arc::new(Metrics::new().unwrap());
    let engine = QueryEngine::try_new(EngineOptions {
        tables: Arc::new(move |_: &TenantId| {
            let table = Arc::clone(&table);
            async move { Ok(table) }.boxed()
        }),
        store: None,
        limits: QueryLimits { timeout: Duration::from_secs(120), ..QueryLimits::default() },
        threads: 2,
        spill_folder: std::env::temp_dir(),
        clock: Arc::new(ManualClock::new(START)),
        metrics: Arc::clone(&metrics),
        settings: Arc::default(),
    })
    .unwrap();
    Large { server: server(engine).await, rows, metrics }
}

impl Large {
    fn taken(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// Waits until nothing more is taken from the table.
    async fn standstill(&self) -> u64 {
        let mut taken = self.taken();
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let now = self.taken();
            if now == taken {
                return taken;
            }
            taken = now;
        }
    }

    async fn running(&self) {
        while self.metrics.queries_running.get() == 0 {
            tokio::task::yield_now().await;
        }
    }

    async fn ended(&self) {
        let ended = async {
            while self.metrics.queries_running.get() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(tokio::time::timeout(GONE, ended).await.is_ok(), "the query runs on after its client is gone");
        // A task that was reading when the query ended takes that batch to its end.
        let still = tokio::time::timeout(GONE, self.standstill()).await;
        assert!(still.is_ok(), "rows are taken after the query has ended");
    }
}

#[tokio::test]
async fn large_answers_come_in_messages_below_four_megabytes() {
    let (server, mut client) = client().await;
    let text = "SELECT value, repeat('x', 1000) AS pad FROM generate_series(1, 20000)";
    let info = client.execute(text.to_owned(), None).await.unwrap();
    let ticket = info.endpoint[0].ticket.clone().unwrap();
    let mut raw = FlightServiceClient::new(server.channel.clone()).max_decoding_message_size(4 << 20);
    let messages: Vec<_> = raw.do_get(ticket).await.unwrap().into_inner().try_collect().await.unwrap();
    assert!(messages.len() > 5);
    assert!(messages.iter().all(|message| message.data_body.len() <= 2 << 20));
}

#[tokio::test]
async fn a_few_large_rows_do_not_make_a_large_message() {
    let (server, mut client) = client().await;
    // Every 500th row is as large as a few thousand of the others.
    let text =
        "SELECT CASE WHEN value % 500 = 0 THEN repeat('x', 300000) ELSE 'y' END AS pad FROM generate_series(1, 8000)";
    let info = client.execute(text.to_owned(), None).await.unwrap();
    let ticket = info.endpoint[0].ticket.clone().unwrap();
    let mut raw = FlightServiceClient::new(server.channel.clone()).max_decoding_message_size(4 << 20);
    let messages: Vec<_> = raw.do_get(ticket).await.unwrap().into_inner().try_collect().await.unwrap();
    let sizes: Vec<_> = messages.iter().map(Message::encoded_len).collect();
    assert!(sizes.iter().all(|bytes| *bytes < 2 << 20), "{sizes:?}");
    assert!(sizes.iter().sum::<usize>() > 16 * 300_000);
}

#[tokio::test]
async fn a_slow_client_holds_the_query_up_and_not_the_answer_in_memory() {
    const BATCHES: usize = 500;
    /// Rows between the table and the client. Operators make batches of 8,192 rows; some are being converted, two wait
    /// in the engine's channel, one is with the encoder, and the connection takes a part of one.
    const IN_FLIGHT_ROWS_MAX: u64 = 20 * 8_192;
    let large = large(BATCHES).await;
    let mut client = FlightClient::new(large.server.channel.clone());
    let mut answer = client.do_get(Ticket::new("SELECT * FROM spans")).await.unwrap();
    let mut received = answer.try_next().await.unwrap().unwrap().num_rows() as u64;
    for _ in 0..3 {
        let in_flight = large.standstill().await - received;
        assert!(in_flight <= IN_FLIGHT_ROWS_MAX, "{in_flight} rows are in flight");
        for _ in 0..10 {
            received += answer.try_next().await.unwrap().unwrap().num_rows() as u64;
        }
    }
    while let Some(batch) = answer.try_next().await.unwrap() {
        received += batch.num_rows() as u64;
        let in_flight = large.taken() - received;
        assert!(in_flight <= IN_FLIGHT_ROWS_MAX, "{in_flight} rows are in flight");
    }
    assert_eq!(received, 1000 * BATCHES as u64);
}

#[tokio::test]
async fn a_query_stops_when_its_client_goes_away() {
    let large = large(usize::MAX).await;
    // In the middle of the answer, and before there is any of it.
    for text in ["SELECT * FROM spans", "SELECT count(*), max(name) FROM spans"] {
        let mut client = FlightClient::new(large.server.channel.clone());
        let mut answer = client.do_get(Ticket::new(text)).await.unwrap();
        if text.contains('*') && !text.contains("count") {
            answer.try_next().await.unwrap().unwrap();
        }
        large.running().await;
        drop(answer);
        large.ended().await;
    }
    // With the connection, and before there is even a stream.
    let uri = large.server.uri.clone();
    let channel = Channel::from_shared(uri).unwrap().connect().await.unwrap();
    let mut client = FlightClient::new(channel);
    let mut answer = client.do_get(Ticket::new("SELECT * FROM spans")).await.unwrap();
    answer.try_next().await.unwrap().unwrap();
    drop((client, answer));
    large.ended().await;
}

async fn cancelled_by(large: &Large, cancel: impl AsyncFnOnce(&mut FlightClient, FlightInfo)) {
    let mut client = FlightClient::new(large.server.channel.clone());
    let info = client.get_flight_info(FlightDescriptor::new_cmd("SELECT * FROM spans")).await.unwrap();
    let mut answer = client.do_get(info.endpoint[0].ticket.clone().unwrap()).await.unwrap();
    answer.try_next().await.unwrap().unwrap();
    large.running().await;
    cancel(&mut client, info).await;
    let error = loop {
        match answer.try_next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a cancelled answer looks complete"),
            Err(error) => break error.to_string(),
        }
    };
    assert!(error.contains("the query was cancelled by its ticket"), "{error}");
    large.ended().await;
}

#[tokio::test]
async fn a_query_is_cancelled_by_its_flight_info() {
    let large = large(usize::MAX).await;
    cancelled_by(&large, async |client, info| {
        let request = CancelFlightInfoRequest { info: Some(info) };
        let action = Action::new("CancelFlightInfo", request.encode_to_vec());
        let answers: Vec<_> = client.do_action(action).await.unwrap().try_collect().await.unwrap();
        assert_eq!(CancelFlightInfoResult::decode(&*answers[0]).unwrap().status(), CancelStatus::Cancelled);
    })
    .await;
    cancelled_by(&large, async |client, info| {
        let request = ActionCancelQueryRequest { info: info.encode_to_vec().into() };
        let action = Action::new("CancelQuery", request.as_any().encode_to_vec());
        let answers: Vec<_> = client.do_action(action).await.unwrap().try_collect().await.unwrap();
        assert_eq!(answers.len(), 1);
    })
    .await;
}
