//! All Markdown of the repository, read.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use lightbus_tests::root;
use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

#[derive(Default)]
pub struct Page {
    /// Prose: what is not code.
    pub text: String,
    /// What stands between backticks.
    pub code: Vec<String>,
    pub links: Vec<String>,
    pub anchors: BTreeSet<String>,
}

/// Every page, by its path within the repository.
pub fn all() -> BTreeMap<PathBuf, Page> {
    let mut found = BTreeMap::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(root().join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let path = folder.join(&name);
            if entry.file_type().unwrap().is_dir() {
                if name != "target" && !name.starts_with('.') {
                    folders.push(path);
                }
            } else if name.ends_with(".md") {
                let text = std::fs::read_to_string(root().join(&path)).unwrap();
                found.insert(path, read(&text));
            }
        }
    }
    assert!(found.len() > 20, "{}", found.len());
    found
}

pub fn read(text: &str) -> Page {
    let mut page = Page::default();
    let mut heading: Option<String> = None;
    let mut in_block = false;
    for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
        match event {
            Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                page.links.push(dest_url.into_string());
            }
            Event::Start(Tag::CodeBlock(_)) => in_block = true,
            Event::End(TagEnd::CodeBlock) => in_block = false,
            Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
            Event::End(TagEnd::Heading(_)) => {
                let anchor = anchor(&heading.take().unwrap_or_default());
                // As on GitHub and in mdBook, a second heading of the same words has a number.
                let numbered = (1..).map(|number| format!("{anchor}-{number}"));
                let mut names = std::iter::once(anchor.clone()).chain(numbered);
                page.anchors.insert(names.find(|name| !page.anchors.contains(name)).unwrap());
            }
            Event::Text(part) if !in_block => {
                if let Some(heading) = &mut heading {
                    heading.push_str(&part);
                }
                page.text.push_str(&part);
            }
            Event::Code(part) => {
                if let Some(heading) = &mut heading {
                    heading.push_str(&part);
                }
                page.code.push(part.into_string());
            }
            Event::SoftBreak | Event::End(_) => page.text.push(' '),
            _ => {}
        }
    }
    page
}

fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect::<String>().to_lowercase()
}
