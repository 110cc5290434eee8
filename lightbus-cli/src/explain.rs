//! `lightbus explain`: from an API to the keys, queues and consumer groups on the broker.

use std::time::Duration;

use console::style;
use lightbus::{
    Bus,
    admin::{Location, Route},
    transport::Capabilities,
};
use serde_json::{Value, json};

use crate::{cli::Explain, context::Context, failure::Failure, output};

pub(crate) async fn run(context: &Context, command: Explain) -> Result<(), Failure> {
    let config = context.config().await?;
    let bus = context.bus().await?;
    let (api, member, document) = find(&bus, &command.name).await?;
    let members = members(&document, member.as_deref());
    let asked = bus.admin().locate(&api, member.as_deref()).await?;
    let mut asked = asked.into_iter().collect::<Vec<_>>();
    complete(&bus, &api, &members, &mut asked).await?;
    asked.retain(|part| match &member {
        // A procedure has no route for events, nor an event one for calls.
        Some(_) => members.iter().all(|(kind, ..)| part.kind == "schemas" || *kind == part.kind),
        None => true,
    });
    let policy = config.apis.get(&api).or_else(|| config.apis.get("default"));
    let policy = policy.cloned().unwrap_or_default();
    let policies = [
        ("a call waits for its result", seconds(policy.rpc_timeout)),
        ("an event waits for the broker", seconds(policy.event_fire_timeout)),
        ("checked when sent", policy.validate.outgoing.to_string()),
        ("checked when received", policy.validate.incoming.to_string()),
    ];
    if context.json {
        let parts: Vec<_> = asked.iter().map(part_as_json).collect();
        let members: Vec<_> = members
            .iter()
            .map(|(kind, name, parameters)| json!({ "kind": kind, "name": name, "parameters": parameters }))
            .collect();
        let policies: serde_json::Map<_, _> = policies
            .iter()
            .map(|(name, value)| ((*name).to_owned(), Value::from(value.as_str())))
            .collect();
        output::line(
            &json!({ "api": api, "members": members, "policies": policies, "on": parts })
                .to_string(),
        )?;
    } else {
        output::line(&style(&command.name).bold().to_string())?;
        for (kind, name, parameters) in &members {
            let kind = if *kind == "calls" { "procedure" } else { "event" };
            output::line(&format!("  {kind} {name}({})", parameters.join(", ")))?;
        }
        for (name, value) in policies {
            output::line(&format!("  {name}: {value}"))?;
        }
        for part in &asked {
            show(part)?;
        }
    }
    bus.close().await?;
    Ok(())
}

/// Shows what is queued and pending, held by which process and for how long: of an API, or of an event.
pub(crate) async fn held(
    context: &Context,
    bus: &Bus,
    api: &str,
    event: Option<&str>,
) -> Result<(), Failure> {
    let mut asked: Vec<_> = bus.admin().locate(api, event).await?.into_iter().collect();
    let document = bus.schema(api).await?.unwrap_or_default();
    complete(bus, api, &members(&document, event), &mut asked).await?;
    asked.retain(|part| part.kind == "events" || (part.kind == "calls" && event.is_none()));
    if context.json {
        let on: Vec<_> = asked.iter().map(part_as_json).collect();
        output::line(&json!({ "api": api, "event": event, "on": on }).to_string())?;
        return Ok(());
    }
    output::line(&style(api).bold().to_string())?;
    for part in &asked {
        show_places(part, false)?;
    }
    Ok(())
}

/// Finds the API and the member of this name, with the schema on the bus.
async fn find(bus: &Bus, name: &str) -> Result<(String, Option<String>, Value), Failure> {
    if let Some(document) = bus.schema(name).await? {
        return Ok((name.to_owned(), None, document));
    }
    if let Some((api, member)) = name.rsplit_once('.')
        && let Some(document) = bus.schema(api).await?
    {
        let has = |section: &str| document[section].get(member).is_some();
        if has("rpcs") || has("events") {
            return Ok((api.to_owned(), Some(member.to_owned()), document));
        }
        return Err(Failure::Failed(format!(
            "the API `{api}` has no procedure or event `{member}`"
        )));
    }
    let known = bus.remote_apis().await?;
    let known: Vec<_> = known.iter().map(|api| &**api).collect();
    let known = if known.is_empty() { "nothing".to_owned() } else { known.join(", ") };
    Err(Failure::Failed(format!("there is no API `{name}` on the bus, but {known}")))
}

