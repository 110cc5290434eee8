//! Every kind of command works over a transport that lightbus does not have: the tool as a process of its
//! own, a service in this one, and a loft between them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(missing_docs, unreachable_pub, reason = "contracts of tests")]

use std::{
    path::PathBuf,
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
};

use lightbus::{RetryPolicy, config::Config, prelude::*};
use lightbus_tests::{Program, eventually, soon};
use lightbus_transport_pigeon::{
    PigeonFactory,
    loft::{Loft, Server},
};
use serde_json::{Value, json};

#[lightbus::api(name = "pigeons", events(Arrived))]
pub trait Pigeons {
    /// Sends a pigeon; returns how many are under way.
    async fn send(&self, to: String, count: u32) -> Result<u32, String>;
}

#[derive(Clone, Debug, lightbus::Event)]
pub struct Arrived {
    pub at: String,
}

struct Service;

impl Pigeons for Service {
    async fn send(&self, to: String, count: u32) -> Result<u32, String> {
        if to == "Atlantis" { Err("no pigeon returned from there".to_owned()) } else { Ok(count) }
    }
}

/// A loft, and a folder with a configuration that names it.
struct World {
    loft: Server,
    folder: PathBuf,
}

impl World {
    async fn new() -> Self {
        let loft = Loft::new(None).serve("127.0.0.1:0").await.unwrap();
        let world = Self { folder: folder(), loft };
        world.write(&world.yaml());
        world
    }

    fn yaml(&self) -> String {
        let pigeon = format!("{{ pigeon: {{ loft: \"{}\" }} }}", self.loft.address());
        format!(
            "bus: {{ schema: {{ transport: {pigeon} }} }}\napis:\n  default:\n    rpc_transport: {pigeon}\n    \
             result_transport: {pigeon}\n    event_transport: {pigeon}\n"
        )
    }

    fn write(&self, yaml: &str) {
        std::fs::write(self.folder.join("lightbus.yaml"), yaml).unwrap();
    }

    async fn bus(&self, service: &str) -> Bus {
        let registry = lightbus::registry().with(PigeonFactory::default());
        let file = self.folder.join("lightbus.yaml").display().to_string();
        let config = Config::loader().registry(registry.clone()).files([&*file]).load().unwrap();
        let builder = Bus::builder().registry(registry).config(config).service_name(service);
        builder.connect().await.unwrap()
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lightbus-pigeon"));
        command
            .args(["--config", "lightbus.yaml"])
            .args(words)
            .current_dir(&self.folder)
            .env("HOME", &self.folder)
            .env_remove("LIGHTBUS_CONFIG")
            .env_remove("LIGHTBUS_SERVICE_NAME");
        command
    }

    async fn run(&self, words: &[&str]) -> Done {
        let mut command = self.command(words);
        let running =
            tokio::task::spawn_blocking(move || command.stdin(Stdio::null()).output().unwrap());
        Done(soon("the tool", running).await.unwrap())
    }

    /// What a successful command prints.
    async fn says(&self, words: &[&str]) -> String {
        let done = self.run(words).await;
        assert_eq!(done.code(), 0, "{words:?}: {}{}", done.out(), done.err());
        done.out()
    }

