//! Procedures of others, answered by the test.

use std::time::Duration;

use lightbus::{
    Error, ErrorKind, RemoteError,
    contract::CallError,
    prelude::*,
    testing::{Reply, TestBus},
};

use super::contracts::*;

struct RealAuth;

impl Auth for RealAuth {
    async fn check_password(&self, username: String, _: String) -> bool {
        username == "real"
    }

    async fn slow(&self) -> bool {
        tokio::time::sleep(Duration::from_secs(3)).await;
        true
    }
}

#[tokio::test]
async fn a_typed_mock_answers_by_its_arguments() {
    let test = TestBus::start().await.unwrap();
    test.mock::<AuthClient>().any_call(|auth| auth.check_password("", "")).returns(false);
    let admin =
        test.mock::<AuthClient>().call(|auth| auth.check_password("admin", "secret")).returns(true);
    let auth = AuthClient::new(&test);
    assert!(auth.check_password("admin", "secret").await.unwrap());
    assert!(!auth.check_password("admin", "guess").await.unwrap());
    assert_eq!(admin.count(), 1);
}

#[tokio::test]
async fn a_mock_by_name_needs_no_contract() {
    let test = TestBus::start().await.unwrap();
    test.mock_rpc_call("legacy.report.total").with(args! { year: 2024 }).returns(7);
    test.mock_rpc_call("legacy.report.name").answers(|called| {
        let first: String = called.arg("first").map_err(|error| error.to_string())?;
        Ok(format!("{first}!"))
    });
    assert_eq!(test.call::<u32>("legacy.report.total", args! { year: 2024 }).await.unwrap(), 7);
    let name: String = test.call("legacy.report.name", args! { first: "a" }).await.unwrap();
    assert_eq!(name, "a!");
    // One more, of an API that the bus knows by now.
    test.mock_rpc_call("legacy.report.later").returns("yes");
    assert_eq!(test.call::<String>("legacy.report.later", args! {}).await.unwrap(), "yes");
    let error = test.call::<String>("legacy.report.name", args! {}).await.unwrap_err();
    assert!(error.to_string().contains("`first` is missing"), "{error}");
}

