//! Injected faults, reproducible by a seed.

mod calls;
mod events;
mod listening;
mod results;
mod rng;

use std::{fmt, sync::Arc, time::Duration};

use lightbus_core::{
    Error, ErrorKind, Name, Registry, Retry,
    transport::{EventTransport, ResultTransport, RpcTransport, SchemaTransport},
};

use super::layer::{self, Layer};
use rng::{Happened, Numbers, roll};

/// The environment variable that sets the seed of all [`Faults`].
pub const SEED_VARIABLE: &str = "LIGHTBUS_TEST_SEED";

/// The kinds of faults. All stay within what transports promise: code that tolerates redelivered events
/// and lost calls must survive them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Fault {
    /// A call or a result is lost, so its caller times out. The delivery of an event fails and it is
    /// redelivered, at most five times in a row, behind events that arrived meanwhile.
    Drop,
    /// An event is stored twice under the same id, as when its sender retries. A result is sent twice.
    /// Calls are never duplicated.
    Duplicate,
    /// A call or a result is overtaken by others. So is an event, where no promise forbids it: on an
    /// `ordered` transport, events of one API keep their order and are overtaken by those of other APIs.
    Reorder,
    /// A message is late, and so are those behind it in the same subscription.
    Delay,
    /// The broker is unavailable for a moment. Sending fails, although the message may have been stored;
    /// receiving and acknowledging are retried by the transport.
    Disconnect,
    /// An event is redelivered before its first delivery is acknowledged, as when its process is too slow
    /// and counts as dead.
    Redeliver,
}

const ALL: [Fault; 6] = [
    Fault::Drop,
    Fault::Duplicate,
    Fault::Reorder,
    Fault::Delay,
    Fault::Disconnect,
    Fault::Redeliver,
];

/// Faults to inject around the transports of a [`TestBus`](super::TestBus) or of any [`Registry`].
///
/// Rates range from 0, the default, to 1. Whether a fault happens to a message depends only on the seed,
/// the name of its procedure or event, and its ordinal among messages of that name, not on the clock or
/// other messages. A test that sends the same messages therefore has the same faults. Schemas,
/// connecting and subscribing are exempt, so that a test can be set up.
///
/// ```
/// # use lightbus::{prelude::*, testing::{Faults, TestBus}};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> lightbus::Result<()> {
/// let faults = Faults::seeded(42).drops(0.2).duplicates(0.1).redelivers(0.1);
/// let test = TestBus::builder().faults(faults).start().await?;
/// # Ok(()) }
/// ```
///
/// # When a test fails
///
/// A [`TestBus`](super::TestBus) that is dropped in a panic prints the seed and the last faults, and
/// failed assertions name the seed. `LIGHTBUS_TEST_SEED=42 cargo test …` reproduces them, whatever seed
/// the test sets.
#[derive(Clone)]
pub struct Faults {
    seed: u64,
    rates: [f64; ALL.len()],
    longest: Duration,
    happened: Arc<Happened>,
    numbers: Arc<Numbers>,
}

/// Prints the seed if it is dropped in a panic.
#[derive(Debug)]
#[must_use = "it takes effect when it is dropped"]
pub struct SeedGuard(Faults);

