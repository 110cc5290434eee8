//! Comparing the values that two JSON Schemas allow.
//!
//! Understands the keywords that contracts use: types and unions of them, enumerations, objects, lists,
//! bounds. Any difference in other keywords counts as a change in both directions: a false alarm is
//! better than a missed change.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{
    compare::{Difference, Direction},
    shape::{DEEPEST, Kind, Shape, both_numbers, plain, same_kind, same_label, shapes},
};

/// Returns how the values of `new` differ from those of `old`. Each is given with the document that its
/// references point into.
pub(super) fn differences(old: (&Value, &Value), new: (&Value, &Value)) -> Vec<Difference> {
    let mut comparison =
        Comparison { roots: (old.1, new.1), found: Vec::new(), seen: BTreeSet::new(), depth: 0 };
    comparison.compare(old.0, new.0, "");
    comparison.found
}

struct Comparison<'s> {
    roots: (&'s Value, &'s Value),
    found: Vec<Difference>,
    /// The pairs that contain references and have been compared: recursive types are compared once.
    seen: BTreeSet<(String, String)>,
    depth: usize,
}

impl Comparison<'_> {
    fn add(&mut self, at: &str, direction: Direction, what: impl Into<String>) {
        self.found.push(Difference { at: at.to_owned(), direction, what: what.into() });
    }

    fn compare(&mut self, old: &Value, new: &Value, at: &str) {
        if self.depth == DEEPEST {
            return self.add(at, Direction::Changed, "nested too deep to compare");
        }
        let old = shapes(old, self.roots.0, &mut BTreeSet::new());
        let new = shapes(new, self.roots.1, &mut BTreeSet::new());
        self.depth += 1;
        self.compare_shapes(old, new, at);
        self.depth -= 1;
    }

    fn compare_shapes(&mut self, mut old: Vec<Shape>, mut new: Vec<Shape>, at: &str) {
        // Equal schemas need no comparison, unless they refer to different definitions.
        let same = |a: &Shape, b: &Shape| a == b && !a.has_reference();
        old.retain(|shape| match new.iter().position(|other| same(shape, other)) {
            Some(other) => {
                new.remove(other);
                false
            }
            None => true,
        });
        let mut pairs = Vec::new();
        for fits in [same_label as fn(&Shape, &Shape) -> bool, same_kind, both_numbers] {
            old.retain(|shape| match new.iter().position(|other| fits(shape, other)) {
                Some(partner) => {
                    pairs.push((shape.clone(), new.remove(partner)));
                    false
                }
                None => true,
            });
        }
        for (old, new) in &pairs {
            self.compare_pair(old, new, at);
        }
        let names =
            |shapes: &[Shape]| shapes.iter().map(Shape::words).collect::<Vec<_>>().join(" or ");
        match (old.is_empty(), new.is_empty()) {
            (true, true) => {}
            (false, false) if pairs.is_empty() => {
                // One side allows any value, so it includes the other.
                let direction = match (&old[0].kind, &new[0].kind) {
                    (Kind::Any, _) => Direction::Narrowed,
                    (_, Kind::Any) => Direction::Widened,
                    _ => Direction::Changed,
                };
                self.add(at, direction, format!("was {}, is {}", names(&old), names(&new)));
            }
            _ => {
                if !old.is_empty() {
                    self.add(at, Direction::Narrowed, format!("no longer {}", names(&old)));
                }
                if !new.is_empty() {
                    self.add(at, Direction::Widened, format!("now also {}", names(&new)));
                }
            }
        }
    }

    fn compare_pair(&mut self, old: &Shape, new: &Shape, at: &str) {
        if old.has_reference() || new.has_reference() {
            let text = |shape: &Shape| format!("{:?}{:?}", shape.schema, shape.values);
            if !self.seen.insert((text(old), text(new))) {
                return;
            }
        }
        match (old.kind, new.kind) {
            (Kind::Integer, Kind::Number) => {
                self.add(at, Direction::Widened, "was a whole number, is any number");
            }
            (Kind::Number, Kind::Integer) => {
                self.add(at, Direction::Narrowed, "was any number, is a whole number");
            }
            _ => {}
        }
        self.compare_values(old.values.as_deref(), new.values.as_deref(), at);
        let mut known: Vec<&str> = Vec::new();
        match old.kind {
            Kind::Object => known.extend(self.compare_objects(&old.schema, &new.schema, at)),
            Kind::List => known.extend(self.compare_lists(&old.schema, &new.schema, at)),
            _ => {}
        }
        known.extend(self.compare_bounds(&old.schema, &new.schema, at));
        // All other keywords must be equal.
        let keys: BTreeSet<_> = old.schema.keys().chain(new.schema.keys()).collect();
        for key in keys {
            if !known.contains(&key.as_str()) && old.schema.get(key) != new.schema.get(key) {
                let direction = match (old.schema.get(key), new.schema.get(key)) {
                    (None, _) => Direction::Narrowed,
                    (_, None) => Direction::Widened,
                    _ => Direction::Changed,
                };
                self.add(at, direction, format!("`{key}` differs"));
            }
        }
    }

    fn compare_values(&mut self, old: Option<&[Value]>, new: Option<&[Value]>, at: &str) {
        let list = |values: &[&Value]| {
            values.iter().map(|value| format!("`{}`", plain(value))).collect::<Vec<_>>().join(", ")
        };
        match (old, new) {
            (None, None) => {}
            (None, Some(new)) => {
                let only: Vec<_> = new.iter().collect();
                self.add(at, Direction::Narrowed, format!("now only {}", list(&only)));
            }
            (Some(_), None) => {
                self.add(at, Direction::Widened, "no longer only certain values");
            }
            (Some(old), Some(new)) => {
                let lost: Vec<_> = old.iter().filter(|value| !new.contains(value)).collect();
                let gained: Vec<_> = new.iter().filter(|value| !old.contains(value)).collect();
                if !lost.is_empty() {
                    self.add(at, Direction::Narrowed, format!("no longer {}", list(&lost)));
                }
                if !gained.is_empty() {
                    self.add(at, Direction::Widened, format!("now also {}", list(&gained)));
                }
            }
        }
    }

    fn compare_objects(
        &mut self,
        old: &Map<String, Value>,
        new: &Map<String, Value>,
        at: &str,
    ) -> [&'static str; 3] {
        let properties = |schema: &Map<String, Value>| {
            schema.get("properties").and_then(Value::as_object).cloned().unwrap_or_default()
        };
        let required = |schema: &Map<String, Value>, name: &str| {
            let list = schema.get("required").and_then(Value::as_array);
            list.is_some_and(|list| list.iter().any(|required| required == name))
        };
        let others = |schema: &Map<String, Value>| {
            schema.get("additionalProperties").cloned().unwrap_or(Value::Bool(true))
        };
        let (old_properties, new_properties) = (properties(old), properties(new));
        let (old_others, new_others) = (others(old), others(new));
        let closed = Value::Bool(false);
        let mut names: BTreeSet<_> = old_properties.keys().chain(new_properties.keys()).collect();
        let bare: Vec<String> = [old, new]
            .into_iter()
            .filter_map(|schema| schema.get("required")?.as_array())
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect();
        names.extend(&bare);
        for name in names {
            let below = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
            let (was, is) = (required(old, name), required(new, name));
            match (old_properties.get(name), new_properties.get(name)) {
                (Some(old), Some(new)) => {
                    self.compare(old, new, &below);
                    match (was, is) {
                        (false, true) => self.add(&below, Direction::Narrowed, "must be there now"),
                        (true, false) => self.add(&below, Direction::Widened, "may be missing now"),
                        _ => {}
                    }
                }
                (None, Some(_)) => match (is, old_others == closed) {
                    (true, true) => {
                        self.add(&below, Direction::Changed, "is new and must be there");
                    }
                    (true, false) => {
                        self.add(&below, Direction::Narrowed, "is new and must be there");
                    }
                    (false, true) => {
                        self.add(&below, Direction::Widened, "is new and may be missing");
                    }
                    // It was allowed before as an unknown key.
                    (false, false) => {}
                },
                (Some(_), None) => match (was, new_others == closed) {
                    (true, true) => self.add(&below, Direction::Changed, "is gone"),
                    (true, false) => self.add(&below, Direction::Widened, "is gone"),
                    (false, true) => self.add(&below, Direction::Narrowed, "is gone"),
                    (false, false) => {}
                },
                (None, None) => match (was, is) {
                    (false, true) => self.add(&below, Direction::Narrowed, "must be there now"),
                    (true, false) => self.add(&below, Direction::Widened, "may be missing now"),
                    _ => {}
                },
            }
        }
        match (&old_others, &new_others) {
            (old, new) if old == new => {}
            (_, Value::Bool(false)) => {
                self.add(at, Direction::Narrowed, "no longer takes further keys");
            }
            (Value::Bool(false), _) => {
                self.add(at, Direction::Widened, "takes further keys now");
            }
            (old, new) => self.compare(old, new, &format!("{at}.*")),
        }
        ["properties", "required", "additionalProperties"]
    }

    fn compare_lists(
        &mut self,
        old: &Map<String, Value>,
        new: &Map<String, Value>,
        at: &str,
    ) -> [&'static str; 2] {
        let anything = Value::Bool(true);
        // A tuple has one schema for each position, a list one for all.
        let items = |schema: &Map<String, Value>| match schema.get("items") {
            Some(Value::Array(places)) => (places.clone(), None),
            Some(all) => (Vec::new(), Some(all.clone())),
            None => (Vec::new(), None),
        };
        let ((old_places, old_all), (new_places, new_all)) = (items(old), items(new));
        for (index, (old, new)) in old_places.iter().zip(&new_places).enumerate() {
            self.compare(old, new, &format!("{at}[{index}]"));
        }
        if old_places.len() != new_places.len() {
            let (was, is) = (old_places.len(), new_places.len());
            self.add(at, Direction::Changed, format!("had {was} fixed positions, has {is}"));
        } else if old_places.is_empty() {
            let (old, new) = (old_all.as_ref(), new_all.as_ref());
            self.compare(old.unwrap_or(&anything), new.unwrap_or(&anything), &format!("{at}[]"));
        }
        if old.get("uniqueItems") != new.get("uniqueItems") {
            match new.get("uniqueItems") == Some(&Value::Bool(true)) {
                true => self.add(at, Direction::Narrowed, "nothing may be in it twice now"),
                false => self.add(at, Direction::Widened, "things may be in it twice now"),
            }
        }
        ["items", "uniqueItems"]
    }

    fn compare_bounds(
        &mut self,
        old: &Map<String, Value>,
        new: &Map<String, Value>,
        at: &str,
    ) -> [&'static str; 10] {
        const LEAST: [(&str, &str); 5] = [
            ("minimum", "the least value"),
            ("exclusiveMinimum", "the value it must exceed"),
            ("minLength", "the least length"),
            ("minItems", "the least number of items"),
            ("minProperties", "the least number of keys"),
        ];
        const MOST: [(&str, &str); 5] = [
            ("maximum", "the greatest value"),
            ("exclusiveMaximum", "the value it must stay below"),
            ("maxLength", "the greatest length"),
            ("maxItems", "the greatest number of items"),
            ("maxProperties", "the greatest number of keys"),
        ];
        let all =
            LEAST.into_iter().map(|entry| (entry, -1.0)).chain(MOST.map(|entry| (entry, 1.0)));
        for ((key, words), sign) in all {
            let bound = |schema: &Map<String, Value>| schema.get(key).and_then(Value::as_f64);
            let direction = match (bound(old), bound(new)) {
                (None, Some(_)) => Direction::Narrowed,
                (Some(_), None) => Direction::Widened,
                (Some(was), Some(is)) if was * sign > is * sign => Direction::Narrowed,
                (Some(was), Some(is)) if was * sign < is * sign => Direction::Widened,
                _ => continue,
            };
            let show = |schema: &Map<String, Value>| {
                schema.get(key).map_or_else(|| "none".to_owned(), ToString::to_string)
            };
            self.add(at, direction, format!("{words} was {}, is {}", show(old), show(new)));
        }
        let [a, b, c, d, e] = LEAST.map(|(key, _)| key);
        let [f, g, h, i, j] = MOST.map(|(key, _)| key);
        [a, b, c, d, e, f, g, h, i, j]
    }
}
