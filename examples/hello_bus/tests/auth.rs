//! The service under test, without a broker.

use hello_bus::{AuthApi, AuthClient, Service, UserRegistered};
use lightbus::{prelude::*, testing::TestBus};

async fn serve(bus: &Bus) -> lightbus::Result<()> {
    bus.serve(AuthApi(Service { bus: bus.clone() })).await
}

#[tokio::test]
async fn registering_fires_an_event() -> lightbus::Result<()> {
    let test = TestBus::start().await?;
    serve(&test).await?;

    AuthClient::new(&test).register("sally", "sally@example.com").await?;

    test.assert_fired_event(UserRegistered {
        username: "sally".into(),
        email: "sally@example.com".into(),
    });
    Ok(())
}

#[tokio::test]
async fn a_wrong_address_is_refused() -> lightbus::Result<()> {
    let test = TestBus::start().await?;
    serve(&test).await?;

    let refused = AuthClient::new(&test).register("sally", "nowhere").await;

    assert!(refused.is_err());
    test.assert_event_not_fired("auth.user_registered");
    Ok(())
}