impl Faults {
    /// Creates faults, all with rate 0, with a seed. `LIGHTBUS_TEST_SEED` takes precedence.
    ///
    /// # Panics
    ///
    /// If `LIGHTBUS_TEST_SEED` is set and not a number.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self::with_seed(seed_from(std::env::var(SEED_VARIABLE).ok().as_deref()).unwrap_or(seed))
    }

    /// Creates faults, all with rate 0, with a random seed. `LIGHTBUS_TEST_SEED` takes precedence.
    ///
    /// # Panics
    ///
    /// If `LIGHTBUS_TEST_SEED` is set and not a number.
    #[must_use]
    pub fn random() -> Self {
        use std::hash::{BuildHasher, Hasher};
        let random = std::collections::hash_map::RandomState::new().build_hasher().finish();
        // Short enough to type.
        Self::seeded(random % 1_000_000)
    }

    fn with_seed(seed: u64) -> Self {
        Self {
            seed,
            rates: [0.0; ALL.len()],
            longest: Duration::from_millis(100),
            happened: Arc::default(),
            numbers: Arc::default(),
        }
    }

    /// Sets the rate of [`Fault::Drop`].
    #[must_use]
    pub fn drops(self, rate: f64) -> Self {
        self.rate(Fault::Drop, rate)
    }

    /// Sets the rate of [`Fault::Duplicate`].
    #[must_use]
    pub fn duplicates(self, rate: f64) -> Self {
        self.rate(Fault::Duplicate, rate)
    }

    /// Sets the rate of [`Fault::Reorder`].
    #[must_use]
    pub fn reorders(self, rate: f64) -> Self {
        self.rate(Fault::Reorder, rate)
    }

    /// Sets the rate of [`Fault::Delay`].
    #[must_use]
    pub fn delays(self, rate: f64) -> Self {
        self.rate(Fault::Delay, rate)
    }

    /// Sets the rate of [`Fault::Disconnect`].
    #[must_use]
    pub fn disconnects(self, rate: f64) -> Self {
        self.rate(Fault::Disconnect, rate)
    }

    /// Sets the rate of [`Fault::Redeliver`].
    #[must_use]
    pub fn redelivers(self, rate: f64) -> Self {
        self.rate(Fault::Redeliver, rate)
    }

    /// Sets the rate of all faults.
    #[must_use]
    pub fn all(self, rate: f64) -> Self {
        ALL.into_iter().fold(self, |faults, fault| faults.rate(fault, rate))
    }

    /// Sets the rate of a fault, clamped to between 0 and 1.
    #[must_use]
    pub fn rate(mut self, fault: Fault, rate: f64) -> Self {
        self.rates[fault as usize] = rate.clamp(0.0, 1.0);
        self
    }

    /// Sets the longest delay of a message. Default: 100 ms.
    #[must_use]
    pub fn longest_delay(mut self, longest: Duration) -> Self {
        self.longest = longest;
        self
    }

    /// Returns the seed.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Returns how often a fault has happened.
    #[must_use]
    pub fn count(&self, fault: Fault) -> u64 {
        self.happened.count(fault)
    }

    /// Returns the faults that have happened, in order, at most the first 10,000:
    /// `Drop: event auth.user_registered #3 to mail-welcome`.
    #[must_use]
    pub fn happened(&self) -> Vec<String> {
        self.happened.lines()
    }

    /// Returns the transports of a registry with these faults injected, for `Bus::builder().registry(…)`.
    /// Counts are those of all transports together. Keep a [guard](Self::guard) to see the seed when a
    /// test fails.
    #[must_use]
    pub fn around(&self, registry: &Registry) -> Registry {
        layer::over(registry, self)
    }

    /// Returns a guard that prints the seed if it is dropped in a panic. A [`TestBus`](super::TestBus)
    /// has one.
    pub fn guard(&self) -> SeedGuard {
        SeedGuard(self.clone())
    }

    /// Describes the seed and the last faults for people.
    pub(super) fn describe(&self) -> String {
        const SHOWN: usize = 10;
        let lines = self.happened();
        let last: String = lines[lines.len().saturating_sub(SHOWN)..]
            .iter()
            .map(|line| format!("\n  {line}"))
            .collect();
        let Self { seed, .. } = self;
        let count = self.happened.total();
        format!(
            "{count} faults by seed {seed}: {SEED_VARIABLE}={seed} reproduces them. The last:{last}"
        )
    }

    /// Decides whether a fault happens to a message, and records it if it does.
    fn happens(&self, fault: Fault, at: &At<'_>) -> bool {
        let rate = self.rates[fault as usize];
        let happens = rate > 0.0 && at.roll(self.seed, fault as u64) < rate;
        if happens {
            self.happened.note(fault, at);
        }
        happens
    }

    /// Returns by how much a message is delayed.
    fn wait(&self, at: &At<'_>) -> Duration {
        const WAIT: u64 = ALL.len() as u64;
        self.longest.mul_f64(at.roll(self.seed, WAIT))
    }

    /// Delays a call, a result or an event being sent, if one of the faults that do so happens.
    async fn hold_up(&self, at: &At<'_>) {
        // Both are always decided, so that one rate does not change the outcome of the other.
        let (late, passed) = (self.happens(Fault::Delay, at), self.happens(Fault::Reorder, at));
        if late || passed {
            tokio::time::sleep(self.wait(at)).await;
        }
    }
}

