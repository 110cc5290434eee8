//! Expanding `${VAR}` and `${VAR:-default}` in values.

use serde_json::Value;

use super::{
    environment::Environment,
    schema,
    tree::{Leaf, Tree},
    typed::typed,
};

/// Why a value cannot be expanded.
#[derive(Debug, PartialEq)]
pub(crate) struct Problem {
    pub(crate) message: String,
    pub(crate) hint: &'static str,
}

/// Expands variables in all values of a tree. Fails with the path of a value that cannot be expanded,
/// and why.
pub(crate) fn expand(
    tree: &mut Tree,
    environment: &Environment,
    schema: Option<&Value>,
) -> Result<(), (Vec<String>, Problem)> {
    match tree {
        Tree::Mapping(entries, _) => {
            for (key, value) in entries {
                let below = schema.and_then(|schema| schema::child(schema, key));
                expand(value, environment, below).map_err(|(mut path, problem)| {
                    path.insert(0, key.clone());
                    (path, problem)
                })?;
            }
            Ok(())
        }
        Tree::Leaf(leaf) => {
            expand_leaf(leaf, environment, schema).map_err(|problem| (Vec::new(), problem))
        }
    }
}

fn expand_leaf(
    leaf: &mut Leaf,
    environment: &Environment,
    schema: Option<&Value>,
) -> Result<(), Problem> {
    // Values of variables are not expanded again.
    if matches!(leaf.origin, super::Origin::Environment(_)) {
        return Ok(());
    }
    let mut variables = Vec::new();
    let filled = match &leaf.value {
        Value::String(text) => filled(text, environment, &mut variables)?.map(|filled| {
            if filled.whole {
                typed(&filled.text, schema, false)
            } else {
                Value::String(filled.text)
            }
        }),
        Value::Array(list) => {
            let mut changed = false;
            let mut out = Vec::with_capacity(list.len());
            for value in list {
                let text = value.as_str();
                let text =
                    text.map(|text| filled(text, environment, &mut variables)).transpose()?;
                match text.flatten() {
                    Some(filled) => {
                        changed = true;
                        out.push(Value::String(filled.text));
                    }
                    None => out.push(value.clone()),
                }
            }
            changed.then_some(Value::Array(out))
        }
        _ => None,
    };
    if let Some(filled) = filled {
        leaf.written = Some(std::mem::replace(&mut leaf.value, filled));
        leaf.variables = variables;
    }
    Ok(())
}

struct Filled {
    text: String,
    /// The whole value is one placeholder.
    whole: bool,
}

/// Expands variables in a text. Returns `None` if there are none.
fn filled(
    text: &str,
    environment: &Environment,
    variables: &mut Vec<(String, String)>,
) -> Result<Option<Filled>, Problem> {
    if !text.contains("${") {
        return Ok(None);
    }
    let mut out = String::with_capacity(text.len());
    let mut whole = false;
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            // `$${` stands for `${` itself.
            out.push_str(&rest[..at - 1]);
            out.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        out.push_str(&rest[..at]);
        let Some(length) = rest[at..].find('}') else {
            return Err(Problem {
                message: "`${` has no closing brace".to_owned(),
                hint: "Write ${VARIABLE}, or $${ for these characters themselves",
            });
        };
        let (name, value) = variable(&rest[at + 2..at + length], environment)?;
        out.push_str(&value);
        variables.push((name.to_owned(), value));
        whole = at == 0 && length + 1 == text.len();
        rest = &rest[at + length + 1..];
    }
    out.push_str(rest);
    Ok(Some(Filled { text: out, whole }))
}

/// Returns the name and the value of a variable.
fn variable<'t>(inside: &'t str, environment: &Environment) -> Result<(&'t str, String), Problem> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(fits)
    {
        return Err(Problem {
            message: format!("`${{{name}}}` does not name a variable"),
            hint: "A name is letters, digits and underscores: ${VARIABLE} or ${VARIABLE:-default}",
        });
    }
    match (environment.get(name), default) {
        (Some(value), None) => Ok((name, value.to_owned())),
        // As in a shell, an empty variable counts as unset here.
        (Some(value), Some(_)) if !value.is_empty() => Ok((name, value.to_owned())),
        (_, Some(default)) => Ok((name, default.to_owned())),
        (None, None) => Err(Problem {
            message: format!("the environment variable `{name}` is not set"),
            hint: "Set it, or write ${VARIABLE:-default}",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(template: &str) -> Result<String, Problem> {
        let environment = Environment::new([("A", "1"), ("EMPTY", ""), ("TRICK", "${A}")]);
        let filled = filled(template, &environment, &mut Vec::new())?;
        Ok(filled.map_or_else(|| template.to_owned(), |f| f.text))
    }

    #[test]
    fn variables_defaults_and_escapes() {
        for (template, result) in [
            ("plain $A {A}", "plain $A {A}"),
            ("${A}", "1"),
            ("x${A}y${A}z", "x1y1z"),
            ("${NO:-dflt}", "dflt"),
            ("${NO:-}", ""),
            ("${NO:-a:-b}", "a:-b"),
            ("${A:-dflt}", "1"),
            ("${EMPTY:-dflt}", "dflt"),
            ("${EMPTY}", ""),
            ("$${A}", "${A}"),
            ("$${A}${A}", "${A}1"),
            ("${TRICK}", "${A}"),
            ("☃${A}☃", "☃1☃"),
        ] {
            assert_eq!(text(template).as_deref(), Ok(result), "{template}");
        }
    }

    #[test]
    fn what_cannot_be_filled_in_says_why() {
        for (template, why) in [
            ("${NO}", "`NO` is not set"),
            ("${A", "no closing brace"),
            ("${}", "does not name a variable"),
            ("${a b}", "does not name a variable"),
            ("${1}", "does not name a variable"),
        ] {
            let problem = text(template).unwrap_err();
            assert!(problem.message.contains(why), "{template}: {problem:?}");
        }
    }
}
