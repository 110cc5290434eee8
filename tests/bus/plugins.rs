//! Plugins: what they see, change and refuse; and those that come with lightbus.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use lightbus::{
    Arguments, Error, ErrorKind, EventMessage, OnError, Result, ResultMessage, RetryPolicy,
    RpcMessage, plugins::Plugin, prelude::*,
};
use lightbus_tests::{Place, RedisServer, eventually, on_every_transport, python, soon};
use serde_json::{Value, json};
use tokio::sync::mpsc;

#[lightbus::api(name = "auth", events(UserRegistered))]
pub trait Auth {
    async fn greet(&self, name: String) -> String;
}

#[derive(Clone, Debug, PartialEq, lightbus::Event)]
pub struct UserRegistered {
    pub username: String,
}

struct Service;

impl Auth for Service {
    async fn greet(&self, name: String) -> String {
        match name.as_str() {
            "panic" => panic!("as asked"),
            name => format!("Hello, {name}"),
        }
    }
}

type Log = Arc<Mutex<Vec<String>>>;

/// Logs all that it sees, and marks what it may change with its letter.
struct Marks {
    letter: &'static str,
    priority: u32,
    log: Log,
}

impl Marks {
    fn saw(&self, what: &str) {
        self.log.lock().unwrap().push(format!("{} {what}", self.letter));
    }

    fn mark(&self, fields: &mut Arguments) {
        let marked = fields.iter().map(|(name, value)| {
            let text: String = serde_json::from_slice(value).unwrap();
            (name.clone(), serde_json::to_vec(&format!("{text}{}", self.letter)).unwrap().into())
        });
        *fields = marked.collect();
    }
}

#[lightbus::async_trait]
impl Plugin for Marks {
    fn name(&self) -> &str {
        self.letter
    }

    fn priority(&self) -> u32 {
        self.priority
    }

    async fn before_start(&self, _: &Bus) -> Result<()> {
        self.saw("before_start");
        Ok(())
    }

    async fn after_start(&self, _: &Bus) -> Result<()> {
        self.saw("after_start");
        Ok(())
    }

    async fn after_stop(&self, _: &Bus) -> Result<()> {
        self.saw("after_stop");
        Ok(())
    }

    async fn before_rpc_call(&self, _: &Bus, call: &mut RpcMessage) -> Result<()> {
        self.saw("before_rpc_call");
        self.mark(&mut call.fields);
        call.headers.set("sender", self.letter);
        Ok(())
    }

    async fn after_rpc_call(
        &self,
        _: &Bus,
        _: &RpcMessage,
        result: &mut ResultMessage,
    ) -> Result<()> {
        self.saw(&format!("after_rpc_call {}", result.body.is_ok()));
        Ok(())
    }

    async fn before_rpc_execution(&self, _: &Bus, call: &mut RpcMessage) -> Result<()> {
        self.saw("before_rpc_execution");
        self.mark(&mut call.fields);
        Ok(())
    }

    async fn after_rpc_execution(
        &self,
        _: &Bus,
        _: &RpcMessage,
        result: &mut ResultMessage,
    ) -> Result<()> {
        self.saw(&format!("after_rpc_execution {}", result.body.is_ok()));
        if let Ok(value) = &result.body {
            let text: String = serde_json::from_slice(value).unwrap();
            result.body = Ok(serde_json::to_vec(&format!("{text}!")).unwrap().into());
        }
        Ok(())
    }

    async fn before_event_sent(&self, _: &Bus, event: &mut EventMessage) -> Result<()> {
        self.saw("before_event_sent");
        self.mark(&mut event.fields);
        Ok(())
    }

    async fn after_event_sent(&self, _: &Bus, event: &EventMessage) -> Result<()> {
        self.saw(&format!("after_event_sent {}", event.native_id.is_some()));
        Ok(())
    }

    async fn before_event_execution(
        &self,
        _: &Bus,
        event: &mut EventMessage,
        listener: &str,
    ) -> Result<()> {
        self.saw(&format!("before_event_execution {listener}"));
        self.mark(&mut event.fields);
        Ok(())
    }

    async fn after_event_execution(&self, _: &Bus, _: &EventMessage, listener: &str) -> Result<()> {
        self.saw(&format!("after_event_execution {listener}"));
        Err(Error::new(ErrorKind::Unexpected, "only logged"))
    }
}

on_every_transport!(
    plugins_see_and_change_everything_in_their_order,
    a_plugin_refuses_calls_executions_events_and_handling,
    processes_say_that_they_live_and_what_they_do,
);

fn take(log: &Log) -> Vec<String> {
    std::mem::take(&mut log.lock().unwrap())
}

