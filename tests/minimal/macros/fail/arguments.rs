struct Pair(u8, u8);

#[lightbus::api(name = "auth")]
trait Auth {
    async fn text(&self, name: &str);
    async fn bytes(&self, all: &[u8], text: &'static str);
    async fn map(&self, map: &std::collections::HashMap<String, u8>);
    async fn inside(&self, name: Option<&str>, all: Vec<std::borrow::Cow<'_, str>>);
    async fn any(&self, name: impl Into<String>) -> impl Iterator<Item = u8>;
    async fn own(&self, other: Self) -> Box<Self>;
    async fn gives(&self) -> Result<&str, &'static str>;
    async fn untyped(&self) -> std::fmt::Result;

    async fn tuple(&self, (a, b): (u8, u8));
    async fn pair(&self, Pair(a, b): Pair);
    async fn nothing(&self, _: u8);
    async fn changed(&self, mut a: u8);
    async fn hidden(&self, _a: u8);
    async fn twice(&self, a: u8, #[arg(name = "a")] b: u8);

    async fn unknown(&self, #[arg(defualt = 1)] a: u8);
    async fn positional(&self, #[arg(1)] a: u8);
    async fn named(&self, #[arg(name = "a b")] a: u8, #[arg(name = "")] b: u8);
    async fn other(&self, #[serde(default)] a: u8, #[arg(default(1))] b: u8);
}

fn main() {}
