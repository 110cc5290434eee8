//! Messages that are too large, nested too deeply, or hold what must not be seen.

use std::time::Duration;

use lightbus::{
    Bus, ErrorKind, OnError, RetryPolicy, Sensitive, args,
    config::{Config, Validate},
};
use lightbus_tests::{Place, RedisServer, eventually, on_every_transport, soon};
use serde_json::{Value, json};
use tokio::sync::mpsc;

#[lightbus::api(name = "store", events(Stored, LoggedIn))]
pub trait Store {
    async fn size(&self, text: String) -> usize;
    async fn make(&self, size: usize) -> String;
    async fn any(&self, value: Value) -> Value;
    async fn log_in(&self, login: Login, pin: Sensitive<u32>) -> bool;
}

#[derive(Clone, Debug, lightbus::Event)]
pub struct Stored {
    pub text: String,
}

#[derive(Clone, Debug, lightbus::Event)]
pub struct LoggedIn {
    pub login: Login,
}

#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, lightbus::JsonSchema)]
pub struct Login {
    pub user: String,
    pub password: Sensitive<String>,
}

struct Service;

impl Store for Service {
    async fn size(&self, text: String) -> usize {
        text.len()
    }

    async fn make(&self, size: usize) -> String {
        "x".repeat(size)
    }

    async fn any(&self, value: Value) -> Value {
        value
    }

    async fn log_in(&self, login: Login, pin: Sensitive<u32>) -> bool {
        login.password.expose() == "secret" && *pin.expose() == 1234
    }
}

const LIMIT: usize = 10_000;

fn limited(config: &mut Config) {
    config.apis.get_mut("default").unwrap().max_message_size = LIMIT as u64;
}

fn unchecked(config: &mut Config) {
    config.apis.get_mut("default").unwrap().validate =
        Validate { outgoing: false, incoming: false };
}

on_every_transport!(
    what_is_too_large_is_not_sent,
    what_is_too_large_is_not_taken,
    what_is_nested_too_deeply_is_refused_wherever_it_is_read,
    what_is_sensitive_travels_and_is_not_shown,
);

