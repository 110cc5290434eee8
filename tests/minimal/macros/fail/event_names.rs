#[derive(lightbus::Event)]
struct UserRegistered;

#[derive(lightbus::Event)]
#[event(name = "user_registered")]
struct Registered;

#[derive(lightbus::Event)]
struct Checked;

#[lightbus::api(name = "auth", events(UserRegistered, Registered, Checked))]
trait Auth {
    async fn checked(&self);
}

fn main() {}
