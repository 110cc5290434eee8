//! `#[derive(Event)]`: makes a struct an event.

use proc_macro2::{Ident, Span, TokenStream};
use quote::quote;
use syn::{Data, DeriveInput, Field, Fields, Path};

use crate::{
    attribute::{Keys, Syntax},
    docs,
    errors::Errors,
    names,
    parameter::{Parameter, root},
    quiet,
};

const EVENT: Syntax = Syntax {
    attribute: "`#[event]` on a struct",
    keys: &[
        ("name", "name = \"user_registered\""),
        ("key", "key = \"username\""),
        ("crate", "crate = ::lightbus"),
    ],
};

const FIELD: Syntax = Syntax {
    attribute: "`#[event]` on a field",
    keys: &[("default", "default = 20"), ("rename", "rename = \"username\"")],
};

/// A parsed event.
struct Event {
    root: Path,
    ident: Ident,
    name: String,
    description: String,
    fields: Vec<Parameter>,
    key: Option<Ident>,
}

/// Expands `#[derive(Event)]`.
pub(crate) fn expand(input: TokenStream) -> TokenStream {
    let input = match syn::parse2::<DeriveInput>(input) {
        Ok(input) => input,
        Err(error) => return error.into_compile_error(),
    };
    let mut errors = Errors::default();
    let generic = !input.generics.params.is_empty();
    let mut event = read(input, &mut errors);
    if errors.is_empty() {
        return implement(&event);
    }
    let mistakes = errors.into_tokens();
    if generic {
        return mistakes;
    }
    // A placeholder, so that uses of the event cause no further errors.
    event.fields.clear();
    event.key = None;
    let decode = quote!(::core::unreachable!());
    let rest = write(&event, &decode);
    quote!(#mistakes #rest)
}

fn read(input: DeriveInput, errors: &mut Errors) -> Event {
    let mut keys = Keys::collect(&EVENT, "event", &input.attrs, errors);
    let name = match keys.text("name", errors) {
        Some(name) => {
            if let Err(why) = names::check_member("an event", &name.value()) {
                errors.at(&name, why);
            }
            name.value()
        }
        None => {
            let name = names::snake_case(&names::of(&input.ident));
            if let (false, Err(why)) = (keys.had("name"), names::check_member("an event", &name)) {
                errors.at(&input.ident, why);
            }
            name
        }
    };
    if !input.generics.params.is_empty() {
        errors
            .at(&input.generics, "an event has one form, so it cannot be generic: name the types");
    }
    let root = root(keys.path("crate", errors));
    let fields = match input.data {
        Data::Struct(data) => match data.fields {
            Fields::Named(fields) => {
                let fields = fields.named.into_iter();
                distinct(fields.filter_map(|field| read_field(field, errors)).collect(), errors)
            }
            Fields::Unit => Vec::new(),
            Fields::Unnamed(fields) => {
                errors.at(
                    fields,
                    "the fields of an event have names on the bus: write `{ name: Type, … }`",
                );
                Vec::new()
            }
        },
        Data::Enum(data) => {
            errors.at(
                data.enum_token,
                "an event is a struct: write one for each variant, or put the enum into a field",
            );
            Vec::new()
        }
        Data::Union(data) => {
            errors.at(data.union_token, "an event is a struct: write `struct`");
            Vec::new()
        }
    };
    let key = keys.text("key", errors).and_then(|key| {
        let named = fields.iter().find(|field| names::of(&field.ident) == key.value());
        if named.is_none() {
            let known: Vec<_> = fields.iter().map(|field| format!("`{}`", field.ident)).collect();
            let known = match &known[..] {
                [] => "it has none".to_owned(),
                known => format!("name one of {}", known.join(", ")),
            };
            errors.at(&key, format!("the event has no field `{}`: {known}", key.value()));
        }
        named.map(|field| field.ident.clone())
    });
    Event { root, name, description: docs::text(&input.attrs), ident: input.ident, fields, key }
}

fn read_field(field: Field, errors: &mut Errors) -> Option<Parameter> {
    let Field { attrs, ident, ty, .. } = field;
    let ident = ident?;
    let mut keys = Keys::collect(&FIELD, "event", &attrs, errors);
    let name = match keys.text("rename", errors) {
        Some(name) => {
            if let Err(why) = names::check_parameter("a field", &name.value()) {
                errors.at(&name, why);
            }
            name.value()
        }
        None => names::of(&ident),
    };
    let default = keys.expression("default", errors);
    let default = default.map(|default| Parameter::default(&ty, default));
    Some(Parameter { ident, name, ty, description: docs::text(&attrs), default })
}

fn distinct(fields: Vec<Parameter>, errors: &mut Errors) -> Vec<Parameter> {
    for (index, field) in fields.iter().enumerate() {
        if fields[..index].iter().any(|other| other.name == field.name) {
            errors.at(
                &field.ident,
                format!("there already is a field `{}` on the bus: rename this one", field.name),
            );
        }
    }
    fields
}

fn implement(event: &Event) -> TokenStream {
    let fields = Ident::new("fields", Span::call_site());
    let values = event.fields.iter().map(|field| {
        let (ident, value) = (&field.ident, field.decode(&event.root, &fields));
        quote!(#ident: #value)
    });
    write(event, &quote!(::core::result::Result::Ok(Self { #(#values),* })))
}

fn write(event: &Event, decode: &TokenStream) -> TokenStream {
    let Event { root, ident, name, description, fields, key } = event;
    let parameters = fields.iter().map(|field| field.describe(root));
    let count = fields.len();
    let names = fields.iter().map(|field| &field.name);
    let pushes = fields.iter().enumerate().map(|(index, field)| {
        let Parameter { ident, name, ty, .. } = field;
        quote! {
            fields.push(
                ::core::clone::Clone::clone(&names[#index]),
                #root::__private::codec::encode::<#ty>(&self.#ident).map_err(|error| error.with("field", #name))?,
            );
        }
    });
    let encode = if fields.is_empty() {
        quote!(::core::result::Result::Ok(#root::Arguments::new()))
    } else {
        quote! {
            static NAMES: #root::__private::LazyLock<[#root::Name; #count]> =
                #root::__private::LazyLock::new(|| [#(#root::Name::from(#names)),*]);
            let names = &*NAMES;
            let mut fields = #root::Arguments::with_capacity(#count);
            #(#pushes)*
            ::core::result::Result::Ok(fields)
        }
    };
    let keyed = key.as_ref().and_then(|key| fields.iter().find(|field| field.ident == *key));
    let with_key = keyed.map(|Parameter { name, .. }| quote!(.with_key(#name)));
    let key = match keyed {
        None => quote!(::core::option::Option::None),
        Some(Parameter { ident, ty, .. }) => quote! {
            #root::__private::codec::encode::<#ty>(&self.#ident)
                .ok()
                .and_then(|value| #root::contract::key_of(&value))
        },
    };
    let quiet = quiet();
    quote! {
        #[doc(hidden)]
        #quiet
        const _: () = {
            #[automatically_derived]
            impl #root::contract::EventFields for #ident {
                const CONTRACT: #root::contract::EventContract =
                    #root::contract::EventContract::new(#name)
                        .with_description(#description)
                        .with_parameters(&[#(#parameters),*])
                        #with_key;

                fn encode(&self) -> #root::Result<#root::Arguments> {
                    #encode
                }

                fn decode(fields: &#root::Arguments) -> #root::Result<Self> {
                    #decode
                }

                fn key(&self) -> ::core::option::Option<#root::Name> {
                    #key
                }
            }
        };
    }
}