async fn what_is_too_large_is_not_sent(place: Place) {
    let bus = place.bus_changed("store", limited).await;
    bus.serve(StoreApi(Service)).await.unwrap();
    let store = StoreClient::new(&bus);
    assert_eq!(store.size("x".repeat(LIMIT - 100)).await.unwrap(), LIMIT - 100);

    let error = store.size("x".repeat(LIMIT)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    let text = error.to_string();
    for part in ["calling store.size", "and 10000 are allowed", "max_message_size"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let error = bus.fire(Stored { text: "x".repeat(LIMIT) }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert!(error.to_string().contains("firing store.stored"), "{error}");

    // A result: the caller is told at once.
    let error = soon("the call", async { store.make(LIMIT).await }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Remote);
    assert!(error.to_string().contains("the result has 10002 bytes"), "{error}");
    bus.close().await.unwrap();
}

async fn what_is_too_large_is_not_taken(place: Place) {
    let careful = place.bus_changed("careful", limited).await;
    careful.serve(StoreApi(Service)).await.unwrap();
    let (heard, mut texts) = mpsc::channel(8);
    careful
        .listen("sizes", move |event: Stored| {
            let heard = heard.clone();
            async move {
                heard.send(event.text.len()).await?;
                Ok(())
            }
        })
        .await
        .unwrap();
    let generous = place.bus("generous").await;
    generous.register(StoreClient::contract()).await.unwrap();
    let error = StoreClient::new(&generous).size("x".repeat(LIMIT)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Remote);
    assert!(error.to_string().contains("and 10000 are allowed"), "{error}");

    for size in [LIMIT, 3] {
        generous.fire(Stored { text: "x".repeat(size) }).await.unwrap();
    }
    assert_eq!(soon("the event after it", texts.recv()).await, Some(3));
    let letters = async || careful.admin().dead_letters("careful", "sizes", 9).await.unwrap();
    eventually("it is set aside", async || letters().await.len() == 1).await;
    assert!(letters().await[0].reason.contains("and 10000 are allowed"));

    // A result that is too large for its caller alone.
    let served = place.bus("served").await;
    careful.close().await.unwrap();
    served.serve(StoreApi(Service)).await.unwrap();
    let caller = place.bus_changed("caller", limited).await;
    let error = StoreClient::new(&caller).make(LIMIT).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
    for bus in [generous, served, caller] {
        bus.close().await.unwrap();
    }
}

fn nested(depth: usize) -> String {
    format!("{}{}", "[".repeat(depth), "]".repeat(depth))
}

async fn what_is_nested_too_deeply_is_refused_wherever_it_is_read(place: Place) {
    for change in [unchecked as fn(&mut Config), |_: &mut Config| ()] {
        let bus = place.bus_changed("store", change).await;
        bus.serve(StoreApi(Service)).await.unwrap();
        // Built by hand: nothing that is read by serde_json comes so deep.
        let mut fields = lightbus::Arguments::new();
        fields.push("value", nested(100_000).into_bytes());
        let error = bus.call::<Value>("store.any", fields).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("nested more than 128 levels deep"), "{text}");
        let mut fields = lightbus::Arguments::new();
        fields.push("value", nested(100).into_bytes());
        bus.call::<Value>("store.any", fields).await.unwrap();
        bus.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deep_messages_of_others_stop_nobody() {
    let Some(server) = RedisServer::start_durable() else { return };
    let bus = lightbus_tests::redis_bus(&server.url(), "store").await;
    bus.serve(StoreApi(Service)).await.unwrap();
    let wait = Duration::from_millis(1);
    let policy = RetryPolicy::attempts(2).backoff(wait, wait);
    let (heard, mut texts) = mpsc::channel(8);
    bus.listen("texts", move |event: Stored| {
        let heard = heard.clone();
        async move {
            heard.send(event.text).await?;
            Ok(())
        }
    })
    .on_error(OnError::Retry(policy))
    .await
    .unwrap();
    let deep = nested(50_000);
    let call = format!(
        "{{\"metadata\": {{\"api_name\": \"store\", \"procedure_name\": \"any\", \"id\": \"deep\", \"return_path\": \"redis+key://deep\"}}, \"kwargs\": {{\"value\": {deep}}}}}"
    );
    server.command(&["SET", "rpc_expiry_key:deep", "1"]);
    server.command(&["RPUSH", "store:rpc_queue", &call]);
    server.command(&["RPUSH", "store:rpc_queue", &deep]);
    let event =
        ["api_name", "event_name", "version", "id"].iter().zip(["store", "stored", "1", "deep"]);
    let mut words = vec!["XADD".to_owned(), "store.*:stream".to_owned(), "*".to_owned()];
    for (name, value) in event {
        words.extend([(*name).to_owned(), serde_json::to_string(value).unwrap()]);
    }
    words.extend([":text".to_owned(), deep]);
    server.command(&words.iter().map(String::as_str).collect::<Vec<_>>());
    // Both go on.
    bus.fire(Stored { text: "after".into() }).await.unwrap();
    assert_eq!(soon("the next event", texts.recv()).await.as_deref(), Some("after"));
    assert_eq!(StoreClient::new(&bus).size("four").await.unwrap(), 4);
    let letters = async || bus.admin().dead_letters("store", "texts", 9).await.unwrap();
    eventually("it is set aside", async || letters().await.len() == 1).await;
    bus.close().await.unwrap();
}

async fn what_is_sensitive_travels_and_is_not_shown(place: Place) {
    let bus = place.bus("store").await;
    bus.serve(StoreApi(Service)).await.unwrap();
    let login = Login { user: "admin".into(), password: Sensitive::new("secret".into()) };
    assert_eq!(format!("{login:?}"), "Login { user: \"admin\", password: <redacted> }");
    assert!(StoreClient::new(&bus).log_in(login, 1234.into()).await.unwrap());

    // What does not fit is not shown, by whoever finds it.
    for (login, pin) in [
        (json!({"user": "admin", "password": 987_654}), json!(1234)),
        (json!({"user": "admin", "password": "x"}), json!("987654")),
        (json!({"user": 3, "password": "987654"}), json!(1234)),
    ] {
        let mut fields = lightbus::Arguments::new();
        fields.push("login", login.to_string().into_bytes());
        fields.push("pin", pin.to_string().into_bytes());
        let error = bus.call::<bool>("store.log_in", fields.clone()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(!error.to_string().contains("987654"), "{error}");
        let unchecked = place.bus_changed("other", unchecked).await;
        let error = unchecked.call::<bool>("store.log_in", fields).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Remote);
        assert!(!error.to_string().contains("987654"), "{error}");
        unchecked.close().await.unwrap();
    }

    let (heard, mut events) = mpsc::channel(8);
    bus.listen_to("watch", ["store.logged_in"], move |event| {
        let heard = heard.clone();
        async move {
            heard.send(event).await?;
            Ok(())
        }
    })
    .await
    .unwrap();
    let login = Login { user: "admin".into(), password: Sensitive::new("secret".into()) };
    bus.fire(LoggedIn { login }).await.unwrap();
    let event = soon("the event", events.recv()).await.unwrap();
    let shown = json!({"login": {"user": "admin", "password": "<redacted>"}});
    assert_eq!(Value::Object(bus.shown(&event)), shown);
    assert!(!format!("{event:?}").contains("secret"), "{event:?}");

    let told = tell(&place, &bus).await;
    assert!(told.contains("admin") && !told.contains("secret") && !told.contains("1234"), "{told}");

    let document = bus.schema("store").await.unwrap().unwrap();
    let schema = &document["rpcs"]["log_in"]["parameters"];
    assert_eq!(schema["properties"]["pin"]["x-sensitive"], true, "{schema}");
    let fields = args! {
        login: json!({"user": "admin", "password": "secret"}), pin: 1234, other: [1],
    };
    let shown = lightbus::sensitive::redact(schema, &fields.into_fields().unwrap());
    let redacted = json!({
        "login": {"user": "admin", "password": "<redacted>"}, "pin": "<redacted>", "other": [1],
    });
    assert_eq!(shown, redacted);
    bus.close().await.unwrap();
}

/// What the metrics plugin says of a call.
async fn tell(place: &Place, ears: &Bus) -> String {
    let (heard, mut told) = mpsc::channel(8);
    ears.listen_to("overhear", ["internal.metrics.rpc_call_sent"], move |event| {
        let kwargs = String::from_utf8(event.fields.get("kwargs").unwrap().to_vec()).unwrap();
        let heard = heard.clone();
        async move {
            heard.send(kwargs).await?;
            Ok(())
        }
    })
    .await
    .unwrap();
    let teller =
        place.bus_changed("teller", |config| config.plugins.internal_metrics.enabled = true).await;
    let login = Login { user: "admin".into(), password: Sensitive::new("secret".into()) };
    assert!(StoreClient::new(&teller).log_in(login, 1234.into()).await.unwrap());
    let told = soon("the metrics", told.recv()).await.unwrap();
    teller.close().await.unwrap();
    told
}