async fn plugins_see_and_change_everything_in_their_order(place: Place) {
    let log = Log::default();
    let marks = |letter, priority| Marks { letter, priority, log: Arc::clone(&log) };
    // The one with the lower number comes first, whichever was added first.
    let builder = place.builder("auth", "", |_| ()).plugin(marks("b", 2)).plugin(marks("a", 1));
    let bus = soon("connecting", builder.connect()).await.unwrap();
    bus.serve(AuthApi(Service)).await.unwrap();
    let (heard, mut names) = mpsc::channel(8);
    bus.listen("welcome", move |event: UserRegistered| {
        let heard = heard.clone();
        async move {
            heard.send(event.username).await?;
            Ok(())
        }
    })
    .await
    .unwrap();
    let (started, mut ready) = mpsc::channel(1);
    let early = Arc::clone(&log);
    bus.on_start(move |_| async move {
        early.lock().unwrap().push("on_start".to_owned());
        started.send(()).await?;
        Ok(())
    });
    let late = Arc::clone(&log);
    bus.on_stop(move |_| async move {
        late.lock().unwrap().push("on_stop".to_owned());
        Ok(())
    });
    let running = tokio::spawn(bus.clone().run());
    soon("starting", ready.recv()).await.unwrap();
    eventually("it has started", async || log.lock().unwrap().len() == 5).await;
    assert_eq!(
        take(&log),
        ["a before_start", "b before_start", "on_start", "a after_start", "b after_start"]
    );
    assert!(bus.summary().contains("plugins  a, b"), "{}", bus.summary());

    let greeting = AuthClient::new(&bus).greet("Eve").await.unwrap();
    assert_eq!(greeting, "Hello, Eveabab!!");
    assert_eq!(
        take(&log),
        [
            "a before_rpc_call",
            "b before_rpc_call",
            "a before_rpc_execution",
            "b before_rpc_execution",
            "a after_rpc_execution true",
            "b after_rpc_execution true",
            "a after_rpc_call true",
            "b after_rpc_call true",
        ]
    );

    bus.fire(UserRegistered { username: "sally".into() }).await.unwrap();
    assert_eq!(soon("the event", names.recv()).await.unwrap(), "sallyabab");
    eventually("all is seen", async || log.lock().unwrap().len() == 8).await;
    let mut seen = take(&log);
    // Sending and handling go on side by side.
    seen.sort();
    assert_eq!(
        seen,
        [
            "a after_event_execution welcome",
            "a after_event_sent true",
            "a before_event_execution welcome",
            "a before_event_sent",
            "b after_event_execution welcome",
            "b after_event_sent true",
            "b before_event_execution welcome",
            "b before_event_sent",
        ]
    );

    bus.shut_down();
    soon("running", running).await.unwrap().unwrap();
    assert_eq!(take(&log), ["on_stop", "a after_stop", "b after_stop"]);
}

/// Refuses what its name says, as often as it is asked.
struct Refuses {
    what: &'static str,
    times: Arc<AtomicUsize>,
}

impl Refuses {
    fn answer(&self, what: &str) -> Result<()> {
        if what != self.what {
            return Ok(());
        }
        self.times.fetch_add(1, Ordering::SeqCst);
        Err(Error::new(ErrorKind::Invalid, "not on Sundays"))
    }
}

#[lightbus::async_trait]
impl Plugin for Refuses {
    fn name(&self) -> &str {
        "closed"
    }

    async fn before_rpc_call(&self, _: &Bus, _: &mut RpcMessage) -> Result<()> {
        self.answer("call")
    }

    async fn before_rpc_execution(&self, _: &Bus, _: &mut RpcMessage) -> Result<()> {
        self.answer("execution")
    }

    async fn after_rpc_execution(
        &self,
        _: &Bus,
        _: &RpcMessage,
        _: &mut ResultMessage,
    ) -> Result<()> {
        self.answer("result")
    }

    async fn before_event_sent(&self, _: &Bus, _: &mut EventMessage) -> Result<()> {
        self.answer("event")
    }

    async fn before_event_execution(&self, _: &Bus, _: &mut EventMessage, _: &str) -> Result<()> {
        self.answer("handling")
    }
}