type Member = (&'static str, String, Vec<String>);

/// The kind, name and arguments of each procedure and event.
fn members(document: &Value, only: Option<&str>) -> Vec<Member> {
    let mut members = Vec::new();
    for (section, kind) in [("rpcs", "calls"), ("events", "events")] {
        for (name, member) in document[section].as_object().into_iter().flatten() {
            if only.is_some_and(|only| only != name) {
                continue;
            }
            let parameters = &member["parameters"];
            let required = |name: &str| {
                let mut required = parameters["required"].as_array().into_iter().flatten();
                required.any(|required| required == name)
            };
            let properties = parameters["properties"].as_object().into_iter().flatten();
            let arguments = properties.map(|(name, schema)| {
                let mark = if required(name) { "" } else { "?" };
                match &schema["type"] {
                    Value::String(kind) => format!("{name}{mark}: {kind}"),
                    _ => format!("{name}{mark}"),
                }
            });
            members.push((kind, name.clone(), arguments.collect()));
        }
    }
    members
}

/// Adds the locations of each event, for a transport that has one location per event and none per API.
async fn complete(
    bus: &Bus,
    api: &str,
    members: &[Member],
    asked: &mut [Route],
) -> Result<(), Failure> {
    for part in asked {
        let Some(places) = &mut part.locations else { continue };
        if part.kind != "events" || !places.is_empty() {
            continue;
        }
        for (_, name, _) in members.iter().filter(|(kind, ..)| *kind == "events") {
            let one = bus.admin().locate(api, Some(name)).await?;
            let one = one.into_iter().filter(|part| part.kind == "events");
            places.extend(one.filter_map(|part| part.locations).flatten());
        }
    }
    Ok(())
}

/// The delivery guarantees, in words.
fn guarantees(kind: &str, can: Capabilities) -> Vec<&'static str> {
    match kind {
        "calls" => vec!["at most once", "never run after the caller's deadline"],
        "events" => [
            (true, "at least once per listener name"),
            (can.durable, "stored when confirmed"),
            (can.ordered, "in order for one process"),
            (can.ordered_by_key, "in order by key across processes"),
            (can.replay, "new listeners may start in the past"),
            (can.dead_letters, "events that cannot be handled are dead-lettered"),
        ]
        .into_iter()
        .filter_map(|(is, what)| is.then_some(what))
        .collect(),
        _ => vec!["visible until `bus.schema.ttl` expires"],
    }
}

fn show(part: &Route) -> Result<(), Failure> {
    let title = format!("{} by {} {}", part.kind, part.transport, part.broker);
    output::line(&format!("\n{}", style(title).bold()))?;
    output::line(&format!("  {}", guarantees(part.kind, part.capabilities).join("; ")))?;
    show_places(part, true)
}

/// Prints where messages are and who holds them, and if asked the commands to inspect them.
fn show_places(part: &Route, commands: bool) -> Result<(), Failure> {
    let Some(places) = &part.locations else {
        output::line("  this transport does not report locations")?;
        return Ok(());
    };
    for place in places {
        let messages = place.messages.map(|count| format!(": {count}")).unwrap_or_default();
        output::line(&format!("  {} {}{messages}", style(&place.name).green(), place.what))?;
        for group in &place.groups {
            let waiting = group.waiting.map_or_else(|| "?".to_owned(), |count| count.to_string());
            output::line(&format!(
                "    group {}: {waiting} waiting, {} pending",
                group.name, group.pending
            ))?;
            for consumer in &group.consumers {
                let oldest = consumer.oldest.map(|held| format!(" for up to {}", seconds(held)));
                output::line(&format!(
                    "      {} holds {}{}, last active {} ago",
                    consumer.name,
                    consumer.pending,
                    oldest.unwrap_or_default(),
                    seconds(consumer.idle)
                ))?;
            }
        }
        for command in place.look.iter().filter(|_| commands) {
            output::line(&format!("    {}", style(format!("$ {command}")).dim()))?;
        }
    }
    Ok(())
}

fn part_as_json(part: &Route) -> Value {
    json!({
        "kind": part.kind,
        "transport": part.transport,
        "broker": part.broker,
        "guarantees": guarantees(part.kind, part.capabilities),
        "places": part.locations.as_ref().map(|places| places.iter().map(place_as_json).collect::<Vec<_>>()),
    })
}

fn place_as_json(place: &Location) -> Value {
    let groups = place.groups.iter().map(|group| {
        let consumers = group.consumers.iter().map(|consumer| {
            json!({
                "name": &*consumer.name,
                "pending": consumer.pending,
                "idle_seconds": consumer.idle.as_secs_f64(),
                "oldest_seconds": consumer.oldest.map(|held| held.as_secs_f64()),
            })
        });
        json!({
            "name": &*group.name,
            "waiting": group.waiting,
            "pending": group.pending,
            "consumers": consumers.collect::<Vec<_>>(),
        })
    });
    json!({
        "name": place.name,
        "what": place.what,
        "messages": place.messages,
        "groups": groups.collect::<Vec<_>>(),
        "look": place.look,
    })
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
