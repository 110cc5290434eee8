//! The tool, as a process of its own, on every transport that reaches other processes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(missing_docs, unreachable_pub, reason = "contracts of tests")]

use std::{
    io::Write,
    path::PathBuf,
    process::{Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use expect_test::{Expect, expect};
use lightbus_tests::{Place, Program, eventually};

#[lightbus::api(name = "auth", events(UserRegistered))]
pub trait Auth {
    async fn check_password(&self, username: String, password: String) -> bool;
    async fn boom(&self) -> Result<(), String>;
    async fn slow(&self) -> bool;
}

#[derive(Clone, Debug, PartialEq, lightbus::Event)]
pub struct UserRegistered {
    pub username: String,
    pub age: u32,
}

struct Service;

impl Auth for Service {
    async fn check_password(&self, username: String, password: String) -> bool {
        username == "admin" && password == "secret"
    }

    async fn boom(&self) -> Result<(), String> {
        Err("as asked".to_owned())
    }

    async fn slow(&self) -> bool {
        std::future::pending().await
    }
}

/// A folder with a configuration, for one test.
struct Tool {
    folder: PathBuf,
}

impl Tool {
    fn new(yaml: &str) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder =
            std::env::temp_dir().join(format!("lightbus-cli-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("lightbus.yaml"), yaml).unwrap();
        Self { folder }
    }

    fn at(place: &Place) -> Self {
        assert!(!matches!(place, Place::Memory(_)), "memory reaches no other process");
        Self::new(&place.yaml(""))
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lightbus"));
        command
            .args(["--config", "lightbus.yaml"])
            .args(words)
            .current_dir(&self.folder)
            .env("HOME", &self.folder);
        for variable in ["LIGHTBUS_CONFIG", "LIGHTBUS_SERVICE_NAME", "CLICOLOR_FORCE"] {
            command.env_remove(variable);
        }
        command
    }

    async fn run(&self, words: &[&str]) -> Done {
        self.run_with(words, "").await
    }

    async fn run_with(&self, words: &[&str], input: &str) -> Done {
        let (mut command, input) = (self.command(words), input.to_owned());
        let work = tokio::task::spawn_blocking(move || {
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command.spawn().unwrap();
            // It may exit before it has read everything.
            let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
            child.wait_with_output().unwrap()
        });
        Done(lightbus_tests::soon("the tool", work).await.unwrap())
    }
}

impl Drop for Tool {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The outcome of a run of the tool.
struct Done(Output);

impl Done {
    fn out(&self) -> String {
        String::from_utf8(self.0.stdout.clone()).unwrap()
    }

    fn err(&self) -> String {
        String::from_utf8(self.0.stderr.clone()).unwrap()
    }

    fn code(&self) -> i32 {
        self.0.status.code().unwrap()
    }

    /// Compares the exit code and the output.
    fn shows(&self, expected: &Expect) {
        let said = format!("code {}\n{}--- errors\n{}", self.code(), self.out(), self.err());
        expected.assert_eq(&said);
    }
}

macro_rules! on_shared_transports {
    ($($case:ident),* $(,)?) => {
        mod redis {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                if let Some(place) = super::Place::redis() {
                    super::$case(place).await;
                }
            })*
        }
        #[cfg(feature = "amqp")]
        mod amqp {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                if let Some(place) = super::Place::amqp() {
                    super::$case(place).await;
                }
            })*
        }
        #[cfg(feature = "kafka")]
        mod kafka {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                if let Some(place) = super::Place::kafka() {
                    super::$case(place).await;
                }
            })*
        }
    };
}

#[path = "cli/snapshots.rs"]
mod snapshots;
#[path = "cli/terminal.rs"]
mod terminal;
#[path = "cli/top.rs"]
mod top;

on_shared_transports!(
    a_call_prints_its_result,
    a_call_that_fails_has_its_code,
    events_are_fired_and_listened_to,
    events_come_from_lines,
    a_listener_leaves_what_it_did_not_print,
    schemas_are_dumped_compared_and_loaded,
    past_events_are_inspected,
    dead_letters_are_listed_and_purged,
    dead_letters_go_back_to_their_listener,
    dead_letters_of_an_unknown_listener_are_an_error,
    what_must_not_be_seen_is_not_shown,
    a_shell_takes_command_after_command,
    an_api_is_explained_down_to_the_broker,
    a_benchmark_measures_and_leaves_a_bus_in_use_alone,
);

