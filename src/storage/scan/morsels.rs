//! What is done to the batches of a file after they are decoded, whatever the steps in which the file is opened.

use std::{fmt, sync::Arc};

use arrow::array::RecordBatch;
use datafusion::common::Result;
use datafusion_datasource::{
    PartitionedFile,
    morsel::{Morsel, MorselPlan, MorselPlanner, Morselizer},
};
use futures::stream::BoxStream;

/// Batches of a part of a file, in the order of its rows.
pub(crate) type Batches = BoxStream<'static, Result<RecordBatch>>;

/// What is done to the batches of each part of a file.
pub(crate) type Finish = Arc<dyn Fn(Batches) -> Batches + Send + Sync>;

/// What is done to the batches of a file.
type FinishOf = dyn Fn(&PartitionedFile) -> Result<Finish> + Send + Sync;

/// Files whose batches are finished.
pub(crate) struct FinishedFiles {
    inner: Box<dyn Morselizer>,
    finish_of: Box<FinishOf>,
}

impl FinishedFiles {
    /// What `finish_of` says for each file is done to the batches of `inner`.
    pub(crate) fn new(
        inner: Box<dyn Morselizer>,
        finish_of: impl Fn(&PartitionedFile) -> Result<Finish> + Send + Sync + 'static,
    ) -> Self {
        Self { inner, finish_of: Box::new(finish_of) }
    }
}

impl fmt::Debug for FinishedFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FinishedFiles").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl Morselizer for FinishedFiles {
    fn plan_file(&self, file: PartitionedFile) -> Result<Box<dyn MorselPlanner>> {
        let finish = (self.finish_of)(&file)?;
        Ok(Box::new(Finished { inner: self.inner.plan_file(file)?, finish }))
    }
}

/// A step of opening a file, or a part of it.
struct Finished<T> {
    inner: T,
    finish: Finish,
}

impl<T: fmt::Debug> fmt::Debug for Finished<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Finished").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl MorselPlanner for Finished<Box<dyn MorselPlanner>> {
    fn plan(self: Box<Self>) -> Result<Option<MorselPlan>> {
        let Self { inner, finish } = *self;
        let Some(mut plan) = inner.plan()? else { return Ok(None) };
        let planner = |inner, finish: &Finish| -> Box<dyn MorselPlanner> {
            Box::new(Finished::<Box<dyn MorselPlanner>> { inner, finish: Arc::clone(finish) })
        };
        let morsel =
            |inner| -> Box<dyn Morsel> { Box::new(Finished::<Box<dyn Morsel>> { inner, finish: Arc::clone(&finish) }) };
        let morsels = plan.take_morsels().into_iter().map(morsel).collect();
        let planners = plan.take_ready_planners().into_iter().map(|inner| planner(inner, &finish)).collect();
        let finished = MorselPlan::new().with_morsels(morsels).with_planners(planners);
        Ok(Some(match plan.take_pending_planner() {
            Some(pending) => finished.with_pending_planner(async move { Ok(planner(pending.await?, &finish)) }),
            None => finished,
        }))
    }
}

impl Morsel for Finished<Box<dyn Morsel>> {
    fn into_stream(self: Box<Self>) -> Batches {
        let Self { inner, finish } = *self;
        finish(inner.into_stream())
    }
}
