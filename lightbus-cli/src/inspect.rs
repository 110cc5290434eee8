//! `lightbus inspect`: past events that the broker keeps.

use std::{
    collections::HashSet,
    time::{Duration, SystemTime},
};

use console::style;
use futures_util::StreamExt;
use lightbus::{Bus, ErrorKind, EventMessage, Name};
use serde_json::Value;
use serde_json_path::JsonPath;

use crate::{
    cli::Inspect,
    context::Context,
    explain,
    failure::{FAILED, Failure},
    output,
    validate::{Checker, Verdict},
};

/// How often `--follow` reads new events.
const EVERY: Duration = Duration::from_millis(500);
/// How far back `--follow` reads again: an event may appear late, because clocks differ.
const OVERLAP: Duration = Duration::from_secs(10);
/// How many ids of shown events are remembered while following.
const MOST_REMEMBERED: usize = 100_000;

pub(crate) async fn run(context: &Context, command: Inspect) -> Result<(), Failure> {
    let filter = Filter::new(&command)?;
    let mut printer = Printer::new(context, &command)?;
    let bus = context.bus().await?;
    let apis = apis(&bus, &command).await?;
    if command.pending {
        for api in &apis {
            explain::held(context, &bus, api, command.event.as_deref()).await?;
        }
        bus.close().await?;
        return Ok(());
    }
    let mut shown = HashSet::new();
    let began = SystemTime::now();
    let mut left = command.limit.unwrap_or(u64::MAX);
    // The past is shown newest first, as in Python; what follows, oldest first.
    for api in &apis {
        let mut history =
            bus.admin().history(&filter.selector(api), command.since, command.until).await?;
        while left > 0
            && let Some(event) = history.next().await
        {
            let event = event?;
            remember(&mut shown, &event.id);
            if filter.takes(&event) {
                printer.print(&bus, &event).await?;
                left -= 1;
            }
        }
    }
    if command.follow {
        follow(&mut printer, &bus, &apis, &filter, shown, began).await?;
    }
    bus.close().await?;
    printer.done()
}

/// Prints events, and if asked whether each fits its schema.
struct Printer {
    json: bool,
    checker: Option<Checker>,
}

impl Printer {
    fn new(context: &Context, command: &Inspect) -> Result<Self, Failure> {
        let checks = command.validate || command.schema.is_some();
        let checker = checks.then(|| Checker::new(command.schema.as_deref())).transpose()?;
        Ok(Self { json: context.json, checker })
    }

    async fn print(&mut self, bus: &Bus, event: &EventMessage) -> Result<(), Failure> {
        let Some(checker) = &mut self.checker else {
            return Ok(output::event(bus, self.json, event)?);
        };
        let verdict = checker.check(bus, event).await?;
        if self.json {
            let mut value = output::event_as_json(bus, event);
            let (fits, why) = match verdict {
                Verdict::Fits => (Some(true), None),
                Verdict::Unknown(why) => (None, Some(why)),
                Verdict::Wrong(why) => (Some(false), Some(why)),
            };
            value["valid"] = fits.into();
            value["invalid_because"] = why.into();
            output::line(&value.to_string())?;
        } else {
            let verdict = match verdict {
                Verdict::Fits => style("valid".to_owned()).green(),
                Verdict::Unknown(why) => style(format!("not checked: {why}")).yellow(),
                Verdict::Wrong(why) => style(format!("INVALID: {why}")).red(),
            };
            output::line(&format!("{}   {verdict}", output::event_line(bus, event)))?;
        }
        Ok(())
    }

    fn done(&self) -> Result<(), Failure> {
        match &self.checker {
            Some(checker) if checker.wrong > 0 => Err(Failure::Quiet(FAILED)),
            _ => Ok(()),
        }
    }
}

async fn follow(
    printer: &mut Printer,
    bus: &Bus,
    apis: &[Name],
    filter: &Filter,
    mut shown: HashSet<Name>,
    mut since: SystemTime,
) -> Result<(), Failure> {
    loop {
        tokio::time::sleep(EVERY).await;
        let asked = SystemTime::now();
        for api in apis {
            let from = since.checked_sub(OVERLAP);
            let mut history = bus.admin().history(&filter.selector(api), from, None).await?;
            let mut fresh = Vec::new();
            while let Some(event) = history.next().await {
                let event = event?;
                if !shown.contains(&event.id) {
                    fresh.push(event);
                }
            }
            for event in fresh.into_iter().rev() {
                remember(&mut shown, &event.id);
                if filter.takes(&event) {
                    printer.print(bus, &event).await?;
                }
            }
        }
        since = asked;
    }
}

fn remember(shown: &mut HashSet<Name>, id: &Name) {
    if shown.len() < MOST_REMEMBERED {
        shown.insert(Name::clone(id));
    }
}

