#[derive(lightbus::Event)]
enum Enum {
    One,
}

#[derive(lightbus::Event)]
struct Tuple(u8, u8);

#[derive(lightbus::Event)]
union Union {
    a: u8,
}

#[derive(lightbus::Event)]
struct Generic<T> {
    field: T,
}

#[derive(lightbus::Event)]
#[event(name = "user.registered", key = "user", keys = "name")]
struct Attributes {
    name: String,
    #[event(defualt = 1)]
    email: String,
    #[event(rename = "a b")]
    space: u8,
    #[event(rename = "name")]
    again: u8,
}

#[derive(lightbus::Event)]
#[event(key = name)]
struct Unquoted {
    name: String,
}

#[derive(lightbus::Event)]
#[event(key = "name")]
struct Unit;

#[derive(lightbus::Event)]
#[event = "user_registered"]
struct Equals;

#[derive(lightbus::Event)]
#[event(name = "_private")]
struct Private;

// What is wrong above is told above only.
#[lightbus::api(name = "auth", events(Enum, Tuple, Attributes, Unquoted, Unit, Equals, Private))]
trait Auth {}

fn main() {}