async fn a_call_prints_its_result(place: Place) {
    let (bus, tool) = (place.bus("auth").await, Tool::at(&place));
    bus.serve(AuthApi(Service)).await.unwrap();
    tool.run(&["call", "auth.check_password", "username=admin", "password:=\"secret\""])
        .await
        .shows(&expect![[r#"
            code 0
            true
            --- errors
        "#]]);
}

async fn a_call_that_fails_has_its_code(place: Place) {
    let (bus, tool) = (place.bus("auth").await, Tool::at(&place));
    bus.serve(AuthApi(Service)).await.unwrap();
    let remote = tool.run(&["call", "auth.boom"]).await;
    assert_eq!((remote.code(), remote.out().as_str()), (1, ""));
    assert!(remote.err().contains("as asked"), "{}", remote.err());
    let json = tool.run(&["call", "auth.boom", "--json"]).await;
    let error: serde_json::Value = serde_json::from_str(&json.err()).unwrap();
    assert_eq!(error["error"]["kind"], "remote");
    assert_eq!(error["error"]["code"], 1);
    let slow = tool.run(&["call", "auth.slow", "--timeout", "0.2"]).await;
    assert_eq!(slow.code(), 4, "{}", slow.err());
    let wrong = tool.run(&["call", "auth.check_password", "username=admin"]).await;
    assert_eq!(wrong.code(), 1, "{}", wrong.err());
    assert!(wrong.err().contains("password"), "{}", wrong.err());
    let nobody = tool.run(&["call", "auht.boom"]).await;
    assert_eq!(nobody.code(), 1, "{}", nobody.err());
    assert!(nobody.err().contains("Did you mean `auth`"), "{}", nobody.err());
    let usage = tool.run(&["call", "auth.boom", "how"]).await;
    usage.shows(&expect![[r#"
        code 2
        --- errors
        error: the argument `how`: write key=text or key:=json
    "#]]);
}

async fn events_are_fired_and_listened_to(place: Place) {
    let (bus, tool) = (place.bus("auth").await, Tool::at(&place));
    bus.register(AuthClient::contract()).await.unwrap();
    let mut listener =
        tool.command(&["listen", "auth.*", "--name", "watch", "--count", "2", "--json"]);
    // It creates the consumer group.
    let mut first = Program::start(&mut listener);
    let listening = async || {
        let fired = tool.run(&["fire", "auth.user_registered", "username=a", "age:=1"]).await;
        assert_eq!(fired.code(), 0, "{}", fired.err());
        assert!(fired.out().starts_with("fired auth.user_registered "), "{}", fired.out());
        first.has_ended()
    };
    eventually("two events are printed", listening).await;
    let line = first.wait_for("user_registered");
    let event: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(event["arguments"], serde_json::json!({ "username": "a", "age": 1 }));
    assert_eq!(event["api"], "auth");
    let refused = tool.run(&["fire", "auth.user_registered", "username=a", "age=1"]).await;
    assert_eq!(refused.code(), 1, "{}", refused.err());
    let unknown = tool.run(&["fire", "auth.user_registred", "username=a"]).await;
    assert_eq!(unknown.code(), 1);
    assert!(unknown.err().contains("user_registered"), "{}", unknown.err());
}

/// The schemas of Python's APIs do not name a version.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_of_a_python_api_has_the_version_of_the_newest_past_one() {
    let Some(server) = lightbus_tests::RedisServer::start() else { return };
    let Some(python) = lightbus_tests::python::python() else { return };
    let event = ["--api", "billing", "--event", "paid", "--kwargs", r#"{"total": 1}"#];
    let flags = [&event[..], &["--adhoc", "--version", "4"]].concat();
    let url = server.url();
    let first = tokio::task::spawn_blocking(move || {
        lightbus_tests::python::run(python, "fire.py", &url, &flags)
    });
    let (code, lines) = lightbus_tests::soon("Python fires", first).await.unwrap();
    assert_eq!((code, &lines[0]["version"]), (Some(0), &serde_json::json!(4)), "{lines:?}");

    let place = Place::Redis(server);
    let tool = Tool::at(&place);
    let fire = ["fire", "billing.paid", "total:=2"];
    for words in [&fire[..], &[&fire[..], &["--event-version", "5"]].concat()] {
        let done = tool.run(words).await;
        assert_eq!(done.code(), 0, "{}", done.err());
    }
    let past = tool.run(&["inspect", "billing", "--json"]).await;
    let version =
        |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["version"].take();
    let versions: Vec<_> = past.out().lines().map(version).collect();
    assert_eq!(versions, [5, 4, 4], "{}", past.err());
}

async fn events_come_from_lines(place: Place) {
    let (bus, tool) = (place.bus("auth").await, Tool::at(&place));
    bus.register(AuthClient::contract()).await.unwrap();
    let mut lines = String::new();
    for age in 0..500 {
        lines.push_str(&format!("{{\"username\": \"u{age}\", \"age\": {age}}}\n"));
    }
    let all = tool.run_with(&["fire", "auth.user_registered", "--stdin"], &lines).await;
    all.shows(&expect![[r#"
        code 0
        fired 500, refused 0
        --- errors
    "#]]);
    let wrong = "{\"username\": \"a\", \"age\": 1}\n\n[]\n{\"username\": \"a\"}\n";
    let some = tool.run_with(&["fire", "auth.user_registered", "--stdin", "--json"], wrong).await;
    assert_eq!((some.code(), some.out().trim()), (1, r#"{"fired":1,"refused":2}"#));
    let err = some.err();
    let mut numbers: Vec<_> = err
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["line"].as_u64().unwrap()
        })
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [3, 4], "{err}");
}

async fn a_listener_leaves_what_it_did_not_print(place: Place) {
    let (bus, tool) = (place.bus("auth").await, Tool::at(&place));
    bus.register(AuthClient::contract()).await.unwrap();
    let listen = ["listen", "auth.user_registered", "--name", "part", "--count", "1", "--json"];
    let mut first = Program::start(&mut tool.command(&listen));
    let begun = async || {
        bus.fire(UserRegistered { username: "first".into(), age: 0 }).await.unwrap();
        first.has_ended()
    };
    eventually("one event is printed", begun).await;
    bus.fire(UserRegistered { username: "last".into(), age: 1 }).await.unwrap();
    // The second receives everything that the first left, the last event last.
    let mut second = Program::start(&mut tool.command(&[
        "listen",
        "auth.user_registered",
        "--name",
        "part",
        "--json",
    ]));
    second.wait_for("\"last\"");
    second.signal("INT");
    assert_eq!(second.finish().0, Some(0));
}

async fn schemas_are_dumped_compared_and_loaded(place: Place) {
    let (bus, tool) = (place.bus("auth").await, Tool::at(&place));
    bus.register(AuthClient::contract()).await.unwrap();
    let dumped = tool.run(&["schema", "dump", "-o", "all.json"]).await;
    assert_eq!(dumped.code(), 0, "{}", dumped.err());
    assert_eq!(dumped.err(), "saved 1 schema to all.json\n");
    tool.run(&["schema", "check", "all.json"]).await.shows(&expect![[r#"
        code 0
        no changes
        --- errors
    "#]]);
    let file = tool.folder.join("all.json");
    let mut schemas: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    schemas["auth"]["rpcs"].as_object_mut().unwrap().remove("slow");
    std::fs::write(tool.folder.join("new.json"), schemas.to_string()).unwrap();
    tool.run(&["schema", "diff", "all.json", "new.json"]).await.shows(&expect![[r#"
        code 0
        auth.slow: the procedure was removed (breaks callers of the older version)
        --- errors
    "#]]);
    let check = tool.run(&["schema", "check", "new.json"]).await;
    assert_eq!(check.code(), 1, "{}", check.err());
    let other = serde_json::json!({ "other": schemas["auth"] });
    std::fs::write(tool.folder.join("other.json"), other.to_string()).unwrap();
    assert_eq!(tool.run(&["schema", "load", "other.json"]).await.code(), 0);
    let dumped = tool.run(&["schema", "dump", "other"]).await;
    assert_eq!(serde_json::from_str::<serde_json::Value>(&dumped.out()).unwrap(), other);
}

#[tokio::test]
async fn a_broker_that_is_away_is_code_3() {
    let url = format!("redis://127.0.0.1:{}/0", lightbus_tests::free_port());
    let tool = Tool::new(&lightbus_tests::redis_yaml(&url, ""));
    let done = tool.run(&["call", "auth.boom", "--json"]).await;
    assert_eq!(done.code(), 3, "{}", done.err());
    assert!(done.err().contains("\"code\":3"), "{}", done.err());
}

#[tokio::test]
async fn the_configuration_is_checked_and_shown_without_secrets() {
    let tool = Tool::new(
        "bus: { schema: { ttl: 30, transport: { redis: { url: \"redis://:hunter2@127.0.0.1/0\" } } } }\n",
    );
    let shown = tool.run(&["config", "show"]).await;
    assert_eq!(shown.code(), 0, "{}", shown.err());
    assert!(shown.out().contains("bus.schema.ttl = 30   # lightbus.yaml"), "{}", shown.out());
    assert!(!shown.out().contains("hunter2"), "{}", shown.out());
    tool.run(&["config", "check"]).await.shows(&expect![[r#"
        code 0
        the configuration is valid
        --- errors
    "#]]);
    let schema = tool.run(&["config", "schema"]).await;
    assert!(
        serde_json::from_str::<serde_json::Value>(&schema.out()).unwrap()["properties"].is_object()
    );
    let tool = Tool::new("bus: { schem: {} }\n");
    let wrong = tool.run(&["config", "check"]).await;
    assert_eq!(wrong.code(), 2);
    assert!(wrong.err().contains("`schema`"), "{}", wrong.err());
}

#[tokio::test]
async fn every_mistake_of_a_configuration_is_reported() {
    let tool = Tool::new(
        r#"
bus: { schem: {}, log_level: 7, schema: { ttl: soon, transport: { rediss: {} } } }
apis:
  default:
    rpc_timeout: never
    rpc_transport: { redis: { urll: "x", batch_size: many } }
    event_transport: { redis: { batch_size: many } }
  auth:
    validate: { incoming: perhaps }
    cast_value: true
    max_message_size: -1
    result_transport: { redis: { url: "not a url" } }
plugins: { internal_state: { enabled: 7 }, internal_sate: {} }
nonsense: 1
"#,
    );
    let wrong = [
        "bus.schem",
        "bus.log_level",
        "bus.schema.ttl",
        "bus.schema.transport",
        "apis.default.rpc_timeout",
        "apis.default.rpc_transport.redis.urll",
        "apis.default.rpc_transport.redis.batch_size",
        "apis.default.event_transport.redis.batch_size",
        "apis.auth.validate",
        "apis.auth.cast_value",
        "apis.auth.max_message_size",
        "apis.auth.result_transport.redis.url",
        "plugins.internal_state.enabled",
        "plugins.internal_sate",
        "nonsense",
    ];
    let check = tool.run(&["config", "check", "--json"]).await;
    assert_eq!((check.code(), check.out().as_str()), (2, ""));
    let mut found: Vec<_> = check
        .err()
        .lines()
        .map(|line| {
            let error: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(error["error"]["kind"], "config", "{error}");
            let facts = error["error"]["facts"].as_array().unwrap();
            let at = facts.iter().find(|fact| fact[0] == "at").unwrap_or_else(|| panic!("{error}"));
            at[1].as_str().unwrap().to_owned()
        })
        .collect();
    found.sort();
    let mut wrong = wrong.map(str::to_owned);
    wrong.sort();
    assert_eq!(found, wrong, "{}", check.err());
    let text = tool.run(&["config", "check"]).await;
    assert_eq!((text.code(), text.err().matches("error: ").count()), (2, wrong.len()));
    assert!(text.err().contains("Did you mean `cast_values`?"), "{}", text.err());
}

#[tokio::test]
async fn alone_in_memory_it_says_that_it_needs_a_broker() {
    let tool = Tool::new("apis: { default: { event_transport: { memory: {} } } }\n");
    let done = tool.run(&["call", "auth.boom"]).await;
    assert_eq!(done.code(), 2, "{}", done.err());
    assert!(done.err().contains("cannot reach another process"), "{}", done.err());
}

#[tokio::test]
async fn help_version_completions_and_manual() {
    let tool = Tool::new("");
    assert_eq!(tool.run(&["version"]).await.out().trim(), env!("CARGO_PKG_VERSION"));
    for command in ["call", "fire", "listen"] {
        let help = tool.run(&[command, "--help"]).await;
        assert_eq!(help.code(), 0);
        assert!(help.out().contains("Examples:"), "{command}");
    }
    assert_eq!(tool.run(&["call"]).await.code(), 2);
    assert_eq!(tool.run(&["no-such-command"]).await.code(), 2);
    assert!(tool.run(&["completions", "bash"]).await.out().contains("check"));
    assert_eq!(tool.run(&["man", "."]).await.code(), 0);
    assert!(tool.folder.join("lightbus-listen.1").exists());
}

async fn past_events_are_inspected(place: Place) {
    let (bus, tool) = (place.bus("auth").await, Tool::at(&place));
    bus.register(AuthClient::contract()).await.unwrap();
    for (username, age) in [("young", 9), ("old", 70)] {
        bus.fire(UserRegistered { username: username.into(), age }).await.unwrap();
    }
    let names = |done: &Done| {
        let lines = done.out();
        let names = lines.lines().map(|line| {
            let event: serde_json::Value = serde_json::from_str(line).unwrap();
            event["arguments"]["username"].as_str().unwrap().to_owned()
        });
        names.collect::<Vec<_>>()
    };
    let held = tool.run(&["inspect", "auth", "--pending", "--json"]).await;
    assert_eq!(held.code(), 0, "{}", held.err());
    let held: serde_json::Value = serde_json::from_str(held.out().trim()).unwrap();
    assert_eq!(held["api"], "auth", "{held}");
    let kinds: Vec<_> = held["on"].as_array().unwrap().iter().map(|part| &part["kind"]).collect();
    assert_eq!(kinds, ["calls", "events"], "{held}");
    assert!(held["on"][1]["places"][0]["name"].is_string(), "{held}");
    let all = tool.run(&["inspect", "--json"]).await;
    if all.code() == 1 && all.err().contains("unsupported") {
        // A broker without a past says so, with a hint.
        assert!(all.err().contains("lightbus listen"), "{}", all.err());
        return;
    }
    assert_eq!(names(&all), ["old", "young"], "{}", all.err());
    let some = tool.run(&["inspect", "auth", "--json", "--json-path", "age>10"]).await;
    assert_eq!(names(&some), ["old"]);
    let none = tool.run(&["inspect", "auth", "--json", "--event-version", "7"]).await;
    assert_eq!((none.code(), none.out().as_str()), (0, ""));
    let first: serde_json::Value = serde_json::from_str(all.out().lines().next().unwrap()).unwrap();
    let id = first["id"].as_str().unwrap();
    assert_eq!(names(&tool.run(&["inspect", "auth", "--json", "--id", id]).await), ["old"]);
    let mut follow =
        Program::start(&mut tool.command(&["inspect", "auth", "--follow", "--limit", "1"]));
    follow.wait_for("username=\"old\"");
    bus.fire(UserRegistered { username: "new".into(), age: 1 }).await.unwrap();
    follow.wait_for("username=\"new\"");
    follow.signal("INT");
    assert_eq!(follow.finish().0, Some(0));
}

async fn a_benchmark_measures_and_leaves_a_bus_in_use_alone(place: Place) {
    let tool = Tool::at(&place);
    for kind in ["rpc", "events"] {
        let done = tool.run(&["bench", kind, "--seconds", "1", "--callers", "4", "--json"]).await;
        assert_eq!(done.code(), 0, "{}", done.err());
        let measured: serde_json::Value = serde_json::from_str(&done.out()).unwrap();
        assert!(measured["count"].as_u64().unwrap() > 0, "{measured}");
        assert!(measured["latency_us"]["p50"].as_u64() <= measured["latency_us"]["p99"].as_u64());
    }
    let bus = place.bus("auth").await;
    bus.serve(AuthApi(Service)).await.unwrap();
    let refused = tool.run(&["bench", "rpc", "--seconds", "1"]).await;
    assert_eq!(refused.code(), 1);
    assert!(refused.err().contains("in use by auth"), "{}", refused.err());
}

async fn an_api_is_explained_down_to_the_broker(place: Place) {
    let (bus, tool) = (place.bus("auth").await, Tool::at(&place));
    bus.serve(AuthApi(Service)).await.unwrap();
    bus.listen("welcome", |_: UserRegistered| std::future::pending()).await.unwrap();
    bus.fire(UserRegistered { username: "a".into(), age: 1 }).await.unwrap();
    let all = tool.run(&["explain", "auth"]).await;
    assert_eq!(all.code(), 0, "{}", all.err());
    assert!(
        all.out().contains("procedure check_password(password: string, username: string)"),
        "{}",
        all.out()
    );
    assert!(all.out().contains("at most once"), "{}", all.out());
    let one = tool.run(&["explain", "auth.user_registered", "--json"]).await;
    let explained: serde_json::Value = serde_json::from_str(&one.out()).unwrap();
    assert_eq!(explained["members"][0]["name"], "user_registered");
    assert_eq!(explained["on"][0]["kind"], "events");
    if let Place::Redis(server) = &place {
        assert_eq!(server.command(&["XLEN", "auth.*:stream"]), "1");
        // The listener never ends: it holds the event.
        let holds = async || {
            let one = tool.run(&["explain", "auth.user_registered", "--json"]).await;
            let explained: serde_json::Value = serde_json::from_str(&one.out()).unwrap();
            let stream = &explained["on"][0]["places"][0];
            assert_eq!(stream["name"], "auth.*:stream");
            let group = &stream["groups"][0];
            assert_eq!(group["name"], "auth-welcome");
            group["pending"] == 1 && group["consumers"][0]["oldest_seconds"].is_number()
        };
        eventually("the event is pending", holds).await;
        assert!(all.out().contains("redis-cli XINFO GROUPS 'auth.*:stream'"), "{}", all.out());
        assert!(all.out().contains("auth:rpc_queue"), "{}", all.out());
    }
    #[cfg(feature = "amqp")]
    if let Place::Amqp { .. } = &place {
        let exchange = &explained["on"][0]["places"][0];
        assert!(exchange["name"].as_str().unwrap().ends_with("lightbus.events"), "{explained}");
        let queue =
            all.out().lines().find(|line| line.contains("auth.rpc_queue")).map(str::to_owned);
        assert!(queue.unwrap().contains("consumers: 1"), "{}", all.out());
        assert!(all.out().contains("rabbitmqctl list_queues"), "{}", all.out());
    }
    #[cfg(feature = "kafka")]
    if let Place::Kafka { .. } = &place {
        let topic = &explained["on"][0]["places"][0];
        assert!(topic["name"].as_str().unwrap().ends_with("auth.events"), "{explained}");
        assert!(topic["groups"][0]["waiting"].is_number(), "{explained}");
        assert!(all.out().contains("auth.rpc_queue"), "{}", all.out());
        assert!(all.out().contains("kafka-consumer-groups.sh"), "{}", all.out());
    }
    let unknown = tool.run(&["explain", "auth.nothing"]).await;
    assert_eq!(unknown.code(), 1);
    assert!(unknown.err().contains("no procedure or event `nothing`"), "{}", unknown.err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_doctor_finds_what_loses_messages() {
    let Some(server) = lightbus_tests::RedisServer::start_durable() else { return };
    let tool = Tool::new(&lightbus_tests::redis_yaml(&server.url(), ""));
    // Started with an append-only file.
    let fine = tool.run(&["doctor", "--json"]).await;
    assert_eq!(fine.code(), 0, "{}{}", fine.out(), fine.err());
    server.command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    server.command(&["CONFIG", "SET", "appendonly", "no"]);
    let ill = tool.run(&["doctor", "--json"]).await;
    assert_eq!(ill.code(), 1, "{}", ill.err());
    let problems: Vec<_> = ill
        .out()
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .filter(|finding| finding["severity"] == "problem")
        .map(|finding| finding["what"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].contains("allkeys-lru") && problems[1].contains("append-only"));
}

#[cfg(feature = "amqp")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_doctor_examines_rabbitmq() {
    let Some(place) = Place::amqp() else { return };
    let yaml = place.yaml("");
    let fine = Tool::new(&yaml).run(&["doctor", "--json"]).await;
    assert_eq!(fine.code(), 0, "{}{}", fine.out(), fine.err());
    let read = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
    let findings: Vec<_> = fine.out().lines().map(read).collect();
    let has = |severity: &str, what: &str| {
        findings.iter().any(|finding| {
            finding["severity"] == severity && finding["what"].as_str().unwrap().contains(what)
        })
    };
    assert!(has("good", "RabbitMQ ") && has("good", "accepts messages"), "{}", fine.out());
    assert!(has("good", "lightbus.schemas") && has("good", "lightbus.events"), "{}", fine.out());
    assert!(has("warning", "does not show policies"), "{}", fine.out());
    let versions =
        findings.iter().filter(|finding| finding["what"].to_string().contains("RabbitMQ "));
    assert_eq!(versions.count(), 1, "three transports, one broker: {}", fine.out());

    // Events would go to an exchange that is something else.
    let url = std::env::var("LIGHTBUS_TEST_AMQP_URL").unwrap();
    let taken = format!("event_transport: {{ amqp: {{ url: \"{url}\", exchange: amq.direct }} }}");
    let (rest, _) = yaml.split_once("event_transport:").unwrap();
    let ill = Tool::new(&format!("{rest}{taken}\n")).run(&["doctor"]).await;
    assert_eq!(ill.code(), 1, "{}{}", ill.out(), ill.err());
    let told = ill.out();
    let problem = told.lines().skip_while(|line| !line.starts_with("problem")).take(3);
    let problem: Vec<_> = problem.collect();
    assert!(problem[0].contains("amq.direct") && problem[2].contains("fix:"), "{told}");
}

/// What the doctor says of topics that are made with these options, and its code.
#[cfg(feature = "kafka")]
async fn doctor_on_kafka(variable: &str, options: &str) -> Option<(String, i32)> {
    let Place::Kafka { brokers, prefix } = Place::kafka()? else { unreachable!() };
    let brokers = std::env::var(variable).unwrap_or(brokers);
    let yaml = lightbus_tests::kafka_yaml(&brokers, &prefix);
    let yaml = yaml.replace("partitions: 4", &format!("partitions: 4{options}"));
    let config = lightbus::config::Config::from_yaml(&yaml).unwrap();
    let bus = lightbus::Bus::builder().config(config).service_name("auth");
    let bus = lightbus_tests::soon("connecting", bus.connect()).await.unwrap();
    bus.register(AuthClient::contract()).await.unwrap();
    // A topic may refuse the event; made it is.
    let _ = bus.fire(UserRegistered { username: "a".into(), age: 1 }).await;
    let done = Tool::new(&yaml).run(&["doctor"]).await;
    Some((done.out(), done.code()))
}

#[cfg(feature = "kafka")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_doctor_examines_kafka() {
    const ONE: &str = "LIGHTBUS_TEST_KAFKA_BROKERS";
    let Some((said, code)) = doctor_on_kafka(ONE, "").await else { return };
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("there is one broker") && said.contains("brokers: 1"), "{said}");
    assert!(said.contains("keep what is confirmed"), "{said}");
    let forgetful = ", topic_settings: { cleanup.policy: compact, retention.ms: 60000, unclean.leader.election.enable: true }";
    let (said, code) = doctor_on_kafka(ONE, forgetful).await.unwrap();
    assert_eq!(code, 1, "{said}");
    for finding in ["cleanup.policy includes compact", "less than a day", "unclean.leader.election"]
    {
        assert!(said.contains(finding), "{finding}: {said}");
    }
}

#[cfg(feature = "kafka")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_doctor_examines_a_kafka_cluster() {
    const THREE: &str = "LIGHTBUS_TEST_KAFKA_CLUSTER";
    if std::env::var(THREE).is_err() {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{THREE} is not set");
        eprintln!("SKIPPED: {THREE} is not set");
        return;
    }
    let Some((said, code)) = doctor_on_kafka(THREE, ", replication: 1").await else { return };
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("auth.events") && said.contains("one replica"), "{said}");
    let risky = ", replication: 3, min_insync_replicas: 1";
    let (said, _) = doctor_on_kafka(THREE, risky).await.unwrap();
    assert!(said.contains("min.insync.replicas is 1"), "{said}");
    let safe = ", replication: 3, min_insync_replicas: 2";
    let (said, code) = doctor_on_kafka(THREE, safe).await.unwrap();
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("brokers: 3") && said.contains("keep what is confirmed"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_doctor_may_not_read_is_a_finding() {
    let Some(server) = lightbus_tests::RedisServer::start_durable() else { return };
    server.command(&[
        "ACL", "SETUSER", "poor", "on", ">secret", "~*", "&*", "+@all", "-config", "-info",
    ]);
    let url = server.url().replace("redis://", "redis://poor:secret@");
    let tool = Tool::new(&lightbus_tests::redis_yaml(&url, ""));
    let blind = tool.run(&["doctor", "--json"]).await;
    assert_eq!(blind.code(), 0, "{}{}", blind.out(), blind.err());
    let finding: serde_json::Value =
        serde_json::from_str(blind.out().lines().next().unwrap()).unwrap();
    assert_eq!(finding["severity"], "warning");
    assert!(finding["what"].as_str().unwrap().contains("INFO is not allowed"), "{finding}");
    assert!(finding["cure"].as_str().unwrap().contains("+info"), "{finding}");
    // What is left to read is read, and what is not is said.
    server.command(&["ACL", "SETUSER", "poor", "+info"]);
    let half = tool.run(&["doctor"]).await;
    assert_eq!(half.code(), 0, "{}{}", half.out(), half.err());
    assert!(half.out().contains("CONFIG GET is not allowed"), "{}", half.out());
    assert!(!format!("{}{}", half.out(), half.err()).contains("secret"));
}

/// An API with a sensitive value.
#[lightbus::api(name = "vault", events(Stored))]
pub trait Vault {}

#[derive(Clone, Debug, lightbus::Event)]
pub struct Stored {
    pub name: String,
    pub pin: lightbus::Sensitive<String>,
}

async fn what_must_not_be_seen_is_not_shown(place: Place) {
    let (bus, tool) = (place.bus("vault").await, Tool::at(&place));
    bus.register(VaultClient::contract()).await.unwrap();
    bus.listen("fails", |_: Stored| async move { Err(std::io::Error::other("no place").into()) })
        .on_error(lightbus::OnError::Retry(lightbus::RetryPolicy::attempts(1)))
        .await
        .unwrap();
    let mut listen =
        tool.command(&["listen", "vault.*", "--name", "watch", "--count", "1", "--json"]);
    let mut listener = Program::start(&mut listen);
    let heard = async || {
        bus.fire(Stored { name: "safe".into(), pin: "hunter2".to_owned().into() }).await.unwrap();
        listener.has_ended()
    };
    eventually("an event is printed", heard).await;
    let mut shown = vec![listener.wait_for("stored")];
    let letters = async || {
        let done = tool.run(&["dlq", "show", "vault", "fails", "--json"]).await;
        if done.code() == 0 { Some(done.out()) } else { None }
    };
    eventually("one is dead-lettered", async || letters().await.is_some()).await;
    shown.push(letters().await.unwrap());
    shown.push(tool.run(&["dlq", "list", "vault", "fails", "--json"]).await.out());
    let past = tool.run(&["inspect", "vault", "--json"]).await;
    if past.code() == 0 {
        shown.push(past.out());
        // In the line for people too.
        shown.push(tool.run(&["inspect", "vault"]).await.out());
    } else {
        assert!(past.err().contains("unsupported"), "{}", past.err());
    }
    for text in shown {
        assert!(text.contains("<redacted>") && text.contains("safe"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}

async fn a_shell_takes_command_after_command(place: Place) {
    let (bus, tool) = (place.bus("auth").await, Tool::at(&place));
    bus.serve(AuthApi(Service)).await.unwrap();
    let lines = "call auth.check_password username=admin 'password=secret'\ncall auth.boom\nnonsense\n\nexit\n";
    let done = tool.run_with(&["shell"], lines).await;
    assert_eq!(done.code(), 0, "{}", done.err());
    assert!(done.out().contains("true"), "{}", done.out());
    assert!(done.err().contains("as asked") && done.err().contains("nonsense"), "{}", done.err());
}

async fn dead_letters_are_listed_and_purged(place: Place) {
    let (bus, tool) = (place.bus("auth").await, Tool::at(&place));
    bus.register(AuthClient::contract()).await.unwrap();
    bus.listen("fails", |event: UserRegistered| async move {
        Err(std::io::Error::other(format!("no place for {}", event.username)).into())
    })
    .on_error(lightbus::OnError::Retry(lightbus::RetryPolicy::attempts(1)))
    .await
    .unwrap();
    for (username, age) in [("a", 1), ("b", 2)] {
        bus.fire(UserRegistered { username: username.into(), age }).await.unwrap();
    }
    let listed = async |more: &[&str]| listed(&tool, more).await;
    eventually("both are dead-lettered", async || listed(&[]).await.len() == 2).await;
    let a = listed(&["--reason", "place for a"]).await;
    assert_eq!(a.len(), 1);
    assert_eq!(a[0]["event"]["arguments"]["username"], "a");
    let purge = ["dlq", "purge", "auth", "fails", "--json"];
    assert_eq!(tool.run(&purge).await.code(), 2, "all of them only with --all");
    let dry = tool.run(&[&purge[..], &["--all", "--dry-run"]].concat()).await;
    assert_eq!(dry.out().trim(), r#"{"dry_run":true,"found":2,"removed":0}"#);
    let one = tool.run(&[&purge[..], &["--id", a[0]["id"].as_str().unwrap()]].concat()).await;
    assert_eq!(one.out().trim(), r#"{"dry_run":false,"found":1,"removed":1}"#, "{}", one.err());
    let left = listed(&["--event", "auth.*"]).await;
    assert_eq!(left.len(), 1);
    assert_eq!(left[0]["event"]["arguments"]["username"], "b");
}

async fn dead_letters_of_an_unknown_listener_are_an_error(place: Place) {
    let (bus, tool) = (place.bus("auth").await, Tool::at(&place));
    bus.register(AuthClient::contract()).await.unwrap();
    bus.listen("welcome", |_: UserRegistered| async { Ok(()) }).await.unwrap();
    let none = tool.run(&["dlq", "list", "auth", "welcome"]).await;
    assert_eq!((none.code(), none.err().as_str()), (0, "no dead letter matches\n"));
    for [service, listener] in [["auth", "welcme"], ["atuh", "welcome"]] {
        for command in ["list", "show", "retry", "purge"] {
            let all = if matches!(command, "retry" | "purge") { &["--all"][..] } else { &[] };
            let done = tool.run(&[&["dlq", command, service, listener], all].concat()).await;
            if place.counts_deliveries() && !matches!(place, Place::Redis(_)) {
                // RabbitMQ does not report its groups, so the listener may exist.
                assert_eq!(done.code(), i32::from(command == "show"), "{}", done.err());
                continue;
            }
            assert_eq!((done.code(), done.out().as_str()), (1, ""), "{command}");
            assert!(done.err().contains("Did you mean `auth-welcome`?"), "{}", done.err());
        }
    }
}

/// The dead letters of the listener `fails` of the service `auth`.
async fn listed(tool: &Tool, more: &[&str]) -> Vec<serde_json::Value> {
    let done = tool.run(&[&["dlq", "list", "auth", "fails", "--json"], more].concat()).await;
    assert_eq!(done.code(), 0, "{}", done.err());
    let read = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
    done.out().lines().map(read).collect()
}

async fn dead_letters_go_back_to_their_listener(place: Place) {
    let (bus, tool) = (place.bus("auth").await, Tool::at(&place));
    bus.register(AuthClient::contract()).await.unwrap();
    let (broken, handled) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
    let (is_broken, handles) = (Arc::clone(&broken), Arc::clone(&handled));
    bus.listen("fails", move |event: UserRegistered| {
        let (is_broken, handles) = (Arc::clone(&is_broken), Arc::clone(&handles));
        async move {
            if is_broken.load(Ordering::SeqCst) || event.username == "never" {
                return Err(
                    std::io::Error::other(format!("no place for {}", event.username)).into()
                );
            }
            handles.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }
    })
    .on_error(lightbus::OnError::Retry(lightbus::RetryPolicy::attempts(1)))
    .await
    .unwrap();
    for username in ["a", "never", "c"] {
        bus.fire(UserRegistered { username: username.into(), age: 1 }).await.unwrap();
    }
    let count = async |wanted: usize| {
        let all = async || listed(&tool, &[]).await.len() == wanted;
        eventually(&format!("there are {wanted} dead letters"), all).await;
    };
    count(3).await;
    broken.store(false, Ordering::SeqCst);

    let retry = ["dlq", "retry", "auth", "fails", "--json"];
    assert_eq!(tool.run(&retry).await.code(), 2, "all of them only with --all");
    let dry = tool.run(&[&retry[..], &["--all", "--dry-run"]].concat()).await;
    assert_eq!(dry.out().trim(), r#"{"dry_run":true,"found":3,"retried":0}"#, "{}", dry.err());
    count(3).await;
    let one = tool.run(&[&retry[..], &["--reason", "place for a"]].concat()).await;
    assert_eq!(one.out().trim(), r#"{"dry_run":false,"found":1,"retried":1}"#, "{}", one.err());
    eventually("one is handled", async || handled.load(Ordering::SeqCst) == 1).await;
    count(2).await;
    // One per second: the first may fail again before the second is requeued. Each is requeued once.
    let all = tool.run(&[&retry[..], &["--all", "--rate", "1"]].concat()).await;
    assert_eq!(all.code(), 0, "{}", all.err());
    assert_eq!(all.out().trim(), r#"{"dry_run":false,"found":2,"retried":2}"#);
    eventually("two are handled", async || handled.load(Ordering::SeqCst) == 2).await;
    count(1).await;
    let nothing = tool.run(&[&retry[..], &["--id", "1-1"]].concat()).await;
    assert_eq!(nothing.code(), 1, "{}", nothing.out());

    if let Place::Redis(server) = &place {
        // The event is gone: the dead letter stays, and the tool names it.
        let left = listed(&tool, &[]).await;
        server.command(&["XTRIM", "auth.*:stream", "MAXLEN", "0"]);
        let gone = tool.run(&[&retry[..], &["--all"]].concat()).await;
        assert_eq!(gone.out().trim(), r#"{"dry_run":false,"found":1,"retried":0}"#);
        assert_eq!(gone.code(), 1);
        let told: serde_json::Value = serde_json::from_str(&gone.err()).unwrap();
        assert_eq!(told["id"], left[0]["id"]);
        count(1).await;
    }
}
