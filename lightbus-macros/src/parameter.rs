//! Parameters of procedures and fields of events: named values, each encoded separately.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::{
    Expr, ExprLit, GenericArgument, Ident, Lit, Path, PathArguments, Type, TypePath,
    spanned::Spanned, visit::Visit,
};

use crate::errors::Errors;

/// An argument of a procedure, or a field of an event.
pub(crate) struct Parameter {
    /// In Rust.
    pub(crate) ident: Ident,
    /// On the bus.
    pub(crate) name: String,
    pub(crate) ty: Type,
    pub(crate) description: String,
    /// Its value if it is omitted.
    pub(crate) default: Option<Expr>,
}

impl Parameter {
    /// Returns the default as an expression: that of the type if no value is written, and a `String` for
    /// a string literal.
    pub(crate) fn default(ty: &Type, written: Option<Expr>) -> Expr {
        match written {
            None => {
                let path = quote_spanned!(ty.span()=> <#ty as ::core::default::Default>::default);
                Expr::Verbatim(quote!(#path()))
            }
            Some(Expr::Lit(ExprLit { lit: Lit::Str(text), .. })) if is_string(ty) => {
                Expr::Verbatim(quote!(::std::string::String::from(#text)))
            }
            Some(written) => written,
        }
    }

    /// Generates its description in the contract.
    pub(crate) fn describe(&self, root: &Path) -> TokenStream {
        let Self { name, ty, description, .. } = self;
        let schema = quote_spanned!(ty.span()=> generator.subschema_for::<#ty>());
        let omitted = match &self.default {
            None if is_option(ty) => quote!(.optional()),
            None => quote!(),
            Some(default) => quote! {
                .with_default(|| {
                    let value: #ty = #default;
                    #root::__private::serde_json::to_value(value).unwrap_or_default()
                })
            },
        };
        quote! {
            #root::contract::Parameter::new(#name, |generator| #schema)
                .with_description(#description)
                #omitted
        }
    }

    /// Generates the expression that decodes it from `fields`.
    pub(crate) fn decode(&self, root: &Path, fields: &Ident) -> TokenStream {
        let Self { name, ty, default, .. } = self;
        let codec = quote!(#root::__private::codec);
        match default {
            None => {
                quote_spanned!(ty.span()=> #codec::decode_field::<#ty>(#fields, #name)?)
            }
            Some(default) => quote_spanned! {ty.span()=>
                #codec::decode_field_or::<#ty>(#fields, #name, || ::core::result::Result::Ok(#default))?
            },
        }
    }
}

/// Whether this is an `Option`, judging by its name.
pub(crate) fn is_option(ty: &Type) -> bool {
    type_arguments(ty, "Option").is_some_and(|arguments| arguments.len() == 1)
}

/// Whether this is a `String`, judging by its name.
pub(crate) fn is_string(ty: &Type) -> bool {
    let Type::Path(TypePath { qself: None, path, .. }) = ty else { return false };
    let words: Vec<_> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
    matches!(
        words.iter().map(String::as_str).collect::<Vec<_>>()[..],
        ["String"] | ["std" | "alloc", "string", "String"]
    )
}

/// Returns the generic arguments of a type whose name is, or ends with, `name`.
pub(crate) fn type_arguments<'a>(ty: &'a Type, name: &str) -> Option<Vec<&'a Type>> {
    let Type::Path(TypePath { qself: None, path, .. }) = ungrouped(ty) else { return None };
    let last = path.segments.last().filter(|segment| segment.ident == name)?;
    match &last.arguments {
        PathArguments::AngleBracketed(list) => Some(
            list.args
                .iter()
                .filter_map(|argument| match argument {
                    GenericArgument::Type(ty) => Some(ty),
                    _ => None,
                })
                .collect(),
        ),
        _ => Some(Vec::new()),
    }
}

fn ungrouped(ty: &Type) -> &Type {
    match ty {
        Type::Group(group) => ungrouped(&group.elem),
        Type::Paren(paren) => ungrouped(&paren.elem),
        other => other,
    }
}

/// Refuses types that cannot be received: references, `impl Trait`, `Self`.
pub(crate) fn check_owned(ty: &Type, errors: &mut Errors) {
    struct Checker<'a>(&'a mut Errors);

    impl<'ast> Visit<'ast> for Checker<'_> {
        fn visit_type_reference(&mut self, reference: &'ast syn::TypeReference) {
            let owned = match ungrouped(&reference.elem) {
                Type::Path(path) if path.path.is_ident("str") => "String".to_owned(),
                Type::Slice(slice) => format!("Vec<{}>", written(&slice.elem)),
                other => written(other),
            };
            self.0.at(
                reference,
                format!("values are received from the bus and must be owned: take a `{owned}`, not a reference"),
            );
        }

        fn visit_type_impl_trait(&mut self, ty: &'ast syn::TypeImplTrait) {
            self.0.at(
                ty,
                "values on the bus have a concrete type: name it. The client takes `impl Into<String>` for a `String` by itself",
            );
        }

        fn visit_type_path(&mut self, ty: &'ast TypePath) {
            let first = ty.path.segments.first().map(|segment| &segment.ident);
            if ty.qself.is_none() && first.is_some_and(|first| first == "Self") {
                self.0.at(ty, "the client does not know the service's type: name another type");
            } else {
                syn::visit::visit_type_path(self, ty);
            }
        }

        fn visit_lifetime(&mut self, lifetime: &'ast syn::Lifetime) {
            if lifetime.ident != "static" {
                self.0.at(
                    lifetime,
                    "values are received from the bus and must be owned: use a type without lifetimes",
                );
            }
        }
    }

    Checker(errors).visit_type(ty);
}

/// Formats a type as in source code, if it is simple enough.
fn written(ty: &Type) -> String {
    match ty {
        Type::Path(path) => {
            let text = quote!(#path).to_string();
            text.replace(" :: ", "::").replace(" < ", "<").replace(" >", ">").replace(" ,", ",")
        }
        Type::Slice(slice) => format!("Vec<{}>", written(&slice.elem)),
        other => quote!(#other).to_string(),
    }
}

/// Returns the path of lightbus: the given one, or `::lightbus`.
pub(crate) fn root(given: Option<Path>) -> Path {
    given.unwrap_or_else(|| syn::parse_quote!(::lightbus))
}

#[cfg(test)]
mod tests {
    use syn::parse_quote;

    use super::*;

    #[test]
    fn types_are_told_by_their_names() {
        assert!(is_option(&parse_quote!(Option<u8>)));
        assert!(is_option(&parse_quote!(std::option::Option<u8>)));
        assert!(!is_option(&parse_quote!(Vec<Option<u8>>)));
        assert!(is_string(&parse_quote!(String)));
        assert!(is_string(&parse_quote!(::std::string::String)));
        assert!(!is_string(&parse_quote!(my::String)));
        assert_eq!(type_arguments(&parse_quote!(io::Result<u8, E>), "Result").unwrap().len(), 2);
    }

    #[test]
    fn borrowed_types_are_refused() {
        for (ty, advice) in [
            (parse_quote!(&str), "`String`"),
            (parse_quote!(Option<&[std::string::String]>), "`Vec<std::string::String>`"),
            (parse_quote!(&'a Map<u8, Vec<u8>>), "`Map<u8, Vec<u8>>`"),
            (parse_quote!(Cow<'a, u8>), "without lifetimes"),
            (parse_quote!(impl Into<String>), "name it"),
            (parse_quote!(Self::Item), "another type"),
        ] {
            let mut errors = Errors::default();
            check_owned(&ty, &mut errors);
            assert_eq!(errors.len(), 1);
            let text = errors.into_tokens().to_string();
            assert!(text.contains(advice), "{text}");
        }
    }
}
