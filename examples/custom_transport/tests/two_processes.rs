//! The example of two processes does what it says.

use std::process::Command;

#[test]
fn two_processes_talk() {
    let output = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--offline", "--example", "two_processes"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("1 pigeon is under way, says another process"), "{text}");
    assert!(text.contains("arrived at Rome"), "{text}");
}
