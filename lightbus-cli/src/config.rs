//! `lightbus config`.

use lightbus::config::{Origin, json_schema_for};
use serde_json::json;

use crate::{cli, context::Context, failure::Failure, output};

pub(crate) async fn run(context: &Context, command: &cli::Config) -> Result<(), Failure> {
    match command {
        cli::Config::Schema => {
            Ok(output::line(&format!("{:#}", json_schema_for(&context.registry())))?)
        }
        cli::Config::Check => check(context).await,
        cli::Config::Show => show(context).await,
    }
}

async fn check(context: &Context) -> Result<(), Failure> {
    let loader = context.loader();
    let checked = tokio::task::spawn_blocking(move || loader.check()).await;
    let checked = checked.map_err(|error| Failure::Failed(error.to_string()))?;
    let warnings = checked.map_err(Failure::Configuration)?;
    if context.json {
        let warnings: Vec<_> = warnings
            .iter()
            .map(|warning| json!({ "path": warning.path, "message": warning.message }))
            .collect();
        output::line(&json!({ "ok": true, "warnings": warnings }).to_string())?;
        return Ok(());
    }
    for warning in &warnings {
        output::line(&format!("warning: {warning}"))?;
    }
    Ok(output::line(&match warnings.len() {
        0 => "the configuration is valid".to_owned(),
        1 => "the configuration is valid, with 1 warning".to_owned(),
        count => format!("the configuration is valid, with {count} warnings"),
    })?)
}

async fn show(context: &Context) -> Result<(), Failure> {
    let settings = context.config().await?.settings(&context.registry());
    for setting in settings {
        if context.json {
            let kind = match setting.origin {
                Origin::Default => "default",
                Origin::Program => "program",
                Origin::File(_) => "file",
                Origin::Environment(_) => "variable",
                _ => "other",
            };
            output::line(
                &json!({
                    "path": setting.path,
                    "value": setting.value,
                    "origin": setting.origin.to_string(),
                    "origin_kind": kind,
                })
                .to_string(),
            )?;
        } else {
            output::line(&setting.to_string())?;
        }
    }
    Ok(())
}
