//! What `docs/testing.md` shows is what runs.

/// The lines, without what only indents them.
fn lines(text: &str) -> Vec<String> {
    text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
}

#[test]
fn the_code_of_the_guide_is_that_of_the_example() {
    let root = lightbus_tests::root();
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
    let (guide, example) = (read("docs/testing.md"), lines(&read("examples/testing.rs")));
    let blocks = guide.split("```rust\n").skip(1).map(|block| block.split("```").next().unwrap());
    let mut count = 0;
    for block in blocks {
        let block = lines(block);
        assert!(
            example.windows(block.len()).any(|part| part == block),
            "not in examples/testing.rs:\n{}",
            block.join("\n")
        );
        count += 1;
    }
    assert!(count >= 4, "{count}");
}

#[test]
fn the_guide_names_no_method_that_is_not_there() {
    let root = lightbus_tests::root();
    let guide = std::fs::read_to_string(root.join("docs/testing.md")).unwrap();
    let mut sources = std::fs::read_to_string(root.join("examples/testing.rs")).unwrap();
    for file in ["assertions.rs", "faults/mod.rs", "idle.rs", "mock.rs", "start.rs"] {
        sources += &std::fs::read_to_string(root.join("src/testing").join(file)).unwrap();
    }
    let (before, from_python) = guide.split_once("## From Python's `BusMocker`").unwrap();
    let (table, after) = from_python.split_once("## Faults").unwrap();
    // The first column is Python's.
    let ours = table.lines().filter_map(|row| row.split(" | ").nth(1));
    let text = ours.chain(before.lines()).chain(after.lines()).filter(|line| !line.contains("```"));
    let mut count = 0;
    for code in text.flat_map(|line| line.split('`').skip(1).step_by(2)) {
        let Some(call) = code.find(['(', '<']) else { continue };
        let words =
            code[..call].trim_end_matches("::").rsplit(|c: char| c != '_' && !c.is_alphanumeric());
        let Some(name) = words.into_iter().next().filter(|name| !name.is_empty()) else { continue };
        assert!(sources.contains(&format!("fn {name}")), "there is no `{name}`: {code}");
        count += 1;
    }
    assert!(count >= 30, "{count}");
}
