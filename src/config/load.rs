//! Reading configuration files: YAML or JSON, one laid over the other.

use lightbus_core::{Error, ErrorKind, Result, Section};
use serde_json::Value;

use super::{Config, Source, suggest::with_nearest_key};

/// A configuration larger than this is refused: 1 MiB.
const MAX_BYTES: u64 = 1024 * 1024;

impl Config {
    /// Reads the files that `LIGHTBUS_CONFIG` names, separated by commas. Without it, nothing is
    /// configured and everything stays in memory.
    ///
    /// # Errors
    ///
    /// As [`from_files`](Self::from_files).
    pub fn from_env() -> Result<Self> {
        match std::env::var("LIGHTBUS_CONFIG") {
            Ok(paths) if !paths.trim().is_empty() => {
                Self::from_files(paths.split(',').map(str::trim).filter(|path| !path.is_empty()))
            }
            _ => Ok(Self::default()),
        }
    }

    /// Reads files, each laid over those before: mappings are merged, everything else is replaced.
    /// A name that ends in `.json` is JSON, any other YAML.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] with the file, or the path of the key that is wrong.
    pub fn from_files<'a>(paths: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut whole = Value::Object(serde_json::Map::new());
        let mut files = Vec::new();
        for path in paths {
            lay_over(&mut whole, read(path)?);
            files.push(path.to_owned());
        }
        let origin = files.join(" + ");
        let mut config = Self::from_value(whole).map_err(|error| error.with("file", origin))?;
        config.source = Source::Files(files);
        Ok(config)
    }

    /// Reads a configuration from YAML, or JSON, which is YAML too.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] with the line, or the path of the key that is wrong.
    pub fn from_yaml(text: &str) -> Result<Self> {
        Self::from_value(parse_yaml(text)?)
    }

    fn from_value(mut value: Value) -> Result<Self> {
        drop_empty_sections(&mut value);
        let mut config: Self = Section::new("", value)
            .parse()
            .map_err(|error| with_nearest_key(without_leading_dot(error)))?;
        config.source = Source::Code;
        Ok(config)
    }
}

fn without_leading_dot(error: Error) -> Error {
    let at = error
        .context()
        .find(|(key, _)| *key == "at")
        .map(|(_, path)| path.trim_start_matches('.').to_owned());
    let message = error.message().to_owned();
    match at {
        Some(path) if !path.is_empty() => Error::config(path, message),
        _ => Error::new(ErrorKind::Config, message),
    }
    .during("reading the configuration")
}

fn read(path: &str) -> Result<Value> {
    let wrong = |message: String| {
        Error::new(ErrorKind::Config, message)
            .during("reading the configuration")
            .with("file", path)
    };
    if path.starts_with("http://") || path.starts_with("https://") {
        return Err(wrong("a configuration cannot be fetched over HTTP yet".to_owned())
            .hint("Download it first, and name the file"));
    }
    let size = std::fs::metadata(path).map(|metadata| metadata.len());
    let text = match size {
        Ok(size) if size > MAX_BYTES => {
            return Err(wrong(format!("the file is larger than {MAX_BYTES} bytes")));
        }
        _ => std::fs::read_to_string(path).map_err(|error| {
            wrong(format!("the file cannot be read: {error}")).hint(
                "Is LIGHTBUS_CONFIG right, and relative to the folder in which the program runs?",
            )
        })?,
    };
    let is_json =
        std::path::Path::new(path).extension().is_some_and(|extension| extension == "json");
    let value = if is_json {
        serde_json::from_str(&text)
            .map_err(|error| wrong(format!("the file is not JSON: {error}")))?
    } else {
        parse_yaml(&text).map_err(|error| error.with("file", path))?
    };
    Ok(value)
}

fn parse_yaml(text: &str) -> Result<Value> {
    let value: Value = serde_saphyr::from_str(text).map_err(|error| {
        let text = error.to_string();
        let first = text.lines().next().unwrap_or("no reason given").to_owned();
        Error::new(ErrorKind::Config, format!("not valid YAML: {first}"))
            .during("reading the configuration")
    })?;
    if value.is_object() {
        Ok(value)
    } else {
        Err(Error::new(ErrorKind::Config, "the configuration is not a mapping")
            .during("reading the configuration")
            .hint("It begins with keys such as `apis:` or `bus:`"))
    }
}

fn lay_over(below: &mut Value, above: Value) {
    match (below, above) {
        (Value::Object(below), Value::Object(above)) => {
            let is_selector =
                |value: &Value| value.as_object().is_some_and(|entries| entries.len() == 1);
            for (key, value) in above {
                // Another transport takes the place of the one below, it does not stand beside it.
                let replaces = key.ends_with("transport") && is_selector(&value);
                match below.get_mut(&key) {
                    Some(old)
                        if !(replaces
                            && old.as_object().map(|o| o.keys().next())
                                != value.as_object().map(|o| o.keys().next())) =>
                    {
                        lay_over(old, value);
                    }
                    _ => {
                        below.insert(key, value);
                    }
                }
            }
        }
        (below, above) => *below = above,
    }
}

/// A section that is present but empty (`bus:` with nothing below it) counts as left out.
fn drop_empty_sections(value: &mut Value) {
    let Some(root) = value.as_object_mut() else {
        return;
    };
    root.retain(|_, value| !value.is_null());
    let drop_nulls = |value: Option<&mut Value>| {
        if let Some(section) = value.and_then(Value::as_object_mut) {
            section.retain(|key, value| key == "validate" || !value.is_null());
        }
    };
    if let Some(bus) = root.get_mut("bus") {
        drop_nulls(Some(bus));
        drop_nulls(bus.get_mut("schema"));
    }
    drop_nulls(root.get_mut("apis"));
    if let Some(apis) = root.get_mut("apis").and_then(Value::as_object_mut) {
        apis.values_mut().for_each(|api| drop_nulls(Some(api)));
    }
}
