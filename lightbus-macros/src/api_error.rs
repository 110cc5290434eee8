//! `#[derive(ApiError)]`: makes an enum or a struct an error of an API.

use proc_macro2::TokenStream;
use quote::{ToTokens, format_ident, quote};
use syn::{Attribute, Data, DeriveInput, Fields, Ident, Path};

use crate::{
    attribute::{Keys, Syntax},
    errors::Errors,
    names,
    parameter::root,
    quiet,
};

const CONTAINER: Syntax = Syntax {
    attribute: "`#[api_error]`",
    keys: &[
        ("name", "name = \"AuthError\""),
        ("display", "display"),
        ("serde", "serde"),
        ("crate", "crate = ::lightbus"),
    ],
};

/// A parsed error type.
struct ApiError {
    root: Path,
    name: String,
    /// The type implements `Display` itself.
    display: bool,
    /// The type implements `Serialize` and `Deserialize` itself.
    serde: bool,
    input: DeriveInput,
}

/// Expands `#[derive(ApiError)]`.
pub(crate) fn expand(input: TokenStream) -> TokenStream {
    let input = match syn::parse2::<DeriveInput>(input) {
        Ok(input) => input,
        Err(error) => return error.into_compile_error(),
    };
    let mut errors = Errors::default();
    let error = read(input, &mut errors);
    if errors.is_empty() {
        return implement(&error);
    }
    let mistakes = errors.into_tokens();
    let rest = error.input.generics.params.is_empty().then(|| place_holder(&error));
    quote!(#mistakes #rest)
}

fn read(input: DeriveInput, errors: &mut Errors) -> ApiError {
    let mut keys = Keys::collect(&CONTAINER, "api_error", &input.attrs, errors);
    let name = match keys.text("name", errors) {
        Some(name) => {
            if let Err(why) = names::check_parameter("an error", &name.value()) {
                errors.at(&name, why);
            }
            name.value()
        }
        None => names::of(&input.ident),
    };
    let display = keys.flag("display", errors);
    let serde = keys.flag("serde", errors);
    let root = root(keys.path("crate", errors));
    if !input.generics.params.is_empty() {
        errors
            .at(&input.generics, "an error has one form, so it cannot be generic: name the types");
    }
    match &input.data {
        Data::Enum(data) => {
            if data.variants.is_empty() {
                errors.at(&input.ident, "an error needs at least one variant");
            }
            for variant in &data.variants {
                refuse_attributes(&variant.attrs, "variant", errors);
                refuse_field_attributes(&variant.fields, errors);
            }
        }
        Data::Struct(data) => refuse_field_attributes(&data.fields, errors),
        Data::Union(data) => errors.at(
            data.union_token,
            "a union does not say which field is set: write an `enum` or a `struct`",
        ),
    }
    ApiError { root, name, display, serde, input }
}

fn refuse_field_attributes(fields: &Fields, errors: &mut Errors) {
    for field in fields {
        refuse_attributes(&field.attrs, "field", errors);
    }
}

fn refuse_attributes(attributes: &[Attribute], what: &str, errors: &mut Errors) {
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("api_error")) {
        errors.at(attribute, format!("a {what} takes no `#[api_error]`: write it above the type"));
    }
}

/// A placeholder, so that uses of the error cause no further errors.
fn place_holder(error: &ApiError) -> TokenStream {
    let ApiError { root, display, input: DeriveInput { ident, .. }, .. } = error;
    let shown = (!display).then(|| {
        quote! {
            impl ::core::fmt::Display for #ident {
                fn fmt(&self, _: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                    ::core::unreachable!()
                }
            }
            impl ::std::error::Error for #ident where for<'lightbus> #ident: ::core::fmt::Debug {}
        }
    });
    quote! {
        const _: () = {
            #shown
            impl #root::contract::ApiError for #ident {
                fn to_remote(&self) -> #root::RemoteError {
                    ::core::unreachable!()
                }

                fn from_remote(_: &#root::RemoteError) -> ::core::option::Option<Self> {
                    ::core::unreachable!()
                }
            }
        };
    }
}

fn implement(error: &ApiError) -> TokenStream {
    let ApiError { root, name, display, serde, input } = error;
    let ident = &input.ident;
    let (coded, encoded, decoded) = if *serde {
        (
            TokenStream::new(),
            quote!(self),
            quote!(#root::__private::codec::decode::<Self>(detail).ok()),
        )
    } else {
        (
            shadow(root, input),
            quote!(&__Encoded(self)),
            quote!(#root::__private::codec::decode::<__Decoded>(detail).ok().map(|decoded| decoded.0)),
        )
    };
    let shown = (!display).then(|| show(root, input));
    let quiet = quiet();
    quote! {
        #[doc(hidden)]
        #quiet
        const _: () = {
            #coded
            #shown

            #[automatically_derived]
            impl #root::contract::ApiError for #ident {
                fn to_remote(&self) -> #root::RemoteError {
                    #root::RemoteError {
                        message: ::std::string::ToString::to_string(self),
                        trace: ::core::option::Option::None,
                        name: ::core::option::Option::Some(#root::Name::from(#name)),
                        detail: #root::__private::codec::encode(#encoded).ok(),
                    }
                }

                fn from_remote(remote: &#root::RemoteError) -> ::core::option::Option<Self> {
                    if remote.name.as_deref() != ::core::option::Option::Some(#name) {
                        return ::core::option::Option::None;
                    }
                    let detail = remote.detail.as_ref()?;
                    #decoded
                }
            }
        };
    }
}

