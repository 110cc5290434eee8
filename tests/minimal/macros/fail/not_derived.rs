struct UserRegistered;

#[derive(Debug)]
struct AuthError;

#[lightbus::api(name = "auth", events(UserRegistered))]
trait Auth {
    async fn check(&self) -> Result<bool, AuthError>;
    async fn read(&self) -> std::io::Result<bool>;
}

fn main() {}
