//! The names of the service and of the process, and their placeholders.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
};

use lightbus_core::{Error, ErrorKind, Name, Result};

/// The names of a process on the bus.
#[derive(Clone, Debug)]
pub struct Names {
    /// The name of the service.
    pub service: Name,
    /// The name of the process.
    pub process: Name,
    /// Whether the service's name was not set, and is another after each start.
    pub service_is_random: bool,
}

const DEFAULT_SERVICE: &str = "{friendly}";
const DEFAULT_PROCESS: &str = "{random4}";

impl Names {
    pub(super) const SERVICE_VARIABLE: &str = "LIGHTBUS_SERVICE_NAME";
    pub(super) const PROCESS_VARIABLE: &str = "LIGHTBUS_PROCESS_NAME";

    /// Checks a name.
    pub(super) fn check(template: &str) -> Result<()> {
        fill(template).map(drop)
    }

    /// Resolves both names. As in Python, the file beats the environment.
    pub(crate) fn resolve(service: Option<&str>, process: Option<&str>) -> Result<Self> {
        let given = |name: Option<&str>, variable: &str| {
            name.map(str::to_owned)
                .or_else(|| std::env::var(variable).ok())
                .filter(|name| !name.is_empty())
        };
        let service = given(service, Self::SERVICE_VARIABLE);
        let process = given(process, Self::PROCESS_VARIABLE);
        let service_is_random = service.as_deref().is_none_or(|name| {
            name.contains("{random") || name.contains("{friendly}") || name.contains("{pid}")
        });
        Ok(Self {
            service: fill(service.as_deref().unwrap_or(DEFAULT_SERVICE))?.into(),
            process: fill(process.as_deref().unwrap_or(DEFAULT_PROCESS))?.into(),
            service_is_random,
        })
    }
}

/// Replaces placeholders, in the manner of Python's `str.format`.
fn fill(template: &str) -> Result<String> {
    let random = letters(16);
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(at) = rest.find(['{', '}']) {
        out.push_str(&rest[..at]);
        let doubled = rest[at..].starts_with("{{") || rest[at..].starts_with("}}");
        if doubled {
            out.push_str(&rest[at..=at]);
            rest = &rest[at + 2..];
            continue;
        }
        let Some(end) = rest[at..].find('}').filter(|_| rest[at..].starts_with('{')) else {
            return Err(wrong(template, "unmatched brace; write {{ or }} for a literal brace"));
        };
        match &rest[at + 1..at + end] {
            "hostname" => out.push_str(&hostname()),
            "pid" => out.push_str(&std::process::id().to_string()),
            "random4" => out.push_str(&random[..4]),
            "random8" => out.push_str(&random[..8]),
            "random16" => out.push_str(&random),
            "friendly" => out.push_str(&friendly()),
            other => {
                let why = format!(
                    "there is no placeholder `{other}`; there are hostname, pid, random4, random8, random16, friendly"
                );
                return Err(wrong(template, &why));
            }
        }
        rest = &rest[at + end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

fn wrong(template: &str, why: &str) -> Error {
    Error::new(ErrorKind::Config, format!("the name `{template}` cannot be used: {why}"))
}

pub(crate) fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .or_else(|_| std::env::var("HOSTNAME"))
        .or_else(|_| std::env::var("COMPUTERNAME"))
        .map_or_else(|_| "localhost".to_owned(), |name| name.trim().to_lowercase())
}

fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

fn letters(count: usize) -> String {
    (0..count).map(|_| char::from(b'a' + (random() % 26) as u8)).collect()
}

fn friendly() -> String {
    const ADJECTIVES: [&str; 24] = [
        "amber", "brave", "calm", "clever", "crisp", "dusty", "eager", "early", "gentle", "golden",
        "happy", "hidden", "lively", "lucky", "merry", "misty", "noble", "proud", "quiet", "rapid",
        "silent", "sunny", "tidy", "wild",
    ];
    const NOUNS: [&str; 24] = [
        "badger", "brook", "cedar", "cloud", "comet", "dune", "falcon", "fern", "harbour", "heron",
        "island", "lark", "maple", "meadow", "otter", "pebble", "pine", "river", "robin",
        "sparrow", "stone", "valley", "wave", "willow",
    ];
    let pick = |words: &[&'static str; 24]| words[(random() % 24) as usize];
    format!("{}-{}-{}", pick(&ADJECTIVES), pick(&NOUNS), random() % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_filled() {
        let name = fill("a-{random4}-{random8}-{{x}}-{pid}").unwrap();
        let parts: Vec<_> = name.split('-').collect();
        assert_eq!(&parts[2][..4], parts[1], "the shorter is a prefix of the longer");
        assert_eq!(parts[3], "{x}");
        assert_eq!(parts[4], std::process::id().to_string());
    }

    #[test]
    fn unknown_placeholders_and_lone_braces_are_refused() {
        for bad in ["{nope}", "{", "}", "a{b"] {
            assert!(fill(bad).is_err(), "{bad}");
        }
    }
}
