//! Things that go wrong on purpose: the same ones for the same seed.

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

/// Sets the seed of all [`Faults`] from outside.
pub const SEED_VARIABLE: &str = "LIGHTBUS_TEST_SEED";

/// A way for a message to go wrong, within what a transport promises: code that handles events more
/// than once, and calls that may be lost, has nothing to fear.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// A call or a result is lost, and its caller times out. The delivery of an event fails, and it
    /// comes again: at most five times in a row, and behind events that came meanwhile.
    Drop,
    /// An event is stored twice under the same id, as when its sender was not sure and sent it again.
    /// A result is sent twice. A call never is.
    Duplicate,
    /// A call, or a result, lets others pass. An event does where that breaks no promise: events of one
    /// API keep their order on a transport that is `ordered`, and let those of other APIs pass.
    Reorder,
    /// A message comes late, and all that are behind it in the same subscription.
    Delay,
    /// The broker is away for a moment: sending fails, and may have been done nevertheless; receiving
    /// and acknowledging are tried again by the transport.
    Disconnect,
    /// An event is delivered again while its first delivery is not acknowledged, as when a handler is
    /// so slow that its process counts as dead.
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

/// What goes wrong, how often, and by which seed: around the transports of a [`TestBus`](super::TestBus)
/// or of any [`Registry`].
///
/// Rates are between 0 and 1, and 0 at first. Whether something goes wrong with a message depends on the
/// seed, the name of its procedure or event and how many of that name were sent before: on neither the
/// clock nor what else happens. So the same test has the same faults, as long as it sends the same.
/// Schemas, opening connections and beginning to listen are spared, so that a test can be set up.
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
/// A [`TestBus`](super::TestBus) prints the seed and the last faults when it is dropped in a panic, and
/// its failed assertions name the seed. `LIGHTBUS_TEST_SEED=42 cargo test …` repeats them, whatever seed
/// the test asks for.
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
#[must_use = "it watches until it is dropped"]
pub struct SeedGuard(Faults);

impl Faults {
    /// No faults yet, with this seed, or that of `LIGHTBUS_TEST_SEED`.
    ///
    /// # Panics
    ///
    /// If `LIGHTBUS_TEST_SEED` is set and no number.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self::with_seed(seed_from(std::env::var(SEED_VARIABLE).ok().as_deref()).unwrap_or(seed))
    }

    /// No faults yet, with another seed each time, or that of `LIGHTBUS_TEST_SEED`.
    ///
    /// # Panics
    ///
    /// As [`seeded`](Self::seeded).
    #[must_use]
    pub fn random() -> Self {
        use std::hash::{BuildHasher, Hasher};
        let random = std::collections::hash_map::RandomState::new().build_hasher().finish();
        // Short enough to be typed again.
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

    /// How often [messages are lost](Fault::Drop).
    #[must_use]
    pub fn drops(self, rate: f64) -> Self {
        self.rate(Fault::Drop, rate)
    }

    /// How often [messages come twice](Fault::Duplicate).
    #[must_use]
    pub fn duplicates(self, rate: f64) -> Self {
        self.rate(Fault::Duplicate, rate)
    }

    /// How often [messages let others pass](Fault::Reorder).
    #[must_use]
    pub fn reorders(self, rate: f64) -> Self {
        self.rate(Fault::Reorder, rate)
    }

    /// How often [messages are late](Fault::Delay).
    #[must_use]
    pub fn delays(self, rate: f64) -> Self {
        self.rate(Fault::Delay, rate)
    }

    /// How often [the broker is away](Fault::Disconnect).
    #[must_use]
    pub fn disconnects(self, rate: f64) -> Self {
        self.rate(Fault::Disconnect, rate)
    }

    /// How often [events are delivered again](Fault::Redeliver).
    #[must_use]
    pub fn redelivers(self, rate: f64) -> Self {
        self.rate(Fault::Redeliver, rate)
    }

    /// How often everything goes wrong.
    #[must_use]
    pub fn all(self, rate: f64) -> Self {
        ALL.into_iter().fold(self, |faults, fault| faults.rate(fault, rate))
    }

    /// How often one fault happens. What is below 0 or above 1 counts as that.
    #[must_use]
    pub fn rate(mut self, fault: Fault, rate: f64) -> Self {
        self.rates[fault as usize] = rate.clamp(0.0, 1.0);
        self
    }

    /// How late messages come at most: 100 ms.
    #[must_use]
    pub fn longest_delay(mut self, longest: Duration) -> Self {
        self.longest = longest;
        self
    }

    /// The seed.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// How often a fault has happened.
    #[must_use]
    pub fn count(&self, fault: Fault) -> u64 {
        self.happened.count(fault)
    }

    /// What has happened, in order: `Drop: event auth.user_registered #3 to mail-welcome`. At most the
    /// first 10,000.
    #[must_use]
    pub fn happened(&self) -> Vec<String> {
        self.happened.lines()
    }

    /// The transports of a registry with these faults around each: `Bus::builder().registry(…)`.
    ///
    /// What happens to all of them counts together. Keep a [guard](Self::guard) to see the seed when a
    /// test fails.
    #[must_use]
    pub fn around(&self, registry: &Registry) -> Registry {
        layer::over(registry, self)
    }

    /// Prints the seed if it is dropped in a panic. A [`TestBus`](super::TestBus) has one.
    pub fn guard(&self) -> SeedGuard {
        SeedGuard(self.clone())
    }

    /// The seed, and what happened last.
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
            "{count} faults by seed {seed}: {SEED_VARIABLE}={seed} repeats them. The last:{last}"
        )
    }

    /// Whether something goes wrong with a message; if so it is noted down.
    fn happens(&self, fault: Fault, at: &At<'_>) -> bool {
        let rate = self.rates[fault as usize];
        let happens = rate > 0.0 && at.roll(self.seed, fault as u64) < rate;
        if happens {
            self.happened.note(fault, at);
        }
        happens
    }

    /// How late a message comes.
    fn wait(&self, at: &At<'_>) -> Duration {
        const WAIT: u64 = ALL.len() as u64;
        self.longest.mul_f64(at.roll(self.seed, WAIT))
    }

    /// How late a call, a result or a sent event is, if it is.
    async fn hold_up(&self, at: &At<'_>) {
        // Both, so that neither's rate changes what happens to the other.
        let (late, passed) = (self.happens(Fault::Delay, at), self.happens(Fault::Reorder, at));
        if late || passed {
            tokio::time::sleep(self.wait(at)).await;
        }
    }
}

/// The message that something may happen to.
struct At<'a> {
    /// What is done with it.
    what: &'static str,
    /// Its procedure or event.
    path: &'a str,
    /// The listener, where one is concerned.
    group: &'a str,
    /// How many of its name were before it.
    number: u64,
    /// How often the same was tried before.
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

/// The broker is away.
fn away(retry: Retry) -> Error {
    Error::new(ErrorKind::Unavailable, "the connection broke, as the test asked").retry(retry)
}

fn path(api: &Name, member: &Name) -> String {
    format!("{api}.{member}")
}

fn seed_from(variable: Option<&str>) -> Option<u64> {
    let text = variable.map(str::trim).filter(|text| !text.is_empty())?;
    let seed = text.parse().unwrap_or_else(|_| panic!("{SEED_VARIABLE} is no number: {text}"));
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
        assert!(text.contains("1 faults by seed 12: LIGHTBUS_TEST_SEED=12"), "{text}");
        assert!(text.ends_with("Drop: event auth.seen #3"), "{text}");
    }
}
