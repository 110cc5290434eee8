//! Loading a configuration: files merged in order, then the environment.

use lightbus_core::{ConfigSection, Error, ErrorKind, Registry, Result, nearest};
use serde_json::Value;

#[cfg(not(feature = "yaml"))]
use super::compiled::no_yaml;
use super::{
    Config, Names, Origin, Source, Sources,
    environment::Environment,
    expand::expand,
    explain::{READING, explain},
    fetch::fetch,
    json_schema_for, schema,
    tree::Tree,
};

impl Config {
    /// Loads the files that `LIGHTBUS_CONFIG` names, separated by commas, then applies the environment.
    /// Without either, nothing is configured, and everything stays in memory.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] with the file, or the path of the offending key.
    pub fn from_env() -> Result<Self> {
        Self::loader().load()
    }

    /// Loads files, in place of those that `LIGHTBUS_CONFIG` names, then applies the environment. Later
    /// files override earlier ones.
    ///
    /// ```no_run
    /// # use lightbus::config::Config;
    /// # fn main() -> lightbus::Result<()> {
    /// let config = Config::load(["lightbus.yaml", "rust.yaml"])?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// See [`from_env`](Self::from_env).
    pub fn load<'a>(paths: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        Self::loader().files(paths).load()
    }

    /// Loads files. Later files override earlier ones: mappings are merged, everything else is replaced.
    /// The environment sets no keys; `${VARIABLES}` are expanded.
    ///
    /// # Errors
    ///
    /// See [`from_env`](Self::from_env).
    pub fn from_files<'a>(paths: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        Self::loader().files(paths).without_overrides().load()
    }

    /// Parses a configuration from YAML or JSON. The environment sets no keys; `${VARIABLES}` are
    /// expanded.
    ///
    /// # Errors
    ///
    /// See [`from_env`](Self::from_env).
    #[cfg(feature = "yaml")]
    #[cfg_attr(docsrs, doc(cfg(feature = "yaml")))]
    pub fn from_yaml(text: &str) -> Result<Self> {
        Self::from_value(parse_yaml(text)?)
    }

    /// Parses a configuration from a JSON value: `json!({ "apis": … })`.
    ///
    /// # Errors
    ///
    /// See [`from_env`](Self::from_env).
    pub fn from_value(value: Value) -> Result<Self> {
        let tree = Tree::new(ensure_mapping(value)?, &Origin::Program);
        let known = json_schema_for(&crate::registry());
        finish(tree, Source::Code, &Environment::of_process(), &known)
    }

    /// Returns a loader, to control what is loaded.
    pub fn loader() -> Loader {
        Loader::default()
    }
}

/// Loads a configuration.
///
/// Later sources override earlier ones: `LIGHTBUS_SERVICE_NAME` and `LIGHTBUS_PROCESS_NAME`, the files
/// in order, `LIGHTBUS__…` for single keys. Settings of [`BusBuilder`](crate::BusBuilder) override all.
#[derive(Default)]
#[must_use = "nothing is loaded until `load`"]
pub struct Loader {
    files: Option<Vec<String>>,
    environment: Option<Environment>,
    registry: Option<Registry>,
    no_overrides: bool,
}

impl std::fmt::Debug for Loader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The environment may contain passwords.
        f.debug_struct("Loader").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Loader {
    /// Sets the files and addresses, in place of those that `LIGHTBUS_CONFIG` names. Each may be a list
    /// separated by commas.
    pub fn files<'a>(mut self, paths: impl IntoIterator<Item = &'a str>) -> Self {
        self.files = Some(paths.into_iter().flat_map(separated).collect());
        self
    }

    /// Sets the environment variables, in place of those of the process.
    pub fn environment<K: Into<String>, V: Into<String>>(
        mut self,
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        self.environment = Some(Environment::new(variables));
        self
    }

    /// Sets the transports whose options are known, in place of the compiled-in ones.
    pub fn registry(mut self, registry: Registry) -> Self {
        self.registry = Some(registry);
        self
    }

    /// Lets no environment variable set a key. `${VARIABLES}` are expanded nevertheless.
    pub fn without_overrides(mut self) -> Self {
        self.no_overrides = true;
        self
    }

    /// Loads the files and the environment. Blocks: `http://` and `https://` addresses are fetched, for
    /// up to 5 s each.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] with the file, or the path of the offending key.
    pub fn load(self) -> Result<Config> {
        let Layers { tree, source, environment, known } = self.layers()?;
        finish(tree, source, &environment, &known)
    }

    /// The transports whose options are known.
    pub(crate) fn known_transports(&self) -> Registry {
        self.registry.clone().unwrap_or_else(crate::registry)
    }

    /// Reads the files and the environment, without giving the keys their types.
    pub(super) fn layers(self) -> Result<Layers> {
        let known = json_schema_for(&self.known_transports());
        let environment = self.environment.unwrap_or_else(Environment::of_process);
        let files = self.files.unwrap_or_else(|| {
            environment.get("LIGHTBUS_CONFIG").map(separated).into_iter().flatten().collect()
        });
        let mut tree = Tree::default();
        let overrides = !self.no_overrides;
        if overrides {
            put_names(&mut tree, &environment);
        }
        let mut names = Vec::new();
        for place in &files {
            let text = fetch(place)?;
            let value = if text.is_json { parse_json(&text.text) } else { parse_yaml(&text.text) };
            let value = value.map_err(|error| error.with("file", &text.name))?;
            tree.lay_over(Tree::new(value, &Origin::File(text.name.clone())));
            names.push(text.name);
        }
        let overridden = overrides && environment.lay_over(&mut tree, &known)?;
        let source = match (names.is_empty(), overridden) {
            (true, false) => Source::Nothing,
            (true, true) => Source::Environment,
            (false, _) => Source::Files(names),
        };
        Ok(Layers { tree, source, environment, known })
    }
}

