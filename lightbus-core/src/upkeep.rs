//! A transport's work beside its messages, such as renewing leases.

use std::{any::Any, panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt;
use tokio::{task::JoinHandle, time::sleep};

use crate::Backoff;

/// The waits before work that has panicked is started again.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// A task that goes on until it is dropped.
///
/// If its work panics, the panic is logged with the name of the work, which is started again after a
/// wait of 100 ms, then 200 ms, up to 10 s.
///
/// ```
/// # use std::time::Duration;
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// use lightbus_core::Upkeep;
///
/// let renewing = Upkeep::start("renewing leases", || async {
///     loop {
///         tokio::time::sleep(Duration::from_secs(10)).await;
///         // … renew
///     }
/// });
/// # drop(renewing);
/// # }
/// ```
#[derive(Debug)]
#[must_use = "the task ends when this is dropped"]
pub struct Upkeep(JoinHandle<()>);

impl Upkeep {
    /// Starts the work. Must be called within a tokio runtime. Where `work` returns a future that ends,
    /// so does the task.
    pub fn start<W, F>(name: &'static str, mut work: W) -> Self
    where
        W: FnMut() -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        Self(tokio::spawn(async move {
            let mut waits = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
            // `work` itself may panic, too.
            while let Err(panic) = catch_panic(async { work().await }).await {
                tracing::error!(
                    task = name,
                    panic,
                    "a task of a transport panicked: it is restarted"
                );
                sleep(waits.failed()).await;
            }
        }))
    }

    /// Ends the task at its next await.
    pub fn stop(&self) {
        self.0.abort();
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Runs code of others. A panic becomes an error with its text.
///
/// # Errors
///
/// With the text of the panic, or `no text` if it has none.
///
/// # Cancel safety
///
/// As that of `work`.
pub async fn catch_panic<T>(work: impl Future<Output = T>) -> Result<T, String> {
    AssertUnwindSafe(work).catch_unwind().await.map_err(|panic| text_of(&*panic).to_owned())
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text")
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn work_that_panics_is_started_again_until_it_is_dropped() {
        let (sender, mut begun) = mpsc::channel(10);
        let mut runs = 0;
        let upkeep = Upkeep::start("counting", move || {
            runs += 1;
            let (sender, run) = (sender.clone(), runs);
            assert_ne!(run, 1, "the first call panics");
            async move {
                let _ = sender.send(run).await;
                assert_ne!(run, 2, "the first future panics");
                std::future::pending::<()>().await;
            }
        });
        assert_eq!(begun.recv().await, Some(2));
        assert_eq!(begun.recv().await, Some(3));
        drop(upkeep);
        assert_eq!(begun.recv().await, None);
    }
}
