//! Pausing tokio's time.

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    time::{Duration, Instant},
};

/// Returns whether tokio's time is paused.
///
/// Tokio has no method for it, and pausing twice panics. So it is measured: paused time does not advance
/// with the machine's clock.
pub(super) fn is_paused() -> bool {
    let (real, tokio) = (std::time::Instant::now(), Instant::now());
    while real.elapsed() < Duration::from_micros(1) {
        std::hint::spin_loop();
    }
    tokio.elapsed().is_zero()
}

/// Pauses time where that is possible. Returns whether it is paused.
pub(super) fn pause() -> bool {
    if is_paused() {
        return true;
    }
    let can = Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread;
    if can {
        tokio::time::pause();
    }
    can
}

/// Resumes time if a test has paused it: brokers have clocks of their own.
pub(super) fn resume() {
    if is_paused() {
        tokio::time::resume();
    }
}

/// Lets all other tasks run until they wait. With time paused this is exact, because time advances only
/// when every task waits. Otherwise it yields to them several times.
pub(super) async fn quiet() {
    if is_paused() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    } else {
        for _ in 0..16 {
            tokio::task::yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn time_is_paused_once_and_can_go_on() {
        assert!(!is_paused());
        assert!(pause() && is_paused());
        assert!(pause(), "pausing twice is fine");
        resume();
        assert!(!is_paused());
        resume();
    }

    #[tokio::test(start_paused = true)]
    async fn a_test_may_have_paused_it_already() {
        assert!(is_paused() && pause());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn where_it_cannot_be_paused_it_goes_on() {
        assert!(!pause() && !is_paused());
    }
}
