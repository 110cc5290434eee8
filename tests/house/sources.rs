//! The members of the workspace, as cargo knows them, and their sources.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use lightbus_tests::root;
use serde_json::Value;

/// A package of the workspace.
pub struct Member {
    pub name: String,
    /// Within the repository; empty for the one at the root.
    pub folder: PathBuf,
    /// What it depends on when it is used, not when it is tested.
    pub dependencies: BTreeSet<String>,
    /// Whether it may be published.
    pub is_published: bool,
}

impl Member {
    pub fn manifest(&self) -> String {
        fs::read_to_string(root().join(&self.folder).join("Cargo.toml")).unwrap()
    }

    /// What it is compiled from when it is used.
    pub fn sources(&self) -> Vec<Source> {
        sources(&self.folder.join("src"))
    }
}

/// A file, by its path within the repository.
pub struct Source {
    pub path: String,
    pub text: String,
}

impl Source {
    /// Its lines without comments, and without the tests at its end; each with its number.
    pub fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let mut marked = self.text.match_indices("\n#[cfg(test)]\n").map(|(at, _)| at);
        let is_module = |at: &usize| self.text[*at..].split('{').next().unwrap().contains("\nmod ");
        let tests = marked.find(is_module).unwrap_or(self.text.len());
        let lines = self.text[..tests].lines().enumerate();
        lines
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
            .map(|(index, line)| (index + 1, line))
    }
}

/// All members of the workspace.
pub fn members() -> &'static [Member] {
    static MEMBERS: OnceLock<Vec<Member>> = OnceLock::new();
    MEMBERS.get_or_init(|| {
        let output = Command::new(env!("CARGO"))
            .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
            .current_dir(root())
            .output()
            .unwrap();
        let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
        let top = Path::new(metadata["workspace_root"].as_str().unwrap());
        let packages = metadata["packages"].as_array().unwrap().iter();
        let found: Vec<_> = packages.map(|package| member(package, top)).collect();
        assert!(found.len() > 10, "{}", found.len());
        found
    })
}

fn member(package: &Value, top: &Path) -> Member {
    let uses = package["dependencies"].as_array().unwrap().iter();
    let uses = uses.filter(|dependency| dependency["kind"] != "dev");
    let manifest = Path::new(package["manifest_path"].as_str().unwrap());
    Member {
        name: package["name"].as_str().unwrap().to_owned(),
        folder: manifest.parent().unwrap().strip_prefix(top).unwrap().to_owned(),
        dependencies: uses.map(|one| one["name"].as_str().unwrap().to_owned()).collect(),
        // `publish = false` is an empty list of registries.
        is_published: package["publish"].is_null(),
    }
}

/// The member of this name.
pub fn member_named(name: &str) -> &'static Member {
    members().iter().find(|member| member.name == name).unwrap()
}

/// The transports: each a member of its own.
pub fn transports() -> impl Iterator<Item = &'static Member> {
    members().iter().filter(|member| member.name.starts_with("lightbus-transport-"))
}

/// All Rust below a folder of the repository, other members within it left out.
pub fn sources(folder: &Path) -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let path = folder.join(&name);
            if entry.file_type().unwrap().is_dir() {
                let is_source = name != "target" && !name.starts_with('.');
                if is_source && !root().join(&path).join("Cargo.toml").exists() {
                    folders.push(path);
                }
            } else if name.ends_with(".rs") {
                let text = fs::read_to_string(root().join(&path)).unwrap();
                found.push(Source { path: path.to_str().unwrap().to_owned(), text });
            }
        }
    }
    found
}

/// All Rust of the repository.
pub fn all_sources() -> Vec<Source> {
    let found: Vec<_> = members().iter().flat_map(|member| sources(&member.folder)).collect();
    assert!(found.len() > 300, "{}", found.len());
    found
}
