//! A service and its tests in one file: `cargo test --example testing`. Explained in `docs/testing.md`.

use lightbus::prelude::*;

/// Another team's service.
#[lightbus::api(name = "auth", events(UserRegistered))]
pub trait Auth {
    /// Returns the user's email address.
    async fn email_of(&self, username: String) -> Result<String, String>;
}

/// A user has registered.
#[derive(Clone, Debug, PartialEq, lightbus::Event)]
pub struct UserRegistered {
    username: String,
}

/// Our service.
#[lightbus::api(name = "mail", events(WelcomeSent))]
pub trait Mail {}

/// A welcome mail was sent.
#[derive(Clone, Debug, PartialEq, lightbus::Event)]
pub struct WelcomeSent {
    to: String,
}

/// The code under test. It takes a bus and does not depend on the testing kit.
async fn start(bus: &Bus) -> lightbus::Result<()> {
    bus.register(MailClient::contract()).await?;
    let handle = bus.clone();
    bus.listen("welcome", move |user: UserRegistered| {
        let bus = handle.clone();
        async move {
            let to = AuthClient::new(&bus).email_of(user.username).await?;
            bus.fire(WelcomeSent { to }).await?;
            Ok(())
        }
    })
    .await
}

struct Fixed;

impl Auth for Fixed {
    async fn email_of(&self, username: String) -> Result<String, String> {
        Ok(format!("{username}@example.com"))
    }
}

#[tokio::main]
async fn main() -> lightbus::Result<()> {
    let bus = Bus::in_memory().await?;
    bus.serve(AuthApi(Fixed)).await?;
    start(&bus).await?;
    bus.listen("print", |sent: WelcomeSent| async move {
        println!("{} has been welcomed", sent.to);
        Ok(())
    })
    .await?;
    bus.fire(UserRegistered { username: "sally".into() }).await?;
    bus.wait_until_idle().await?;
    bus.close().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use lightbus::testing::{Fault, Faults, Reply, TestBus};

    fn sally() -> UserRegistered {
        UserRegistered { username: "sally".into() }
    }

    #[tokio::test]
    async fn who_registers_is_welcomed() -> lightbus::Result<()> {
        let test = TestBus::start().await?;
        start(&test).await?;
        test.mock::<AuthClient>()
            .call(|auth| auth.email_of("sally"))
            .returns("sally@example.com".into());

        test.fire_from_outside(UserRegistered { username: "sally".into() }).await?;
        test.wait_until_idle().await?;

        test.assert_fired_event(WelcomeSent { to: "sally@example.com".into() });
        test.assert_rpc_called_times("auth.email_of", 1);
        Ok(())
    }

    #[tokio::test]
    async fn a_mock_answers_some_calls_or_all() -> lightbus::Result<()> {
        let test = TestBus::start().await?;
        // Without a contract: every call of the procedure, or calls with these arguments.
        test.mock_rpc_call("auth.email_of").returns("somebody@example.com");
        test.mock_rpc_call("auth.email_of")
            .with(args! { username: "mallory" })
            .fails_with("no such user");
        // With a contract: every call (the argument does not matter), or calls with these arguments.
        test.mock::<AuthClient>()
            .any_call(|auth| auth.email_of(""))
            .answers(|called| Ok(called.arg::<String>("username").unwrap_or_default() + "@a.com"));
        test.mock::<AuthClient>()
            .call(|auth| auth.email_of("sally"))
            .returns_in_turn(["sally@b.com".into(), "sally@c.com".into()]);

        let auth = AuthClient::new(&test);
        let mut answers = Vec::new();
        for username in ["sally", "sally", "sally", "ben"] {
            answers.push(auth.email_of(username).await?);
        }
        assert_eq!(answers, ["sally@b.com", "sally@c.com", "sally@a.com", "ben@a.com"]);
        Ok(())
    }

    #[tokio::test]
    async fn a_procedure_is_mocked_by_its_name() -> lightbus::Result<()> {
        let test = TestBus::start().await?;
        test.mock::<AuthClient>().procedure("email_of").fails_with("out of order");
        let error = AuthClient::new(&test).email_of("sally").await.unwrap_err();
        assert!(error.to_string().contains("out of order"), "{error}");
        Ok(())
    }

    #[tokio::test]
    async fn a_service_that_is_slow_is_asked_again() -> lightbus::Result<()> {
        let test = TestBus::start().await?;
        start(&test).await?;
        test.mock::<AuthClient>().any_call(|auth| auth.email_of("")).in_turn([
            Reply::never(),
            Reply::error("we are closed".into()),
            Reply::value("sally@example.com".into()),
        ]);
        test.fire_from_outside(sally()).await?;
        test.wait_until_idle().await?;
        test.assert_fired::<WelcomeSent>(1);
        Ok(())
    }

    #[tokio::test]
    async fn an_implementation_stands_in_for_the_other_service() -> lightbus::Result<()> {
        let test = TestBus::start().await?;
        let auth = test.process("auth").await?;
        auth.serve(AuthApi(Fixed)).await?;
        start(&test).await?;
        test.fire_from_outside(sally()).await?;
        test.wait_until_idle().await?;
        test.assert_fired_event(WelcomeSent { to: "sally@example.com".into() });
        test.assert_rpc_called_times("auth.email_of", 1);
        test.assert_nothing_refused();
        Ok(())
    }

    #[tokio::test]
    async fn a_welcome_that_always_fails_is_dead_lettered() -> lightbus::Result<()> {
        let test = TestBus::builder().service_name("mail").start().await?;
        start(&test).await?;
        test.mock_rpc_call("auth.email_of").fails_with("no such user");
        test.fire_from_outside(sally()).await?;
        test.wait_until_idle().await?;
        test.assert_event_not_fired("mail.welcome_sent");
        let letters = test.admin().dead_letters("mail", "welcome", 10).await?;
        assert!(letters[0].reason.contains("no such user"));
        Ok(())
    }

    #[tokio::test]
    async fn every_user_is_welcomed_despite_faults() -> lightbus::Result<()> {
        let faults = Faults::seeded(42).drops(0.1).duplicates(0.2).delays(0.2);
        let test = TestBus::builder().faults(faults).start().await?;
        start(&test).await?;
        test.mock::<AuthClient>()
            .any_call(|auth| auth.email_of(""))
            .answers(|called| called.arg("username").map_err(|error| error.to_string()));
        for number in 0..50 {
            test.fire_from_outside(UserRegistered { username: format!("user{number}") }).await?;
        }
        test.wait_until_idle().await?;
        let welcomed: std::collections::BTreeSet<_> =
            test.fired::<WelcomeSent>().into_iter().map(|sent| sent.to).collect();
        assert_eq!(welcomed.len(), 50);
        assert!(test.faults().is_some_and(|faults| faults.count(Fault::Drop) > 0));
        Ok(())
    }
}
