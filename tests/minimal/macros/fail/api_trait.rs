#[lightbus::api(name = "struct")]
struct Struct {
    field: u8,
}

#[lightbus::api(name = "generic")]
trait Generic<T: Clone>
where
    T: Send,
{
    fn also_wrong(&self);
}

#[lightbus::api(name = "unsafe")]
unsafe trait Unsafe {}

#[lightbus::api(name = "cfg")]
#[cfg(all())]
trait Cfg {
    #[cfg(all())]
    async fn sometimes(&self);
}

#[lightbus::api(name = "items")]
trait Items {
    const LIMIT: u8;
    type Item;
    println!("called");
}

fn main() {}
