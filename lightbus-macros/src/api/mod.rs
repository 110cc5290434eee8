//! `#[api]`: generates a contract, a service and a client from a trait.

mod client;
mod contract;
mod parse;
mod service;

use proc_macro2::TokenStream;
use quote::quote;

use crate::{errors::Errors, quiet};
use parse::{Api, Failure, Procedure};

/// Expands `#[api]`.
pub(crate) fn expand(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let mut errors = Errors::default();
    let api = parse::parse(arguments, item, &mut errors);
    let mistakes = errors.into_tokens();
    let Some(api) = api else { return mistakes };
    let definition = definition(&api);
    let types = [service::types(&api), client::types(&api)];
    let contract = contract::expand(&api);
    let service = service::expand(&api);
    let client = client::expand(&api);
    let quiet = quiet();
    quote! {
        #mistakes
        #definition
        #(#types)*
        #[doc(hidden)]
        #quiet
        const _: () = {
            #contract
            #service
            #client
        };
    }
}

/// Generates the trait, with `async fn` as methods that return `impl Future + Send`.
fn definition(api: &Api) -> TokenStream {
    let Api { attributes, visibility, ident, supertraits, refused, .. } = api;
    let quiet = (!refused.is_empty()).then(|| quote!(#[allow(async_fn_in_trait)]));
    let methods = api.procedures.iter().map(|procedure| {
        let Procedure { ident, attributes, arguments, output, .. } = procedure;
        let names = arguments.iter().map(|argument| &argument.ident);
        let types = arguments.iter().map(|argument| &argument.ty);
        let whole = &output.whole;
        quote! {
            #(#attributes)*
            fn #ident(&self #(, #names: #types)*)
                -> impl ::core::future::Future<Output = #whole> + ::core::marker::Send;
        }
    });
    quote! {
        #(#attributes)*
        #[allow(clippy::too_many_arguments, clippy::type_complexity, clippy::fn_params_excessive_bools)]
        #quiet
        #visibility trait #ident:
            #(#supertraits +)* ::core::marker::Send + ::core::marker::Sync + 'static
        {
            #(#methods)*
            #(#refused)*
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(arguments: TokenStream, item: TokenStream) -> Vec<String> {
        let file: syn::File = syn::parse2(expand(arguments, item)).unwrap();
        let text = quote!(#file).to_string();
        text.split("compile_error ! {").skip(1).map(|rest| rest.replace("\\\"", "'")).collect()
    }

    #[test]
    fn a_good_api_is_whole() {
        let file: syn::File = syn::parse2(expand(
            quote!(name = "auth", version = 2, events(UserRegistered)),
            quote! {
                /// The contract.
                pub trait Auth: Sized {
                    /// Whether it fits.
                    async fn check(&self, name: String, #[arg(default = 3)] tries: u8) -> Result<bool, E>;
                    async fn stop(&self);
                }
            },
        ))
        .unwrap();
        let text = quote!(#file).to_string();
        assert!(!text.contains("compile_error"), "{text}");
        for part in ["struct AuthApi", "struct AuthClient", "trait Auth : Sized +"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let found = mistakes(
            quote!(nam = "auth", version = "1"),
            quote! {
                trait Auth {
                    const LIMIT: u8;
                    fn sync(&self);
                    async fn change(&mut self);
                    async fn borrowed(&self, name: &str);
                    async fn generic<T>(&self, value: T);
                    async fn with_body(&self) {}
                    async fn pattern(&self, (a, b): (u8, u8));
                    async fn _private(&self);
                    async fn new(&self);
                    async fn good(&self);
                    #[rpc(name = "good")]
                    async fn twice(&self);
                }
            },
        );
        assert_eq!(found.len(), 13, "{found:#?}");
        for (mistake, words) in found.iter().zip([
            "unknown key `nam`",
            "name = 'auth'",
            "version = 1",
            "constant",
            "async fn sync",
            "write `&self`, and keep",
            "take a `String`",
            "without parameters",
            "write `;`",
            "write a name here",
            "Leave the underscore out",
            "`AuthClient::new`",
            "`good` is also called `good` on the bus",
        ]) {
            assert!(mistake.contains(words), "{words} in {mistake}");
        }
    }

    #[test]
    fn what_is_right_is_there_beside_mistakes() {
        let tokens = expand(
            quote!(name = "auth"),
            quote! {
                trait Auth {
                    async fn good(&self) -> bool;
                    fn bad(&self);
                }
            },
        );
        let text = tokens.to_string();
        for part in [
            "fn good (& self) -> impl",
            "fn good (& self) -> :: lightbus :: Call",
            "fn bad (& self) ;",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains("fn bad (& self) ->"), "{text}");
    }

    #[test]
    fn only_traits_are_apis() {
        let found = mistakes(
            quote!(name = "auth"),
            quote!(
                struct Auth;
            ),
        );
        assert!(found.len() == 1 && found[0].contains("put it on a trait"), "{found:?}");
    }
}
