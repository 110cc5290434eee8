//! Parsing a trait into an `Api`, and reporting all mistakes.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, format_ident};
use syn::{
    Attribute, FnArg, Ident, Item, ItemTrait, Pat, PatType, Path, Receiver, ReceiverKind,
    ReturnType, Safety, Signature, Token, TraitItem, TraitItemFn, Type, TypeParamBound, Visibility,
    parse_quote, punctuated::Punctuated,
};

use crate::{
    attribute::{Keys, Syntax},
    docs,
    errors::Errors,
    names,
    parameter::{Parameter, check_owned, root, type_arguments},
};

const API: Syntax = Syntax {
    attribute: "`#[api]`",
    keys: &[
        ("name", "name = \"auth\""),
        ("version", "version = 1"),
        ("events", "events(UserRegistered)"),
        ("requires", "requires(durable, ordered)"),
        ("crate", "crate = ::lightbus"),
    ],
};

/// What an API may require: the names of `lightbus_core::Capabilities`.
const CAPABILITIES: [&str; 9] = [
    "durable",
    "ordered",
    "ordered_by_key",
    "replay",
    "history",
    "lag",
    "dead_letters",
    "shared",
    "resumes",
];

const RPC: Syntax =
    Syntax { attribute: "`#[rpc]`", keys: &[("name", "name = \"check_password\"")] };

const ARG: Syntax = Syntax {
    attribute: "`#[arg]`",
    keys: &[("default", "default = 20"), ("name", "name = \"username\"")],
};

/// The methods of a client that are not procedures.
const CLIENT: [&str; 2] = ["new", "contract"];

/// A parsed API.
pub(crate) struct Api {
    pub(crate) root: Path,
    pub(crate) name: String,
    pub(crate) version: u32,
    pub(crate) description: String,
    pub(crate) attributes: Vec<Attribute>,
    pub(crate) visibility: Visibility,
    pub(crate) ident: Ident,
    pub(crate) supertraits: Vec<TypeParamBound>,
    pub(crate) procedures: Vec<Procedure>,
    /// Invalid members of the trait, kept so that implementations of it compile.
    pub(crate) refused: Vec<TraitItem>,
    pub(crate) events: Vec<Type>,
    /// The capabilities that the transport must have.
    pub(crate) requires: Vec<String>,
}

/// A parsed procedure.
pub(crate) struct Procedure {
    pub(crate) ident: Ident,
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) attributes: Vec<Attribute>,
    pub(crate) arguments: Vec<Parameter>,
    pub(crate) output: Output,
}

/// The return type of a procedure.
pub(crate) struct Output {
    /// As written.
    pub(crate) whole: Type,
    /// Without the error type.
    pub(crate) value: Type,
    pub(crate) failure: Failure,
}

/// The errors of a procedure.
pub(crate) enum Failure {
    /// It has none.
    Never,
    /// Those of `Result<T>`.
    Implied,
    /// Those of `Result<T, E>`.
    Declared(Box<Type>),
}

/// Parses the attribute and the trait. Invalid members are kept apart, so that the mistakes do not cause
/// further errors in the user's code.
pub(crate) fn parse(arguments: TokenStream, item: TokenStream, errors: &mut Errors) -> Option<Api> {
    let keys = Keys::parse(&API, arguments, errors);
    let item = match syn::parse2::<ItemTrait>(item.clone()) {
        Ok(item) => item,
        Err(error) => {
            match syn::parse2::<Item>(item) {
                Ok(Item::Trait(_)) | Err(_) => errors.push(error),
                Ok(other) => errors.at(
                    other,
                    "`#[api]` describes an API: put it on a trait, `pub trait Auth { … }`",
                ),
            }
            return None;
        }
    };
    check_trait(&item, errors);
    let generic = !item.generics.params.is_empty();
    let api = read(keys, item, errors);
    // Its members would refer to parameters that do not exist.
    (!generic).then_some(api)
}

