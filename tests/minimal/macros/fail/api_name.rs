#[lightbus::api]
trait UserAccounts {}

#[lightbus::api(name = "")]
trait Empty {}

#[lightbus::api(name = "default")]
trait Reserved {}

#[lightbus::api(name = "default.auth")]
trait ReservedToo {}

#[lightbus::api(name = "shop..till")]
trait Dots {}

#[lightbus::api(name = "shop till")]
trait Space {}

#[lightbus::api(name = "shop:*")]
trait Characters {}

fn main() {}
