//! What a change of an API's schema breaks, and for whom.
//!
//! Two rules decide everything. What is sent by the older side must fit the newer schema, or the older
//! side breaks; what is sent by the newer side must fit the older schema, or its older receivers
//! break. All else is a matter of who sends what: callers send arguments, servers send results,
//! firers send events.

use std::{collections::BTreeSet, fmt};

use serde_json::{Map, Value};

use super::{Schema, difference::differences};

/// One thing that differs between two schemas of an API.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change {
    /// The API.
    pub api: String,
    /// Which of its members.
    pub item: Item,
    /// What differs.
    pub kind: ChangeKind,
    /// Who of the older version can no longer work with the newer one.
    pub breaks: Vec<Party>,
}

/// A member of an API.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Item {
    /// The procedure of this name.
    Procedure(String),
    /// The event of this name.
    Event(String),
}

/// What differs between two schemas.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChangeKind {
    /// The procedure or event is new.
    Added,
    /// The procedure or event is gone.
    Removed,
    /// It has a new argument.
    ArgumentAdded {
        /// Its name.
        argument: String,
        /// Whether it must be given: it has no default.
        required: bool,
    },
    /// An argument is gone.
    ArgumentRemoved {
        /// Its name.
        argument: String,
    },
    /// An argument could be left out, and must be given now.
    ArgumentRequired {
        /// Its name.
        argument: String,
    },
    /// An argument had to be given, and can be left out now.
    ArgumentOptional {
        /// Its name.
        argument: String,
    },
    /// An argument takes other values.
    Argument {
        /// Its name.
        argument: String,
        /// How they differ.
        difference: Difference,
    },
    /// The result of a procedure has other values.
    Result {
        /// How they differ.
        difference: Difference,
    },
}

/// How the values that a schema allows have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Difference {
    /// Where within the value: empty for the value itself, else as `address.street` or `[].price`.
    pub at: String,
    /// In which direction.
    pub direction: Direction,
    /// What has changed, in words.
    pub what: String,
}

/// In which direction the values that a schema allows have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Some that were allowed no longer are.
    Narrowed,
    /// Some are allowed that were not.
    Widened,
    /// Both.
    Changed,
}

/// Somebody who uses an API in its older version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Party {
    /// Who calls its procedures.
    Callers,
    /// Who listens to its events.
    Listeners,
    /// Who serves its procedures: other processes of the same service, not yet upgraded.
    Servers,
    /// Who fires its events: the same.
    Firers,
}

impl Change {
    /// Whether anybody breaks.
    #[must_use]
    pub fn is_breaking(&self) -> bool {
        !self.breaks.is_empty()
    }

    /// Whether callers or listeners break: other services. (Servers and firers of the older version
    /// are this service itself, and go away as it is upgraded.)
    #[must_use]
    pub fn breaks_users(&self) -> bool {
        self.breaks.iter().any(|party| matches!(party, Party::Callers | Party::Listeners))
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Item::Procedure(name) | Item::Event(name)) = &self.item;
        let what = match &self.item {
            Item::Procedure(_) => "procedure",
            Item::Event(_) => "event",
        };
        write!(f, "{}.{name}: ", self.api)?;
        match &self.kind {
            ChangeKind::Added => write!(f, "the {what} is new"),
            ChangeKind::Removed => write!(f, "the {what} is gone"),
            ChangeKind::ArgumentAdded { argument, required: true } => {
                write!(f, "the argument `{argument}` is new and must be given")
            }
            ChangeKind::ArgumentAdded { argument, required: false } => {
                write!(f, "the argument `{argument}` is new and may be left out")
            }
            ChangeKind::ArgumentRemoved { argument } => {
                write!(f, "the argument `{argument}` is gone")
            }
            ChangeKind::ArgumentRequired { argument } => {
                write!(f, "the argument `{argument}` could be left out and must be given now")
            }
            ChangeKind::ArgumentOptional { argument } => {
                write!(f, "the argument `{argument}` had to be given and may be left out now")
            }
            ChangeKind::Argument { argument, difference } => {
                write!(f, "the argument `{argument}`{difference}")
            }
            ChangeKind::Result { difference } => write!(f, "the result{difference}"),
        }?;
        match &self.breaks[..] {
            [] => f.write_str(" (breaks nobody)"),
            parties => {
                let names: Vec<_> = parties.iter().map(ToString::to_string).collect();
                write!(f, " (breaks {} of the older version)", names.join(" and "))
            }
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.at.is_empty() {
            write!(f, ", at `{}`", self.at)?;
        }
        write!(f, ": {}", self.what)
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Callers => "callers",
            Self::Listeners => "listeners",
            Self::Servers => "servers",
            Self::Firers => "firers",
        })
    }
}

