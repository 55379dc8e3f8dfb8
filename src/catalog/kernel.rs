//! Running `delta_kernel` on the store: it is synchronous, so it gets a thread that may block.

use std::sync::Arc;

use delta_kernel::{KernelError, KernelResult};
use delta_kernel_default_engine::{DefaultEngine, DefaultEngineBuilder, executor::tokio::TokioMultiThreadExecutor};
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::{
    catalog::CatalogError,
    storage::{paths::TableFolder, store::Store},
};

pub(super) type KernelEngine = DefaultEngine<TokioMultiThreadExecutor>;

/// Runs `work` with an engine over `store` and the table's address for it.
pub(super) async fn run<T: Send + 'static>(
    store: &Store,
    table: &TableFolder,
    work: impl FnOnce(&KernelEngine, &str) -> KernelResult<T> + Send + 'static,
) -> Result<T, CatalogError> {
    let objects = store.objects();
    // Any scheme but `file`, which the kernel takes for a path of the machine instead of one of the store.
    let address = format!("{}{}/", Store::url().as_str(), table.path());
    let handle = Handle::current();
    let result = tokio::task::spawn_blocking(move || {
        let engine = DefaultEngineBuilder::new(objects).with_task_executor(Arc::new(executor(handle)?)).build();
        work(&engine, &address)
    });
    match result.await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(CatalogError::Kernel { table: table.path().clone(), source: Box::new(source) }),
        Err(_) => Err(CatalogError::Interrupted { table: table.path().clone() }),
    }
}

/// The kernel blocks on its own tasks, which a runtime with one thread cannot survive.
fn executor(handle: Handle) -> Result<TokioMultiThreadExecutor, KernelError> {
    match handle.runtime_flavor() {
        RuntimeFlavor::MultiThread => Ok(TokioMultiThreadExecutor::new(handle)),
        _ => TokioMultiThreadExecutor::new_owned_runtime(Some(2), Some(4)),
    }
}
