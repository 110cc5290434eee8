//! Finding every mistake of a configuration, where loading stops at the first.

use lightbus_core::{Error, Result};

use super::{
    Config, Loader,
    load::{Layers, finish},
};

/// The most mistakes that are found. After a mistake everything is read again.
const MOST_MISTAKES: usize = 100;

impl Loader {
    /// Loads the configuration, and has it checked further by `accept`. After a mistake, the value that
    /// it names is left out, and the rest is tried again.
    pub(crate) fn load_all(
        self,
        accept: impl Fn(&Config) -> Result<()>,
    ) -> Result<Config, Vec<Error>> {
        let Layers { mut tree, source, environment, known } =
            self.layers().map_err(|error| vec![error])?;
        let mut mistakes = Vec::new();
        while mistakes.len() < MOST_MISTAKES {
            let config = finish(tree.clone(), source.clone(), &environment, &known);
            let error = match config.and_then(|config| accept(&config).map(|()| config)) {
                Ok(config) if mistakes.is_empty() => return Ok(config),
                Ok(_) => break,
                Err(error) => error,
            };
            let place = error.context().find(|(key, _)| *key == "at").map(|(_, at)| at.to_owned());
            let is_there = place.is_some_and(|place| tree.remove(&place));
            // What is wrong without a value may only be so because a value was left out.
            if is_there || mistakes.is_empty() {
                mistakes.push(error);
            }
            if !is_there {
                break;
            }
        }
        Err(mistakes)
    }
}