/// Who sends something, and who receives it.
#[derive(Clone, Copy)]
struct Ways {
    sender: Party,
    receiver: Party,
}

const CALL: Ways = Ways { sender: Party::Callers, receiver: Party::Servers };
const RESULT: Ways = Ways { sender: Party::Servers, receiver: Party::Callers };
const EVENT: Ways = Ways { sender: Party::Firers, receiver: Party::Listeners };

impl Ways {
    /// Who breaks, if what older senders send may be refused, or what older receivers get.
    fn breaks(self, sender: bool, receiver: bool) -> Vec<Party> {
        let mut parties: Vec<_> = [(sender, self.sender), (receiver, self.receiver)]
            .into_iter()
            .filter_map(|(breaks, party)| breaks.then_some(party))
            .collect();
        parties.sort_unstable();
        parties
    }

    fn breaks_by(self, direction: Direction) -> Vec<Party> {
        self.breaks(direction != Direction::Widened, direction != Direction::Narrowed)
    }
}

/// All differences between two schemas of an API.
pub(super) fn compare(old: &Schema, new: &Schema) -> Vec<Change> {
    let mut changes = Vec::new();
    for (section, is_event) in [("rpcs", false), ("events", true)] {
        let (old_members, new_members) = (old.members(section), new.members(section));
        let names: BTreeSet<_> = old_members.keys().chain(new_members.keys()).collect();
        for name in names {
            let mut add = |kind, breaks| {
                let item = match is_event {
                    true => Item::Event(name.clone()),
                    false => Item::Procedure(name.clone()),
                };
                changes.push(Change { api: new.api().to_owned(), item, kind, breaks });
            };
            match (old_members.get(name), new_members.get(name)) {
                (Some(old), Some(new)) => compare_members(old, new, is_event, &mut add),
                (Some(_), None) => {
                    let user = if is_event { Party::Listeners } else { Party::Callers };
                    add(ChangeKind::Removed, vec![user]);
                }
                // An older server may be the one that takes a call of the new procedure.
                (None, Some(_)) if !is_event => add(ChangeKind::Added, vec![Party::Servers]),
                (None, _) => add(ChangeKind::Added, Vec::new()),
            }
        }
    }
    changes
}

fn compare_members(
    old: &Value,
    new: &Value,
    is_event: bool,
    add: &mut impl FnMut(ChangeKind, Vec<Party>),
) {
    let ways = if is_event { EVENT } else { CALL };
    let empty = Value::Object(Map::new());
    let part = |member: &Value, name: &str| member.get(name).unwrap_or(&empty).clone();
    let (before, after) = (part(old, "parameters"), part(new, "parameters"));
    let arguments = |schema: &Value| {
        schema.get("properties").and_then(Value::as_object).cloned().unwrap_or_default()
    };
    let is_required = |schema: &Value, name: &str| {
        let list = schema.get("required").and_then(Value::as_array);
        list.is_some_and(|list| list.iter().any(|required| required == name))
    };
    // Whether arguments that are not known are refused.
    let is_closed =
        |schema: &Value| schema.get("additionalProperties") == Some(&Value::Bool(false));
    let (old_arguments, new_arguments) = (arguments(&before), arguments(&after));
    let names: BTreeSet<_> = old_arguments.keys().chain(new_arguments.keys()).collect();
    for name in names {
        let argument = name.clone();
        let (was, is) = (is_required(&before, name), is_required(&after, name));
        match (old_arguments.get(name), new_arguments.get(name)) {
            (None, _) => add(
                ChangeKind::ArgumentAdded { argument, required: is },
                ways.breaks(is, is_closed(&before)),
            ),
            (Some(_), None) => {
                add(ChangeKind::ArgumentRemoved { argument }, ways.breaks(is_closed(&after), was));
            }
            (Some(old), Some(new)) => {
                if !was && is {
                    let kind = ChangeKind::ArgumentRequired { argument: argument.clone() };
                    add(kind, ways.breaks(true, false));
                } else if was && !is {
                    let kind = ChangeKind::ArgumentOptional { argument: argument.clone() };
                    add(kind, ways.breaks(false, true));
                }
                for difference in differences((old, &before), (new, &after)) {
                    let breaks = ways.breaks_by(difference.direction);
                    add(ChangeKind::Argument { argument: argument.clone(), difference }, breaks);
                }
            }
        }
    }
    if !is_event {
        let (before, after) = (part(old, "response"), part(new, "response"));
        for difference in differences((&before, &before), (&after, &after)) {
            let breaks = RESULT.breaks_by(difference.direction);
            add(ChangeKind::Result { difference }, breaks);
        }
    }
}
