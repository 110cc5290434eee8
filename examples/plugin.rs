//! A plugin that refuses calls without a token, in one process: `cargo run --example plugin`.

use lightbus::{Error, ErrorKind, Result, RpcMessage, plugins::Plugin, prelude::*};

/// A shop.
#[lightbus::api(name = "shop")]
pub trait Shop {
    /// Returns how many of an article are in stock.
    async fn stock(&self, article: String) -> u32;
}

struct Service;

impl Shop for Service {
    async fn stock(&self, article: String) -> u32 {
        if article == "kettle" { 3 } else { 0 }
    }
}

/// At the caller: adds a token to each call.
struct Sign;

#[lightbus::async_trait]
impl Plugin for Sign {
    fn name(&self) -> &str {
        "sign"
    }

    async fn before_rpc_call(&self, _: &Bus, call: &mut RpcMessage) -> Result<()> {
        // Calls about umbrellas get no token, to show what happens then.
        let signed =
            call.fields.get("article").is_none_or(|article| &article[..] != br#""umbrella""#);
        if signed {
            call.headers.set("token", "let me in");
        }
        Ok(())
    }
}

/// At the worker: refuses calls without the token.
struct Admit;

#[lightbus::async_trait]
impl Plugin for Admit {
    fn name(&self) -> &str {
        "admit"
    }

    async fn before_rpc_execution(&self, _: &Bus, call: &mut RpcMessage) -> Result<()> {
        match call.headers.get("token") {
            Some("let me in") => Ok(()),
            _ => Err(Error::new(ErrorKind::Invalid, "the token is missing or wrong")),
        }
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let bus = Bus::builder().plugin(Sign).plugin(Admit).connect().await?;
    bus.serve(ShopApi(Service)).await?;

    let shop = ShopClient::new(&bus);
    println!("kettles: {}", shop.stock("kettle").await?);
    match shop.stock("umbrella").await {
        Ok(_) => println!("umbrellas: told without a token"),
        Err(error) => println!("umbrellas: {error}"),
    }
    bus.close().await
}
