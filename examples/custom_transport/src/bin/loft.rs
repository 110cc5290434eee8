//! The broker as a program: `cargo run -p lightbus-transport-pigeon --bin loft -- 127.0.0.1:7411`. It
//! wants the password of the variable `LOFT_PASSWORD`, if that is set.

use lightbus_transport_pigeon::loft::Loft;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7411".into());
    let server = Loft::new(std::env::var("LOFT_PASSWORD").ok()).serve(&address).await?;
    println!("a loft at {}", server.address());
    std::future::pending().await
}