    /// The same, as lines of JSON.
    async fn says_json(&self, words: &[&str]) -> Vec<Value> {
        let text = self.says(&[words, &["--json"]].concat()).await;
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn folder() -> PathBuf {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("lightbus-pigeon-{}-{number}", std::process::id());
    let folder = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

struct Done(Output);

impl Done {
    fn out(&self) -> String {
        String::from_utf8_lossy(&self.0.stdout).into_owned()
    }

    fn err(&self) -> String {
        String::from_utf8_lossy(&self.0.stderr).into_owned()
    }

    fn code(&self) -> i32 {
        self.0.status.code().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_configuration_knows_the_transport_and_its_options() {
    let world = World::new().await;
    assert_eq!(world.says(&["config", "check"]).await, "the configuration is valid\n");
    let version = &world.says_json(&["version"]).await[0];
    assert!(version["transports"].as_array().unwrap().contains(&json!("pigeon")), "{version}");
    let schema = world.says(&["config", "schema"]).await;
    assert!(schema.contains("After how long a process that has died loses"), "{schema}");

    // A password is a secret of this transport, as its options say.
    let secret = world.yaml().replace("\" }", "\", password: hunter2 }");
    world.write(&secret);
    let shown = world.says(&["config", "show"]).await;
    assert!(shown.contains("pigeon.password") && !shown.contains("hunter2"), "{shown}");

    world.write(&world.yaml().replace("loft:", "lofft:"));
    let mistyped = world.run(&["config", "check"]).await;
    assert_eq!(mistyped.code(), 2);
    assert!(
        mistyped.err().contains("lofft") && mistyped.err().contains("`loft`"),
        "{}",
        mistyped.err()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_transport_is_refused_with_the_names_of_the_known_ones() {
    let world = World::new().await;
    world.write(&world.yaml().replace("{ pigeon:", "{ nats:"));
    for words in [["config", "check"], ["call", "pigeons.send"]] {
        let refused = world.run(&words).await;
        assert_eq!(refused.code(), 2, "{}", refused.err());
        let error = refused.err();
        let known = error.split_once("there is no transport `nats`").unwrap().1;
        assert!(known.contains("known") && known.contains("pigeon"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_reach_a_service_in_another_process() {
    let world = World::new().await;
    let bus = world.bus("pigeon_house").await;
    bus.serve(PigeonsApi(Service)).await.unwrap();
    assert_eq!(world.says(&["call", "pigeons.send", "to=Rome", "count:=3"]).await, "3\n");
    let refused = world.run(&["call", "pigeons.send", "to=Atlantis", "count:=1"]).await;
    assert_eq!(refused.code(), 1, "{}", refused.err());
    assert!(refused.err().contains("no pigeon returned from there"), "{}", refused.err());
    let wrong = world.run(&["call", "pigeons.send", "to=Rome", "count:=\"three\""]).await;
    assert_eq!(wrong.code(), 1, "{}", wrong.err());

    let explained = world.says(&["explain", "pigeons"]).await;
    assert!(explained.contains("procedure send") && explained.contains("pigeon"), "{explained}");
    let diagnosed = world.says(&["doctor"]).await;
    assert!(diagnosed.contains(&format!("pigeon {}", world.loft.address())), "{diagnosed}");
    assert!(diagnosed.contains("the broker answers"), "{diagnosed}");
    let dumped = world.says(&["schema", "dump", "pigeons"]).await;
    let dumped: Value = serde_json::from_str(&dumped).unwrap();
    assert!(dumped["pigeons"]["rpcs"]["send"].is_object(), "{dumped}");
    let measured =
        world.says(&["bench", "rpc", "--shared", "--seconds", "1", "--callers", "2"]).await;
    assert!(measured.contains("calls"), "{measured}");
    bus.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_go_from_one_process_of_the_tool_to_another() {
    let world = World::new().await;
    let bus = world.bus("pigeon_house").await;
    bus.register(PigeonsClient::contract()).await.unwrap();
    let mut listener =
        world.command(&["listen", "pigeons.*", "--name", "watch", "--count", "2", "--json"]);
    let mut listener = Program::start(&mut listener);
    // Those before it has created its group are not for it.
    eventually("two events are printed", async || {
        let fired = world.says(&["fire", "pigeons.arrived", "at=Rome"]).await;
        assert!(fired.starts_with("fired pigeons.arrived "), "{fired}");
        listener.has_ended()
    })
    .await;
    let event: Value = serde_json::from_str(&listener.wait_for("arrived")).unwrap();
    assert_eq!(event["arguments"], json!({ "at": "Rome" }));

    let past = world.says_json(&["inspect", "pigeons", "--validate"]).await;
    assert!(past.len() >= 2 && past.iter().all(|event| event["valid"] == true), "{past:?}");
    bus.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_go_back_to_their_listener() {
    let world = World::new().await;
    let bus = world.bus("pigeon_house").await;
    bus.register(PigeonsClient::contract()).await.unwrap();
    static HANDLED: AtomicUsize = AtomicUsize::new(0);
    let handle = |_: Arrived| async {
        // The first time it fails.
        if HANDLED.fetch_add(1, Ordering::SeqCst) == 0 { Err("a hawk".into()) } else { Ok(()) }
    };
    let once = OnError::Retry(RetryPolicy::attempts(1).breaker(false));
    bus.listen("feed", handle).on_error(once).await.unwrap();
    world.says(&["fire", "pigeons.arrived", "at=Rome"]).await;
    let list = ["dlq", "list", "pigeon_house", "feed"];
    eventually("it is a dead letter", async || !world.says(&list).await.is_empty()).await;
    let letters = world.says_json(&list).await;
    assert_eq!(letters.len(), 1);
    assert!(letters[0]["reason"].as_str().unwrap().contains("a hawk"), "{letters:?}");
    world.says(&["dlq", "retry", "pigeon_house", "feed", "--all"]).await;
    eventually("it is handled", async || HANDLED.load(Ordering::SeqCst) == 2).await;
    assert_eq!(world.says(&list).await, "");
    bus.close().await.unwrap();
}