fn read(mut keys: Keys, item: ItemTrait, errors: &mut Errors) -> Api {
    let name = match keys.text("name", errors) {
        Some(name) => {
            if let Err(why) = names::check_api(&name.value()) {
                errors.at(&name, why);
            }
            name.value()
        }
        None => {
            let name = names::snake_case(&names::of(&item.ident));
            if !keys.had("name") {
                errors.push(syn::Error::new(
                    Span::call_site(),
                    format!("an API needs a name: write `#[api(name = \"{name}\")]`"),
                ));
            }
            name
        }
    };
    let version = keys.number("version", errors).unwrap_or(1);
    let events = distinct(keys.types("events", errors), errors);
    let requires = capabilities(keys.types("requires", errors), errors);
    let root = root(keys.path("crate", errors));
    let description = docs::text(&item.attrs);
    let mut procedures: Vec<Procedure> = Vec::new();
    let mut refused = Vec::new();
    for member in item.items {
        let before = errors.len();
        let written = as_written(&member);
        let procedure = read_item(member, &item.ident, errors);
        if let Some(procedure) = &procedure {
            check_unique(procedure, &procedures, errors);
        }
        match procedure {
            Some(procedure) if errors.len() == before => procedures.push(procedure),
            _ => refused.extend(written),
        }
    }
    Api {
        root,
        name,
        version,
        description,
        attributes: item.attrs,
        visibility: item.vis,
        ident: item.ident,
        supertraits: item.supertraits.into_iter().collect(),
        procedures,
        refused,
        events,
        requires,
    }
}

/// Checks the required capabilities, and removes duplicates.
fn capabilities(named: Vec<Type>, errors: &mut Errors) -> Vec<String> {
    let mut kept: Vec<String> = Vec::new();
    for capability in named {
        let text = capability.to_token_stream().to_string();
        if !CAPABILITIES.contains(&text.as_str()) {
            let known = CAPABILITIES.map(|name| format!("`{name}`")).join(", ");
            errors.at(&capability, format!("there is no capability `{text}`: choose from {known}"));
        } else if kept.contains(&text) {
            errors.at(&capability, format!("duplicate capability `{text}`"));
        } else {
            kept.push(text);
        }
    }
    kept
}

fn check_trait(item: &ItemTrait, errors: &mut Errors) {
    if let Some(token) = &item.unsafety {
        errors.at(token, "implementing an API is safe: remove `unsafe`");
    }
    if let Some(token) = &item.modifiers.auto_token {
        errors.at(token, "an API is implemented by services: remove `auto`");
    }
    if !item.generics.params.is_empty() {
        errors.at(
            &item.generics,
            "an API has one contract, so it cannot be generic: name the types, or write a trait for each",
        );
    }
    if let Some(clause) = &item.generics.where_clause {
        errors.at(clause, "an API has no type parameters: remove the `where` clause");
    }
}

fn check_cfg(attributes: &[Attribute], errors: &mut Errors) {
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("cfg")) {
        errors.at(attribute, "an API is the same in every build: put this on the whole trait");
    }
}

/// Checks the events, and removes duplicates.
fn distinct(events: Vec<Type>, errors: &mut Errors) -> Vec<Type> {
    let mut kept: Vec<Type> = Vec::new();
    let mut seen = Vec::new();
    for event in events {
        let text = event.to_token_stream().to_string();
        if !matches!(event, Type::Path(_)) {
            errors.at(&event, "an event is a struct: write its name");
        } else if seen.contains(&text) {
            errors.at(&event, format!("duplicate event `{text}`"));
        } else {
            seen.push(text);
            kept.push(event);
        }
    }
    kept
}