async fn a_plugin_refuses_calls_executions_events_and_handling(place: Place) {
    for what in ["call", "execution", "result", "event", "handling"] {
        let times = Arc::new(AtomicUsize::new(0));
        let refuses = Refuses { what, times: Arc::clone(&times) };
        let service = format!("auth-{what}");
        let builder = place.builder(&service, "", |_| ()).plugin(refuses);
        let bus = soon("connecting", builder.connect()).await.unwrap();
        bus.serve(AuthApi(Service)).await.unwrap();
        let wait = Duration::from_millis(1);
        let policy = RetryPolicy::attempts(3).backoff(wait, wait);
        let (heard, mut names) = mpsc::channel(8);
        bus.listen("welcome", move |event: UserRegistered| {
            let heard = heard.clone();
            async move {
                heard.send(event.username).await?;
                Ok(())
            }
        })
        .on_error(OnError::Retry(policy))
        .await
        .unwrap();
        let called = AuthClient::new(&bus).greet("Eve").await;
        let fired = bus.fire(UserRegistered { username: "sally".into() }).await;
        let refused = |error: Error| {
            let text = error.to_string();
            assert!(text.contains("not on Sundays") && text.contains("closed"), "{text}");
        };
        match what {
            "call" | "execution" | "result" => refused(called.unwrap_err()),
            _ => assert_eq!(called.unwrap(), "Hello, Eve"),
        }
        match what {
            "event" => refused(fired.unwrap_err()),
            _ => drop(fired.unwrap()),
        }
        match what {
            "event" => {}
            // Tried three times, and never handled.
            "handling" => {
                let refused = async || times.load(Ordering::SeqCst) == 3;
                eventually("it is tried", refused).await;
                assert!(names.try_recv().is_err());
            }
            _ => assert_eq!(soon("the event", names.recv()).await.unwrap(), "sally"),
        }
        bus.close().await.unwrap();
    }
}

/// The events of the plugins by name, each with its arguments by name, in their order.
type Said = Arc<Mutex<Vec<(String, Vec<(String, Value)>)>>>;

async fn overhear(bus: &Bus) -> Said {
    let said = Said::default();
    let log = Arc::clone(&said);
    let events = ["internal.state.*", "internal.metrics.*"];
    bus.listen_to("overhear", events, move |event| {
        let fields = event.fields.iter();
        let fields =
            fields.map(|(name, value)| (name.to_string(), serde_json::from_slice(value).unwrap()));
        let headers = event.headers.iter();
        let headers = headers.map(|(name, value)| (format!(":{name}"), json!(&**value)));
        log.lock().unwrap().push((event.event.to_string(), fields.chain(headers).collect()));
        async { Ok(()) }
    })
    .await
    .unwrap();
    said
}

