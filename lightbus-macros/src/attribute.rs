//! The keys inside our attributes: `name = "auth", events(UserRegistered)`.

use proc_macro2::TokenStream;
use quote::ToTokens;
use syn::{
    Attribute, Expr, ExprLit, Ident, Lit, LitStr, Meta, Path, Token, Type,
    ext::IdentExt,
    parenthesized,
    parse::{ParseStream, Parser},
    punctuated::Punctuated,
    token,
};

use crate::errors::Errors;

/// The syntax of an attribute.
pub(crate) struct Syntax {
    /// The attribute: `#[event]`.
    pub(crate) attribute: &'static str,
    /// Each key, with an example.
    pub(crate) keys: &'static [(&'static str, &'static str)],
}

impl Syntax {
    fn usage(&self) -> String {
        let uses: Vec<_> = self.keys.iter().map(|(_, usage)| format!("`{usage}`")).collect();
        format!("{} takes {}", self.attribute, uses.join(", "))
    }

    fn usage_of(&self, key: &Ident) -> String {
        let known = self.keys.iter().find(|(name, _)| key == name);
        known.map(|(_, usage)| (*usage).to_owned()).unwrap_or_default()
    }
}

enum Value {
    Alone,
    Is(Expr),
    List(TokenStream),
}

/// The keys that were found. Unknown and duplicate keys have been reported.
pub(crate) struct Keys {
    syntax: &'static Syntax,
    found: Vec<(Ident, Value)>,
    taken: Vec<Ident>,
}

impl Keys {
    /// Parses the keys between the parentheses of one attribute.
    pub(crate) fn parse(syntax: &'static Syntax, tokens: TokenStream, errors: &mut Errors) -> Self {
        let mut keys = Self { syntax, found: Vec::new(), taken: Vec::new() };
        keys.add(tokens, errors);
        keys
    }

    /// Parses all attributes of a name.
    pub(crate) fn collect(
        syntax: &'static Syntax,
        name: &str,
        attributes: &[Attribute],
        errors: &mut Errors,
    ) -> Self {
        let mut keys = Self { syntax, found: Vec::new(), taken: Vec::new() };
        for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident(name)) {
            match &attribute.meta {
                Meta::List(list) => keys.add(list.tokens.clone(), errors),
                Meta::Path(_) | Meta::NameValue(_) => {
                    errors.at(attribute, format!("{}, in parentheses", syntax.usage()));
                }
            }
        }
        keys
    }

    fn add(&mut self, tokens: TokenStream, errors: &mut Errors) {
        let parser = |input: ParseStream<'_>| {
            while !input.is_empty() {
                let key = Ident::parse_any(input)
                    .map_err(|error| syn::Error::new(error.span(), self.syntax.usage()))?;
                let value = if input.peek(Token![=]) {
                    input.parse::<Token![=]>()?;
                    Value::Is(input.parse()?)
                } else if input.peek(token::Paren) {
                    let content;
                    parenthesized!(content in input);
                    Value::List(content.parse()?)
                } else {
                    Value::Alone
                };
                if !self.syntax.keys.iter().any(|(name, _)| key == name) {
                    errors.at(&key, format!("unknown key `{key}`: {}", self.syntax.usage()));
                } else if self.found.iter().any(|(other, _)| *other == key) {
                    errors.at(&key, format!("duplicate key `{key}`"));
                } else {
                    self.found.push((key, value));
                }
                if !input.is_empty() {
                    input.parse::<Token![,]>()?;
                }
            }
            Ok(())
        };
        if let Err(error) = parser.parse2(tokens) {
            errors.push(error);
        }
    }

    fn take(&mut self, name: &str) -> Option<(Ident, Value)> {
        let index = self.found.iter().position(|(key, _)| key == name)?;
        let (key, value) = self.found.remove(index);
        self.taken.push(key.clone());
        Some((key, value))
    }

    /// Whether a key was present, with a valid value or not.
    pub(crate) fn had(&self, name: &str) -> bool {
        self.taken.iter().any(|key| key == name)
    }

    fn misused(&self, key: &Ident, at: &dyn ToTokens, errors: &mut Errors) {
        errors.at(at.to_token_stream(), format!("write `{}`", self.syntax.usage_of(key)));
    }

    /// Takes a key whose value is a string.
    pub(crate) fn text(&mut self, name: &str, errors: &mut Errors) -> Option<LitStr> {
        let (key, value) = self.take(name)?;
        match value {
            Value::Is(Expr::Lit(ExprLit { lit: Lit::Str(text), .. })) => return Some(text),
            Value::Is(other) => self.misused(&key, &other, errors),
            Value::Alone | Value::List(_) => self.misused(&key, &key, errors),
        }
        None
    }

    /// Takes a key whose value is an integer.
    pub(crate) fn number(&mut self, name: &str, errors: &mut Errors) -> Option<u32> {
        let (key, value) = self.take(name)?;
        match value {
            Value::Is(Expr::Lit(ExprLit { lit: Lit::Int(number), .. })) => {
                match number.base10_parse() {
                    Ok(number) => return Some(number),
                    Err(_) => self.misused(&key, &number, errors),
                }
            }
            Value::Is(other) => self.misused(&key, &other, errors),
            Value::Alone | Value::List(_) => self.misused(&key, &key, errors),
        }
        None
    }

    /// Takes a key whose value is a path, in quotes or not.
    pub(crate) fn path(&mut self, name: &str, errors: &mut Errors) -> Option<Path> {
        let (key, value) = self.take(name)?;
        match value {
            Value::Is(Expr::Path(path)) if path.qself.is_none() => return Some(path.path),
            Value::Is(Expr::Lit(ExprLit { lit: Lit::Str(text), .. })) => match text.parse() {
                Ok(path) => return Some(path),
                Err(_) => self.misused(&key, &text, errors),
            },
            Value::Is(other) => self.misused(&key, &other, errors),
            Value::Alone | Value::List(_) => self.misused(&key, &key, errors),
        }
        None
    }

    /// Takes a key with types in parentheses.
    pub(crate) fn types(&mut self, name: &str, errors: &mut Errors) -> Vec<Type> {
        let Some((key, value)) = self.take(name) else { return Vec::new() };
        match value {
            Value::List(tokens) => {
                match Punctuated::<Type, Token![,]>::parse_terminated.parse2(tokens) {
                    Ok(types) => return types.into_iter().collect(),
                    Err(error) => errors.push(error),
                }
            }
            Value::Is(other) => self.misused(&key, &other, errors),
            Value::Alone => self.misused(&key, &key, errors),
        }
        Vec::new()
    }

    /// Takes a key whose value is an expression. Returns `Some(None)` if it has no value.
    pub(crate) fn expression(&mut self, name: &str, errors: &mut Errors) -> Option<Option<Expr>> {
        let (key, value) = self.take(name)?;
        match value {
            Value::Alone => return Some(None),
            Value::Is(expression) => return Some(Some(expression)),
            Value::List(_) => self.misused(&key, &key, errors),
        }
        None
    }

    /// Takes a key without a value.
    pub(crate) fn flag(&mut self, name: &str, errors: &mut Errors) -> bool {
        let Some((key, value)) = self.take(name) else { return false };
        if !matches!(value, Value::Alone) {
            self.misused(&key, &key, errors);
        }
        true
    }
}