fn check_unique(procedure: &Procedure, others: &[Procedure], errors: &mut Errors) {
    if let Some(first) = others.iter().find(|other| other.name == procedure.name) {
        errors.at(
            &procedure.ident,
            format!(
                "the procedure `{}` is also called `{}` on the bus: give this one another name, `#[rpc(name = \"…\")]`",
                first.ident, procedure.name,
            ),
        );
    }
}

/// Returns a member of the trait as written, as far as it compiles.
fn as_written(member: &TraitItem) -> Option<TraitItem> {
    let mut member = member.clone();
    match &mut member {
        TraitItem::Fn(function) => {
            function.attrs.clear();
            function.default = None;
            function.semi_token = Some(Token![;](Span::call_site()));
            for (index, input) in function.sig.inputs.iter_mut().enumerate() {
                if let FnArg::Typed(input) = input {
                    let name = format_ident!("argument_{index}");
                    input.attrs.clear();
                    input.pat = parse_quote!(#name);
                }
            }
        }
        TraitItem::Const(_) | TraitItem::Type(_) => {}
        _ => return None,
    }
    Some(member)
}

fn read_item(item: TraitItem, api: &Ident, errors: &mut Errors) -> Option<Procedure> {
    match item {
        TraitItem::Fn(function) => return Some(read_function(function, api, errors)),
        TraitItem::Const(item) => errors.at(
            item,
            "an API has procedures only: put the constant into the service, or next to the trait",
        ),
        TraitItem::Type(item) => {
            errors.at(item, "an API has procedures only: name the type where it is used");
        }
        other => errors.at(other, "an API has procedures only: write `async fn name(&self, …)`"),
    }
    None
}

fn read_function(function: TraitItemFn, api: &Ident, errors: &mut Errors) -> Procedure {
    let TraitItemFn { attrs, sig, default, .. } = function;
    check_signature(&sig, errors);
    if let Some(body) = default {
        errors.at(
            body,
            format!("a procedure has no body here: write `;`, and the body in `impl {api} for …`"),
        );
    }
    check_cfg(&attrs, errors);

    let mut keys = Keys::collect(&RPC, "rpc", &attrs, errors);
    let name = match keys.text("name", errors) {
        Some(name) => {
            if let Err(why) = names::check_member("a procedure", &name.value()) {
                errors.at(&name, why);
            }
            name.value()
        }
        None => {
            let name = names::of(&sig.ident);
            if let Err(why) = names::check_member("a procedure", &name) {
                errors.at(&sig.ident, why);
            }
            name
        }
    };
    if CLIENT.contains(&names::of(&sig.ident).as_str()) {
        errors.at(
            &sig.ident,
            format!(
                "`{api}Client::{ident}` is not a procedure: rename the method, with `#[rpc(name = \"{name}\")]` to keep the name on the bus",
                ident = sig.ident,
            ),
        );
    }
    let mut arguments: Vec<Parameter> = Vec::new();
    for input in sig.inputs {
        let FnArg::Typed(input) = input else { continue };
        let written = input.clone();
        let Some(argument) = read_argument(input, errors) else { continue };
        if arguments.iter().any(|other| other.name == argument.name) {
            errors.at(
                written,
                format!("there already is an argument `{}`: rename this one", argument.name),
            );
        }
        arguments.push(argument);
    }
    Procedure {
        name,
        description: docs::text(&attrs),
        attributes: attrs
            .into_iter()
            .filter(|attribute| !attribute.path().is_ident("rpc"))
            .collect(),
        arguments,
        output: read_output(sig.output, errors),
        ident: sig.ident,
    }
}

fn check_signature(sig: &Signature, errors: &mut Errors) {
    let ident = &sig.ident;
    if sig.asyncness.is_none() {
        errors.at(sig.fn_token, format!("a procedure is asynchronous: write `async fn {ident}`"));
    }
    if let Some(token) = &sig.constness {
        errors.at(token, "a procedure runs at run time: remove `const`");
    }
    if let Safety::Unsafe(token) = &sig.safety {
        errors.at(token, "calling a procedure is safe: remove `unsafe`");
    }
    if let Some(token) = &sig.abi {
        errors.at(token, "a procedure is called over the bus: remove `extern`");
    }
    if !sig.generics.params.is_empty() {
        errors.at(
            &sig.generics,
            "values on the bus have concrete, owned types: name the types, without parameters and lifetimes",
        );
    }
    if let Some(clause) = &sig.generics.where_clause {
        errors.at(clause, "a procedure has no type parameters: remove the `where` clause");
    }
    match sig.receiver() {
        None => errors.at(
            ident,
            format!(
                "a procedure is called on the service: write `&self` first, `async fn {ident}(&self{})`",
                if sig.inputs.is_empty() { "" } else { ", …" },
            ),
        ),
        Some(receiver) => check_receiver(receiver, errors),
    }
}

fn check_receiver(receiver: &Receiver, errors: &mut Errors) {
    match &receiver.kind {
        ReceiverKind::Reference(_, None, None) => {}
        ReceiverKind::Reference(_, _, Some(_)) => errors.at(
            receiver,
            "a service answers calls concurrently: write `&self`, and keep mutable state in a `Mutex`",
        ),
        _ => errors.at(receiver, "a service answers many calls: write `&self`"),
    }
}

fn read_argument(input: PatType, errors: &mut Errors) -> Option<Parameter> {
    let PatType { attrs, pat, ty, .. } = input;
    check_owned(&ty, errors);
    check_cfg(&attrs, errors);
    for other in attrs.iter().filter(|other| !other.path().is_ident("arg") && !docs::is_doc(other))
    {
        if !other.path().is_ident("cfg") {
            errors.at(other, "an argument takes doc comments and `#[arg(…)]` only: remove this");
        }
    }
    let mut keys = Keys::collect(&ARG, "arg", &attrs, errors);
    let renamed = keys.text("name", errors);
    let default = keys.expression("default", errors);
    let ident = match &*pat {
        Pat::Ident(pat) if pat.by_ref.is_none() && pat.subpat.is_none() => {
            if let Some(token) = &pat.mutability {
                errors.at(token, "`mut` belongs to the implementation: remove it here");
            }
            pat.ident.clone()
        }
        other => {
            errors.at(
                other,
                "an argument has a name on the bus: write a name here, and take it apart in the implementation",
            );
            return None;
        }
    };
    let name = match renamed {
        Some(name) => {
            if let Err(why) = names::check_parameter("an argument", &name.value()) {
                errors.at(&name, why);
            }
            name.value()
        }
        None => names::of(&ident),
    };
    if name.starts_with('_') && !keys.had("name") {
        errors.at(
            &ident,
            format!(
                "the argument would be called `{name}` on the bus: leave the underscore out, or write `#[arg(name = \"{name}\")]`"
            ),
        );
    }
    let default = default.map(|default| Parameter::default(&ty, default));
    Some(Parameter { ident, name, description: docs::text(&attrs), ty: *ty, default })
}

fn read_output(output: ReturnType, errors: &mut Errors) -> Output {
    let whole = match output {
        ReturnType::Default => Type::Tuple(syn::TypeTuple {
            attrs: Vec::new(),
            paren_token: syn::token::Paren::default(),
            elems: Punctuated::new(),
        }),
        ReturnType::Type(_, ty) => *ty,
    };
    check_owned(&whole, errors);
    let (value, failure) = match type_arguments(&whole, "Result").as_deref() {
        None => (whole.clone(), Failure::Never),
        Some([value]) => ((*value).clone(), Failure::Implied),
        Some([value, error]) => ((*value).clone(), Failure::Declared(Box::new((*error).clone()))),
        Some(_) => {
            errors.at(
                &whole,
                "the contract needs to know the types: write `Result<T>` or `Result<T, E>` with them",
            );
            (whole.clone(), Failure::Never)
        }
    };
    Output { whole, value, failure }
}
