//! Looking at what was fired and called.

use lightbus::testing::TestBus;

use super::contracts::*;

async fn billed() -> TestBus {
    let test = TestBus::start().await.unwrap();
    start_billing(&test).await.unwrap();
    test.mock::<TillClient>().any_call(|till| till.pay(0)).returns(3);
    test.fire_from_outside(sally()).await.unwrap();
    test.wait_until_idle().await.unwrap();
    test
}

#[tokio::test(start_paused = true)]
async fn what_happened_is_seen() {
    let test = billed().await;
    test.assert_event_fired("shop.till.paid");
    test.assert_events_fired("shop.till.paid", 1);
    test.assert_event_not_fired("shop.till.refused");
    test.assert_fired::<Paid>(1);
    test.assert_fired_event(Paid { amount: 3 });
    assert_eq!(test.fired::<Paid>(), [Paid { amount: 3 }]);
    assert_eq!(test.event_names_fired(), ["shop.till.paid"]);
    assert_eq!(test.event_messages(None).len(), 1);
    assert_eq!(test.event_messages(Some("shop.till.refused")).len(), 0);

    test.assert_rpc_called("shop.till.pay");
    test.assert_rpc_called_times("shop.till.pay", 1);
    test.assert_rpc_not_called("auth.check_password");
    test.assert_called(|till: &TillClient| till.pay(3));
    assert_eq!(test.rpc_names_called(), ["shop.till.pay"]);
    let messages = test.rpc_messages(Some("shop.till.pay"));
    assert_eq!(messages[0].arg::<u32>("amount").unwrap(), 3);
    test.assert_nothing_refused();

    test.clear();
    test.assert_event_not_fired("shop.till.paid");
    test.assert_rpc_not_called("shop.till.pay");
}

#[tokio::test]
async fn a_failed_assertion_says_what_happened_instead() {
    let test = billed().await;
    let fired = " Fired:\n  shop.till.paid(amount: 3)";
    assert_eq!(
        panic_of(|| test.assert_event_fired("shop.till.refused")),
        format!("shop.till.refused was not fired.{fired}")
    );
    assert_eq!(
        panic_of(|| test.assert_fired::<Paid>(2)),
        format!("shop.till.paid was fired once, not 2 times.{fired}")
    );
    assert_eq!(
        panic_of(|| test.assert_event_not_fired("shop.till.paid")),
        format!("shop.till.paid was fired once, not never.{fired}")
    );
    assert_eq!(
        panic_of(|| test.assert_fired_event(Paid { amount: 4 })),
        format!("shop.till.paid(amount: 4) was not fired.{fired}")
    );
    let called = " Called:\n  shop.till.pay(amount: 3)";
    assert_eq!(
        panic_of(|| test.assert_rpc_called("auth.slow")),
        format!("auth.slow was not called.{called}")
    );
    assert_eq!(
        panic_of(|| test.assert_called(|till: &TillClient| till.pay(4))),
        format!("shop.till.pay(amount: 4) was not called.{called}")
    );
    test.clear();
    assert_eq!(
        panic_of(|| test.assert_rpc_called("auth.slow")),
        "auth.slow was not called. Called: nothing"
    );
}

#[tokio::test]
async fn more_than_is_kept_is_said() {
    let test = TestBus::builder().keep(2).start().await.unwrap();
    test.register(AuthClient::contract()).await.unwrap();
    for _ in 0..3 {
        test.fire(sally()).await.unwrap();
    }
    let text = panic_of(|| test.assert_fired::<UserRegistered>(3));
    assert!(text.contains("more than 2 events were fired"), "{text}");
}
