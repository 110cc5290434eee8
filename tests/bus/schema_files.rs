//! Schemas in files: saved from the bus, loaded to check with, never published.

use std::{path::PathBuf, time::Duration};

use lightbus::{ErrorKind, args, schema::Schema};
use lightbus_tests::{Place, RedisServer, on_every_transport, python};
use serde_json::{Value, json};

#[lightbus::api(name = "auth", events(UserRegistered))]
pub trait Auth {
    async fn greet(&self, name: String) -> String;
}

#[derive(Debug, lightbus::Event)]
pub struct UserRegistered {
    pub username: String,
}

struct Service;

impl Auth for Service {
    async fn greet(&self, name: String) -> String {
        format!("Hello, {name}")
    }
}

/// A folder of its own, which goes with it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NUMBER: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("lightbus-schemas-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

on_every_transport!(what_is_saved_is_loaded_and_checks_without_being_published);

async fn what_is_saved_is_loaded_and_checks_without_being_published(place: Place) {
    let folder = Folder::new();
    let served = place.bus("auth").await;
    served.serve(AuthApi(Service)).await.unwrap();
    let (file, each) = (folder.0.join("all.json"), folder.0.join("each"));
    std::fs::create_dir(&each).unwrap();
    for to in [&file, &each] {
        let names = served.admin().save_schemas(to).await.unwrap();
        assert_eq!(names.iter().map(|name| &**name).collect::<Vec<_>>(), ["auth"]);
    }
    let read = |path: PathBuf| -> Value {
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    };
    let document = Schema::of(AuthClient::contract()).document().clone();
    assert_eq!(read(file.clone()), json!({ "auth": document }));
    assert_eq!(read(each.join("auth.json")), document);
    served.close().await.unwrap();

    // On a bus that nobody has published it on.
    for from in [&file, &each] {
        let bus = lightbus::Bus::in_memory().await.unwrap();
        let call = bus.call::<String>("auth.greet", args! { name: "Eve" });
        let before = call.timeout(Duration::from_millis(50)).await.unwrap_err();
        assert_eq!(before.kind(), ErrorKind::Unavailable);
        bus.admin().load_schemas(from).unwrap();
        let error = bus.call::<String>("auth.greet", args! { name: 3 }).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        let call = bus.call::<String>("auth.greet", args! { name: "Eve" });
        let error = call.timeout(Duration::from_millis(50)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        bus.close().await.unwrap();
    }
    let other = place.bus("other").await;
    other.admin().load_schemas(&file).unwrap();
    assert!(other.compare_schema(AuthClient::contract()).await.unwrap().is_empty());
    other.close().await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_loaded_is_told_with_its_file() {
    let folder = Folder::new();
    let bus = lightbus::Bus::in_memory().await.unwrap();
    for (text, part) in [
        ("{", "not the JSON that was expected"),
        ("[]", "not the JSON that was expected"),
        ("{\"auth\": 3}", "a schema is a mapping"),
        ("{\"auth\": {\"rpcs\": []}}", "and so are its `rpcs`"),
    ] {
        let file = folder.0.join("wrong.json");
        std::fs::write(&file, text).unwrap();
        let error = bus.admin().load_schemas(&file).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed);
        let told = error.to_string();
        assert!(told.contains(part) && told.contains("wrong.json"), "{told}");
    }
    let told = bus.admin().load_schemas(folder.0.join("missing.json")).unwrap_err().to_string();
    assert!(
        told.contains("cannot read")
            && told.contains("missing.json")
            && told.contains("Is the path right"),
        "{told}"
    );
    let told =
        bus.admin().save_schemas(folder.0.join("no/where.json")).await.unwrap_err().to_string();
    assert!(told.contains("where.json"), "{told}");
}

#[test]
fn messages_are_checked_by_hand() {
    let schema = Schema::of(AuthClient::contract());
    schema.check_call("greet", args! { name: "Eve" }).unwrap();
    schema.check_result("greet", "Hello").unwrap();
    schema.check_event("user_registered", args! { username: "eve" }).unwrap();
    let refused = |checked: lightbus::Result<()>| checked.unwrap_err().kind();
    assert_eq!(refused(schema.check_call("greet", args! {})), ErrorKind::Invalid);
    assert_eq!(refused(schema.check_call("great", args! {})), ErrorKind::Unknown);
    assert_eq!(refused(schema.check_result("greet", &3)), ErrorKind::Invalid);
    assert_eq!(
        refused(schema.check_event("user_registered", args! { username: 3 })),
        ErrorKind::Invalid
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_of_python_are_saved_and_loaded() {
    let (Some(server), Some(python)) = (RedisServer::start_durable(), python::python()) else {
        return;
    };
    let mut served = python::start(python, "serve.py", &server.url(), &[]);
    served.wait_for("\"ready\"");
    let folder = Folder::new();
    let bus = lightbus_tests::redis_bus(&server.url(), "caller").await;
    bus.admin().save_schemas(&folder.0).await.unwrap();
    let loaded = bus.admin().load_schemas(&folder.0).unwrap();
    assert!(loaded.iter().any(|api| &**api == "kit.shop"), "{loaded:?}");
    assert_eq!(bus.call::<u64>("kit.shop.add", args! { a: 1, b: 2 }).await.unwrap(), 3);
    let error = bus.call::<u64>("kit.shop.add", args! { a: 1, b: "2" }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    bus.close().await.unwrap();
}
