//! The untyped configuration: values with their origins, which can be merged.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Origin;

/// A mapping, or anything else.
#[derive(Clone)]
pub(crate) enum Tree {
    /// Keys in their order by name.
    Mapping(BTreeMap<String, Tree>, Origin),
    /// A text, a number, a boolean, null, or a whole list.
    Leaf(Leaf),
}

/// A value that is replaced as a whole.
#[derive(Clone)]
pub(crate) struct Leaf {
    pub(crate) value: Value,
    /// The value as written, if variables were expanded in it: they may be secrets.
    pub(crate) written: Option<Value>,
    /// The variables that were expanded in it, with their values.
    pub(crate) variables: Vec<(String, String)>,
    pub(crate) origin: Origin,
}

impl Default for Tree {
    fn default() -> Self {
        Self::Mapping(BTreeMap::new(), Origin::Default)
    }
}

impl Tree {
    /// Creates a tree from a value with a single origin.
    pub(crate) fn new(value: Value, origin: &Origin) -> Self {
        match value {
            Value::Object(entries) => {
                let entries =
                    entries.into_iter().map(|(key, value)| (key, Self::new(value, origin)));
                Self::Mapping(entries.collect(), origin.clone())
            }
            value => Self::Leaf(Leaf {
                value,
                written: None,
                variables: Vec::new(),
                origin: origin.clone(),
            }),
        }
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(self, Self::Leaf(leaf) if leaf.value.is_null())
    }

