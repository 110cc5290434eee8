//! The ways in which Redis is installed: behind a socket, a password, TLS, as a cluster, under
//! sentinels.

use std::time::Duration;

use crate::support::{call, connect, event, greeter, listen, on, soon, transports};
use lightbus_core::{
    ConfigSection, ErrorKind, FlowControl, Headers, Outcome, ResultMessage, TransportFactory,
    transport::{EventSelector, ServeSpec, Start},
};
use lightbus_test_brokers::RedisServer;
use lightbus_transport_redis::RedisFactory;
use serde_json::{Value, json};

/// Calls of two APIs, an event, and a schema go through.
async fn round_trip(options: &Value) {
    let (client, worker) = (transports(options, json!({})), transports(options, json!({})));
    client.rpc.open().await.unwrap();
    let apis = vec!["shop.till".into(), "auth".into(), "internal.state".into()];
    let mut calls =
        worker.rpc.serve(ServeSpec { apis, flow: FlowControl::new(64, 256) }).await.unwrap();
    for api in ["shop.till", "auth"] {
        let id = format!("call-{api}").into();
        let pending = client.result.expect(&id).await.unwrap();
        let path = pending.return_path().as_str().to_owned();
        client.rpc.call(call(api, &id, &path, Duration::from_secs(5))).await.unwrap();
        let delivery = soon(calls.next()).await.unwrap().unwrap();
        assert_eq!((&*delivery.message.api, &delivery.message.id), (api, &id));
        let result = ResultMessage {
            id: "r".into(),
            rpc_id: id,
            headers: Headers::new(),
            body: Ok(b"1".to_vec().into()),
        };
        worker.result.reply(&delivery.message.return_path, result).await.unwrap();
        delivery.ack.settle(Outcome::Done).await.unwrap();
        assert_eq!(soon(pending).await.unwrap().body.unwrap(), &b"1"[..]);
    }
    let mut spec = listen("p1", Start::New);
    spec.events.push(EventSelector::all("auth"));
    spec.events.push(EventSelector::all("orders"));
    let mut heard = worker.event.listen(spec).await.unwrap();
    let mut other = event("e2", "left");
    other.api = "auth".into();
    client.event.send(&[event("e1", "opened"), other]).await.unwrap();
    let mut got = Vec::new();
    for outcome in [Outcome::Done, Outcome::Reject("no".into())] {
        let delivery = soon(heard.next()).await.unwrap().unwrap();
        got.push(delivery.message.id.to_string());
        delivery.ack.settle(outcome).await.unwrap();
    }
    got.sort();
    assert_eq!(got, ["e1", "e2"]);
    let letters = worker.dead_letters().list(&greeter(), None, 9).await.unwrap();
    assert_eq!(letters.len(), 1);
    let ids = [letters[0].id.clone()];
    let retried = client.dead_letters().requeue(&greeter(), &ids).await.unwrap();
    assert_eq!(retried, 1);
    let again = soon(heard.next()).await.unwrap().unwrap();
    assert_eq!(again.message.id, letters[0].event.id);
    again.ack.settle(Outcome::Done).await.unwrap();
    assert!(worker.dead_letters().list(&greeter(), None, 9).await.unwrap().is_empty());
    let schema = serde_json::value::RawValue::from_string("{}".into()).unwrap();
    for api in ["auth", "shop.till"] {
        client.schema.store(api, &schema, Duration::from_secs(9)).await.unwrap();
    }
    assert_eq!(worker.schema.load().await.unwrap().len(), 2);
    let before = tokio::time::Instant::now();
    soon(calls.close()).await.unwrap();
    soon(heard.close()).await.unwrap();
    // Reads under way are interrupted, or end by themselves after a second each.
    assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
}

#[tokio::test]
async fn a_local_socket() {
    let Some(server) = RedisServer::start_with(&["--unixsocket", "redis.sock"]) else { return };
    let path = server.folder().join("redis.sock");
    round_trip(&json!({"url": format!("unix://{}?db=3", path.display())})).await;
}

