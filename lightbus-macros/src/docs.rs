//! Doc comments: text for schemas, and attributes to copy.

use syn::{Attribute, Expr, ExprLit, Lit, Meta};

/// Returns the text of the doc comments, without the space after the slashes.
pub(crate) fn text(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(line);
    let lines = lines.flat_map(|block| block.lines().map(trim).collect::<Vec<_>>());
    lines.collect::<Vec<_>>().join("\n").trim().to_owned()
}

/// Whether this is a doc comment.
pub(crate) fn is_doc(attribute: &Attribute) -> bool {
    attribute.path().is_ident("doc")
}

fn line(attribute: &Attribute) -> Option<String> {
    match &attribute.meta {
        Meta::NameValue(meta) if meta.path.is_ident("doc") => match &meta.value {
            Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) if text.value().is_empty() => {
                Some("\n".to_owned())
            }
            Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text.value()),
            _ => None,
        },
        _ => None,
    }
}

fn trim(line: &str) -> String {
    line.strip_prefix(' ').unwrap_or(line).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use syn::{ItemStruct, parse_quote};

    use super::*;

    #[test]
    fn lines_lose_their_first_space_only() {
        let item: ItemStruct = parse_quote! {
            /// One.
            ///
            ///   * two
            #[non_exhaustive]
            /// Three.
            struct S;
        };
        assert_eq!(text(&item.attrs), "One.\n\n  * two\nThree.");
        assert_eq!(text(&[]), "");
    }
}
