//! The threads that compute.
//!
//! DataFusion's work is CPU-bound and would starve the I/O threads of tokio, so it runs on a runtime
//! of its own with one thread a core. Files are read on the I/O runtime all the same (see
//! `table_scan`), and results cross over by bounded channels.

use std::future::Future;

use stevedore_common::{Error, Result};
use tokio::runtime::{Handle, Runtime};
use tokio_util::task::AbortOnDropHandle;

/// A runtime for CPU work. Dropping it stops its tasks without waiting for them.
pub(crate) struct CpuRuntime {
    runtime: Option<Runtime>,
    handle: Handle,
}

impl CpuRuntime {
    pub(crate) fn new(threads: usize) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads.max(1))
            .thread_name("stevedore-cpu")
            .enable_all()
            .build()
            .map_err(|e| Error::internal(format!("cannot start the threads for queries: {e}")))?;
        let handle = runtime.handle().clone();
        Ok(Self { runtime: Some(runtime), handle })
    }

    /// Runs a task; it stops when the returned future is dropped.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        task: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        match self.spawn(task).await {
            Ok(result) => result,
            Err(e) if e.is_cancelled() => Err(Error::cancelled("the query was cancelled")),
            Err(e) => Err(Error::internal(format!("a query task failed: {e}"))),
        }
    }

    /// Starts a task that stops when its handle is dropped.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> AbortOnDropHandle<T> {
        AbortOnDropHandle::new(self.handle.spawn(task))
    }
}

impl Drop for CpuRuntime {
    fn drop(&mut self) {
        // An ordinary drop waits for the threads, which is not allowed on an async thread.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
