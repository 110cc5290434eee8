//! Generates the contract, and implements `Event`.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote, quote_spanned};
use syn::spanned::Spanned;

use super::{Api, Procedure};

/// Generates the contract in `__CONTRACT`, and implements `Event` for each event.
pub(super) fn expand(api: &Api) -> TokenStream {
    let Api { root, name, version, description, procedures, events, requires, .. } = api;
    let procedures = procedures.iter().map(|procedure| {
        let Procedure { name, description, arguments, output, .. } = procedure;
        let parameters = arguments.iter().map(|argument| argument.describe(root));
        let value = &output.value;
        let response = quote_spanned!(value.span()=> generator.subschema_for::<#value>());
        quote! {
            #root::contract::Procedure::new(#name, |generator| #response)
                .with_description(#description)
                .with_parameters(&[#(#parameters),*])
        }
    });
    let contracts =
        events.iter().map(|event| quote!(<#event as #root::contract::EventFields>::CONTRACT));
    let belonging = events.iter().map(|event| {
        quote_spanned! {event.span()=>
            impl #root::contract::Event for #event {
                fn api() -> &'static #root::contract::Contract {
                    &__CONTRACT
                }
            }
        }
    });
    let distinct = distinct(api);
    quote! {
        static __CONTRACT: #root::contract::Contract = #root::contract::Contract::new(#name)
            .with_version(#version)
            .with_description(#description)
            .with_procedures(&[#(#procedures),*])
            .with_events(&[#(#contracts),*])
            .with_requires(&[#(#requires),*]);
        #(#belonging)*
        #distinct
    }
}

/// Generates a check that no event has the name of another event or of a procedure. It runs in the
/// compiler, because the macro does not see the types of events.
fn distinct(api: &Api) -> Option<TokenStream> {
    let Api { root, procedures, events, .. } = api;
    if events.is_empty() {
        return None;
    }
    let name = |event: &syn::Type| quote!(<#event as #root::contract::EventFields>::CONTRACT.name);
    let mut checks = Vec::new();
    for (index, event) in events.iter().enumerate() {
        let event_name = name(event);
        let text = event.to_token_stream().to_string();
        for procedure in procedures {
            let other = &procedure.name;
            let message = format!(
                "the event `{text}` is called `{other}` on the bus, like a procedure: Python would mix up their schemas. Give one another name, `#[event(name = \"…\")]` or `#[rpc(name = \"…\")]`"
            );
            checks.push(quote_spanned! {event.span()=>
                const _: () = if same(#event_name, #other) {
                    ::core::panic!(#message);
                };
            });
        }
        for other in &events[..index] {
            let other_name = name(other);
            let message = format!(
                "the events `{}` and `{text}` have the same name on the bus: give one another, `#[event(name = \"…\")]`",
                other.to_token_stream(),
            );
            checks.push(quote_spanned! {event.span()=>
                const _: () = if same(#event_name, #other_name) {
                    ::core::panic!(#message);
                };
            });
        }
    }
    Some(quote! {
            const fn same(one: &str, other: &str) -> bool {
                let (one, other) = (one.as_bytes(), other.as_bytes());
                if one.len() != other.len() {
                    return false;
                }
                let mut index = 0;
                while index < one.len() {
                    if one[index] != other[index] {
                        return false;
                    }
                    index += 1;
                }
                true
            }
            #(#checks)*
    })
}
