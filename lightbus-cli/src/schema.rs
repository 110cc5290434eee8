//! `lightbus schema`: saves, publishes and compares schemas.

use std::{collections::BTreeMap, path::Path};

use lightbus::{
    Bus,
    schema::{Change, Schema},
};
use serde_json::{Value, json};

use crate::{
    cli,
    context::Context,
    failure::{FAILED, Failure},
    output,
};

pub(crate) async fn run(context: &Context, command: cli::Schema) -> Result<(), Failure> {
    match command {
        cli::Schema::Dump { apis, output } => dump(context, &apis, output.as_deref()).await,
        cli::Schema::Load { file } => load(context, &file).await,
        cli::Schema::Diff { first, second: Some(second) } => {
            show(context, &compare(&read(&first)?, &read(&second)?)).map(drop)
        }
        cli::Schema::Diff { first, second: None } => {
            against_the_bus(context, &first).await.map(drop)
        }
        cli::Schema::Check { file } => {
            if against_the_bus(context, &file).await? {
                Err(Failure::Quiet(FAILED))
            } else {
                Ok(())
            }
        }
    }
}

async fn dump(context: &Context, only: &[String], to: Option<&Path>) -> Result<(), Failure> {
    let bus = context.bus().await?;
    let mut documents = on_the_bus(&bus).await?;
    for api in only {
        if !documents.contains_key(api) {
            return Err(Failure::Failed(format!("the API `{api}` has no schema on the bus")));
        }
    }
    documents.retain(|api, _| only.is_empty() || only.contains(api));
    let count = documents.len();
    let documents: BTreeMap<String, Value> =
        documents.into_iter().map(|(api, schema)| (api, schema.document().clone())).collect();
    let Some(to) = to else {
        output::line(&pretty(&json!(documents)))?;
        return Ok(());
    };
    let write = |path: &Path, value: &Value| {
        std::fs::write(path, pretty(value) + "\n")
            .map_err(|error| Failure::Failed(format!("writing {}: {error}", path.display())))
    };
    if to.is_dir() {
        for (api, document) in &documents {
            write(&to.join(format!("{api}.json")), document)?;
        }
    } else {
        write(to, &json!(documents))?;
    }
    eprintln!("saved {} to {}", output::counted(count as u64, "schema"), to.display());
    Ok(())
}

async fn load(context: &Context, file: &Path) -> Result<(), Failure> {
    let schemas = read(file)?;
    let bus = context.bus().await?;
    for schema in schemas.values() {
        bus.admin().publish_schema(schema).await?;
    }
    let apis: Vec<_> = schemas.keys().collect();
    if context.json {
        output::line(&json!({ "loaded": apis }).to_string())?;
    } else {
        output::line(&format!("published {}", output::counted(apis.len() as u64, "schema")))?;
    }
    Ok(())
}

/// Shows how the schemas in a file differ from those on the bus. Returns whether that breaks users.
async fn against_the_bus(context: &Context, file: &Path) -> Result<bool, Failure> {
    let new = read(file)?;
    let bus = context.bus().await?;
    let mut old = on_the_bus(&bus).await?;
    // Only the APIs in the file are compared.
    old.retain(|api, _| new.contains_key(api));
    show(context, &compare(&old, &new))
}

async fn on_the_bus(bus: &Bus) -> Result<BTreeMap<String, Schema>, Failure> {
    let mut schemas = BTreeMap::new();
    for api in bus.remote_apis().await? {
        if let Some(document) = bus.schema(&api).await? {
            schemas.insert(api.to_string(), Schema::new(&*api, document)?);
        }
    }
    Ok(schemas)
}

/// Reads `{api: document}`, or a single document from a file named after its API.
pub(crate) fn read(file: &Path) -> Result<BTreeMap<String, Schema>, Failure> {
    let wrong = |why: String| Failure::Usage(format!("{}: {why}", file.display()));
    let text = std::fs::read(file).map_err(|error| wrong(error.to_string()))?;
    let value: Value =
        serde_json::from_slice(&text).map_err(|error| wrong(format!("not JSON: {error}")))?;
    let Value::Object(documents) = value else {
        return Err(wrong("not a JSON object of schemas by API".to_owned()));
    };
    let one = documents.contains_key("rpcs") || documents.contains_key("events");
    let name = file.file_stem().and_then(|name| name.to_str());
    let documents: Vec<_> = match (one, name) {
        (true, Some(api)) => vec![(api.to_owned(), Value::Object(documents))],
        _ => documents.into_iter().collect(),
    };
    let schemas = documents.into_iter().map(|(api, document)| {
        let schema = Schema::new(api.as_str(), document)?;
        Ok((api, schema))
    });
    schemas.collect::<Result<_, lightbus::Error>>().map_err(|error| wrong(error.to_string()))
}

/// The differences between two sets of schemas. An API that was added or removed differs in all its
/// members.
fn compare(old: &BTreeMap<String, Schema>, new: &BTreeMap<String, Schema>) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut apis: Vec<_> = old.keys().chain(new.keys()).collect();
    apis.sort();
    apis.dedup();
    for api in apis {
        let Ok(nothing) = Schema::new(api.as_str(), json!({})) else { continue };
        let old = old.get(api).unwrap_or(&nothing);
        let new = new.get(api).unwrap_or(&nothing);
        changes.extend(Schema::compare(old, new));
    }
    changes
}

fn show(context: &Context, changes: &[Change]) -> Result<bool, Failure> {
    let breaks = changes.iter().any(Change::breaks_users);
    if context.json {
        let changes: Vec<_> = changes
            .iter()
            .map(|change| json!({ "api": change.api, "change": change.to_string(), "breaks": change.breaks_users() }))
            .collect();
        output::line(&json!({ "changes": changes, "breaks": breaks }).to_string())?;
    } else if changes.is_empty() {
        output::line("no changes")?;
    } else {
        for change in changes {
            output::line(&change.to_string())?;
        }
    }
    Ok(breaks)
}

fn pretty(value: &Value) -> String {
    format!("{value:#}")
}
