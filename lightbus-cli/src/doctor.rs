//! `lightbus doctor`: whether the brokers are set up to keep what the bus promises.

use console::style;
use lightbus::transport::transport::{Finding, Severity};
use serde_json::json;

use crate::{
    context::Context,
    failure::{FAILED, Failure},
    output,
};

pub(crate) async fn run(context: &Context) -> Result<(), Failure> {
    let bus = context.bus().await?;
    let warnings = context.builder().await?.check()?;
    let mut problems = 0;
    for warning in warnings {
        let (what, path) = (format!("configuration: {warning}"), &warning.path);
        let cure = format!("remove `{path}`, or what it contradicts");
        let finding = Finding::warning(what, "it does not do what it seems to", cure);
        show(context, "", &finding)?;
    }
    for diagnosis in bus.admin().diagnose().await? {
        let at = format!("{} {}", diagnosis.transport, diagnosis.broker);
        let findings = diagnosis.findings.unwrap_or_else(|| {
            vec![Finding::warning(
                "it answers; its settings are not examined",
                "settings that lose messages stay unseen",
                "read in the guide what this transport asks of its broker",
            )]
        });
        for finding in findings {
            problems += u64::from(finding.severity == Severity::Problem);
            show(context, &at, &finding)?;
        }
    }
    bus.close().await?;
    match problems {
        0 => Ok(()),
        _ => Err(Failure::Quiet(FAILED)),
    }
}

fn show(context: &Context, at: &str, finding: &Finding) -> Result<(), Failure> {
    let (word, colour) = match finding.severity {
        Severity::Good => ("good", style("good   ").green()),
        Severity::Warning => ("warning", style("warning").yellow()),
        Severity::Problem => ("problem", style("problem").red().bold()),
    };
    if context.json {
        let line = json!({
            "severity": word, "broker": at, "what": finding.what,
            "consequence": finding.consequence, "cure": finding.cure,
        });
        output::line(&line.to_string())?;
        return Ok(());
    }
    let colon = if at.is_empty() { "" } else { ": " };
    output::line(&format!("{colour} {at}{colon}{}", finding.what))?;
    if !finding.consequence.is_empty() {
        output::line(&format!("          so:   {}", finding.consequence))?;
        output::line(&format!("          cure: {}", finding.cure))?;
    }
    Ok(())
}
