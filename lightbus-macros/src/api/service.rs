//! Generates the service, which decodes calls, calls the trait's methods and encodes results.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;

use super::{Api, Failure, Procedure};
use crate::names;

/// Returns the name of the service.
fn service(api: &Api) -> Ident {
    Ident::new(&format!("{}Api", names::of(&api.ident)), api.ident.span())
}

/// Generates the service's type.
pub(super) fn types(api: &Api) -> TokenStream {
    let service = service(api);
    let Api { visibility, ident, name, .. } = api;
    let title = format!("Serves an implementation of [`{ident}`] on a bus, as `{name}`.");
    let example = format!("`bus.serve({service}(implementation)).await?`");
    quote! {
        #[doc = #title]
        #[doc = ""]
        #[doc = #example]
        #[derive(
            ::core::clone::Clone,
            ::core::marker::Copy,
            ::core::fmt::Debug,
            ::core::default::Default
        )]
        #visibility struct #service<S>(
            /// The implementation.
            #visibility S,
        );
    }
}

/// Implements `Service`.
pub(super) fn expand(api: &Api) -> TokenStream {
    let service = service(api);
    let Api { root, ident, name, procedures, .. } = api;
    let arms = procedures.iter().map(|procedure| arm(api, procedure));
    let known: Vec<_> = procedures.iter().map(|procedure| &*procedure.name).collect();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    let unknown = format!("`{name}` has no procedure `{{}}`");
    quote! {
        impl<__S: #ident> #root::contract::Service for #service<__S> {
            fn contract(&self) -> &'static #root::contract::Contract {
                &__CONTRACT
            }

            fn call<'a>(
                &'a self,
                procedure: &'a ::core::primitive::str,
                arguments: &'a #root::Arguments,
            ) -> #root::__private::BoxFuture<
                'a,
                ::core::result::Result<#root::__private::Bytes, #root::RemoteError>,
            > {
                fn refused(error: #root::Error, called: &'static ::core::primitive::str) -> #root::RemoteError {
                    #root::contract::ApiError::to_remote(&error.during(called))
                }

                match procedure {
                    #(#arms)*
                    _ => {
                        let error = #root::Error::new(
                            #root::ErrorKind::Unknown,
                            ::std::format!(#unknown, procedure),
                        );
                        let error = error.with("procedures", #known);
                        let error = #root::contract::ApiError::to_remote(&error);
                        ::std::boxed::Box::pin(::core::future::ready(::core::result::Result::Err(error)))
                    }
                }
            }
        }
    }
}

fn arm(api: &Api, procedure: &Procedure) -> TokenStream {
    let Api { root, ident: api_ident, name: api_name, .. } = api;
    let Procedure { ident, name, arguments, output, .. } = procedure;
    let called = format!("{api_name}.{name} was called");
    let known = arguments.iter().map(|argument| &argument.name);
    let fields = Ident::new("arguments", Span::call_site());
    let decoded = arguments.iter().map(|argument| argument.decode(root, &fields));
    let values: Vec<_> =
        (0..arguments.len()).map(|index| format_ident!("argument_{index}")).collect();
    let fails = match &output.failure {
        Failure::Never => None,
        Failure::Implied => Some(quote_spanned! {output.whole.span()=>
            .map_err(|error| #root::contract::ApiError::to_remote(&error))?
        }),
        Failure::Declared(error) => Some(quote_spanned! {error.span()=>
            .map_err(|error| <#error as #root::contract::ApiError>::to_remote(&error))?
        }),
    };
    let (whole, value) = (&output.whole, &output.value);
    let codec = quote!(#root::__private::codec);
    quote! {
        #name => ::std::boxed::Box::pin(async move {
            let decode = || -> #root::Result<_> {
                #codec::refuse_others(arguments, &[#(#known),*])?;
                ::core::result::Result::Ok((#(#decoded,)*))
            };
            let (#(#values,)*) = decode().map_err(|error| refused(error, #called))?;
            let output: #whole = <__S as #api_ident>::#ident(&self.0 #(, #values)*).await;
            let value = output #fails;
            #codec::encode::<#value>(&value).map_err(|error| refused(error.with("part", "the result"), #called))
        }),
    }
}
