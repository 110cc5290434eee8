//! Users, rights and encryption, on a Kafka of the test's own.

use std::{path::PathBuf, process::Command, time::Duration};

use crate::support::{LIMIT, call, event, listen, options, soon, transports, unique};
use lightbus_core::FlowControl;
use lightbus_core::{
    Error, ErrorKind, Outcome, ResultMessage,
    transport::{ServeSpec, Start},
};
use lightbus_test_brokers::{KafkaServer, free_port};
use serde_json::{Value, json};

/// A broker that asks for passwords, with one user who may do everything and one who may do nothing.
struct Secured {
    _server: KafkaServer,
    plain: u16,
    encrypted: u16,
    certificates: Certificates,
}

impl Secured {
    async fn start() -> Option<Self> {
        let (plain, encrypted) = (free_port(), free_port());
        let certificates = Certificates::make();
        let module =
            |name: &str| format!("org.apache.kafka.common.security.{name}LoginModule required");
        let users = "user_lightbus=\"right\" user_poor=\"right\"";
        let mut more = format!(
            "sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512\n\
             authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
             super.users=User:ANONYMOUS;User:lightbus\n\
             ssl.keystore.type=PEM\nssl.keystore.location={}\n",
            certificates.path("server.pem").display()
        );
        for listener in ["open", "closed"] {
            let mut add = |mechanism: &str, config: String| {
                more +=
                    &format!("listener.name.{listener}.{mechanism}.sasl.jaas.config={config};\n");
            };
            add("plain", format!("{} {users}", module("plain.Plain")));
            add("scram-sha-256", module("scram.Scram"));
            add("scram-sha-512", module("scram.Scram"));
        }
        let listeners = format!("OPEN://127.0.0.1:{plain},CLOSED://127.0.0.1:{encrypted}");
        let server = KafkaServer::start_with_users(
            &listeners,
            "OPEN:SASL_PLAINTEXT,CLOSED:SASL_SSL",
            &more,
            &[
                "SCRAM-SHA-256=[name=lightbus,password=right]",
                "SCRAM-SHA-512=[name=lightbus,password=right]",
            ],
        );
        Some(Self { _server: server.await?, plain, encrypted, certificates })
    }

    fn options(&self, port: u16, mechanism: &str, user: &str, password: &str) -> Value {
        let mut options = options(&format!("127.0.0.1:{port}"));
        options["sasl"] = json!({"mechanism": mechanism, "username": user, "password": password});
        options
    }
}

/// An authority, and a certificate of 127.0.0.1, in a folder of their own.
struct Certificates(PathBuf);

impl Certificates {
    fn make() -> Self {
        let folder = std::env::temp_dir().join(format!("lightbus-{}", unique("certificates")));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1").unwrap();
        for line in [
            "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.crt",
            "req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout server.key -out server.csr",
            "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.crt",
            "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=stranger -keyout other.key -out other.crt",
        ] {
            let made = Command::new("openssl").args(line.split(' ')).current_dir(&folder).output();
            assert!(made.expect("openssl").status.success(), "{line}");
        }
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
        let all = format!("{}{}", read("server.key"), read("server.crt"));
        std::fs::write(folder.join("server.pem"), all).unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A call and an event, there and back.
async fn works(options: &Value) {
    let process = transports(options, json!({}));
    soon(process.event.open()).await.unwrap();
    let api = unique("orders");
    let mut events = soon(process.event.listen(listen(&api, "one", Start::New))).await.unwrap();
    soon(process.event.send(&[event(&api, "first", None)])).await.unwrap();
    let delivery = soon(events.next()).await.unwrap().unwrap();
    assert_eq!(&*delivery.message.id, "first");
    soon(delivery.ack.settle(Outcome::Done)).await.unwrap();

    let spec = ServeSpec { apis: vec![api.as_str().into()], flow: FlowControl::new(10, 10) };
    let mut calls = soon(process.rpc.serve(spec)).await.unwrap();
    let pending = soon(process.result.expect(&"call".into())).await.unwrap();
    let path = pending.return_path().as_str().to_owned();
    soon(process.rpc.call(call(&api, "call", &path, LIMIT))).await.unwrap();
    let delivery = soon(calls.next()).await.unwrap().unwrap();
    let result = ResultMessage {
        id: "result".into(),
        rpc_id: "call".into(),
        headers: Default::default(),
        body: Ok("1".into()),
    };
    soon(process.result.reply(&delivery.message.return_path, result)).await.unwrap();
    assert!(soon(pending).await.unwrap().body.is_ok());
}

async fn refused(options: &Value) -> Error {
    let process = transports(options, json!({}));
    soon(process.event.open()).await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_come_in_and_who_may_not() {
    let Some(secured) = Secured::start().await else { return };
    let plain = |user, password| secured.options(secured.plain, "PLAIN", user, password);
    works(&plain("lightbus", "right")).await;

    let error = refused(&plain("lightbus", "wrong-one")).await;
    assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
    let text = format!("{error} {error:?}");
    assert!(text.contains("refuses the user or the password"), "{text}");
    assert!(!text.contains("wrong-one"), "{text}");

    // Without rights, whatever is tried says so.
    let poor = transports(&plain("poor", "right"), json!({}));
    let api = unique("orders");
    for error in [
        soon(poor.event.send(&[event(&api, "first", None)])).await.unwrap_err(),
        soon(poor.event.listen(listen(&api, "one", Start::New))).await.unwrap_err(),
        soon(poor.rpc.call(call(&api, "call", "kafka:x/0", Duration::from_secs(9))))
            .await
            .unwrap_err(),
        soon(poor.schema.store(&api, &schema(), LIMIT)).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
        assert!(error.to_string().contains("may not do this"), "{error}");
    }
}

fn schema() -> Box<serde_json::value::RawValue> {
    serde_json::value::RawValue::from_string("{}".into()).unwrap()
}

#[cfg(feature = "tls")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn encrypted_with_a_proof_of_the_password() {
    let Some(secured) = Secured::start().await else { return };
    let with = |mechanism: &str, password: &str, ca: &str| {
        let mut options = secured.options(secured.encrypted, mechanism, "lightbus", password);
        options["tls"] = json!({"ca_file": secured.certificates.path(ca)});
        options
    };
    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        works(&with(mechanism, "right", "ca.crt")).await;
    }
    let error = refused(&with("SCRAM-SHA-512", "wrong-one", "ca.crt")).await;
    assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
    assert!(error.to_string().contains("refuses the user or the password"), "{error}");
    let error = refused(&with("SCRAM-SHA-512", "right", "other.crt")).await;
    assert!(error.to_string().contains("certificate"), "{error}");
}
