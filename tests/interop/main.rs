//! One Redis, two languages: real Python Lightbus programs as child processes, in both directions.
#![allow(clippy::unwrap_used, reason = "in a test a panic is how a failure is told")]

mod kit;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, NaiveDate};
use kit::{
    Bytes, Item, Moment, OrderPlaced, Place, RustShop, ShopApi, ShopClient, Size, StockChanged,
    Tick,
};
use lightbus::{ErrorKind, RetryPolicy, config::Config, contract::CallError, prelude::*};
use lightbus_tests::{
    Program, RedisServer, config_file, eventually,
    python::{self, python},
    redis_bus, redis_yaml, soon,
};
use rust_decimal::Decimal;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use uuid::Uuid;

/// A Redis and a Python, or nothing to do.
fn both() -> Option<(RedisServer, &'static str)> {
    Some((RedisServer::start_durable()?, python()?))
}

fn items() -> Vec<Item> {
    vec![
        Item { sku: "pen ☃".into(), quantity: 3, price: Decimal::new(110, 2) },
        Item { sku: "ink".into(), quantity: 1, price: Decimal::new(20, 2) },
    ]
}

fn moment() -> Moment {
    Moment::Offset(DateTime::parse_from_rfc3339("2031-12-30T23:59:58.123456+00:00").unwrap())
}

