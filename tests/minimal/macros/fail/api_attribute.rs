#[lightbus::api("auth")]
trait Positional {}

#[lightbus::api(name = auth, version = "1", events = UserRegistered, nmae = "auth")]
trait Forms {}

#[lightbus::api(name = "auth", name = "auth", version = -1, events, crate = 3 + 4)]
trait Values {}

#[lightbus::api(name = "auth", events(UserRegistered, UserRegistered, &str), version = 5000000000)]
trait Lists {}

#[lightbus::api(name = "auth" version = 1)]
trait Comma {}

#[derive(lightbus::Event)]
struct UserRegistered;

fn main() {}
