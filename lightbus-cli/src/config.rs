//! `lightbus config`.

use lightbus::{
    Bus,
    config::{Origin, json_schema},
};
use serde_json::json;

use crate::{
    cli::{self, Global},
    connect,
    failure::Failure,
    output,
};

pub(crate) fn run(global: &Global, command: &cli::Config) -> Result<(), Failure> {
    match command {
        cli::Config::Schema => Ok(output::line(&format!("{:#}", json_schema()))?),
        cli::Config::Check => check(global),
        cli::Config::Show => show(global),
    }
}

fn check(global: &Global) -> Result<(), Failure> {
    let warnings = Bus::builder().config(connect::config(global)?).check()?;
    if global.json {
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
        0 => "the configuration is right".to_owned(),
        1 => "the configuration can be used; 1 warning".to_owned(),
        count => format!("the configuration can be used; {count} warnings"),
    })?)
}

fn show(global: &Global) -> Result<(), Failure> {
    let settings = connect::config(global)?.settings(&lightbus::registry());
    for setting in settings {
        if global.json {
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
