//! Spans that were deleted before they arrived.
//!
//! A deletion holds from the moment it is acknowledged: what matches it and arrives later is acknowledged and never
//! becomes visible. Who knows the deletions stands above this module, and leaves a [`Screen`] here.
//!
//! ```text
//!  write:  gate (shared) -> screen -> queue            replay:  record -> screen -> buffer
//!  deletion:  new filter in the screen -> gate (alone): nobody is between an old screen and the queue any more
//!             -> barrier: the queue is in the buffer -> flush -> files are searched
//! ```

use std::fmt;

use futures::future::BoxFuture;

use crate::{
    error::Result,
    model::{batch::SpanBatch, tenant::TenantId},
};

/// Makes sure that the deletions are known.
type Ready = dyn Fn() -> BoxFuture<'static, Result<()>> + Send + Sync;

/// Passes a batch without its deleted spans.
type Pass = dyn Fn(&TenantId, SpanBatch) -> Screened + Send + Sync;

/// Takes out of batches what was deleted.
pub struct Screen {
    /// Makes sure that the deletions are known; needed before a replay, which shows old records again.
    pub ready: Box<Ready>,
    /// Passes a batch without its deleted spans, by the deletions that are known.
    pub pass: Box<Pass>,
}

impl fmt::Debug for Screen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Screen")
    }
}

/// What is left of a batch.
pub enum Screened {
    /// This.
    Now(SpanBatch),
    /// What comes out of a look at every span.
    Later(BoxFuture<'static, SpanBatch>),
}

impl fmt::Debug for Screened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Screened::Now(_) => "Now",
            Screened::Later(_) => "Later",
        })
    }
}

impl Screened {
    /// The batch.
    pub async fn batch(self) -> SpanBatch {
        match self {
            Screened::Now(batch) => batch,
            Screened::Later(batch) => batch.await,
        }
    }
}