#[tokio::test]
async fn users_and_passwords() {
    let Some(server) = RedisServer::start() else { return };
    let mut redis = connect(&server.url()).await;
    let _: () = redis.run(&["ACL", "SETUSER", "bus", "on", ">s3cret", "~*", "+@all"]).await;
    let _: () =
        redis.run(&["ACL", "SETUSER", "weak", "on", ">s3cret", "~nothing", "+@connection"]).await;
    let _: () = redis.run(&["ACL", "SETUSER", "default", "resetpass", "off"]).await;
    let at = format!("127.0.0.1:{}", server.port());
    round_trip(&json!({"url": format!("redis://bus:s3cret@{at}/0")})).await;
    let parameters = json!({"username": "bus", "password": "s3cret", "db": 1});
    round_trip(&json!({"url": format!("redis://{at}"), "connection_parameters": parameters})).await;
    for (url, kind) in [
        (format!("redis://bus:wrong@{at}/0"), ErrorKind::Config),
        (format!("redis://{at}/0"), ErrorKind::Config),
    ] {
        let process = transports(&json!({"url": url}), json!({}));
        let error = soon(process.rpc.open()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(
            !format!("{error:?}{process:?}", process = process.rpc).contains("wrong"),
            "{error:?}"
        );
    }
    let weak = transports(&json!({"url": format!("redis://weak:s3cret@{at}/0")}), json!({}));
    let error = soon(weak.event.send(&[event("e", "opened")])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
}

#[test]
fn options_are_python_s_and_nothing_else() {
    let parse = |options: Value| {
        let section = ConfigSection::new("apis.default.event_transport.redis", options);
        RedisFactory::default().event(&section).map(drop)
    };
    parse(json!({
        "url": "redis://10.0.0.5:6379/0", "batch_size": 10, "reclaim_batch_size": null,
        "acknowledgement_timeout": 60, "reclaim_interval": 0.5, "max_stream_length": null,
        "stream_use": "per_api", "consumption_restart_delay": 5, "consumer_ttl": 0,
        "service_name": null, "consumer_name": "x",
        "serializer": "lightbus.serializers.ByFieldMessageSerializer",
        "deserializer": "lightbus.serializers.ByFieldMessageDeserializer",
        "connection_parameters": {"maxsize": 100, "minsize": 1, "timeout": 2.5, "password": "p", "db": 1},
    }))
    .unwrap();
    for (options, says) in [
        (json!({"batchsize": 1}), "batchsize"),
        (json!({"serializer": "my.Serializer"}), "Python class"),
        (json!({"connection_parameters": {"pool": 1}}), "pool"),
        (json!({"url": "http://x"}), "redis://"),
        (json!({"url": "redis://x/?odd=1"}), "odd"),
        (json!({"stream_use": "PER_API"}), "per_api"),
        (json!({"acknowledgement_timeout": -1}), "seconds"),
        #[cfg(not(feature = "tls"))]
        (json!({"url": "rediss://x"}), "feature `tls`"),
        #[cfg(not(feature = "cluster"))]
        (json!({"cluster": {"nodes": ["x:1"]}}), "feature `cluster`"),
        #[cfg(not(feature = "sentinel"))]
        (json!({"sentinel": {"master": "m", "nodes": ["x:1"]}}), "feature `sentinel`"),
    ] {
        let error = parse(options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains(says), "{error}");
        assert!(error.to_string().contains("apis.default.event_transport.redis"), "{error}");
    }
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn encrypted() {
    use std::process::{Command, Stdio};

    let folder = std::env::temp_dir().join(format!("lightbus-tls-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let openssl = |arguments: &str| {
        let done = Command::new("openssl")
            .args(arguments.split(' '))
            .current_dir(&folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        assert!(done.unwrap().success(), "openssl {arguments}");
    };
    std::fs::write(folder.join("san"), "subjectAltName=IP:127.0.0.1,DNS:localhost\n").unwrap();
    openssl("req -x509 -newkey rsa:2048 -nodes -days 2 -keyout ca.key -out ca.crt -subj /CN=ca");
    for name in ["server", "client"] {
        openssl(&format!(
            "req -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"
        ));
        openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -out {name}.crt -extfile san"
        ));
    }
    let file = |name: &str| folder.join(name).display().to_string();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (ca, cert, key) = (file("ca.crt"), file("server.crt"), file("server.key"));
    let arguments = [
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &ca,
        "--tls-auth-clients",
        "yes",
    ];
    let Some(_server) = RedisServer::start_with(&arguments) else { return };
    let tls =
        json!({"ca_file": ca, "cert_file": file("client.crt"), "key_file": file("client.key")});
    round_trip(&json!({"url": format!("rediss://127.0.0.1:{port}/0"), "tls": tls})).await;
    round_trip(&json!({
        "url": format!("redis://127.0.0.1:{port}/1"), "tls": tls, "connection_parameters": {"ssl": true},
    }))
    .await;
    let stranger = transports(&json!({"url": format!("rediss://127.0.0.1:{port}/0")}), json!({}));
    let error = soon(stranger.rpc.open()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    let _ = std::fs::remove_dir_all(&folder);
}

#[cfg(feature = "cluster")]
#[tokio::test]
async fn a_cluster() {
    let mut nodes = Vec::new();
    for _ in 0..3 {
        let Some(node) = RedisServer::start_with(&["--cluster-enabled", "yes"]) else { return };
        nodes.push(node);
    }
    let addresses: Vec<String> =
        nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
    let made = std::process::Command::new("redis-cli")
        .args(["--cluster", "create"])
        .args(&addresses)
        .args(["--cluster-yes"])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stdout));
    for node in &nodes {
        crate::support::eventually("the cluster stands", || async {
            let mut redis = connect(&node.url()).await;
            let info: String = redis.run(&["CLUSTER", "INFO"]).await;
            info.contains("cluster_state:ok")
        })
        .await;
    }
    round_trip(&json!({"cluster": {"nodes": addresses}})).await;
}

#[cfg(feature = "sentinel")]
#[tokio::test]
async fn a_primary_under_sentinels() {
    let Some(mut primary) = RedisServer::start() else { return };
    let port = primary.port().to_string();
    let Some(replica) = RedisServer::start_with(&[
        "--replicaof",
        "127.0.0.1",
        &port,
        "--repl-diskless-sync-delay",
        "0",
    ]) else {
        return;
    };
    let mut sentinels = Vec::new();
    for _ in 0..3 {
        let Some(sentinel) = RedisServer::start_sentinel(primary.port()) else { return };
        sentinels.push(sentinel);
    }
    let nodes: Vec<String> =
        sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port())).collect();
    crate::support::eventually("the sentinels know each other and the replica", || async {
        let mut known = true;
        for sentinel in &sentinels {
            let facts: std::collections::HashMap<String, String> =
                connect(&sentinel.url()).await.run(&["SENTINEL", "MASTER", "main"]).await;
            known &= facts["num-other-sentinels"] == "2" && facts["num-slaves"] == "1";
        }
        known
    })
    .await;
    let options = json!({"sentinel": {"master": "main", "nodes": nodes}});
    round_trip(&options).await;
    // A replica by itself is refused.
    let error = soon(on(&replica).rpc.open()).await.unwrap_err();
    assert!(
        error.kind() == ErrorKind::Unavailable && error.to_string().contains("replica"),
        "{error}"
    );
    let process = transports(&options, json!({}));
    process.event.send(&[event("before", "opened")]).await.unwrap();
    primary.kill();
    crate::support::eventually("the replica has taken over", || async {
        process.event.send(&[event("after", "opened")]).await.is_ok()
    })
    .await;
}
