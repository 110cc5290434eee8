//! Words that CONTRIBUTING.md asks not to write.

use lightbus_tests::root;

use super::pages::{all, read};

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
        let text = text.to_lowercase();
        for (word, instead) in WORDS {
            for (at, _) in text.match_indices(word) {
                let start = text[..at].char_indices().rev().nth(30).map_or(0, |(start, _)| start);
                let around: String = text[start..].chars().take(70).collect();
                found.push(format!("{}: `…{around}…`: {instead}", path.display()));
            }
        }
    }
    assert!(found.is_empty(), "{} places:\n{}", found.len(), found.join("\n"));
}
