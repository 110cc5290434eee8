//! A small shop: what is ordered is paid for, and announced.

use lightbus::{contract::CallError, prelude::*};

#[lightbus::api(name = "auth", events(UserRegistered))]
pub trait Auth {
    async fn check_password(&self, username: String, password: String) -> bool;
    async fn slow(&self) -> bool;
}

#[derive(Clone, Debug, PartialEq, lightbus::Event)]
pub struct UserRegistered {
    pub username: String,
}

#[derive(Clone, Debug, PartialEq, lightbus::ApiError)]
pub enum Declined {
    NoMoney { missing: u32 },
}

#[lightbus::api(name = "shop.till", events(Paid, Refused))]
pub trait Till {
    async fn pay(&self, amount: u32) -> Result<u32, Declined>;
}

#[derive(Clone, Debug, PartialEq, lightbus::Event)]
pub struct Paid {
    pub amount: u32,
}

#[derive(Clone, Debug, PartialEq, lightbus::Event)]
pub struct Refused {
    pub amount: u32,
    pub missing: u32,
}

/// Code under test: it takes a bus, and pays for every user who registers.
pub async fn start_billing(bus: &Bus) -> lightbus::Result<()> {
    bus.register(TillClient::contract()).await?;
    let sender = bus.clone();
    bus.listen("bill", move |_: UserRegistered| {
        let bus = sender.clone();
        async move {
            match TillClient::new(&bus).pay(3).await {
                Ok(amount) => drop(bus.fire(Paid { amount }).await?),
                Err(CallError::Api(Declined::NoMoney { missing })) => {
                    drop(bus.fire(Refused { amount: 3, missing }).await?);
                }
                Err(error) => return Err(error.into()),
            }
            Ok(())
        }
    })
    .await
}

pub fn sally() -> UserRegistered {
    UserRegistered { username: "sally".into() }
}

/// The text of the panic that this ends with.
pub fn panic_of(code: impl FnOnce()) -> String {
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(code)).unwrap_err();
    panic.downcast_ref::<String>().unwrap().clone()
}