/// A message that a fault may happen to.
struct At<'a> {
    /// The operation.
    what: &'static str,
    /// The procedure or event.
    path: &'a str,
    /// The consumer group, or empty.
    group: &'a str,
    /// The message's ordinal among messages of its name.
    number: u64,
    /// The attempt, from 1.
    attempt: u32,
}

impl At<'_> {
    fn roll(&self, seed: u64, fault: u64) -> f64 {
        let words = [seed, fault, self.number, u64::from(self.attempt)];
        roll(words, [self.what, self.path, self.group])
    }
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, path, group, number, attempt } = self;
        write!(f, "{what} {path} #{number}")?;
        if !group.is_empty() {
            write!(f, " to {group}")?;
        }
        if *attempt > 1 {
            write!(f, ", attempt {attempt}")?;
        }
        Ok(())
    }
}

/// The error of an injected disconnect.
fn away(retry: Retry) -> Error {
    Error::new(ErrorKind::Unavailable, "the connection was lost (injected fault)").retry(retry)
}

fn path(api: &Name, member: &Name) -> String {
    format!("{api}.{member}")
}

fn seed_from(variable: Option<&str>) -> Option<u64> {
    let text = variable.map(str::trim).filter(|text| !text.is_empty())?;
    let seed = text.parse().unwrap_or_else(|_| panic!("{SEED_VARIABLE} is not a number: {text}"));
    Some(seed)
}

impl Layer for Faults {
    fn rpc(&self, inner: Arc<dyn RpcTransport>) -> Arc<dyn RpcTransport> {
        Arc::new(calls::Calls { inner, faults: self.clone() })
    }

    fn result(&self, inner: Arc<dyn ResultTransport>) -> Arc<dyn ResultTransport> {
        Arc::new(results::Results {
            inner,
            faults: self.clone(),
            failed: results::Failed::default(),
        })
    }

    fn event(&self, inner: Arc<dyn EventTransport>) -> Arc<dyn EventTransport> {
        Arc::new(events::Events { inner, faults: self.clone() })
    }

    fn schema(&self, inner: Arc<dyn SchemaTransport>) -> Arc<dyn SchemaTransport> {
        inner
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rates = ALL.into_iter().zip(self.rates).filter(|(_, rate)| *rate > 0.0);
        let rates: Vec<_> = rates.collect();
        f.debug_struct("Faults")
            .field("seed", &self.seed)
            .field("rates", &rates)
            .finish_non_exhaustive()
    }
}

impl Drop for SeedGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0.describe());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(number: u64) -> At<'static> {
        At { what: "event", path: "auth.seen", group: "", number, attempt: 1 }
    }

    fn happen(faults: &Faults) -> Vec<bool> {
        (0..1000).map(|number| faults.happens(Fault::Drop, &at(number))).collect()
    }

    #[test]
    fn the_same_seed_has_the_same_faults_and_another_has_others() {
        let faults = |seed| Faults::with_seed(seed).drops(0.3);
        assert_eq!(happen(&faults(1)), happen(&faults(1)));
        assert_ne!(happen(&faults(1)), happen(&faults(2)));
        let count = happen(&faults(1)).into_iter().filter(|happens| *happens).count();
        assert!((200..400).contains(&count), "about as often as asked: {count}");
    }

    #[test]
    fn a_rate_does_not_change_what_else_happens() {
        let (one, two) = (Faults::with_seed(5).drops(0.3), Faults::with_seed(5).all(0.3));
        assert_eq!(happen(&one), happen(&two));
        assert!(happen(&Faults::with_seed(5)).iter().all(|happens| !happens));
        assert!(happen(&Faults::with_seed(5).drops(7.0)).iter().all(|happens| *happens));
    }

    #[test]
    fn the_environment_decides_on_the_seed() {
        assert_eq!(seed_from(Some(" 12 ")), Some(12));
        assert_eq!(seed_from(Some("")), None);
        assert_eq!(seed_from(None), None);
        assert!(std::panic::catch_unwind(|| seed_from(Some("twelve"))).is_err());
    }

    #[test]
    fn a_description_says_how_to_repeat() {
        let faults = Faults::with_seed(12).drops(1.0);
        faults.happens(Fault::Drop, &at(3));
        let text = faults.describe();
        assert!(text.contains("1 faults by seed 12: LIGHTBUS_TEST_SEED=12 reproduces"), "{text}");
        assert!(text.ends_with("Drop: event auth.seen #3"), "{text}");
    }
}
