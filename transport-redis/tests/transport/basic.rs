//! What each transport does, on a real server, and the bytes that it does it with.

use std::time::Duration;

use crate::support::{call, connect, event, eventually, listen, on, soon};
use lightbus_core::{
    FlowControl, Outcome, ResultMessage,
    transport::{ServeSpec, Start},
};
use lightbus_test_brokers::RedisServer;

#[tokio::test]
async fn a_call_goes_there_and_its_result_comes_back() {
    let Some(server) = RedisServer::start() else { return };
    let (client, worker) = (on(&server), on(&server));
    client.rpc.open().await.unwrap();
    let spec = ServeSpec { apis: vec!["shop.till".into()], flow: FlowControl::new(64, 256) };
    let mut calls = worker.rpc.serve(spec).await.unwrap();
    let id = "call-1".into();
    let pending = client.result.expect(&id).await.unwrap();
    let path = pending.return_path().as_str().to_owned();
    client.rpc.call(call("shop.till", "call-1", &path, Duration::from_secs(5))).await.unwrap();
    let delivery = soon(calls.next()).await.unwrap().unwrap();
    let message = delivery.message;
    assert_eq!((&*message.id, &*message.api, &*message.procedure), ("call-1", "shop.till", "add"));
    assert_eq!(message.fields.get("a").unwrap(), &b"2"[..]);
    assert_eq!(message.fields.get("b").unwrap(), "\"é☃\"".as_bytes());
    let result = ResultMessage {
        id: "result-1".into(),
        rpc_id: "call-1".into(),
        headers: Default::default(),
        body: Ok(b"1.10".to_vec().into()),
    };
    worker.result.reply(&message.return_path, result).await.unwrap();
    let result = soon(pending).await.unwrap();
    assert_eq!(result.body.unwrap(), &b"1.10"[..]);
    delivery.ack.settle(Outcome::Done).await.unwrap();
    soon(calls.close()).await.unwrap();
}

#[tokio::test]
async fn an_event_is_heard_and_acknowledged() {
    let Some(server) = RedisServer::start() else { return };
    let process = on(&server);
    let mut heard = process.event.listen(listen("p1", Start::New)).await.unwrap();
    let ids = process
        .event
        .send(&[event("e1", "opened"), event("x", "closed"), event("e2", "opened")])
        .await
        .unwrap();
    assert_eq!(ids.len(), 3);
    for id in ["e1", "e2"] {
        let delivery = soon(heard.next()).await.unwrap().unwrap();
        assert_eq!(&*delivery.message.id, id);
        assert_eq!(delivery.message.fields.get("price").unwrap(), &b"1.10"[..]);
        assert_eq!(delivery.message.attempt, 1);
        delivery.ack.settle(Outcome::Done).await.unwrap();
    }
    let redis = connect(&server.url()).await.0;
    eventually("all is acknowledged", || {
        let mut redis = crate::support::Redis(redis.clone());
        async move {
            let pending: (u64, redis::Value, redis::Value, redis::Value) =
                redis.run(&["XPENDING", "shop.till.*:stream", "shop-greeter"]).await;
            pending.0 == 0
        }
    })
    .await;
    soon(heard.close()).await.unwrap();
}

#[tokio::test]
async fn a_schema_is_stored_and_loaded() {
    let Some(server) = RedisServer::start() else { return };
    let process = on(&server);
    let schema =
        serde_json::value::RawValue::from_string("{\"rpcs\":{},\"events\":{}}".into()).unwrap();
    let ttl = Duration::from_secs(60);
    assert!(!process.schema.ping("shop.till", ttl).await.unwrap());
    process.schema.store("shop.till", &schema, ttl).await.unwrap();
    assert!(process.schema.ping("shop.till", ttl).await.unwrap());
    let mut redis = connect(&server.url()).await;
    let _: () = redis.run(&["SADD", "schemas", "gone", "bad"]).await;
    let _: () = redis.run(&["SET", "schema:bad", "{"]).await;
    let loaded = process.schema.load().await.unwrap();
    assert_eq!(loaded.keys().collect::<Vec<_>>(), ["shop.till"]);
    assert_eq!(loaded["shop.till"].get(), schema.get());
}
