//! Code in the documentation that cannot be compiled where it stands, held to code that is.
//!
//! All other code there compiles as documentation tests do: the guide's through `src/lib.rs`.
#![allow(missing_docs, unreachable_pub, dead_code, reason = "what the documentation shows")]

mod links;
mod pages;
mod words;

use std::path::Path;

use lightbus::prelude::*;

#[lightbus::api(name = "auth", events(UserRegistered))]
pub trait Auth {
    async fn check_password(&self, username: String, password: String) -> bool;
}

#[derive(Debug, lightbus::Event)]
pub struct UserRegistered {
    pub username: String,
    pub email: String,
}

async fn readme(bus: Bus) -> lightbus::Result<()> {
    let auth = AuthClient::new(&bus);
    if auth.check_password("admin", "secret").await? {
        println!("Password valid!");
    }

    bus.listen("print_on_new_registration", |user: UserRegistered| async move {
        println!("{} <{}> registered", user.username, user.email);
        Ok(())
    })
    .await?;
    Ok(())
}

mod pigeon {
    pub use lightbus::transport::memory::MemoryFactory as PigeonFactory;
}

fn write_a_transport() -> lightbus::BusBuilder {
    let registry = lightbus::registry().with(pigeon::PigeonFactory::default());
    Bus::builder().registry(registry)
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(lightbus_tests::root().join(path)).unwrap()
}

/// The blocks of a page that are not compiled.
fn ignored(page: &str) -> Vec<String> {
    let text = read(page);
    let blocks = text.split("```rust,ignore\n").skip(1);
    blocks.map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

fn squeezed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Without what depends on the width of a line.
fn signature(text: &str) -> String {
    squeezed(text).replace("( ", "(").replace(", )", ")")
}

#[test]
fn what_the_pages_show_compiles() {
    let here = squeezed(include_str!("documentation.rs"));
    let mut blocks = ignored("README.md");
    assert_eq!(blocks.len(), 1);
    let mut transport = ignored("docs/write-a-transport.md");
    assert_eq!(transport.len(), 4);
    let short = transport.remove(0);
    blocks.push(transport.remove(0));
    for block in &blocks {
        assert!(here.contains(&squeezed(block)), "not compiled here:\n{block}");
    }

    // The tool with a transport is a package of its own, and an example of the tool's documentation.
    let block = transport.remove(0);
    for (compiled, comment) in
        [("examples/custom_transport/tool/src/main.rs", ""), ("lightbus-cli/src/lib.rs", "//! ")]
    {
        let text = squeezed(&read(compiled).replace(comment, ""));
        assert!(text.contains(&squeezed(&block)), "not compiled in {compiled}:\n{block}");
    }

    // The rest has its bodies left out: its signatures are those of the traits.
    for (block, traits) in [
        (&short, "lightbus-core/src/broker/contract.rs"),
        (&transport[0], "lightbus-core/src/conformance/mod.rs"),
    ] {
        let traits = signature(&read(traits));
        let shown: Vec<_> =
            block.lines().filter_map(|line| line.trim().strip_suffix(" { … }")).collect();
        assert!(shown.len() > 8, "{shown:?}");
        for shown in shown {
            assert!(traits.contains(&signature(shown)), "the trait has no `{shown}`");
        }
    }
}

#[test]
fn the_tutorial_shows_the_files_of_its_project() {
    let text = read("docs/tutorial.md");
    let mut shown = 0;
    // Each file is announced by a line with nothing but its path: "`src/lib.rs`:".
    for (index, line) in text.lines().enumerate() {
        let Some(path) = line.strip_prefix('`').and_then(|rest| rest.strip_suffix("`:")) else {
            continue;
        };
        let block = text.lines().skip(index + 3).take_while(|line| *line != "```");
        let file = read(format!("examples/hello_bus/{path}"));
        let file = file.lines().skip_while(|line| line.starts_with("//!") || line.is_empty());
        assert!(block.eq(file), "docs/tutorial.md shows another {path}");
        shown += 1;
    }
    let blocks = text.matches("\n```rust\n").count() + text.matches("\n```yaml\n").count();
    assert_eq!(shown, blocks, "a block of docs/tutorial.md does not say which file it is");
    assert!(shown >= 8, "{shown}");
}

#[test]
fn no_other_page_has_code_that_is_not_compiled() {
    let allowed = ["README.md", "docs/write-a-transport.md"].map(Path::new);
    for path in pages::all().keys().filter(|path| !allowed.contains(&path.as_path())) {
        let text = read(path);
        assert!(!text.contains("rust,ignore"), "{} has code that is not compiled", path.display());
        // Pages of the book are compiled by src/lib.rs, or held to files that are.
        let is_guide = path.parent() == Some(Path::new("docs"));
        let elsewhere = ["docs/testing.md", "docs/tutorial.md"].map(Path::new);
        if is_guide && text.contains("```rust") && !elsewhere.contains(&path.as_path()) {
            let included = format!("include_str!(\"../{}\")", path.display());
            assert!(read("src/lib.rs").contains(&included), "nothing compiles {}", path.display());
        }
    }
}
