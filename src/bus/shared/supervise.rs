//! Supervising the tasks that the bus spawns.
//!
//! A task that panics is a bug, in the bus, in a transport or in a type of the user's; it must not leave
//! a process that looks healthy and does nothing. So: the panic is logged with the task's name, health
//! shows it, and the task is restarted with exponential backoff, for as long as the bus runs. Work that
//! exists once and cannot be restarted (a background task) ends the process instead.

use std::time::Duration;

use lightbus_core::{Backoff, Error, ErrorKind};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{Phase, Progress, catch_panic, drained};

/// The first and the longest delay before a task is restarted.
pub(super) const FIRST_RESTART: Duration = Duration::from_millis(200);
pub(super) const LONGEST_RESTART: Duration = Duration::from_secs(10);
/// A task that ran this long before it panicked is restarted after the first delay.
const WORKED: Duration = Duration::from_secs(60);

/// Runs a task until it returns or the bus drains. Whenever it panics, `begin` creates it again.
pub(crate) async fn supervise<Begin, Task>(
    progress: &Progress,
    mut phase: watch::Receiver<Phase>,
    mut begin: Begin,
) where
    Begin: FnMut() -> Task,
    Task: Future<Output = ()>,
{
    let mut restarts = Backoff::new(FIRST_RESTART, LONGEST_RESTART);
    loop {
        let began = Instant::now();
        // Creating the task may panic too.
        let Err(panic) = catch_panic(async { begin().await }).await else { return };
        if began.elapsed() >= WORKED {
            restarts.succeeded();
        }
        tracing::error!(task = progress.what(), panic, "a task of the bus panicked; restarting it");
        progress.ended(&Error::new(ErrorKind::Unexpected, format!("it panicked: {panic}")));
        tokio::select! {
            () = drained(&mut phase) => return,
            () = sleep(restarts.failed()) => progress.restarted(),
        }
    }
}
