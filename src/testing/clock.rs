//! Whether tokio's time stands still, and making it stand still.

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    time::{Duration, Instant},
};

/// Whether tokio's time is paused: then it does not move with the machine's.
///
/// Tokio does not tell, and pausing what is paused panics.
pub(super) fn is_paused() -> bool {
    let (real, tokio) = (std::time::Instant::now(), Instant::now());
    while real.elapsed() < Duration::from_micros(1) {
        std::hint::spin_loop();
    }
    tokio.elapsed().is_zero()
}

/// Pauses time where that can be done. Gives whether it is paused.
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

/// Lets time run, if a test has paused it: brokers have clocks of their own.
pub(super) fn resume() {
    if is_paused() {
        tokio::time::resume();
    }
}

/// Lets everything run that can. With time paused that is exact: time goes on only when every task
/// waits. Otherwise it is a good turn for the others.
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