async fn serve_kit(url: &str, service: &str) -> Bus {
    let bus = redis_bus(url, service).await;
    bus.serve(ShopApi(RustShop { bus: bus.clone() })).await.unwrap();
    bus
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tutorial_works_across_the_languages() {
    let Some((server, python)) = both() else { return };
    let url = server.url();
    let config = config_file(&server);

    // A Python caller and a Python listener, a Rust service.
    let mut service = Program::start(&mut Program::example("auth_service", Some(&config)));
    service.wait_for("serves   auth");
    let (code, lines) = python::run(python, "tutorial/check_password.py", &url, &[]);
    assert_eq!((code, &lines[0]["result"]), (Some(0), &json!(true)), "{lines:?}");
    let (_, lines) =
        python::run(python, "tutorial/check_password.py", &url, &["--password", "guess"]);
    assert_eq!(lines[0]["result"], json!(false));
    let mut listener =
        python::start(python, "tutorial/another_service.py", &url, &["--count", "1"]);
    listener.wait_for("ready");
    let fire = |arguments: &[&str]| {
        let mut command = Program::example("manually_register_user", Some(&config));
        Program::start(command.args(arguments)).finish()
    };
    assert_eq!(fire(&["zoe", "zoe@example.com"]).0, Some(0));
    listener.wait_for("zoe@example.com");
    assert_eq!(listener.finish().0, Some(0));
    service.signal("INT");
    assert_eq!(service.finish().0, Some(0));

    // A Rust caller and a Rust listener, a Python service.
    let mut service = python::start(python, "tutorial/auth_service.py", &url, &[]);
    service.wait_for("ready");
    let (code, printed) =
        Program::start(&mut Program::example("check_password", Some(&config))).finish();
    assert_eq!((code, printed.as_str()), (Some(0), "Password valid!"));
    let mut listener = Program::start(&mut Program::example("another_service", Some(&config)));
    listener.wait_for("listens");
    let flags = ["--username", "max", "--email", "max@example.com"];
    assert_eq!(python::run(python, "tutorial/manually_register_user.py", &url, &flags).0, Some(0));
    listener.wait_for("max <max@example.com>");
    service.signal("INT");
    assert_eq!(service.finish().0, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn python_calls_rust_with_every_type_and_error() {
    let Some((server, python)) = both() else { return };
    let _bus = serve_kit(&server.url(), "kit").await;
    let url = server.url();
    let flags = ["--set", "all"];
    let (code, lines) =
        tokio::task::spawn_blocking(move || python::run(python, "call.py", &url, &flags))
            .await
            .unwrap();
    let wrong: Vec<_> = lines.iter().filter(|line| line["match"] == json!(false)).collect();
    assert!(
        wrong.is_empty(),
        "{}",
        wrong.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    );
    assert_eq!(code, Some(0), "{lines:?}");
    assert!(lines.len() > 40, "{} calls", lines.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn rust_calls_python_with_every_type() {
    let Some((server, python)) = both() else { return };
    let mut service = python::start(python, "serve.py", &server.url(), &[]);
    service.wait_for("ready");
    let bus = redis_bus(&server.url(), "web").await;
    let shop = ShopClient::new(&bus);
    let id = Uuid::new_v4();

    assert_eq!(shop.add(2, 40).await.unwrap(), 42);
    assert_eq!(shop.join(vec!["a".into(), "b".into()], None).await.unwrap(), "a b");
    assert_eq!(shop.join(vec!["a".into(), "b".into()], "-".to_owned()).await.unwrap(), "a-b");
    for value in
        [json!(null), json!({"a": [1, 1.0, "é☃😀\"\\\n", {"b": null}]}), json!(i64::MIN), json!("")]
    {
        assert_eq!(shop.echo(value.clone()).await.unwrap(), value);
    }
    shop.nothing().await.unwrap();
    let defaults = shop.defaults(1, None, None, None).await.unwrap();
    assert_eq!((defaults.a, defaults.b, defaults.c.as_str(), defaults.d), (1, 2, "three", None));
    let shifted = serde_json::to_value(shop.shift(moment(), 2).await.unwrap()).unwrap();
    assert_eq!(shifted, json!("2032-01-01T23:59:58.123456+00:00"));
    let day = NaiveDate::from_ymd_opt(2031, 12, 31).unwrap();
    assert_eq!(shop.next_day(day).await.unwrap(), day.succ_opt().unwrap());
    assert_eq!(shop.total(items()).await.unwrap().to_string(), "3.50");
    let customer = shop.customer(id).await.unwrap();
    assert_eq!((customer.id, customer.name.as_str(), customer.size), (id, "Zoë ☃", Size::Medium));
    assert_eq!(shop.reverse(Bytes(vec![0, 255, 97])).await.unwrap(), Bytes(vec![97, 255, 0]));
    assert_eq!(shop.larger(Size::Small).await.unwrap(), Size::Medium);
    let place = Place { street: "Kade".into(), number: 7, country: "BE".into() };
    assert_eq!(shop.move_to(place.clone(), 8).await.unwrap(), Place { number: 8, ..place.clone() });
    assert_eq!(shop.swap((1, "one".into())).await.unwrap(), ("one".to_owned(), 1));
    let words = vec!["x".to_owned(), "y".to_owned(), "x".to_owned()];
    assert_eq!(shop.unique(words).await.unwrap(), BTreeSet::from(["x".to_owned(), "y".to_owned()]));
    assert_eq!(shop.maybe(None).await.unwrap(), None);
    assert_eq!(shop.maybe(Some(moment())).await.unwrap(), Some(moment()));
    let types = shop
        .types(
            moment(),
            day,
            Decimal::new(1250, 2),
            id,
            Bytes(vec![1]),
            Size::Large,
            place,
            items(),
            (1, "one".into()),
            BTreeSet::from(["x".to_owned()]),
            None,
        )
        .await
        .unwrap();
    for (name, kind) in [
        ("moment", "datetime"),
        ("amount", "Decimal"),
        ("id", "UUID"),
        ("data", "bytes"),
        ("size", "Size"),
    ] {
        assert_eq!(types[name], kind);
    }
    service.signal("INT");
    assert_eq!(service.finish().0, Some(0), "nothing that Rust sent has ended the Python worker");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_python_arrive_with_their_trace_and_bad_calls_do_not_leave() {
    let Some((server, python)) = both() else { return };
    let mut service = python::start(python, "serve.py", &server.url(), &[]);
    service.wait_for("ready");
    let bus = redis_bus(&server.url(), "web").await;
    let shop = ShopClient::new(&bus);

    let error = bus
        .call::<()>("kit.shop.fail", args! { kind: "value", message: "broken: é ☃" })
        .await
        .unwrap_err();
    let remote = error.remote().expect("a remote error");
    assert!(
        remote.message.contains("ValueError") && remote.message.contains("broken: é ☃"),
        "{error}"
    );
    assert!(remote.trace.as_deref().is_some_and(|trace| trace.contains("Traceback")), "{error:?}");
    match shop.fail("custom", "no more").await.unwrap_err() {
        CallError::Api(text) => assert!(text.contains("no more"), "{text}"),
        CallError::Bus(error) => panic!("{error}"),
    }
    // Any of these would end the Python worker.
    for (procedure, args) in [
        ("kit.shop.add", args! { a: "1", b: 2 }),
        ("kit.shop.add", args! { a: 1 }),
        ("kit.shop.add", args! { a: 1, b: 2, c: 3 }),
        ("kit.shop.add", args! { a: true, b: 2 }),
        ("kit.shop.larger", args! { size: "huge" }),
        ("kit.shop.move", args! { place: json!({ "street": "Dam" }), number: 2 }),
        ("kit.shop.no_such_procedure", args! {}),
    ] {
        let error = bus.call::<Value>(procedure, args).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Unknown), "{error:?}");
    }
    let late = shop.sleep(2.0).timeout(Duration::from_millis(300));
    assert_eq!(soon("giving up", late.into_future()).await.unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(
        shop.add(1, 2).timeout(Duration::from_secs(10)).await.unwrap(),
        3,
        "the worker lives"
    );
    service.signal("INT");
    assert_eq!(service.finish().0, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn rust_fires_and_python_hears_every_type() {
    let Some((server, python)) = both() else { return };
    let bus = serve_kit(&server.url(), "kit").await;
    let url = server.url();
    let listen = |event: &str| {
        let flags = ["--events", event, "--typed", "--count", "1", "--listener-name", event];
        let mut listener = python::start(python, "listen.py", &url, &flags);
        listener.wait_for("ready");
        listener
    };
    let (orders, stock, ticks) = (listen("order_placed"), listen("stock_changed"), listen("tick"));
    let order = OrderPlaced {
        order_id: Uuid::new_v4(),
        placed_at: moment(),
        items: items(),
        total: Decimal::new(350, 2),
        note: None,
    };
    let fired = bus.fire(order.clone()).await.unwrap();
    let extra = BTreeMap::from([("z".to_owned(), json!([1, null, { "deep": true }]))]);
    let change = StockChanged {
        sku: "pen".into(),
        left: -3,
        sizes: vec![Size::Small, Size::Large],
        thumbnail: Bytes(vec![0, 255]),
        extra,
    };
    bus.fire(change).await.unwrap();
    let shop = ShopClient::new(&bus);
    shop.announce("tick", BTreeMap::new()).await.unwrap();

    let heard = |listener: Program| {
        let (code, printed) = listener.finish();
        assert_eq!(code, Some(0), "{printed}");
        python::json_lines(&printed).into_iter().find(|line| line.get("event").is_some()).unwrap()
    };
    let line = heard(orders);
    assert_eq!(
        (line["id"].as_str(), line["version"].as_u64()),
        (Some(&*fired.id), Some(3)),
        "{line}"
    );
    assert_eq!(line["kwargs"]["total"], "3.50");
    assert_eq!(
        (&line["types"]["order_id"], &line["types"]["placed_at"]),
        (&json!("UUID"), &json!("datetime")),
        "{line}"
    );
    let line = heard(stock);
    assert_eq!(
        (&line["kwargs"]["thumbnail"], &line["types"]["thumbnail"]),
        (&json!("AP8="), &json!("bytes")),
        "{line}"
    );
    assert_eq!(heard(ticks)["kwargs"], json!({}));
}

#[tokio::test(flavor = "multi_thread")]
async fn python_fires_and_rust_hears_every_type() {
    let Some((server, python)) = both() else { return };
    let bus = redis_bus(&server.url(), "audit").await;
    let (sender, mut heard) = mpsc::channel(100);
    let (orders, stock, ticks) = (sender.clone(), sender.clone(), sender);
    let gone = |_| HandlerError::new("gone");
    bus.listen("orders", move |event: OrderPlaced| {
        let sender = orders.clone();
        async move { sender.send(format!("{event:?}")).await.map_err(gone) }
    })
    .await
    .unwrap();
    bus.listen("stock", move |event: StockChanged| {
        let sender = stock.clone();
        async move { sender.send(format!("{event:?}")).await.map_err(gone) }
    })
    .await
    .unwrap();
    bus.listen("ticks", move |event: Received<Tick>| {
        let sender = ticks.clone();
        async move { sender.send(format!("Tick version {}", event.version())).await.map_err(gone) }
    })
    .await
    .unwrap();
    let (code, fired) = python::run(python, "fire.py", &server.url(), &["--sample"]);
    assert_eq!(code, Some(0), "{fired:?}");
    let fired = fired.iter().filter(|line| line.get("event").is_some()).count();
    let mut got = Vec::new();
    while got.len() < fired {
        got.push(soon("an event from Python", heard.recv()).await.unwrap());
    }
    for part in ["OrderPlaced", "StockChanged", "Tick version 3"] {
        assert!(got.iter().any(|event| event.contains(part)), "{part} is missing in {got:?}");
    }
    for (listener, letters) in [("orders", 0), ("stock", 0), ("ticks", 0)] {
        assert_eq!(
            bus.admin().dead_letters("audit", listener, 10).await.unwrap().len(),
            letters,
            "{listener}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_of_both_languages_share_one_queue() {
    let Some((server, python)) = both() else { return };
    let mut theirs = python::start(python, "serve.py", &server.url(), &[]);
    theirs.wait_for("ready");
    let _ours = serve_kit(&server.url(), "kit").await;
    let caller = redis_bus(&server.url(), "web").await;
    let shop = ShopClient::new(&caller);
    let calls = (0..300_i64).map(|n| {
        let shop = shop.clone();
        tokio::spawn(async move { shop.add(n, 1).timeout(Duration::from_secs(15)).await })
    });
    for (n, call) in calls.collect::<Vec<_>>().into_iter().enumerate() {
        assert_eq!(soon("an answer", call).await.unwrap().unwrap(), n as i64 + 1);
    }
    assert_eq!(server.command(&["LLEN", "kit.shop:rpc_queue"]), "0");
    theirs.signal("INT");
    let (_, printed) = theirs.finish();
    let theirs =
        python::json_lines(&printed).iter().filter(|line| line.get("call").is_some()).count();
    assert!(theirs <= 300, "{theirs}");
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_of_both_languages_share_one_group() {
    let Some((server, python)) = both() else { return };
    let flags = ["--service-name", "mixed", "--listener-name", "both", "--events", "tick"];
    let mut theirs = python::start(python, "listen.py", &server.url(), &flags);
    theirs.wait_for("ready");
    let ours = redis_bus(&server.url(), "mixed").await;
    let ids = Arc::new(std::sync::Mutex::new(Vec::new()));
    let heard = Arc::clone(&ids);
    ours.listen("both", move |tick: Received<Tick>| {
        heard.lock().unwrap().push(tick.id().to_owned());
        async { Ok(()) }
    })
    .await
    .unwrap();
    let source = redis_bus(&server.url(), "kit").await;
    source.register(ShopClient::contract()).await.unwrap();
    let mut fired = BTreeSet::new();
    for _ in 0..200 {
        fired.insert(source.fire(Tick {}).await.unwrap().id.to_string());
    }
    soon("settling", ours.wait_until_idle()).await.unwrap();
    theirs.signal("INT");
    let (_, printed) = theirs.finish();
    let lines = python::json_lines(&printed);
    let mut all: Vec<_> = lines
        .iter()
        .filter_map(|line| Some(line.get("event")?.as_str().and(line["id"].as_str())?.to_owned()))
        .collect();
    all.extend(ids.lock().unwrap().iter().cloned());
    assert_eq!(all.len(), 200, "each event is handled once");
    assert_eq!(all.into_iter().collect::<BTreeSet<_>>(), fired);
}

#[tokio::test(flavor = "multi_thread")]
async fn rust_takes_over_what_a_killed_python_left() {
    let Some((server, python)) = both() else { return };
    let flags = [
        "--service-name",
        "mixed",
        "--listener-name",
        "heir",
        "--events",
        "tick",
        "--die-after",
        "1",
    ];
    let mut theirs = python::start(python, "listen.py", &server.url(), &flags);
    theirs.wait_for("ready");
    let source = redis_bus(&server.url(), "kit").await;
    source.register(ShopClient::contract()).await.unwrap();
    let fired = source.fire(Tick {}).await.unwrap();
    assert_eq!(theirs.finish().0, Some(9));

    let config = redis_yaml(&server.url(), ", acknowledgement_timeout: 0.5, reclaim_interval: 0.2");
    let config = Config::from_yaml(&config).unwrap();
    let ours = Bus::builder().config(config).service_name("mixed").connect().await.unwrap();
    let (sender, mut heard) = mpsc::channel(10);
    ours.listen("heir", move |tick: Received<Tick>| {
        let sender = sender.clone();
        async move { sender.send(tick.id().to_owned()).await.map_err(|_| HandlerError::new("gone")) }
    })
    .await
    .unwrap();
    assert_eq!(soon("the heritage", heard.recv()).await.unwrap(), *fired.id);
    soon("settling", ours.wait_until_idle()).await.unwrap();
}

/// Not a test by itself: the process that the next test kills.
#[tokio::test(flavor = "multi_thread")]
async fn child_that_holds_an_event() {
    let Ok(url) = std::env::var("LIGHTBUS_TEST_CHILD") else { return };
    let bus = redis_bus(&url, "mixed").await;
    bus.listen("heir", |_: Tick| async {
        println!("holding");
        std::future::pending().await
    })
    .await
    .unwrap();
    println!("listening");
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn python_takes_over_what_a_killed_rust_left() {
    let Some((server, python)) = both() else { return };
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child
        .args(["--exact", "child_that_holds_an_event", "--nocapture"])
        .env("LIGHTBUS_TEST_CHILD", server.url());
    let mut child = Program::start(&mut child);
    child.wait_for("listening");
    let source = redis_bus(&server.url(), "kit").await;
    source.register(ShopClient::contract()).await.unwrap();
    let fired = source.fire(Tick {}).await.unwrap();
    child.wait_for("holding");
    child.kill();

    let flags = [
        "--service-name",
        "mixed",
        "--listener-name",
        "heir",
        "--events",
        "tick",
        "--count",
        "1",
        "--acknowledgement-timeout",
        "1",
        "--reclaim-interval",
        "0.3",
    ];
    let (code, lines) = python::run(python, "listen.py", &server.url(), &flags);
    assert_eq!(code, Some(0), "{lines:?}");
    assert!(lines.iter().any(|line| line["id"].as_str() == Some(&*fired.id)), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn python_handles_a_dead_letter_that_is_given_back() {
    let Some((server, python)) = both() else { return };
    let ours = redis_bus(&server.url(), "mixed").await;
    ours.listen("heir", |_: Tick| async { Err(HandlerError::new("cannot")) })
        .on_error(OnError::Retry(RetryPolicy::attempts(1)))
        .await
        .unwrap();
    let source = redis_bus(&server.url(), "kit").await;
    source.register(ShopClient::contract()).await.unwrap();
    let fired = source.fire(Tick {}).await.unwrap();
    let letters = async || source.admin().dead_letters("mixed", "heir", 10).await.unwrap();
    eventually("it is set aside", async || letters().await.len() == 1).await;
    ours.close().await.unwrap();

    let flags = [
        "--service-name",
        "mixed",
        "--listener-name",
        "heir",
        "--events",
        "tick",
        "--count",
        "1",
        "--acknowledgement-timeout",
        "1",
        "--reclaim-interval",
        "0.3",
    ];
    let mut theirs = python::start(python, "listen.py", &server.url(), &flags);
    theirs.wait_for("ready");
    let letters = letters().await;
    assert_eq!(source.admin().requeue_dead_letters("mixed", "heir", &letters).await.unwrap(), 1);
    let (code, printed) = theirs.finish();
    assert_eq!(code, Some(0), "{printed}");
    let lines = python::json_lines(&printed);
    assert!(lines.iter().any(|line| line["id"].as_str() == Some(&*fired.id)), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_read_and_use_the_other_s_schema() {
    let Some((server, python)) = both() else { return };
    let ours = serve_kit(&server.url(), "kit").await;
    let (code, lines) = python::run(python, "schema.py", &server.url(), &["--wait", "10"]);
    assert_eq!(code, Some(0), "{lines:?}");
    let schema = &lines[0]["schema"];
    assert!(schema["rpcs"]["customer"]["response"].is_object(), "{schema}");
    assert_eq!(schema["events"]["stock_changed"]["x-key"], "sku", "{schema}");
    let check = |name: &str, arguments: &str| {
        python::run(python, "schema.py", &server.url(), &["--name", name, "--validate", arguments])
    };
    assert_eq!(check("add", r#"{"a": 1, "b": 2}"#).1.last().unwrap()["valid"], json!(true));
    assert_eq!(check("add", r#"{"a": 1, "b": "2"}"#).1.last().unwrap()["valid"], json!(false));
    soon("closing", ours.close()).await.unwrap();

    let mut theirs = python::start(python, "serve.py", &server.url(), &[]);
    theirs.wait_for("ready");
    let reader = redis_bus(&server.url(), "web").await;
    let schema = reader.schema("kit.shop").await.unwrap().expect("published");
    assert_eq!(
        schema["rpcs"]["add"]["parameters"]["properties"]["a"],
        json!({ "type": "integer" })
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn history_and_lag_are_the_same_for_both() {
    let Some((server, python)) = both() else { return };
    let bus = redis_bus(&server.url(), "kit").await;
    bus.register(ShopClient::contract()).await.unwrap();
    let handled = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&handled);
    bus.listen("lagging", move |_: Tick| {
        count.fetch_add(1, Ordering::SeqCst);
        async { Ok(()) }
    })
    .await
    .unwrap();
    for _ in 0..5 {
        bus.fire(Tick {}).await.unwrap();
    }
    soon("settling", bus.wait_until_idle()).await.unwrap();
    eventually("all are handled", async || handled.load(Ordering::SeqCst) == 5).await;
    let (_, lines) = python::run(python, "history.py", &server.url(), &["--event", "tick"]);
    let theirs: Vec<_> =
        lines.iter().filter_map(|line| line["id"].as_str().map(str::to_owned)).collect();
    use futures_util::TryStreamExt as _;
    let ours: Vec<_> = bus
        .admin()
        .history("kit.shop.tick", None, None)
        .await
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    assert_eq!(ours.iter().map(|event| event.id.to_string()).collect::<Vec<_>>(), theirs);
    let flags = ["--lag", "--event", "tick", "--listener-name", "lagging", "--service-name", "kit"];
    let (_, lines) = python::run(python, "history.py", &server.url(), &flags);
    assert_eq!(lines[0]["lag"], json!(0), "{lines:?}");
}
