//! `lightbus shell`: the commands of the tool at a prompt, with history and completion.

use std::{path::PathBuf, sync::Arc};

use clap::{CommandFactory, Parser};
use lightbus::Bus;
use rustyline::{
    CompletionType, Config, Editor, Helper, completion::Completer, error::ReadlineError,
    highlight::Highlighter, hint::Hinter, history::FileHistory, validate::Validator,
};
use serde_json::Value;

use crate::{
    cli::{Cli, Command},
    context::Context,
    failure::Failure,
};

const PROMPT: &str = "lightbus> ";
/// How many lines of history are kept.
const HISTORY: usize = 1_000;

pub(crate) async fn run(context: &Context) -> Result<(), Failure> {
    // From here on, so that Ctrl-C does not end the shell between a prompt and its command either.
    #[cfg(unix)]
    let _kept = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    let bus = context.bus().await?;
    let config = Config::builder()
        .completion_type(CompletionType::List)
        // A leading space keeps a line, such as one with a secret, out of the history.
        .history_ignore_space(true)
        .max_history_size(HISTORY)
        .map_err(failed)?
        .build();
    let mut editor = Editor::<Live, FileHistory>::with_config(config).map_err(failed)?;
    let file = history_file();
    if let Some(file) = &file {
        // There is no file the first time.
        let _ = editor.load_history(file);
    }
    if console::user_attended() {
        eprintln!("`help` lists the commands, Tab completes, Ctrl-D or `exit` quits");
    }
    loop {
        editor.set_helper(Some(Live { known: Arc::new(known(&bus).await) }));
        // Waiting for a key blocks.
        let (line, back) = tokio::task::spawn_blocking(move || {
            let line = editor.readline(PROMPT);
            (line, editor)
        })
        .await
        .map_err(|error| Failure::Failed(error.to_string()))?;
        editor = back;
        let line = match line {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(failed(error)),
        };
        let words = line.trim();
        if words.is_empty() {
            continue;
        }
        if matches!(words, "exit" | "quit") {
            break;
        }
        let _ = editor.add_history_entry(line.as_str());
        if let Err(failure) = one(context, words).await {
            failure.report(context.json);
        }
    }
    if let Some(file) = &file {
        let _ = editor.save_history(file);
    }
    bus.close().await?;
    Ok(())
}

/// Runs one line.
async fn one(context: &Context, line: &str) -> Result<(), Failure> {
    let words = shlex::split(line)
        .ok_or_else(|| Failure::Usage("a quotation mark is missing".to_owned()))?;
    let words = std::iter::once("lightbus".to_owned()).chain(words);
    let cli = match Cli::try_parse_from(words) {
        Ok(cli) => cli,
        Err(error) => {
            // Help, or a usage error, in colour.
            let _ = error.print();
            return Ok(());
        }
    };
    if matches!(cli.command, Command::Shell) {
        return Err(Failure::Usage("this is the shell already".to_owned()));
    }
    // Boxed: as far as the types say, a command may be a shell, which makes the future recursive.
    Box::pin(crate::run(&context.with(cli.global), cli.command)).await
}

fn failed(error: ReadlineError) -> Failure {
    Failure::Failed(format!("the prompt: {error}"))
}

fn history_file() -> Option<PathBuf> {
    Some(PathBuf::from(std::env::var_os("HOME")?).join(".lightbus_history"))
}

/// The names on the bus, each with its arguments.
#[derive(Debug, Default)]
struct Known {
    procedures: Vec<(String, Vec<String>)>,
    events: Vec<(String, Vec<String>)>,
    apis: Vec<String>,
}

/// Reads the schemas on the bus. Without them only commands are completed.
async fn known(bus: &Bus) -> Known {
    let mut known = Known::default();
    for api in bus.remote_apis().await.unwrap_or_default() {
        let Ok(Some(document)) = bus.schema(&api).await else { continue };
        known.add(&api, &document);
    }
    known
}

