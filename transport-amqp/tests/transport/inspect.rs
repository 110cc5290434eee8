//! What is told of a broker, well and ill.

use crate::support::{listen, on, soon, transports, unique};
use lightbus_core::{
    Transport,
    transport::{Finding, Severity},
};
use lightbus_test_brokers::RabbitServer;
use serde_json::json;

async fn diagnose<T: Transport + ?Sized>(transport: &T) -> Vec<Finding> {
    soon(transport.open()).await.unwrap();
    soon(transport.inspect().unwrap().diagnose()).await.unwrap()
}

/// What is a problem, each with a consequence and a cure.
fn problems(findings: &[Finding]) -> Vec<String> {
    let problems = findings.iter().filter(|finding| finding.severity == Severity::Problem);
    let told = problems.map(|finding| {
        assert!(!finding.consequence.is_empty() && !finding.cure.is_empty(), "{finding:?}");
        format!("{} cure: {}", finding.what, finding.cure)
    });
    told.collect()
}

#[tokio::test]
async fn a_broker_is_examined_and_what_is_wrong_with_it_found() {
    let Some(broker) = RabbitServer::start().await else { return };
    let process = on(&broker);
    let api = unique("shop");
    soon(process.event.open()).await.unwrap();
    let _events = soon(process.event.listen(listen(&api, "one"))).await.unwrap();

    // Well.
    let findings = diagnose(&*process.event).await;
    assert_eq!(problems(&findings), [""; 0]);
    let says = |part: &str| findings.iter().any(|finding| finding.what.contains(part));
    for part in ["RabbitMQ 3.", "RabbitMQ 4."] {
        if says(part) {
            assert!(says("of the cluster"), "{findings:?}");
        }
    }
    assert!(
        says("confirms them") && says("`lightbus.events` matches its declaration"),
        "{findings:?}"
    );
    assert!(findings.iter().any(|finding| finding.cure.contains("list_policies")));

    // Something else is there under a name of the bus.
    let other = transports(&json!({"url": broker.url()}), json!({"exchange": "amq.direct"}));
    let ill = problems(&diagnose(&*other.event).await);
    assert_eq!(ill.len(), 1, "{ill:?}");
    assert!(ill[0].contains("`amq.direct`") && ill[0].contains("type"), "{ill:?}");

    // A user without rights.
    broker.ctl(&["add_user", "poor", "secret"]).await;
    broker.ctl(&["set_permissions", "-p", "/", "poor", "^$", "^$", "^$"]).await;
    let url = broker.url().replace("guest:guest", "poor:secret");
    let poor = transports(&json!({"url": url}), json!({}));
    let ill = problems(&diagnose(&*poor.event).await);
    assert!(!ill.is_empty());
    assert!(
        ill.iter().any(|told| told.contains("refuses") && told.contains("configure")),
        "{ill:?}"
    );
    assert!(ill.iter().all(|told| !told.contains("secret")), "{ill:?}");

    // A node that is away.
    let nodes = json!({"url": broker.url(), "nodes": ["127.0.0.1:1"]});
    let findings = diagnose(&*transports(&nodes, json!({})).event).await;
    assert!(
        findings.iter().any(|finding| finding.what.contains("127.0.0.1:1 cannot be reached")),
        "{findings:?}"
    );

    // An alarm.
    broker.ctl(&["set_vm_memory_high_watermark", "absolute", "1MB"]).await;
    let ill = problems(&diagnose(&*on(&broker).rpc).await);
    broker.ctl(&["set_vm_memory_high_watermark", "0.4"]).await;
    assert!(ill.iter().any(|told| told.contains("alarm")), "{ill:?}");
}

#[tokio::test]
async fn places_have_their_counts_and_the_command_to_look() {
    let Some(broker) = RabbitServer::start().await else { return };
    let process = transports(&json!({"url": broker.url()}), json!({"history": {}}));
    let api = unique("shop");
    soon(process.event.open()).await.unwrap();
    soon(process.rpc.open()).await.unwrap();
    let missing = soon(process.rpc.inspect().unwrap().locate(&api, None)).await.unwrap();
    assert_eq!((missing.len(), missing[0].messages), (1, None));
    assert!(missing[0].what.contains("not declared yet"), "{missing:?}");

    let spec = lightbus_core::transport::ServeSpec {
        apis: vec![api.as_str().into()],
        flow: lightbus_core::FlowControl::new(1, 1),
    };
    let _calls = soon(process.rpc.serve(spec)).await.unwrap();
    let places = soon(process.rpc.inspect().unwrap().locate(&api, None)).await.unwrap();
    assert_eq!((&*places[0].name, places[0].messages), (&*format!("{api}.rpc_queue"), Some(0)));
    assert!(places[0].what.contains("consumers: 1"), "{places:?}");
    assert!(places[0].look[0].contains("rabbitmqctl list_queues -p '/'"), "{places:?}");

    let places = soon(process.event.inspect().unwrap().locate(&api, None)).await.unwrap();
    let names: Vec<_> = places.iter().map(|place| &*place.name).collect();
    assert_eq!(names, ["lightbus.events", &*format!("{api}.history")]);
    assert!(places[0].look[0].contains("list_bindings"), "{places:?}");
}
