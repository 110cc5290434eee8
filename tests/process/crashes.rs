//! An event whose handler aborts its process, which is started again each time, as a supervisor does.
//! The children are this test program, one after the other.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use lightbus::{config::Config, prelude::*};
use lightbus_tests::{Place, soon};
use tokio::time::{Instant, sleep};

/// What may be handled at once.
const CONCURRENCY: usize = 4;
/// What may be taken ahead of quick handlers.
const PREFETCH: usize = 512;
/// As `RetryPolicy::deliveries` is unless set.
const STARTS: usize = 5;
/// A process that died is noticed after a while, each time.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is fired, and who listens.
#[derive(Clone, Copy)]
struct Case {
    events: u64,
    /// The number of the event that aborts.
    guilty: u64,
    /// How long the others take.
    pause: Duration,
    /// The first of them aborts.
    listeners: &'static [&'static str],
}

const FEW: Case =
    Case { events: 20, guilty: 3, pause: Duration::from_millis(2), listeners: &["mail"] };
const TWO_LISTENERS: Case = Case { listeners: &["mail", "audit"], ..FEW };
/// So quick that much is taken ahead.
const BACKLOG: Case = Case { events: 3000, guilty: 1500, pause: Duration::ZERO, ..FEW };

impl Case {
    fn named(name: &str) -> Self {
        match name {
            "few" => FEW,
            "two listeners" => TWO_LISTENERS,
            _ => BACKLOG,
        }
    }
}

#[lightbus::api(name = "crash", events(Numbered))]
pub trait Crash {}

#[derive(Debug, Clone, lightbus::Event)]
pub struct Numbered {
    pub number: u64,
}

/// A line of the journal: which listener, what of the event, its number. Whole after an abort, because
/// it is one write.
fn note(journal: &File, listener: &str, what: &str, number: u64) -> std::io::Result<()> {
    let mut journal = journal;
    journal.write_all(format!("{listener} {what} {number}\n").as_bytes())
}

/// Not a test by itself: the process that aborts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_that_aborts() {
    let Ok(folder) = std::env::var("LIGHTBUS_TEST_CHILD") else { return };
    let folder = Path::new(&folder);
    let case = Case::named(&std::env::var("LIGHTBUS_TEST_CASE").unwrap());
    let config = Config::load([&*folder.join("lightbus.yaml").to_string_lossy()]).unwrap();
    let builder = Bus::builder().config(config).service_name("crash").process_name("crash-1");
    let bus = builder.connect().await.unwrap();
    let path = folder.join("journal");
    let journal = Arc::new(File::options().create(true).append(true).open(path).unwrap());
    for (index, listener) in case.listeners.iter().copied().enumerate() {
        let journal = Arc::clone(&journal);
        bus.listen(listener, move |event: Numbered| {
            let journal = Arc::clone(&journal);
            async move {
                note(&journal, listener, "begins", event.number)?;
                if event.number == case.guilty && index == 0 {
                    std::process::abort();
                }
                // Others are at work beside it.
                if !case.pause.is_zero() {
                    sleep(case.pause).await;
                }
                note(&journal, listener, "ends", event.number)?;
                Ok(())
            }
        })
        .concurrency(CONCURRENCY)
        .await
        .unwrap();
    }
    fs::write(folder.join("listening"), "").unwrap();
    bus.run().await.unwrap();
}

/// The child, started again whenever it has ended.
struct Supervised {
    case: &'static str,
    folder: PathBuf,
    child: Option<Child>,
}

impl Supervised {
    fn start(&mut self) {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crashes::child_that_aborts", "--nocapture"])
            .env("LIGHTBUS_TEST_CHILD", &self.folder)
            .env("LIGHTBUS_TEST_CASE", self.case)
            .env_remove("LIGHTBUS_CONFIG")
            .env_remove("LIGHTBUS_FEATURES")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(
                File::options().create(true).append(true).open(self.folder.join("log")).unwrap(),
            )
            .spawn();
        self.child = Some(child.unwrap());
    }

    fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some())
    }

    /// Ends it as an operator does: it leaves nothing.
    async fn stop(&mut self) {
        let child = self.child.as_ref().unwrap();
        let stopped = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
        assert!(stopped.unwrap().success());
        self.awaits("the child ends", Self::has_ended).await;
    }

    async fn awaits(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < until, "never: {what}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// How often each event began, or ended, in a listener.
    fn journal(&self, listener: &str, what: &str) -> BTreeMap<u64, usize> {
        let mut times = BTreeMap::new();
        let text = fs::read_to_string(self.folder.join("journal")).unwrap_or_default();
        let start = format!("{listener} {what} ");
        for number in text.lines().filter_map(|line| line.strip_prefix(&start)) {
            *times.entry(number.parse().unwrap()).or_default() += 1;
        }
        times
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Lets a process crash until all is handled or dead-lettered.
async fn crash(place: Place, name: &'static str) {
    let Case { events, guilty, listeners, .. } = Case::named(name);
    let folder = std::env::temp_dir().join(lightbus_tests::unique("lightbus-crash"));
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("lightbus.yaml"), place.yaml("")).unwrap();
    let bus = place.bus("driver").await;
    bus.register(CrashClient::contract()).await.unwrap();
    let mut child = Supervised { case: name, folder: folder.clone(), child: None };
    // Its groups are there before the first event is, and all events before it takes the first.
    child.start();
    child.awaits("the child listens", |child| child.folder.join("listening").exists()).await;
    child.stop().await;
    for number in 0..events {
        bus.fire(Numbered { number }).await.unwrap();
    }

    let innocents = |of: &str, child: &Supervised| {
        let mut ended = child.journal(of, "ends");
        if of != listeners[0] {
            ended.remove(&guilty);
        }
        ended
    };
    let letters = async |listener: &str| {
        soon("dead letters", bus.admin().dead_letters("crash", listener, 100)).await.unwrap()
    };
    let until = Instant::now() + PATIENCE;
    loop {
        if child.has_ended() {
            child.start();
        }
        let handled = |of: &&str| innocents(of, &child).len() as u64 == events - 1;
        if listeners.iter().all(handled) && !letters(listeners[0]).await.is_empty() {
            break;
        }
        let journal = fs::read_to_string(folder.join("journal")).unwrap_or_default();
        let dead = letters(listeners[0]).await;
        assert!(Instant::now() < until, "never all handled; dead: {dead:?}, so far:\n{journal}");
        sleep(Duration::from_millis(50)).await;
    }
    // Nothing is left for it, so it ends well.
    child.stop().await;

    for (index, listener) in listeners.iter().enumerate() {
        let letters = letters(listener).await;
        let number = |letter: &lightbus::DeadLetter| {
            serde_json::from_slice(letter.event.fields.get("number").unwrap()).unwrap()
        };
        let told: Vec<(u64, &str)> =
            letters.iter().map(|letter| (number(letter), &*letter.reason)).collect();
        let expected = (guilty, "its process ended 5 times while handling it");
        let expected = if index == 0 { vec![expected] } else { vec![] };
        assert_eq!(told, expected, "the guilty one alone, once, where it is guilty");
        let handled = innocents(listener, &child);
        let again: usize = handled.values().map(|times| times - 1).sum();
        println!("{listener}: {again} of {events} handled again");
        // Those that had been handled when the process ended, and were not acknowledged yet.
        let ahead = if events > 100 { PREFETCH } else { CONCURRENCY };
        assert!(again <= STARTS * ahead, "{again} were handled again");
    }
    let starts = child.journal(listeners[0], "begins").get(&guilty).copied();
    assert_eq!(starts, Some(STARTS), "how often the guilty one was begun");
    bus.close().await.unwrap();
    fs::remove_dir_all(&folder).unwrap();
}

async fn an_event_that_aborts_its_process_is_dead_lettered_after_five_starts(place: Place) {
    crash(place, "few").await;
}

async fn a_second_listener_of_the_process_loses_nothing(place: Place) {
    crash(place, "two listeners").await;
}

async fn an_event_that_aborts_amid_a_backlog_takes_no_other_with_it(place: Place) {
    crash(place, "backlog").await;
}

/// A test of each case on a broker. Processes do not meet in memory.
macro_rules! on_broker {
    ($broker:ident) => {
        on_broker!(@ $broker: an_event_that_aborts_its_process_is_dead_lettered_after_five_starts,
            a_second_listener_of_the_process_loses_nothing,
            an_event_that_aborts_amid_a_backlog_takes_no_other_with_it);
    };
    (@ $broker:ident: $($case:ident),*) => {
        mod $broker {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                if let Some(place) = super::Place::$broker() {
                    super::$case(place).await;
                }
            })*
        }
    };
}

on_broker!(redis);
#[cfg(feature = "amqp")]
on_broker!(amqp);
#[cfg(feature = "kafka")]
on_broker!(kafka);
