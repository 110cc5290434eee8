//! Links of the documentation lead to files and headings that exist, and the book has every page.

use std::{
    collections::BTreeMap,
    path::{Component, Path, PathBuf},
};

use lightbus_tests::root;

use super::pages::{Page, all, read};

/// Where a page of the book finds what is not in the book. Relative links beyond `docs/` would work
/// on GitHub, and not in the book.
const REPOSITORY: &str = "https://github.com/lightbus/lightbus-rs/blob/main/";

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
    let pages = all();
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
    let pages = all();
    let summary = Path::new("docs/SUMMARY.md");
    let mut listed = pages[summary].links.clone();
    listed.sort();
    let in_docs = pages.keys().filter(|path| path.starts_with("docs") && *path != summary);
    let mut expected: Vec<_> =
        in_docs.map(|path| path.strip_prefix("docs").unwrap().to_str().unwrap()).collect();
    expected.sort_unstable();
    assert_eq!(listed, expected, "docs/SUMMARY.md beside the pages of docs/");
}

#[test]
fn every_file_that_is_named_exists() {
    let folders =
        ["src/", "docs/", "tests/", "examples/", "scripts/", "benches/", "lightbus-", "transport-"];
    let mut count = 0;
    for (page, Page { code, .. }) in all() {
        // The changelog speaks of the past, two pages of the reader's own project.
        let others =
            ["CHANGELOG.md", "docs/tutorial.md", "docs/write-a-transport.md"].map(Path::new);
        if others.contains(&page.as_path()) {
            continue;
        }
        for name in code.iter().filter(|name| name.contains('/') && !name.contains(['*', ' ', '{']))
        {
            if folders.iter().any(|folder| name.starts_with(folder)) {
                // From the root, or in the package that the page is about.
                let folders = [root().to_path_buf(), root().join(page.with_file_name(""))];
                let exists = folders.iter().any(|folder| folder.join(name).exists());
                assert!(exists, "{} names {name}", page.display());
                count += 1;
            }
        }
    }
    assert!(count > 40, "{count}");
}

#[test]
fn every_test_that_is_named_exists() {
    let page = std::fs::read_to_string(root().join("docs/from-python.md")).unwrap();
    let table = page.split("| tested by |").nth(1).unwrap();
    let mut folders =
        ["tests", "lightbus-core/src/conformance"].map(|name| root().join(name)).to_vec();
    let mut sources = String::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                sources += &std::fs::read_to_string(path).unwrap();
            }
        }
    }
    let tests = table.lines().filter_map(|row| row.rsplit(" | ").next());
    let names = tests.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    let names: Vec<_> = names.filter(|name| !name.contains(['/', '.'])).collect();
    for name in &names {
        assert!(sources.contains(&format!("fn {name}(")), "there is no test {name}");
    }
    assert!(names.len() >= 4, "{names:?}");
}
