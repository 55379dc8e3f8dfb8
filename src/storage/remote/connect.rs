//! From settings to a client of the service that keeps a bucket.
//!
//! What a setting leaves empty comes from the environment, as `object_store` reads it for each service: variables,
//! identity of the machine or of its service account. The client repeats requests that fail on the way; a conditional
//! write that is repeated can meet its own first try, which whoever commits finds out.

use std::{sync::Arc, time::Duration};

use object_store::{
    BackoffConfig, ClientConfigKey, ObjectStore, RetryConfig, StaticCredentialProvider,
    aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut},
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
    client::SpawnedReqwestConnector,
    gcp::{GcpCredential, GoogleCloudStorageBuilder, GoogleConfigKey},
};
use tokio::runtime::Handle;

use crate::{
    config::{Bucket, BucketService, StoreSettings},
    storage::store::StoreError,
};

/// First pause before a request is repeated.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// Longest pause before a request is repeated.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// A client for `bucket`. Its network work runs on the caller's runtime, whoever calls it later.
pub(in crate::storage) fn connect(
    bucket: &Bucket,
    settings: &StoreSettings,
) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let client: Result<Arc<dyn ObjectStore>, _> = match bucket.service {
        BucketService::S3 => s3(bucket, settings).build().map(|client| Arc::new(client) as _),
        BucketService::Gcs => gcs(bucket, settings).build().map(|client| Arc::new(client) as _),
        BucketService::Azure => azure(bucket, settings).build().map(|client| Arc::new(client) as _),
    };
    client.map_err(|source| StoreError::Bucket { bucket: bucket.to_string(), source: Box::new(source) })
}

fn s3(bucket: &Bucket, settings: &StoreSettings) -> AmazonS3Builder {
    let given = [
        (AmazonS3ConfigKey::AccessKeyId, settings.access_key_id.as_str()),
        (AmazonS3ConfigKey::SecretAccessKey, settings.secret_access_key.reveal()),
        (AmazonS3ConfigKey::Token, settings.session_token.reveal()),
        (AmazonS3ConfigKey::Region, settings.region.as_str()),
        (AmazonS3ConfigKey::Endpoint, settings.endpoint.as_str()),
        (AmazonS3ConfigKey::VirtualHostedStyleRequest, if settings.virtual_hosted_style { "true" } else { "" }),
        (AmazonS3ConfigKey::SkipSignature, if settings.anonymous { "true" } else { "" }),
    ];
    let mut builder = AmazonS3Builder::from_env();
    for (key, value) in given.into_iter().filter(|(_, value)| !value.is_empty()) {
        builder = builder.with_config(key, value);
    }
    for (key, value) in client_options(settings) {
        builder = builder.with_config(AmazonS3ConfigKey::Client(key), value);
    }
    builder
        .with_bucket_name(&bucket.name)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_retry(retry(settings))
        .with_http_connector(connector())
}

fn gcs(bucket: &Bucket, settings: &StoreSettings) -> GoogleCloudStorageBuilder {
    let mut builder = GoogleCloudStorageBuilder::from_env();
    for (key, value) in client_options(settings) {
        builder = builder.with_config(GoogleConfigKey::Client(key), value);
    }
    if !settings.service_account_file.is_empty() {
        builder = builder.with_config(GoogleConfigKey::ServiceAccount, &settings.service_account_file);
    }
    if !settings.endpoint.is_empty() {
        builder = builder.with_base_url(&settings.endpoint);
    }
    if settings.anonymous {
        // Uploads ask for a token even where requests are not signed.
        let nobody = StaticCredentialProvider::new(GcpCredential { bearer: String::new() });
        builder = builder.with_skip_signature(true).with_credentials(Arc::new(nobody));
    }
    builder.with_bucket_name(&bucket.name).with_retry(retry(settings)).with_http_connector(connector())
}

fn azure(bucket: &Bucket, settings: &StoreSettings) -> MicrosoftAzureBuilder {
    let given = [
        (AzureConfigKey::AccountName, settings.account.as_str()),
        (AzureConfigKey::AccessKey, settings.account_key.reveal()),
        (AzureConfigKey::Endpoint, settings.endpoint.as_str()),
        (AzureConfigKey::SkipSignature, if settings.anonymous { "true" } else { "" }),
    ];
    let mut builder = MicrosoftAzureBuilder::from_env();
    for (key, value) in given.into_iter().filter(|(_, value)| !value.is_empty()) {
        builder = builder.with_config(key, value);
    }
    for (key, value) in client_options(settings) {
        builder = builder.with_config(AzureConfigKey::Client(key), value);
    }
    builder.with_container_name(&bucket.name).with_retry(retry(settings)).with_http_connector(connector())
}

/// Queries run on threads of their own, which a heavy one keeps busy; the network must not wait for them.
fn connector() -> SpawnedReqwestConnector {
    SpawnedReqwestConnector::new(Handle::current())
}

fn client_options(settings: &StoreSettings) -> Vec<(ClientConfigKey, String)> {
    let milliseconds = |duration: Duration| format!("{}ms", duration.as_millis());
    let mut options = vec![
        (ClientConfigKey::ConnectTimeout, milliseconds(settings.connect_timeout.get())),
        (ClientConfigKey::Timeout, milliseconds(settings.request_timeout.get())),
    ];
    if settings.endpoint.starts_with("http://") {
        options.push((ClientConfigKey::AllowHttp, "true".to_owned()));
    }
    options
}

fn retry(settings: &StoreSettings) -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig { init_backoff: BACKOFF_MIN, max_backoff: BACKOFF_MAX, base: 2.0 },
        max_retries: settings.retries_max,
        retry_timeout: settings.retry_timeout.get(),
    }
}
