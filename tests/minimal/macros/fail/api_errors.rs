#[derive(lightbus::ApiError)]
enum Empty {}

#[derive(lightbus::ApiError)]
union Union {
    a: u8,
}

#[derive(lightbus::ApiError)]
enum Generic<T> {
    One(T),
}

#[derive(lightbus::ApiError)]
#[api_error(dispaly, serde = true, name = 3)]
enum Attributes {
    #[api_error(display)]
    One {
        #[api_error(rename = "b")]
        a: u8,
    },
}

// What is wrong above is told above only.
#[lightbus::api(name = "auth")]
trait Auth {
    async fn check(&self) -> Result<bool, Attributes>;
}

fn main() {}
