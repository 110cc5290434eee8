//! `lightbus doctor`: checks the configuration, and the brokers' settings against what the bus promises.

use console::style;
use lightbus::admin::{Finding, Severity};
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
        let cure = format!("remove `{path}`, or the setting that it contradicts");
        let finding = Finding::warning(
            what,
            "the setting has no effect, or not the one that it suggests",
            cure,
        );
        show(context, "", &finding)?;
    }
    for diagnosis in bus.admin().diagnose().await? {
        let at = format!("{} {}", diagnosis.transport, diagnosis.broker);
        let findings = diagnosis.findings.unwrap_or_else(|| {
            vec![Finding::warning(
                "the broker answers; this transport does not check its settings",
                "settings that lose messages go unnoticed",
                "compare the broker's settings with the documentation of the transport",
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
        output::line(&format!("          effect: {}", finding.consequence))?;
        output::line(&format!("          fix:    {}", finding.cure))?;
    }
    Ok(())
}