impl Known {
    fn add(&mut self, api: &str, document: &Value) {
        self.apis.push(api.to_owned());
        for (section, names) in [("rpcs", &mut self.procedures), ("events", &mut self.events)] {
            for (name, member) in document[section].as_object().into_iter().flatten() {
                let arguments = member["parameters"]["properties"].as_object();
                let arguments = arguments.into_iter().flatten().map(|(name, schema)| {
                    // Anything but a string is written as JSON.
                    let sign = if schema["type"] == "string" { "=" } else { ":=" };
                    format!("{name}{sign}")
                });
                names.push((format!("{api}.{name}"), arguments.collect()));
            }
        }
    }

    /// The words that may complete the last word of a line.
    fn complete(&self, line: &str) -> Vec<String> {
        let words: Vec<_> = line.split_whitespace().collect();
        let (done, last) = if line.is_empty() || line.ends_with(char::is_whitespace) {
            (&words[..], "")
        } else {
            let (last, done) =
                words.split_last().map_or(("", &words[..]), |(last, done)| (*last, done));
            (done, last)
        };
        let names = |all: &[(String, Vec<String>)]| -> Vec<String> {
            all.iter().map(|(name, _)| name.clone()).collect()
        };
        let mut found = match done {
            [] => {
                let mut commands = subcommands_of(&Cli::command());
                // Not within a shell, or for the shell of the system.
                commands.retain(|name| !matches!(name.as_str(), "shell" | "completions" | "man"));
                commands.extend(["exit", "help"].map(str::to_owned));
                commands
            }
            ["call"] => names(&self.procedures),
            ["fire"] => names(&self.events),
            ["listen", ..] => {
                let all = self.apis.iter().map(|api| format!("{api}.*"));
                names(&self.events).into_iter().chain(all).collect()
            }
            ["inspect"] => self.apis.clone(),
            ["explain"] => {
                let (procedures, events) = (names(&self.procedures), names(&self.events));
                self.apis.iter().cloned().chain(procedures).chain(events).collect()
            }
            [command @ ("schema" | "config" | "dlq")] => {
                Cli::command().find_subcommand(command).map(subcommands_of).unwrap_or_default()
            }
            [kind @ ("call" | "fire"), name, given @ ..] => {
                let all = if *kind == "call" { &self.procedures } else { &self.events };
                let arguments = all.iter().find(|(known, _)| known == name);
                let arguments = arguments.map(|(_, arguments)| arguments.clone());
                let mut arguments = arguments.unwrap_or_default();
                arguments.retain(|argument| {
                    let key = argument.trim_end_matches(['=', ':']);
                    !given.iter().any(|given| given.split([':', '=']).next() == Some(key))
                });
                arguments
            }
            _ => Vec::new(),
        };
        found.retain(|word| word.starts_with(last));
        found.sort();
        found
    }
}

/// The names of the subcommands of a command.
fn subcommands_of(command: &clap::Command) -> Vec<String> {
    command.get_subcommands().map(|command| command.get_name().to_owned()).collect()
}

/// Completes with the names on the bus.
struct Live {
    known: Arc<Known>,
}

impl Completer for Live {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _: &rustyline::Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let line = line.get(..position).unwrap_or(line);
        let start = line.rfind(char::is_whitespace).map_or(0, |at| at + 1);
        Ok((start, self.known.complete(line)))
    }
}

impl Hinter for Live {
    type Hint = String;
}
impl Highlighter for Live {}
impl Validator for Live {}
impl Helper for Live {}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_and_arguments_are_completed_from_the_schema() {
        let mut known = Known::default();
        let parameters = json!({ "properties": {
            "username": { "type": "string" }, "age": { "type": "integer" },
        } });
        known.add(
            "auth",
            &json!({
                "rpcs": { "check": { "parameters": parameters } },
                "events": { "registered": { "parameters": parameters } },
            }),
        );
        for (line, expected) in [
            ("ca", &["call"][..]),
            ("call ", &["auth.check"]),
            ("fire auth", &["auth.registered"]),
            ("listen a", &["auth.*", "auth.registered"]),
            ("call auth.check ", &["age:=", "username="]),
            ("call auth.check age:=1 ", &["username="]),
            ("call auth.check u", &["username="]),
            ("call auth.other ", &[]),
            ("explain auth.", &["auth.check", "auth.registered"]),
            ("config s", &["schema", "show"]),
            ("to", &["top"]),
            ("nothing ", &[]),
        ] {
            assert_eq!(known.complete(line), expected, "{line}");
        }
    }
}