    pub(crate) fn entries(&self) -> Option<&BTreeMap<String, Tree>> {
        match self {
            Self::Mapping(entries, _) => Some(entries),
            Self::Leaf(_) => None,
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Tree> {
        self.entries()?.get(key)
    }

    pub(crate) fn origin(&self) -> &Origin {
        match self {
            Self::Mapping(_, origin) => origin,
            Self::Leaf(leaf) => &leaf.origin,
        }
    }

    /// Merges another tree into this one, which it overrides: mappings are merged, everything else is
    /// replaced.
    pub(crate) fn lay_over(&mut self, above: Tree) {
        match (self, above) {
            (Self::Mapping(below, origin), Self::Mapping(above, from)) => {
                *origin = from;
                for (key, value) in above {
                    match below.get_mut(&key) {
                        // An empty section changes nothing; a transport that is null is removed.
                        Some(old) if value.is_null() && !is_selector(&key) => {
                            if !matches!(old, Self::Mapping(..)) {
                                *old = value;
                            }
                        }
                        // Another transport replaces the one below.
                        Some(old) if !(is_selector(&key) && names_another(old, &value)) => {
                            old.lay_over(value);
                        }
                        _ => {
                            below.insert(key, value);
                        }
                    }
                }
            }
            (below, above) => *below = above,
        }
    }

    /// Sets a value at a path.
    pub(crate) fn put(&mut self, path: &[String], value: Value, origin: &Origin) {
        let mut tree = Self::new(value, origin);
        for key in path.iter().rev() {
            tree = Self::Mapping(BTreeMap::from([(key.clone(), tree)]), origin.clone());
        }
        self.lay_over(tree);
    }

    /// Sets a value at a path unless there is one; the sections above it keep their origin.
    pub(crate) fn put_below(&mut self, path: &[String], value: Value) {
        if let (Some((key, rest)), Self::Mapping(entries, _)) = (path.split_first(), &mut *self) {
            let below = entries.entry(key.clone()).or_default();
            if below.is_null() {
                *below = Self::default();
            }
            below.put_below(rest, value);
        } else {
            *self = Self::new(value, &Origin::Default);
        }
    }

    /// Returns the values without origins. Empty sections are omitted.
    pub(crate) fn value(&self) -> Value {
        match self {
            Self::Leaf(leaf) => leaf.value.clone(),
            Self::Mapping(entries, _) => {
                let entries = entries.iter().map(|(key, tree)| (key.clone(), tree.value()));
                Value::Object(entries.collect())
            }
        }
    }

    /// Finds a path as errors show it, such as `apis.shop.till.rpc_timeout` or `nodes[1]`. Returns the
    /// value and its keys, or the nearest section above if there is none.
    pub(crate) fn find(&self, path: &str) -> (&Tree, Vec<String>) {
        let mut keys = Vec::new();
        let mut here = self;
        let mut rest = path;
        'down: while !rest.is_empty() {
            // Keys may contain dots: the longest match counts.
            for (key, tree) in here.entries().into_iter().flatten().rev() {
                let Some(after) = rest.strip_prefix(key.as_str()) else { continue };
                if after.is_empty() || after.starts_with(['.', '[']) {
                    keys.push(key.clone());
                    (here, rest) = (tree, after.trim_start_matches('.'));
                    continue 'down;
                }
            }
            break;
        }
        (here, keys)
    }

    /// Removes what stands at a path as errors show it, with the sections that this leaves empty; of a
    /// list, the whole list. Returns whether anything was there.
    pub(crate) fn remove(&mut self, path: &str) -> bool {
        let (found, keys) = self.find(path);
        let is_list = matches!(found, Self::Leaf(leaf) if leaf.value.is_array());
        // Nothing is left of the path, or only a place within the list.
        let whole = keys.join(".");
        let is_there = path.strip_prefix(&whole).is_some_and(|rest| rest.is_empty() || is_list);
        is_there && self.remove_below(&keys)
    }

    fn remove_below(&mut self, keys: &[String]) -> bool {
        let (Some((key, rest)), Self::Mapping(entries, _)) = (keys.split_first(), self) else {
            return false;
        };
        let Some(below) = entries.get_mut(key) else { return false };
        if !rest.is_empty() && !below.remove_below(rest) {
            return false;
        }
        if rest.is_empty() || below.entries().is_some_and(BTreeMap::is_empty) {
            entries.remove(key);
        }
        true
    }

    /// Calls `visit` with each leaf and the keys that lead to it.
    pub(crate) fn each_leaf<'t>(
        &'t self,
        path: &mut Vec<&'t str>,
        visit: &mut impl FnMut(&[&'t str], &'t Leaf),
    ) {
        match self {
            Self::Leaf(leaf) => visit(path, leaf),
            Self::Mapping(entries, _) => {
                for (key, tree) in entries {
                    path.push(key);
                    tree.each_leaf(path, visit);
                    path.pop();
                }
            }
        }
    }
}

/// Whether a key chooses a transport.
pub(crate) fn is_selector(key: &str) -> bool {
    matches!(key, "transport" | "rpc_transport" | "result_transport" | "event_transport")
}

fn names_another(below: &Tree, above: &Tree) -> bool {
    match (below.entries(), above.entries()) {
        (Some(below), Some(above)) => above.len() == 1 && !below.keys().eq(above.keys()),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn laid(below: Value, above: Value) -> Value {
        let mut tree = Tree::new(below, &Origin::Program);
        tree.lay_over(Tree::new(above, &Origin::File("above".to_owned())));
        tree.value()
    }

    #[test]
    fn mappings_are_merged_and_the_rest_is_replaced() {
        assert_eq!(
            laid(json!({"a": {"b": 1, "c": [1, 2]}}), json!({"a": {"c": [3]}, "d": 4})),
            json!({"a": {"b": 1, "c": [3]}, "d": 4})
        );
    }

    #[test]
    fn another_transport_replaces_and_the_same_is_merged() {
        let below = json!({"event_transport": {"redis": {"url": "x"}}});
        assert_eq!(
            laid(below.clone(), json!({"event_transport": {"memory": {}}})),
            json!({"event_transport": {"memory": {}}})
        );
        assert_eq!(
            laid(below.clone(), json!({"event_transport": {"redis": {"batch_size": 1}}})),
            json!({"event_transport": {"redis": {"url": "x", "batch_size": 1}}})
        );
        assert_eq!(laid(below, json!({"event_transport": null})), json!({"event_transport": null}));
    }

    #[test]
    fn what_is_removed_leaves_no_empty_section() {
        let tree = || {
            let values = json!({"apis": {"a.b": {"rpc": {"nodes": [1]}}, "c": {"d": 1, "e": 2}}});
            Tree::new(values, &Origin::Program)
        };
        for (path, left) in [
            ("apis.c.d", json!({"apis": {"a.b": {"rpc": {"nodes": [1]}}, "c": {"e": 2}}})),
            ("apis.a.b.rpc.nodes[0]", json!({"apis": {"c": {"d": 1, "e": 2}}})),
            ("apis.c", json!({"apis": {"a.b": {"rpc": {"nodes": [1]}}}})),
        ] {
            let mut tree = tree();
            assert!(tree.remove(path), "{path}");
            assert_eq!(tree.value(), left, "{path}");
        }
        for path in ["", "apis.c.f", "nothing", "apis.c.d.deep"] {
            assert!(!tree().remove(path), "{path}");
        }
    }

    #[test]
    fn an_empty_section_above_changes_nothing() {
        assert_eq!(
            laid(json!({"bus": {"log_level": "info"}}), json!({"bus": null})),
            json!({"bus": {"log_level": "info"}})
        );
    }

    #[test]
    fn a_path_is_found_through_keys_with_dots() {
        let tree = Tree::new(
            json!({"apis": {"shop": {"x": 1}, "shop.till": {"rpc_timeout": [1]}}}),
            &Origin::Program,
        );
        let (found, keys) = tree.find("apis.shop.till.rpc_timeout[0]");
        assert_eq!(found.value(), json!([1]));
        assert_eq!(keys, ["apis", "shop.till", "rpc_timeout"]);
        let (found, keys) = tree.find("apis.shop.nope");
        assert_eq!((found.value(), keys.len()), (json!({"x": 1}), 2));
    }
}
