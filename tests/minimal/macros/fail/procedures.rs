#[lightbus::api(name = "auth")]
trait Auth {
    fn not_async(&self);
    async fn no_receiver();
    async fn still_no_receiver(name: String);
    async fn changes(&mut self);
    async fn consumes(self);
    async fn shared(self: std::sync::Arc<Self>);
    async fn lives<'a>(&'a self);
    async fn generic<T: Clone>(&self, value: T)
    where
        T: Send;
    async fn with_body(&self) -> bool {
        true
    }
    async unsafe fn risky(&self);
    async extern "C" fn foreign(&self);
    async fn _private(&self);
    async fn new(&self);
    async fn contract(&self);

    #[rpc(name = "check.password")]
    async fn dotted(&self);
    #[rpc(nam = "check")]
    async fn misspelt(&self);
    #[rpc]
    async fn bare(&self);
    #[rpc(name)]
    async fn no_value(&self);

    async fn first(&self);
    #[rpc(name = "first")]
    async fn second(&self);

    fn many_at_once(&mut self, (a, b): (u8, &str)) -> std::fmt::Result {
        Ok(())
    }
}

// An implementation of what is refused causes no more mistakes.
#[lightbus::api(name = "mail")]
trait Mail {
    const LIMIT: u8;
    async fn send(&self, to: &str, (a, b): (u8, u8)) -> bool;
    async fn good(&self, to: String);
    fn sync(&self);
}

struct Service;

impl Mail for Service {
    const LIMIT: u8 = 1;

    async fn send(&self, to: &str, (a, b): (u8, u8)) -> bool {
        to.len() > usize::from(a + b)
    }

    async fn good(&self, _: String) {}

    fn sync(&self) {}
}

fn main() {
    let _ = MailApi(Service);
}
