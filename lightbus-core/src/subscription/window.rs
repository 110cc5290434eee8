//! How much a subscription takes ahead: the window.
//!
//! A fixed window takes as much as the flow control allows. An adaptive one takes what the consumer
//! handles in about a [second](AHEAD), so that a process with slow handlers does not keep events from
//! a process that has nothing to do, and a process that dies leaves little behind:
//!
//! 1. It opens with a probe of one message. A broker delivers first what a dead process left, and
//!    what killed that process must be met alone.
//! 2. A first delivery widens it to the consumer's concurrency, at once.
//! 3. From then on it follows the measured rate: at most doubled with each measurement, so that a
//!    burst of quick messages does not take in what slow ones behind it will need a minute for.
//! 4. While a suspect is held, a message that may have ended the processes that had it, it is one:
//!    nothing is taken beside it.
//! 5. After an interruption it begins with a probe again: the broker may have taken everything back.

use std::time::Duration;

use tokio::time::Instant;

use crate::FlowControl;

/// What is taken ahead is what is handled in this time.
const AHEAD: Duration = Duration::from_secs(1);

/// How many messages may be held, and how the limit follows the consumer.
#[derive(Debug)]
pub(super) struct Window {
    size: usize,
    floor: usize,
    limit: usize,
    adaptive: bool,
    /// Whether anything has been delivered since the window opened.
    probing: bool,
    /// Suspects that are held.
    suspects: usize,
    /// The measurement under way: since when the consumer was busy, and what it settled.
    since: Option<Instant>,
    settled: usize,
}

impl Window {
    pub(super) fn new(flow: &FlowControl) -> Self {
        let limit = flow.max_in_flight;
        let floor = flow.concurrency.unwrap_or(limit).clamp(1, limit);
        let adaptive = flow.concurrency.is_some();
        Self {
            size: if adaptive { 1 } else { limit },
            floor,
            limit,
            adaptive,
            probing: adaptive,
            suspects: 0,
            since: None,
            settled: 0,
        }
    }

    /// The most messages that may be held now.
    pub(super) fn size(&self) -> usize {
        if self.adaptive && self.suspects > 0 { 1 } else { self.size }
    }

    /// Notes that messages were taken from the broker.
    pub(super) fn took(&mut self, messages: usize, suspects: usize) {
        self.suspects += suspects;
        if !self.adaptive || messages == 0 {
            return;
        }
        if self.probing && suspects == 0 {
            self.probing = false;
            self.size = self.size.max(self.floor);
        }
        self.since.get_or_insert_with(Instant::now);
    }

    /// Notes that messages were settled; `held` is what is left.
    pub(super) fn settled(&mut self, messages: usize, suspects: usize, held: usize) {
        self.suspects = self.suspects.saturating_sub(suspects);
        if !self.adaptive || messages == 0 {
            return;
        }
        self.settled = self.settled.saturating_add(messages);
        let Some(since) = self.since else { return };
        if self.settled * 2 >= self.size || held == 0 {
            self.measure(since.elapsed());
        }
        if held == 0 {
            // Waiting for the broker is no measure of the handlers.
            self.since = None;
            self.settled = 0;
        }
    }

    fn measure(&mut self, elapsed: Duration) {
        // A burst that took no time says only that more would have been handled.
        let micros = elapsed.as_micros().max(1);
        let handled = self.settled as u128 * AHEAD.as_micros() / micros;
        let target = usize::try_from(handled).unwrap_or(usize::MAX);
        if !self.probing {
            self.size = target.min(self.size.saturating_mul(2)).clamp(self.floor, self.limit);
        }
        self.since = Some(Instant::now());
        self.settled = 0;
    }

    /// Begins with a probe again: the broker may have taken back what was delivered.
    pub(super) fn interrupted(&mut self) {
        if self.adaptive {
            self.size = 1;
            self.probing = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(concurrency: usize) -> Window {
        Window::new(&FlowControl::new(256, 512).for_handlers(concurrency))
    }

    #[tokio::test(start_paused = true)]
    async fn instant_handlers_widen_it_to_the_limit_within_ten_round_trips() {
        let mut window = window(1);
        for _ in 0..10 {
            let taken = window.size();
            window.took(taken, 0);
            tokio::time::advance(Duration::from_micros(300)).await;
            window.settled(taken, 0, 0);
        }
        assert_eq!(window.size(), 512);
    }

    #[tokio::test(start_paused = true)]
    async fn slow_handlers_keep_it_at_their_concurrency() {
        let mut window = window(8);
        assert_eq!(window.size(), 1, "a probe");
        window.took(1, 0);
        assert_eq!(window.size(), 8);
        window.took(7, 0);
        for _ in 0..20 {
            tokio::time::advance(Duration::from_secs(1)).await;
            window.settled(8, 0, 0);
            window.took(8, 0);
        }
        assert_eq!(window.size(), 8);
    }

    #[tokio::test(start_paused = true)]
    async fn it_holds_what_is_handled_in_a_second_and_follows_handlers_that_slow_down() {
        let mut window = window(1);
        window.took(1, 0);
        for _ in 0..200 {
            tokio::time::advance(Duration::from_millis(50)).await;
            window.settled(1, 0, 1);
        }
        assert!((15..=25).contains(&window.size()), "{}", window.size());
        for _ in 0..20 {
            tokio::time::advance(Duration::from_secs(2)).await;
            window.settled(1, 0, 1);
        }
        assert_eq!(window.size(), 1);
    }

    #[test]
    fn a_suspect_is_held_alone_and_an_interruption_begins_with_a_probe() {
        let mut window = window(16);
        window.took(1, 1);
        assert_eq!(window.size(), 1);
        window.settled(1, 1, 0);
        window.took(1, 0);
        assert_eq!(window.size(), 16);
        window.took(2, 1);
        assert_eq!(window.size(), 1);
        window.settled(1, 1, 2);
        assert_eq!(window.size(), 16);
        window.interrupted();
        assert_eq!(window.size(), 1);
    }

    #[test]
    fn a_fixed_window_is_as_wide_as_the_flow_control_says() {
        let mut window = Window::new(&FlowControl::new(1, 7));
        assert_eq!(window.size(), 7);
        window.took(1, 1);
        window.interrupted();
        assert_eq!(window.size(), 7);
    }
}