/// Generates a copy of the type for serde's remote derive, so that the user need not derive serde's
/// traits.
fn shadow(root: &Path, input: &DeriveInput) -> TokenStream {
    let ident = &input.ident;
    let mut copy = input.clone();
    copy.ident = format_ident!("__Shadow");
    copy.vis = syn::Visibility::Inherited;
    copy.attrs.clear();
    match &mut copy.data {
        Data::Enum(data) => {
            for variant in &mut data.variants {
                variant.attrs.clear();
                variant.discriminant = None;
                variant.fields.iter_mut().for_each(|field| field.attrs.clear());
            }
        }
        Data::Struct(data) => data.fields.iter_mut().for_each(|field| field.attrs.clear()),
        Data::Union(_) => {}
    }
    let original = names::of(ident);
    let original = if *ident == original { original } else { format!("r#{original}") };
    let serde = quote!(#root::__private::serde);
    let serde_path = serde.to_string().replace(' ', "");
    quote! {
        #[derive(#serde::Serialize, #serde::Deserialize)]
        #[serde(crate = #serde_path, remote = #original)]
        #[allow(dead_code)]
        #copy

        struct __Encoded<'a>(&'a #ident);

        impl #serde::Serialize for __Encoded<'_> {
            fn serialize<S: #serde::Serializer>(
                &self,
                serializer: S,
            ) -> ::core::result::Result<S::Ok, S::Error> {
                __Shadow::serialize(self.0, serializer)
            }
        }

        struct __Decoded(#ident);

        impl<'de> #serde::Deserialize<'de> for __Decoded {
            fn deserialize<D: #serde::Deserializer<'de>>(
                deserializer: D,
            ) -> ::core::result::Result<Self, D::Error> {
                ::core::result::Result::map(__Shadow::deserialize(deserializer), __Decoded)
            }
        }
    }
}

/// Generates `Display`, in the form of `Debug` with fields as JSON, and `Error`.
fn show(root: &Path, input: &DeriveInput) -> TokenStream {
    let ident = &input.ident;
    let name = names::of(ident);
    let arms: Vec<TokenStream> = match &input.data {
        Data::Enum(data) => data
            .variants
            .iter()
            .map(|variant| {
                let (path, shown) = (&variant.ident, names::of(&variant.ident));
                show_one(root, &quote!(Self::#path), &format!("{name}::{shown}"), &variant.fields)
            })
            .collect(),
        Data::Struct(data) => vec![show_one(root, &quote!(Self), &name, &data.fields)],
        Data::Union(_) => Vec::new(),
    };
    quote! {
        #[automatically_derived]
        impl ::core::fmt::Display for #ident {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                match self {
                    #(#arms)*
                }
            }
        }

        // With the lifetime, the compiler checks the `Debug` bound only where the impl is used.
        #[automatically_derived]
        impl ::std::error::Error for #ident where for<'lightbus> #ident: ::core::fmt::Debug {}
    }
}

fn show_one(root: &Path, path: &dyn ToTokens, shown: &str, fields: &Fields) -> TokenStream {
    let path = path.to_token_stream();
    let values: Vec<_> = (0..fields.len()).map(|index| format_ident!("value_{index}")).collect();
    let names: Vec<Option<&Ident>> = fields.iter().map(|field| field.ident.as_ref()).collect();
    let (pattern, open, close) = match fields {
        Fields::Unit => return quote!(#path => f.write_str(#shown),),
        Fields::Named(_) => (quote!(#path { #(#names: #values),* }), " {{ ", " }}"),
        Fields::Unnamed(_) => (quote!(#path(#(#values),*)), "(", ")"),
    };
    let places: Vec<_> = names
        .iter()
        .map(|name| {
            name.map_or_else(|| "{}".to_owned(), |name| format!("{}: {{}}", names::of(name)))
        })
        .collect();
    let format = format!("{shown}{open}{}{close}", places.join(", "));
    quote! {
        #pattern => ::core::write!(
            f,
            #format
            #(, #root::__private::serde_json::to_string(#values).unwrap_or_default())*
        ),
    }
}
