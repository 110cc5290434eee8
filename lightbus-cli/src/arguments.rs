//! Reads the arguments of a call or an event: `key=text`, `key:=json`, or a JSON object.

use lightbus::Arguments;
use serde_json::value::RawValue;

use crate::failure::Failure;

/// Reads arguments from the command line.
pub(crate) fn typed(arguments: &[String]) -> Result<Arguments, Failure> {
    let mut fields = Arguments::with_capacity(arguments.len());
    for argument in arguments {
        let usage = |why: &str| Failure::Usage(format!("the argument `{argument}`: {why}"));
        let Some((key, value)) = argument.split_once('=') else {
            return Err(usage("write key=text or key:=json"));
        };
        let (key, value) = match key.strip_suffix(':') {
            Some(key) => {
                serde_json::from_str::<&RawValue>(value)
                    .map_err(|error| usage(&format!("not JSON: {error}")))?;
                (key, value.trim().to_owned())
            }
            None => (key, serde_json::Value::from(value).to_string()),
        };
        if key.is_empty() {
            return Err(usage("its name is missing"));
        }
        if fields.get(key).is_some() {
            return Err(usage("it is given twice"));
        }
        fields.push(key, value.into_bytes());
    }
    Ok(fields)
}

/// Reads a JSON object of arguments. Each value keeps its spelling.
pub(crate) fn object(line: &[u8]) -> Result<Arguments, String> {
    let values: std::collections::BTreeMap<String, &RawValue> =
        serde_json::from_slice(line).map_err(|error| format!("not a JSON object: {error}"))?;
    let fields = values.into_iter();
    Ok(fields.map(|(name, value)| (name.into(), value.get().to_owned().into())).collect())
}
