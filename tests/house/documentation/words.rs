//! Words that CONTRIBUTING.md asks not to write.

use lightbus_tests::root;

use super::pages::{all, read};
use crate::sources::members;

/// Each with what to write instead. In lower case, with the spaces that make it a word.
const WORDS: [(&str, &str); 13] = [
    (" nobody ", "no process, no caller, no listener"),
    (" anew", "restarted, recreated, again"),
    (" comes again", "is redelivered"),
    (" come again", "are redelivered"),
    (" set aside", "dead-lettered, rejected"),
    (" sets aside", "dead-letters, rejects"),
    (" growing waits", "exponential backoff"),
    (" gives back", "returns"),
    (" is told ", "is reported, fails with"),
    (" are told ", "are reported"),
    (" those that ", "the events that, the processes that"),
    (" those who ", "authors, users, processes that"),
    (" the how manieth", "the ordinal"),
];

#[test]
fn the_documentation_has_none_of_the_words() {
    let mut found = Vec::new();
    for (path, page) in all() {
        if path.ends_with("cli.md") {
            continue;
        }
        let mut text = page.text;
        if path.ends_with("CONTRIBUTING.md") {
            let raw = std::fs::read_to_string(root().join(&path)).unwrap();
            let (before, table) = raw.split_once("| write | not |").unwrap();
            let (_, after) = table.split_once("\n\n").unwrap();
            text = read(&format!("{before}\n\n{after}")).text;
        }
        look(&text, &path.display().to_string(), &WORDS, &mut found);
    }
    assert!(found.is_empty(), "{} places:\n{}", found.len(), found.join("\n"));
}

/// Those of a program's comments, logs, errors and help. "Those that" is not among them: it is right of
/// things that the code before has named.
#[test]
fn the_sources_of_what_is_published_have_none_of_the_words() {
    // Their words are still to be mended.
    let later = ["lightbus-core/src/subscription/", "transport-kafka/src/context.rs"];
    let words: Vec<_> =
        WORDS.into_iter().filter(|(word, _)| !word.starts_with(" those ")).collect();
    let mut found = Vec::new();
    let published = members().iter().filter(|member| member.is_published);
    for source in published.flat_map(|member| member.sources()) {
        if !later.iter().any(|path| source.path.starts_with(path)) {
            look(&prose(&source.text), &source.path, &words, &mut found);
        }
    }
    assert!(found.is_empty(), "{} places:\n{}", found.len(), found.join("\n"));
}

#[test]
fn a_word_is_found_in_a_comment_and_in_a_text_also_over_two_lines() {
    for text in [
        "/// A call that nobody\n/// serves.\nfn f() {}",
        "warn!(\n    \"the event comes \\\n     again\"\n);",
        "// Nobody waits.",
    ] {
        let mut found = Vec::new();
        look(&prose(text), "here.rs", &WORDS, &mut found);
        assert_eq!(found.len(), 1, "{text}: {found:?}");
    }
    let mut found = Vec::new();
    look(&prose("/// A call that no process serves.\nfn f() {}"), "here.rs", &WORDS, &mut found);
    assert!(found.is_empty(), "{found:?}");
}

/// Rust on one line, without the signs that comments and the parts of a long text begin and end with.
/// The words that are looked for stand between spaces, so never in names.
fn prose(rust: &str) -> String {
    let lines = rust.lines().map(|line| {
        let line = line.trim().trim_start_matches("//");
        line.trim_start_matches(['/', '!']).trim_end_matches('\\').trim()
    });
    format!(" {} ", lines.collect::<Vec<_>>().join(" "))
}

/// Adds where one of the words is.
fn look(text: &str, path: &str, words: &[(&str, &str)], found: &mut Vec<String>) {
    let text = text.to_lowercase();
    for (word, instead) in words {
        for (at, _) in text.match_indices(word) {
            let start = text[..at].char_indices().rev().nth(30).map_or(0, |(start, _)| start);
            let around: String = text[start..].chars().take(70).collect();
            found.push(format!("{path}: `…{around}…`: {instead}"));
        }
    }
}
