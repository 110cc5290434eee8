//! Generates the client.

use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, format_ident, quote};

use super::{Api, Failure, Procedure};
use crate::{
    docs, names,
    parameter::{Parameter, is_option, is_string},
};

/// Returns the name of the client.
fn client(api: &Api) -> Ident {
    Ident::new(&format!("{}Client", names::of(&api.ident)), api.ident.span())
}

/// Generates the client's type.
pub(super) fn types(api: &Api) -> TokenStream {
    let client = client(api);
    let Api { root, visibility, name, description, .. } = api;
    let title = format!("Calls `{name}`, wherever it is served.");
    let more = (!description.is_empty()).then(|| quote!(#[doc = ""] #[doc = #description]));
    quote! {
        #[doc = #title]
        #more
        #[derive(::core::clone::Clone, ::core::fmt::Debug)]
        #visibility struct #client {
            bus: #root::Bus,
        }
    }
}

/// Generates the client's methods.
pub(super) fn expand(api: &Api) -> TokenStream {
    let client = client(api);
    let Api { root, visibility, name, procedures, .. } = api;
    let methods = procedures.iter().map(|procedure| method(api, procedure));
    quote! {
        static __API: #root::__private::LazyLock<#root::Name> =
            #root::__private::LazyLock::new(|| #root::Name::from(#name));

        impl #client {
            /// Creates a client that calls over `bus`.
            #[must_use]
            #visibility fn new(bus: &#root::Bus) -> Self {
                Self { bus: ::core::clone::Clone::clone(bus) }
            }

            /// Returns the contract of the API.
            #[must_use]
            #visibility fn contract() -> &'static #root::contract::Contract {
                &__CONTRACT
            }

            #(#methods)*
        }

        impl #root::Client for #client {
            fn contract() -> &'static #root::contract::Contract {
                &__CONTRACT
            }

            fn new(bus: &#root::Bus) -> Self {
                Self { bus: ::core::clone::Clone::clone(bus) }
            }
        }
    }
}

fn method(api: &Api, procedure: &Procedure) -> TokenStream {
    let Api { root, visibility, .. } = api;
    let Procedure { ident, name, attributes, arguments, output, .. } = procedure;
    let attributes = attributes
        .iter()
        .filter(|attribute| docs::is_doc(attribute) || attribute.path().is_ident("deprecated"));
    let notes = arguments.iter().filter(|argument| argument.default.is_some()).map(|argument| {
        let note =
            format!("`{}`: `None` is not sent, and the service uses its default.", argument.ident);
        quote!(#[doc = ""] #[doc = #note])
    });
    let value = &output.value;
    let call = match &output.failure {
        Failure::Never | Failure::Implied => quote!(#root::Call<#value>),
        Failure::Declared(error) => {
            quote!(#root::Call<#value, #root::contract::CallError<#error>>)
        }
    };
    let taken = arguments.iter().map(|argument| {
        let (ident, ty) = (&argument.ident, taken(argument));
        quote!(#ident: #ty)
    });
    // Renamed, so that names of arguments cannot clash with generated ones.
    let values: Vec<_> =
        (0..arguments.len()).map(|index| format_ident!("argument_{index}")).collect();
    let given = arguments.iter().map(given);
    let count = arguments.len();
    let names = arguments.iter().map(|argument| &argument.name);
    let pushes = arguments.iter().zip(&values).enumerate().map(|(index, (argument, value))| {
        let (name, ty) = (&argument.name, &argument.ty);
        let push = |value: &dyn ToTokens| {
            let value = value.to_token_stream();
            quote! {
                fields.push(
                    ::core::clone::Clone::clone(&names[#index]),
                    #root::__private::codec::encode::<#ty>(#value).map_err(|error| error.with("argument", #name))?,
                );
            }
        };
        if argument.default.is_some() {
            let push = push(&quote!(value));
            quote!(if let ::core::option::Option::Some(value) = &#value { #push })
        } else {
            push(&quote!(&#value))
        }
    });
    let fields = if count == 0 {
        quote!(::core::result::Result::Ok(#root::Arguments::new()))
    } else {
        quote! {{
            static NAMES: #root::__private::LazyLock<[#root::Name; #count]> =
                #root::__private::LazyLock::new(|| [#(#root::Name::from(#names)),*]);
            let encode = || -> #root::Result<#root::Arguments> {
                let names = &*NAMES;
                let mut fields = #root::Arguments::with_capacity(#count);
                #(#pushes)*
                ::core::result::Result::Ok(fields)
            };
            encode()
        }}
    };
    quote! {
        #(#attributes)*
        #(#notes)*
        #visibility fn #ident(&self #(, #taken)*) -> #call {
            static PROCEDURE: #root::__private::LazyLock<#root::Name> =
                #root::__private::LazyLock::new(|| #root::Name::from(#name));
            let (#(#values,)*) = (#(#given,)*);
            let fields = #fields;
            #root::__private::call(&self.bus, &__API, &PROCEDURE, fields)
        }
    }
}

/// Returns the type that the client takes for an argument.
fn taken(argument: &Parameter) -> TokenStream {
    let ty = &argument.ty;
    if argument.default.is_none() {
        if is_string(ty) {
            return quote!(impl ::core::convert::Into<#ty>);
        }
        return quote!(#ty);
    }
    // With `impl Into<Option<Option<T>>>`, `None` would be ambiguous.
    if is_option(ty) {
        quote!(::core::option::Option<#ty>)
    } else {
        quote!(impl ::core::convert::Into<::core::option::Option<#ty>>)
    }
}

/// Generates the encoding of an argument.
fn given(argument: &Parameter) -> TokenStream {
    let Parameter { ident, ty, default, .. } = argument;
    match default {
        None if is_string(ty) => quote!(::core::convert::Into::<#ty>::into(#ident)),
        None => quote!(#ident),
        Some(_) if is_option(ty) => quote!(#ident),
        Some(_) => quote!(::core::convert::Into::<::core::option::Option<#ty>>::into(#ident)),
    }
}
