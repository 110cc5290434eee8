//! The output of the tool, compared with the files in `tests/snapshots`. After an intended change,
//! `UPDATE_EXPECT=1 cargo test -p lightbus-cli --features amqp,kafka snapshots` rewrites the files.

use std::path::PathBuf;

use expect_test::expect_file;
use lightbus::{OnError, RetryPolicy};
use regex::Regex;

use super::{AuthApi, Done, Place, Program, Service, Tool, UserRegistered};
use lightbus_tests::{RedisServer, eventually};

/// What differs in each run, and its replacement.
const CHANGING: [(&str, &str); 12] = [
    (r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME"),
    (r"\b(redis|amqp|kafka) 127\.0\.0\.1:\d+(/0)?", "BROKER"),
    (r"127\.0\.0\.1:\d+(/(0|%2f))?", "HOST:PORT"),
    (r"\bt[0-9a-f]{16}\.", "PREFIX."),
    // RabbitMQ updates the count of a stream with a delay.
    (r"(schemas \(a stream\), consumers: \d+): \d+", "$1: N"),
    (
        r#""messages":\d+,"name":"PREFIX.lightbus.schemas""#,
        r#""messages":N,"name":"PREFIX.lightbus.schemas""#,
    ),
    (r"\b\d{13}-\d+\b", "NATIVE-ID"),
    (r"\b\d+\.\d s\b", "N.N s"),
    (r"Redis \d+\.\d+\.\d+", "Redis N.N.N"),
    (r#""native_id":"[^"]*""#, r#""native_id":"NATIVE-ID""#),
    (r"(\b\d{16}-)?[0-9a-f]{32}-[0-9a-f]+", "ID"),
    (r"\b0 [a-z]+, \d+ µs", "N µs"),
];

fn masked(text: &str, tool: &Tool) -> String {
    let mut text = text.replace(&*tool.folder.to_string_lossy(), "FOLDER");
    for (pattern, name) in CHANGING {
        text = Regex::new(pattern).unwrap().replace_all(&text, name).into_owned();
    }
    text
}

/// Compares the output with the file of this name.
fn same(name: &str, tool: &Tool, words: &[&str], done: &Done) {
    let words: Vec<_> = words
        .iter()
        .map(
            |word| if word.contains([' ', '*']) { format!("'{word}'") } else { (*word).to_owned() },
        )
        .collect();
    let (out, err) = (done.out(), done.err());
    let err = if err.is_empty() { String::new() } else { format!("--- errors\n{err}") };
    let said = format!("$ lightbus {}\n{out}{err}--- code {}\n", words.join(" "), done.code());
    let file = PathBuf::from(format!("../snapshots/{name}.txt"));
    expect_file![file].assert_eq(&masked(&said, tool));
}

async fn check(name: &str, tool: &Tool, words: &[&str]) {
    same(name, tool, words, &tool.run(words).await);
}

/// Every command and subcommand, with its help.
async fn commands(tool: &Tool) -> Vec<(Vec<String>, Done)> {
    let (mut left, mut found) = (vec![Vec::<String>::new()], Vec::new());
    while let Some(above) = left.pop() {
        let words: Vec<_> = above.iter().map(String::as_str).chain(["--help"]).collect();
        let help = tool.run(&words).await;
        // Subcommands are listed under a title, one per line.
        let text = help.out();
        let lines = text.split("\nCommands:\n").nth(1).unwrap_or_default().lines();
        for line in lines.take_while(|line| line.starts_with("  ")) {
            let name = line[2..].split(' ').next().unwrap_or_default();
            if !matches!(name, "" | "help") {
                left.push(above.iter().cloned().chain([name.to_owned()]).collect());
            }
        }
        found.push((above, help));
    }
    assert!(found.len() > 20, "{}", found.len());
    found
}

#[tokio::test]
async fn help_of_every_command() {
    let tool = Tool::new("");
    for (command, help) in commands(&tool).await {
        let name = [&["help".to_owned()], &command[..]].concat().join("-");
        let words: Vec<_> = command.iter().map(String::as_str).chain(["--help"]).collect();
        same(&name, &tool, &words, &help);
        assert!(help.out().contains("Example"), "{name} shows how to use it");
    }
}

#[tokio::test]
async fn completions_and_manual_pages_know_every_command() {
    let tool = Tool::new("");
    assert_eq!(tool.run(&["man", "."]).await.code(), 0);
    let mut shells = Vec::new();
    for shell in ["bash", "zsh", "fish"] {
        let done = tool.run(&["completions", shell]).await;
        assert_eq!(done.code(), 0, "{}", done.err());
        shells.push((shell, done.out()));
    }
    for (command, _) in commands(&tool).await {
        let page = [&["lightbus".to_owned()], &command[..]].concat().join("-") + ".1";
        assert!(tool.folder.join(&page).exists(), "{page}");
        for (shell, text) in &shells {
            let name = command.last().map_or("lightbus", String::as_str);
            assert!(text.contains(name), "{shell} does not complete {command:?}");
        }
    }
    let interval = |text: &str| text.contains("interval") && text.contains("top");
    assert!(shells.iter().all(|(_, text)| interval(text)), "options are completed, too");
}

#[tokio::test]
async fn what_needs_no_broker() {
    let tool = Tool::new("");
    assert_eq!(tool.run(&["version"]).await.out().trim(), env!("CARGO_PKG_VERSION"));
    check("usage", &tool, &["call"]).await;
    check("unknown-command", &tool, &["cal", "auth.boom"]).await;
    let memory = Tool::new("apis: { default: { event_transport: { memory: {} } } }\n");
    check("memory", &memory, &["call", "auth.boom"]).await;
    check("memory-json", &memory, &["call", "auth.boom", "--json"]).await;
    let wrong =
        Tool::new("bus: { schema: { tll: 30 } }\napis:\n  default: { rpc_timeout: soon }\n");
    check("config-check-wrong", &wrong, &["config", "check"]).await;
    let right = Tool::new(
        "service_name: shop\nbus: { schema: { ttl: 30, transport: { redis: { url: \"redis://:hunter2@127.0.0.1/0\" } } } }\n",
    );
    check("config-check", &right, &["config", "check"]).await;
    check("config-show", &right, &["config", "show"]).await;
}

#[tokio::test]
async fn a_broker_that_is_away() {
    let url = format!("redis://127.0.0.1:{}/0", lightbus_tests::free_port());
    let tool = Tool::new(&lightbus_tests::redis_yaml(&url, ""));
    check("away", &tool, &["call", "auth.boom"]).await;
    check("away-json", &tool, &["call", "auth.boom", "--json"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_doctor() {
    let Some(server) = RedisServer::start_durable() else { return };
    let tool = Tool::new(&lightbus_tests::redis_yaml(&server.url(), ""));
    check("doctor-good", &tool, &["doctor"]).await;
    server.command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    check("doctor-problem", &tool, &["doctor"]).await;
    check("doctor-problem-json", &tool, &["doctor", "--json"]).await;
}

on_shared_transports!(calls, events, schemas, dead_letters, explanations);

/// The transport's name, where what is printed is its own.
fn kind(place: &Place) -> &'static str {
    match place {
        Place::Memory(_) => "memory",
        Place::Redis(_) => "redis",
        Place::Amqp { .. } => "amqp",
        Place::Kafka { .. } => "kafka",
    }
}

async fn serving(place: &Place) -> (lightbus::Bus, Tool) {
    let builder = place.builder("auth", "", |_| ()).process_name("web-1");
    let bus = lightbus_tests::soon("connecting", builder.connect()).await.unwrap();
    bus.serve(AuthApi(Service)).await.unwrap();
    (bus, Tool::at(place))
}

async fn calls(place: Place) {
    let (_bus, tool) = serving(&place).await;
    let right = ["call", "auth.check_password", "username=admin", "password=secret"];
    check("call", &tool, &right).await;
    check("call-remote-error", &tool, &["call", "auth.boom"]).await;
    check("call-remote-error-json", &tool, &["call", "auth.boom", "--json"]).await;
    check("call-unknown-procedure", &tool, &["call", "auth.bom"]).await;
    check("call-unknown-procedure-json", &tool, &["call", "auth.bom", "--json"]).await;
    check("call-unknown-api", &tool, &["call", "--timeout", "0.5", "auht.boom"]).await;
    check(
        "call-wrong-argument",
        &tool,
        &["call", "auth.check_password", "username:=7", "password=a"],
    )
    .await;
    check("call-timeout", &tool, &["call", "auth.slow", "--timeout", "2"]).await;
}

async fn events(place: Place) {
    let (bus, tool) = serving(&place).await;
    let fire = ["fire", "auth.user_registered", "username=a", "age:=1"];
    let listen = ["listen", "auth.*", "--name", "watch", "--count", "1"];
    // Once, so that the broker knows the listener.
    let mut first = Program::start(&mut tool.command(&listen));
    let begun = async || {
        bus.fire(UserRegistered { username: "a".into(), age: 1 }).await.unwrap();
        first.has_ended()
    };
    eventually("one event is printed", begun).await;
    check("fire", &tool, &fire).await;
    check("fire-json", &tool, &[&fire[..], &["--json"]].concat()).await;
    check("fire-refused", &tool, &["fire", "auth.user_registered", "username=a", "age=x"]).await;
    check("listen", &tool, &listen).await;
    check("listen-json", &tool, &[&listen[..], &["--json"]].concat()).await;
    let kind = kind(&place);
    let inspect = ["inspect", "auth", "--limit", "1"];
    check(&format!("inspect.{kind}"), &tool, &inspect).await;
    check(&format!("inspect-json.{kind}"), &tool, &[&inspect[..], &["--json"]].concat()).await;
    let validate = [&inspect[..], &["--validate"]].concat();
    check(&format!("inspect-validate.{kind}"), &tool, &validate).await;
    let saved = tool.run(&["schema", "dump", "-o", "saved.json"]).await;
    assert_eq!(saved.code(), 0, "{}", saved.err());
    let saved = tool.folder.join("saved.json");
    let text = std::fs::read_to_string(&saved).unwrap();
    std::fs::write(&saved, text.replace("\"minimum\": 0", "\"minimum\": 18")).unwrap();
    let against = [&inspect[..], &["--schema", "saved.json"]].concat();
    check(&format!("inspect-schema.{kind}"), &tool, &against).await;
    let json = [&against[..], &["--json"]].concat();
    check(&format!("inspect-schema-json.{kind}"), &tool, &json).await;
    std::fs::write(&saved, "{}").unwrap();
    check(&format!("inspect-schema-unknown.{kind}"), &tool, &against).await;
}

async fn schemas(place: Place) {
    let (_bus, tool) = serving(&place).await;
    check("schema-dump", &tool, &["schema", "dump", "auth"]).await;
    let dumped = tool.run(&["schema", "dump", "auth", "-o", "auth.json"]).await;
    assert_eq!(dumped.code(), 0, "{}", dumped.err());
    let mut new: serde_json::Value =
        serde_json::from_slice(&std::fs::read(tool.folder.join("auth.json")).unwrap()).unwrap();
    new["auth"]["rpcs"].as_object_mut().unwrap().remove("slow");
    let wanted = &mut new["auth"]["events"]["user_registered"]["parameters"];
    wanted["properties"]["age"]["type"] = "string".into();
    std::fs::write(tool.folder.join("new.json"), new.to_string()).unwrap();
    check("schema-diff", &tool, &["schema", "diff", "new.json"]).await;
    check("schema-diff-json", &tool, &["schema", "diff", "new.json", "--json"]).await;
    check("schema-check", &tool, &["schema", "check", "new.json"]).await;
    check("schema-check-same", &tool, &["schema", "check", "auth.json"]).await;
}

async fn dead_letters(place: Place) {
    let (bus, tool) = serving(&place).await;
    bus.listen("fails", |_: UserRegistered| async {
        Err(std::io::Error::other("no place for it\nnor anywhere else").into())
    })
    .on_error(OnError::Retry(RetryPolicy::attempts(1)))
    .await
    .unwrap();
    check("dlq-list-empty", &tool, &["dlq", "list", "auth", "fails"]).await;
    bus.fire(UserRegistered { username: "a".into(), age: 1 }).await.unwrap();
    let counted = async || bus.admin().dead_letters("auth", "fails", 2).await.unwrap().len() == 1;
    eventually("it is dead-lettered", counted).await;
    let kind = kind(&place);
    check(&format!("dlq-list.{kind}"), &tool, &["dlq", "list", "auth", "fails"]).await;
    check(&format!("dlq-show.{kind}"), &tool, &["dlq", "show", "auth", "fails"]).await;
    check("dlq-show-none", &tool, &["dlq", "show", "auth", "fails", "--id", "none"]).await;
    check("dlq-purge-unsure", &tool, &["dlq", "purge", "auth", "fails"]).await;
    check("dlq-purge-dry", &tool, &["dlq", "purge", "auth", "fails", "--all", "--dry-run"]).await;
}

async fn explanations(place: Place) {
    let (bus, tool) = serving(&place).await;
    bus.listen("welcome", |_: UserRegistered| async { Ok(()) }).await.unwrap();
    let kind = kind(&place);
    check(&format!("explain.{kind}"), &tool, &["explain", "auth.user_registered"]).await;
    check(&format!("explain-json.{kind}"), &tool, &["explain", "auth.boom", "--json"]).await;
    check("explain-unknown", &tool, &["explain", "auth.nothing"]).await;
}
