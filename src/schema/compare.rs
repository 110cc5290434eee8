//! Finding what a change of an API's schema breaks, and for whom.
//!
//! Two rules decide everything. Messages of an older sender must match the newer schema, or the older
//! sender breaks. Messages of a newer sender must match the older schema, or older receivers break. The
//! rest follows from who sends what: callers send arguments, servers send results, firers send events.

use std::{collections::BTreeSet, fmt};

use serde_json::{Map, Value};

use super::{Schema, difference::differences};

/// A difference between two schemas of an API.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change {
    /// The API.
    pub api: String,
    /// The procedure or event.
    pub item: Item,
    /// The difference.
    pub kind: ChangeKind,
    /// The users of the older version that the newer one breaks.
    pub breaks: Vec<Party>,
}

/// A member of an API.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Item {
    /// A procedure, by name.
    Procedure(String),
    /// An event, by name.
    Event(String),
}

/// The kinds of differences between two schemas.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChangeKind {
    /// The procedure or event is new.
    Added,
    /// The procedure or event was removed.
    Removed,
    /// An argument was added.
    ArgumentAdded {
        /// Its name.
        argument: String,
        /// Whether it is required.
        required: bool,
    },
    /// An argument was removed.
    ArgumentRemoved {
        /// Its name.
        argument: String,
    },
    /// An optional argument is now required.
    ArgumentRequired {
        /// Its name.
        argument: String,
    },
    /// A required argument is now optional.
    ArgumentOptional {
        /// Its name.
        argument: String,
    },
    /// The allowed values of an argument changed.
    Argument {
        /// Its name.
        argument: String,
        /// The change.
        difference: Difference,
    },
    /// The possible results of a procedure changed.
    Result {
        /// The change.
        difference: Difference,
    },
}

/// A change of the values that a schema allows.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Difference {
    /// The path within the value, such as `address.street` or `[].price`; empty for the value itself.
    pub at: String,
    /// Whether fewer or more values are allowed.
    pub direction: Direction,
    /// A description of the change.
    pub what: String,
}

/// Whether a schema allows fewer or more values than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Some values are no longer allowed.
    Narrowed,
    /// Some values are newly allowed.
    Widened,
    /// Both.
    Changed,
}

/// The users of the older version of an API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Party {
    /// Processes that call its procedures.
    Callers,
    /// Processes that listen to its events.
    Listeners,
    /// Processes that serve its procedures: those of the same service that are not yet upgraded.
    Servers,
    /// Processes that fire its events: those of the same service that are not yet upgraded.
    Firers,
}

impl Change {
    /// Returns whether any user breaks.
    #[must_use]
    pub fn is_breaking(&self) -> bool {
        !self.breaks.is_empty()
    }

    /// Returns whether callers or listeners break, which are other services. (Servers and firers of the
    /// older version belong to the service itself, and disappear when it is upgraded.)
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
            ChangeKind::Removed => write!(f, "the {what} was removed"),
            ChangeKind::ArgumentAdded { argument, required: true } => {
                write!(f, "the argument `{argument}` is new and required")
            }
            ChangeKind::ArgumentAdded { argument, required: false } => {
                write!(f, "the argument `{argument}` is new and optional")
            }
            ChangeKind::ArgumentRemoved { argument } => {
                write!(f, "the argument `{argument}` was removed")
            }
            ChangeKind::ArgumentRequired { argument } => {
                write!(f, "the argument `{argument}` was optional and is now required")
            }
            ChangeKind::ArgumentOptional { argument } => {
                write!(f, "the argument `{argument}` was required and is now optional")
            }
            ChangeKind::Argument { argument, difference } => {
                write!(f, "the argument `{argument}`{difference}")
            }
            ChangeKind::Result { difference } => write!(f, "the result{difference}"),
        }?;
        match &self.breaks[..] {
            [] => f.write_str(" (compatible)"),
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

/// The sender and the receiver of a kind of message.
#[derive(Clone, Copy)]
struct Ways {
    sender: Party,
    receiver: Party,
}

const CALL: Ways = Ways { sender: Party::Callers, receiver: Party::Servers };
const RESULT: Ways = Ways { sender: Party::Servers, receiver: Party::Callers };
const EVENT: Ways = Ways { sender: Party::Firers, receiver: Party::Listeners };

impl Ways {
    /// Returns who breaks: older senders if their messages may be refused, older receivers if they may
    /// refuse new messages.
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

/// Returns all differences between two schemas of an API.
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
                // An older server may receive a call of the new procedure.
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
    // Whether unknown arguments are refused.
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
