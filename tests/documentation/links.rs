//! Links of the documentation lead to files and headings that exist, and the book has every page.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Component, Path, PathBuf},
};

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

/// Where a page of the book finds what is not in the book. Relative links beyond `docs/` would work
/// on GitHub, and not in the book.
const REPOSITORY: &str = "https://github.com/lightbus/lightbus-rs/blob/main/";

#[derive(Default)]
pub struct Page {
    links: Vec<String>,
    anchors: BTreeSet<String>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All Markdown of the repository, by path.
pub fn pages() -> BTreeMap<PathBuf, Page> {
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

fn read(text: &str) -> Page {
    let mut page = Page::default();
    let mut heading: Option<String> = None;
    for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
        match event {
            Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                page.links.push(dest_url.into_string());
            }
            Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
            Event::End(TagEnd::Heading(_)) => {
                let anchor = anchor(&heading.take().unwrap_or_default());
                // As on GitHub and in mdBook, a second heading of the same words has a number.
                let numbered = (1..).map(|number| format!("{anchor}-{number}"));
                let mut names = std::iter::once(anchor.clone()).chain(numbered);
                page.anchors.insert(names.find(|name| !page.anchors.contains(name)).unwrap());
            }
            Event::Text(part) | Event::Code(part) => {
                if let Some(heading) = &mut heading {
                    heading.push_str(&part);
                }
            }
            _ => {}
        }
    }
    page
}

fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect::<String>().to_lowercase()
}

/// `docs/../README.md` is `README.md`. `None` if it leads out of the repository.
fn normal(path: &Path) -> Option<PathBuf> {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => normal.pop().then_some(())?,
            Component::CurDir => {}
            part => normal.push(part),
        }
    }
    Some(normal)
}

/// What is wrong with a link of a page.
fn broken(pages: &BTreeMap<PathBuf, Page>, from: &Path, link: &str) -> Option<String> {
    let (target, fragment) = link.split_once('#').unwrap_or((link, ""));
    let path = match target.strip_prefix(REPOSITORY) {
        Some(path) => PathBuf::from(path),
        None if target.contains("://") || target.starts_with("mailto:") => return None,
        None if target.is_empty() => from.to_owned(),
        None => {
            let path = normal(&from.parent().unwrap().join(target))?;
            if from.starts_with("docs") && !path.starts_with("docs") {
                return Some(format!("not in the book: link to {REPOSITORY}{}", path.display()));
            }
            path
        }
    };
    if !root().join(&path).exists() {
        return Some("there is no such file".to_owned());
    }
    let page = pages.get(&path);
    (!fragment.is_empty() && !page.is_some_and(|page| page.anchors.contains(fragment)))
        .then(|| format!("{} has no such heading", path.display()))
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let pages = pages();
    let links = pages.iter().flat_map(|(from, page)| page.links.iter().map(move |to| (from, to)));
    let mut wrong = Vec::new();
    for (from, link) in links.clone() {
        if let Some(why) = broken(&pages, from, link) {
            wrong.push(format!("{}: {link}: {why}", from.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(links.count() > 100);
}

#[test]
fn a_link_that_leads_nowhere_is_found() {
    let mut pages = BTreeMap::new();
    pages.insert(
        PathBuf::from("docs/calls.md"),
        read("# Calls\n## `args!`, and more\n## One\n## One\n"),
    );
    let broken = |link: &str| broken(&pages, Path::new("docs/calls.md"), link);
    for right in ["#args-and-more", "#one-1", "calls.md#one", "https://example.com/#x", "events.md"]
    {
        assert_eq!(broken(right), None, "{right}");
    }
    for wrong in [
        "#two",
        "#one-2",
        "call.md",
        "../README.md",
        "https://github.com/lightbus/lightbus-rs/blob/main/no.md",
    ] {
        assert!(broken(wrong).is_some(), "{wrong}");
    }
}

#[test]
fn the_book_has_every_page_once() {
    let pages = pages();
    let summary = Path::new("docs/SUMMARY.md");
    let mut listed = pages[summary].links.clone();
    listed.sort();
    let in_docs = pages.keys().filter(|path| path.starts_with("docs") && *path != summary);
    let mut expected: Vec<_> =
        in_docs.map(|path| path.strip_prefix("docs").unwrap().to_str().unwrap()).collect();
    expected.sort_unstable();
    assert_eq!(listed, expected, "docs/SUMMARY.md beside the pages of docs/");
}