/// The API named by the command, or all on the bus.
async fn apis(bus: &Bus, command: &Inspect) -> Result<Vec<Name>, Failure> {
    let Some(api) = command.api.as_deref() else {
        let mut apis = bus.remote_apis().await?;
        apis.retain(|api| command.internal || !api.starts_with("internal."));
        return Ok(apis);
    };
    // Not checked: an API that is no longer served may still have a past.
    Ok(vec![api.into()])
}

/// Selects the events to show.
struct Filter {
    event: Option<String>,
    id: Option<String>,
    native_id: Option<String>,
    version: Option<u32>,
    path: Option<Condition>,
}

impl Filter {
    fn new(command: &Inspect) -> Result<Self, Failure> {
        Ok(Self {
            event: command.event.clone(),
            id: command.id.clone(),
            native_id: command.native_id.clone(),
            version: command.event_version,
            path: command.json_path.as_deref().map(Condition::new).transpose()?,
        })
    }

    fn selector(&self, api: &str) -> String {
        format!("{api}.{}", self.event.as_deref().unwrap_or("*"))
    }

    fn takes(&self, event: &EventMessage) -> bool {
        self.id.as_deref().is_none_or(|id| id == &*event.id)
            && self.native_id.as_deref().is_none_or(|id| Some(id) == event.native_id.as_deref())
            && self.version.is_none_or(|version| version == event.version)
            && self.path.as_ref().is_none_or(|path| path.holds(event))
    }
}

/// `address.city=London`: a path into the arguments, and a comparison.
struct Condition {
    path: JsonPath,
    comparison: Option<(&'static str, String)>,
}

impl Condition {
    fn new(text: &str) -> Result<Self, Failure> {
        // A JSONPath may compare within brackets; our comparison follows the last bracket.
        let outside = text.rfind(']').map_or(0, |at| at + 1);
        let found = ["!=", "<=", ">=", "=", "<", ">"]
            .into_iter()
            .filter_map(|sign| text[outside..].find(sign).map(|at| (outside + at, sign)))
            .min_by_key(|(at, sign)| (*at, std::cmp::Reverse(sign.len())));
        let (path, comparison) = match found {
            Some((at, sign)) => {
                (&text[..at], Some((sign, text[at + sign.len()..].trim().to_owned())))
            }
            None => (text, None),
        };
        let path = path.trim();
        let full = if path.starts_with('$') { path.to_owned() } else { format!("$.{path}") };
        let path = JsonPath::parse(&full)
            .map_err(|error| Failure::Usage(format!("the JSONPath `{path}`: {error}")))?;
        Ok(Self { path, comparison })
    }

    fn holds(&self, event: &EventMessage) -> bool {
        let arguments = Value::Object(output::arguments(event));
        let found = self.path.query(&arguments).all();
        let Some((sign, text)) = &self.comparison else { return !found.is_empty() };
        found.into_iter().any(|value| compare(value, sign, text))
    }
}

/// Compares numbers as numbers, and anything else as text.
fn compare(value: &Value, sign: &str, text: &str) -> bool {
    let order = match (value.as_f64(), text.parse::<f64>()) {
        (Some(value), Ok(number)) => value.partial_cmp(&number),
        _ => Some(match value {
            Value::String(value) => value.as_str().cmp(text),
            value => value.to_string().as_str().cmp(text),
        }),
    };
    order.is_some_and(|order| match sign {
        "=" => order.is_eq(),
        "!=" => order.is_ne(),
        "<" => order.is_lt(),
        "<=" => order.is_le(),
        ">" => order.is_gt(),
        _ => order.is_ge(),
    })
}

/// Adds a hint if the broker keeps no past events.
pub(crate) fn explain(failure: Failure) -> Failure {
    match failure {
        Failure::Bus(error) if error.kind() == ErrorKind::Unsupported => {
            let hint = "For new events: `lightbus listen 'API.*' --name NAME`";
            Failure::Bus(error.hint(hint))
        }
        other => other,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn event() -> EventMessage {
        let fields =
            [("age", "17"), ("address", r#"{"city": "London"}"#), ("tags", r#"["a", "b"]"#)];
        let fields = fields.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        EventMessage::new("id", "auth", "user_registered", 1, fields)
    }

    #[test]
    fn a_condition_compares_numbers_as_numbers_and_texts_as_texts() {
        for holds in [
            "address.city=London",
            "$.address.city = London",
            "age<18",
            "age>=17",
            "age!=9",
            "age>9",
            "tags[*]=b",
            "tags[?@ == 'a']",
            "address",
        ] {
            assert!(Condition::new(holds).unwrap().holds(&event()), "{holds}");
        }
        for fails in
            ["address.city=Paris", "age>17", "age<9", "tags[0]=b", "name", "tags[?@ == 'c']"]
        {
            assert!(!Condition::new(fails).unwrap().holds(&event()), "{fails}");
        }
        assert!(Condition::new("a[").is_err());
    }
}