async fn processes_say_that_they_live_and_what_they_do(place: Place) {
    let ears = place.bus("ears").await;
    let said = overhear(&ears).await;
    let builder = place.builder("auth", "", |config| {
        config.plugins.internal_state.enabled = true;
        config.plugins.internal_state.ping_interval = Duration::from_millis(50);
        config.plugins.internal_metrics.enabled = true;
    });
    let bus = soon("connecting", builder.process_name("web-1").connect()).await.unwrap();
    bus.serve(AuthApi(Service)).await.unwrap();
    bus.listen("welcome", |_: UserRegistered| async { Ok(()) }).await.unwrap();
    let running = tokio::spawn(bus.clone().run());
    let count = |name: &'static str| {
        let said = Arc::clone(&said);
        move || said.lock().unwrap().iter().filter(|(event, _)| event == name).count()
    };
    let (started, pings) = (count("worker_started"), count("worker_ping"));
    eventually("it pings", async || started() == 1 && pings() > 1).await;
    AuthClient::new(&bus).greet("Eve").await.unwrap();
    AuthClient::new(&bus).greet("panic").await.unwrap_err();
    let fired = bus.fire(UserRegistered { username: "sally".into() }).await.unwrap();
    let processed = count("event_processed");
    eventually("the event is handled", async || processed() == 1).await;
    bus.shut_down();
    soon("running", running).await.unwrap().unwrap();
    let stopped = count("worker_stopped");
    eventually("it says good bye", async || stopped() == 1).await;

    // Which call failed, and which listener handled an event, stands beside Python's arguments.
    let marked = |event: &str, header: &str| {
        let said = said.lock().unwrap();
        let marked = said.iter().filter(|(name, _)| name == event);
        marked.filter(|(_, fields)| fields.iter().any(|(name, _)| name == header)).count()
    };
    let (sent, received) = (count("rpc_response_sent"), count("rpc_response_received"));
    let (called, fired_once, event_received) =
        (count("rpc_call_sent"), count("event_fired"), count("event_received"));
    // They come over two APIs, and without keys: in which order, not every broker promises.
    eventually("all is told", async || {
        (called(), sent(), received()) == (2, 2, 2) && (fired_once(), event_received()) == (1, 1)
    })
    .await;
    assert_eq!(marked("rpc_response_sent", ":failed"), 1);
    assert_eq!(marked("rpc_response_received", ":failed"), 1);
    assert_eq!((marked("event_received", ":listener"), marked("event_fired", ":listener")), (1, 0));
    // Of each what was said of the call that succeeded.
    let succeeded = |fields: &serde_json::Map<String, Value>| {
        fields.get("kwargs") != Some(&json!({"name": "panic"})) && !fields.contains_key(":failed")
    };
    let said: BTreeMap<String, Value> = said
        .lock()
        .unwrap()
        .iter()
        .map(|(event, fields)| (event.clone(), fields.iter().cloned().collect()))
        .filter(|(_, fields)| succeeded(fields))
        .map(|(event, fields)| (event, fields.into()))
        .collect();
    let alive = &said["worker_started"];
    assert_eq!(alive["api_names"], json!(["auth"]));
    assert_eq!(alive["listening_for"], json!(["auth.user_registered"]));
    assert_eq!(alive["service_name"], "auth");
    assert_eq!(alive["process_name"], "web-1");
    assert_eq!((&alive["metrics_enabled"], &alive["ping_enabled"]), (&json!(true), &json!(true)));
    assert_eq!(alive["pid"], std::process::id());
    assert!(alive["max_memory_use"].as_u64().unwrap() > 1000, "{alive}");
    assert_eq!(said["worker_stopped"], json!({"process_name": "web-1", "service_name": "auth"}));
    assert_eq!(said["rpc_call_sent"]["kwargs"], json!({"name": "Eve"}));
    assert_eq!(said["rpc_response_sent"]["result"], "Hello, Eve");
    for event in ["event_fired", "event_received", "event_processed"] {
        assert_eq!(said[event]["event_id"], *fired.id);
        assert_eq!(said[event]["kwargs"], json!({"username": "sally"}));
        assert_eq!(said[event]["process_name"], "web-1");
    }
    assert!(ears.remote_apis().await.unwrap().iter().any(|api| &**api == "internal.metrics"));
    ears.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn python_and_rust_say_the_same() {
    let (Some(server), Some(python)) = (RedisServer::start_durable(), python::python()) else {
        return;
    };
    let ears = lightbus_tests::redis_bus(&server.url(), "ears").await;
    let said = overhear(&ears).await;

    let flags =
        ["--state-plugin", "--metrics-plugin", "--ping-interval", "1", "--service-name", "py"];
    let mut served = python::start(python, "serve.py", &server.url(), &flags);
    served.wait_for("\"ready\"");
    let caller = place_with_plugins(&server, "rs").await;
    caller.serve(AuthApi(Service)).await.unwrap();
    caller.listen("welcome", |_: UserRegistered| async { Ok(()) }).await.unwrap();
    let running = tokio::spawn(caller.clone().run());
    let sum: u64 = caller.call("kit.shop.add", args! { a: 1, b: 2 }).await.unwrap();
    assert_eq!(sum, 3);
    AuthClient::new(&caller).greet("Eve").await.unwrap();
    caller.fire(UserRegistered { username: "sally".into() }).await.unwrap();
    let of = |service: &'static str| {
        let said = Arc::clone(&said);
        move || {
            let mut events = BTreeMap::new();
            for (event, fields) in said.lock().unwrap().iter() {
                if fields.iter().any(|(name, value)| name == "service_name" && value == service) {
                    // Python knows no headers.
                    let names = fields.iter().map(|(name, _)| name.clone());
                    let names: Vec<_> = names.filter(|name| !name.starts_with(':')).collect();
                    events.insert(event.clone(), names);
                }
            }
            events
        }
    };
    let (py, rs) = (of("py"), of("rs"));
    eventually("both ping", async || {
        py().contains_key("worker_ping")
            && py().contains_key("rpc_response_sent")
            && rs().contains_key("event_processed")
    })
    .await;
    caller.shut_down();
    soon("running", running).await.unwrap().unwrap();
    served.signal("TERM");
    served.finish();
    eventually("both stop", async || {
        py().contains_key("worker_stopped") && rs().contains_key("worker_stopped")
    })
    .await;
    let (py, rs) = (py(), rs());
    for (event, names) in &py {
        if event != "worker_ping" {
            assert_eq!(rs.get(event), Some(names), "{event}");
        }
    }
    for event in ["worker_started", "rpc_call_received", "rpc_response_sent", "worker_stopped"] {
        assert!(py.contains_key(event), "{event}: {py:?}");
    }
    ears.close().await.unwrap();
}

async fn place_with_plugins(server: &RedisServer, service: &str) -> Bus {
    let yaml = lightbus_tests::redis_yaml(&server.url(), "");
    let mut config = lightbus::config::Config::from_yaml(&yaml).unwrap();
    config.plugins.internal_state.enabled = true;
    config.plugins.internal_metrics.enabled = true;
    soon("connecting", Bus::builder().config(config).service_name(service).connect()).await.unwrap()
}
