//! The reference workload over OTLP/gRPC, as fast as the server takes it.

use std::{sync::Arc, time::Duration};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use tokio::sync::Mutex;
use tracehouse::demo::{Workload, WorkloadSettings};

/// Returns when every request is acknowledged; what a server under pressure refuses is sent again.
pub(crate) async fn send(address: &str, settings: WorkloadSettings, senders: u64) {
    let requests = Arc::new(Mutex::new(Workload::new(settings)));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..senders {
        let (address, requests) = (format!("http://{address}"), Arc::clone(&requests));
        tasks.spawn(async move {
            let mut client = TraceServiceClient::connect(address).await.unwrap();
            while let Some(request) = { requests.lock().await.next() } {
                while let Err(status) = client.export(request.clone()).await {
                    assert_eq!(status.code(), tonic::Code::Unavailable, "{status}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
}