/// Files and environment merged, and what it takes to read them as a configuration.
pub(super) struct Layers {
    pub(super) tree: Tree,
    pub(super) source: Source,
    pub(super) environment: Environment,
    /// The JSON Schema of the configuration.
    pub(super) known: Value,
}

fn separated(paths: &str) -> impl Iterator<Item = String> + use<> {
    let paths: Vec<_> = paths.split(',').map(str::trim).map(str::to_owned).collect();
    paths.into_iter().filter(|path| !path.is_empty())
}

/// Applies the names from the environment, which files override, as in Python.
fn put_names(tree: &mut Tree, environment: &Environment) {
    for (key, variable) in
        [("service_name", Names::SERVICE_VARIABLE), ("process_name", Names::PROCESS_VARIABLE)]
    {
        if let Some(name) = environment.get(variable).filter(|name| !name.is_empty()) {
            tree.put(&[key.to_owned()], name.into(), &Origin::Environment(variable.to_owned()));
        }
    }
}

/// Expands variables, and parses the values.
pub(super) fn finish(
    mut tree: Tree,
    source: Source,
    environment: &Environment,
    known: &Value,
) -> Result<Config> {
    expand(&mut tree, environment, Some(known)).map_err(|(path, problem)| {
        let error = Error::config(path.join("."), problem.message).hint(problem.hint);
        explain(&error, &tree, known)
    })?;
    let mut value = tree.value();
    drop_empty_sections(&mut value);
    drop_foreign_plugins(&mut value, known);
    let parsed: Result<Config> = ConfigSection::new("", value).parse();
    let checked = parsed.and_then(|config| {
        for (key, name) in [
            ("service_name", config.service_name.as_deref()),
            ("process_name", config.process_name.as_deref()),
        ] {
            if let Some(name) = name {
                Names::check(name).map_err(|error| error.with("at", key))?;
            }
        }
        Ok(config)
    });
    let mut config = checked.map_err(|error| explain(&error, &tree, known))?;
    config.sources = Sources { kind: source, tree };
    Ok(config)
}

/// Leaves out the sections of plugins that only Python's services have, which share the file. A name that
/// is near to a known one is taken for a mistake, and refused.
fn drop_foreign_plugins(value: &mut Value, known: &Value) {
    if let Some(plugins) = value.get_mut("plugins").and_then(Value::as_object_mut) {
        plugins.retain(|name, _| {
            let names = || plugin_names(known);
            names().any(|known| known == name) || nearest(name, names()).is_some()
        });
    }
}

/// Returns the names of the plugins that can be configured.
pub(super) fn plugin_names(known: &Value) -> impl Iterator<Item = &str> {
    let plugins = schema::at(known, ["plugins"]).into_iter();
    plugins.flat_map(schema::properties).map(|(name, _)| name.as_str())
}

fn parse_json(text: &str) -> Result<Value> {
    let value = serde_json::from_str(text).map_err(|error| {
        Error::new(ErrorKind::Config, format!("the file is not JSON: {error}")).during(READING)
    })?;
    ensure_mapping(value)
}

#[cfg(not(feature = "yaml"))]
fn parse_yaml(_: &str) -> Result<Value> {
    Err(no_yaml().during(READING))
}

#[cfg(feature = "yaml")]
fn parse_yaml(text: &str) -> Result<Value> {
    let value: Value = serde_saphyr::from_str(text).map_err(|error| {
        let text = error.to_string();
        let first = text.lines().next().unwrap_or("no reason given").to_owned();
        Error::new(ErrorKind::Config, format!("not valid YAML: {first}")).during(READING)
    })?;
    ensure_mapping(value)
}

fn ensure_mapping(value: Value) -> Result<Value> {
    if value.is_object() {
        return Ok(value);
    }
    Err(Error::new(ErrorKind::Config, "the configuration is not a mapping")
        .during(READING)
        .hint("It begins with keys such as `apis:` or `bus:`"))
}

/// Treats an empty section (`bus:` with nothing below it) as one without keys.
fn drop_empty_sections(value: &mut Value) {
    fn drop_nulls(value: Option<&mut Value>) {
        if let Some(section) = value.and_then(Value::as_object_mut) {
            // There is no sense in which nothing could be validated or not.
            section.retain(|key, value| key == "validate" || !value.is_null());
        }
    }
    drop_nulls(Some(value));
    drop_nulls(value.get_mut("bus"));
    drop_nulls(value.pointer_mut("/bus/schema"));
    drop_nulls(value.get_mut("plugins"));
    if let Some(apis) = value.get_mut("apis").and_then(Value::as_object_mut) {
        for api in apis.values_mut() {
            if api.is_null() {
                *api = Value::Object(serde_json::Map::new());
            }
            drop_nulls(Some(api));
        }
    }
}
