#[lightbus::api(name = "auth", requires(durable, ordered, durable, quick), events())]
trait Wrong {}

#[lightbus::api(name = "auth", requires = durable)]
trait Form {}

fn main() {}