#[tokio::test]
async fn errors_come_out_as_the_api_declares_them() {
    let test = TestBus::start().await.unwrap();
    let till = TillClient::new(&test);
    test.mock::<TillClient>().any_call(|till| till.pay(0)).fails(Declined::NoMoney { missing: 2 });
    let error = till.pay(5).await.unwrap_err();
    assert!(matches!(error, CallError::Api(Declined::NoMoney { missing: 2 })), "{error:?}");
    test.mock::<TillClient>().procedure("pay").fails_with("the till is on fire");
    let error = Error::from(till.pay(5).await.unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Remote);
    assert!(error.to_string().contains("on fire"), "{error}");
    let remote = RemoteError {
        message: "Broke".into(),
        trace: Some("line 7".into()),
        ..RemoteError::default()
    };
    test.mock_rpc_call("shop.till.pay").fails_remotely(remote);
    let error = Error::from(till.pay(5).await.unwrap_err());
    assert_eq!(error.remote().unwrap().trace.as_deref(), Some("line 7"));
    test.mock::<TillClient>()
        .any_call(|till| till.pay(0))
        .refuses(Error::new(ErrorKind::Unavailable, "the broker is away"));
    let error = Error::from(till.pay(5).await.unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

#[tokio::test]
async fn closures_answer_at_once_or_later() {
    let test = TestBus::start().await.unwrap();
    let till = TillClient::new(&test);
    test.mock::<TillClient>().any_call(|till| till.pay(0)).answers(|called| {
        match called.arg("amount") {
            Ok(amount) if amount < 10_u32 => Ok(amount),
            _ => Err(Declined::NoMoney { missing: 1 }),
        }
    });
    assert_eq!(till.pay(5).await.unwrap(), 5);
    assert!(matches!(till.pay(50).await, Err(CallError::Api(Declined::NoMoney { missing: 1 }))));
    test.mock::<TillClient>().any_call(|till| till.pay(0)).answers_later(async |_| {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok(8)
    });
    assert_eq!(till.pay(50).await.unwrap(), 8);
}

#[tokio::test]
async fn answers_in_turn_end_with_those_made_before() {
    let test = TestBus::start().await.unwrap();
    let till = TillClient::new(&test);
    test.mock::<TillClient>().any_call(|till| till.pay(0)).in_turn([
        Reply::value(1),
        Reply::error(Declined::NoMoney { missing: 9 }),
        Reply::failure("out of paper"),
        Reply::never(),
    ]);
    assert_eq!(till.pay(5).await.unwrap(), 1);
    assert!(matches!(till.pay(5).await, Err(CallError::Api(_))));
    assert!(till.pay(5).await.unwrap_err().to_string().contains("out of paper"));
    let error = Error::from(till.pay(5).timeout(Duration::from_millis(50)).await.unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Timeout);
    let error = till.pay(5).await.unwrap_err().to_string();
    assert!(error.contains("has used up its answers"), "{error}");
}

#[tokio::test]
async fn a_long_timeout_passes_at_once_in_memory() {
    let test = TestBus::start().await.unwrap();
    if !test.is_in_memory() {
        return;
    }
    test.mock::<AuthClient>().any_call(|auth| auth.slow()).never_answers();
    let (real, bus) = (std::time::Instant::now(), tokio::time::Instant::now());
    let call = AuthClient::new(&test).slow().timeout(Duration::from_secs(3600));
    assert_eq!(call.await.unwrap_err().kind(), ErrorKind::Timeout);
    assert!(bus.elapsed() >= Duration::from_secs(3600));
    assert!(real.elapsed() < Duration::from_secs(2), "{:?}", real.elapsed());
}

#[tokio::test]
async fn what_is_neither_mocked_nor_served_is_refused_and_says_what_is() {
    let test = TestBus::start().await.unwrap();
    let error = AuthClient::new(&test).check_password("a", "b").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unknown);
    let text = error.to_string();
    for part in [
        "calling auth.check_password: it is neither mocked nor served in this test",
        r#"arguments username: "a", password: "b""#,
        "mocked none, served none",
        r#"Mock it with `test.mock_rpc_call("auth.check_password").returns(…)`"#,
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    test.mock::<AuthClient>().call(|auth| auth.check_password("admin", "x")).returns(true);
    let text = AuthClient::new(&test).check_password("a", "b").await.unwrap_err().to_string();
    assert!(text.contains("no mock matches these arguments"), "{text}");
    assert!(
        text.contains(r#"mocked auth.check_password(username: "admin", password: "x")"#),
        "{text}"
    );
    let refused = panic_of(|| test.assert_nothing_refused());
    assert!(refused.contains("the call auth.check_password"), "{refused}");
}

#[tokio::test]
async fn what_is_not_mocked_goes_to_who_serves_it() {
    let test = TestBus::start().await.unwrap();
    let server = test.process("auth").await.unwrap();
    server.serve(AuthApi(RealAuth)).await.unwrap();
    test.mock::<AuthClient>().call(|auth| auth.check_password("mocked", "")).returns(true);
    let auth = AuthClient::new(&test);
    assert!(auth.check_password("mocked", "").await.unwrap());
    assert!(auth.check_password("real", "").await.unwrap());
    assert!(!auth.check_password("nobody", "").await.unwrap());
    let mocked: Vec<_> = test.rpc_messages(None).iter().map(|call| call.mocked).collect();
    assert_eq!(mocked, [true, false, false]);
    server.close().await.unwrap();
    let error = auth.check_password("real", "").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unknown, "{error}");
}

#[tokio::test]
async fn with_mocking_required_everything_must_be_mocked() {
    let test = TestBus::builder().require_mocking().start().await.unwrap();
    test.serve(AuthApi(RealAuth)).await.unwrap();
    let error = AuthClient::new(&test).check_password("real", "").await.unwrap_err();
    assert!(error.to_string().contains("it is not mocked"), "{error}");
    let error = test.fire(sally()).await.unwrap_err();
    assert!(
        error.to_string().contains(r#"`test.mock_event_firing("auth.user_registered")`"#),
        "{error}"
    );
    test.mock_event::<UserRegistered>();
    test.fire(sally()).await.unwrap();
    test.assert_fired::<UserRegistered>(1);
}

#[tokio::test]
async fn a_mock_is_held_to_the_contract() {
    let test = TestBus::start().await.unwrap();
    test.mock::<AuthClient>().procedure("check_password").returns("not a bool");
    let error = AuthClient::new(&test).check_password("a", "b").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    let error = test.call::<bool>("auth.check_password", args! { username: 3 }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    let text = panic_of(|| drop(test.mock::<AuthClient>().procedure("chek_password")));
    assert!(text.contains("no procedure `chek_password`"), "{text}");
}
