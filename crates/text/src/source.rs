//! The source of a chat template, checked and made ready for the engine.

use minijinja::machinery::{Token, tokenize};
use minijinja::syntax::SyntaxConfig;

use crate::{Result, TextError};

/// Longest template source, in bytes.
const MAX_SOURCE: usize = 1 << 20;
/// Operators in one tag, and `elif` branches in all.
const MAX_CHAIN: usize = 512;
/// The variable that is 1.
pub(crate) const ONE: &str = "_one";

/// Jinja as Hugging Face sets it up.
pub(crate) fn syntax() -> Result<SyntaxConfig> {
    let built = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    built.map_err(|error| TextError::TemplateSource(error.to_string()))
}

/// Checks what the engine's compiler does not, and rewrites what it would do badly:
///
/// - Brackets and blocks may not nest too deeply in the engine, but chains such as `a + a + ...`
///   make a tree as deep as they are long. They are refused.
/// - `'A' * 99999999` would be worked out while compiling. A factor of 1 that is a variable
///   leaves it for the run, where it is counted.
/// - Training tools mark the assistant's words with `{% generation %}`; here it is a plain block.
pub(crate) fn prepare(source: &str) -> Result<String> {
    if source.len() > MAX_SOURCE {
        let found = source.len();
        return Err(refused(format!("expected at most {MAX_SOURCE} bytes, found {found}")));
    }
    let mut out = String::with_capacity(source.len());
    let mut done = 0;
    let (mut operators, mut branches) = (0, 0);
    let mut before = None;
    for token in tokenize(source, false, syntax()?) {
        let (token, span) = token.map_err(|error| refused(error.to_string()))?;
        let role = role(&token, before);
        match role {
            Role::Opening | Role::BlockOpening => operators = 0,
            Role::Operator | Role::Times | Role::Call => operators += 1,
            Role::Branch => branches += 1,
            _ => {}
        }
        if operators > MAX_CHAIN || branches > MAX_CHAIN {
            let what = if operators > MAX_CHAIN { "operators in one tag" } else { "elif branches" };
            return Err(refused(format!("expected at most {MAX_CHAIN} {what}")));
        }
        if let Some(text) = replacement(role) {
            out.push_str(&source[done..span.start_offset as usize]);
            out.push_str(text);
            done = span.end_offset as usize;
        }
        before = Some(role);
    }
    Ok(out + &source[done..])
}

/// What a token means to [`prepare`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Opening,
    BlockOpening,
    Generation,
    EndGeneration,
    Branch,
    Operator,
    /// A `*` between two values.
    Times,
    /// A round bracket; after it or a comma, a `*` spreads a list over arguments.
    Call,
    Comma,
    Other,
}

fn role(token: &Token<'_>, before: Option<Role>) -> Role {
    let first = before == Some(Role::BlockOpening);
    match token {
        Token::VariableStart => Role::Opening,
        Token::BlockStart => Role::BlockOpening,
        Token::Ident("generation") if first => Role::Generation,
        Token::Ident("endgeneration") if first => Role::EndGeneration,
        Token::Ident("elif") if first => Role::Branch,
        Token::Ident("and" | "or" | "not" | "is" | "in" | "if" | "else") => Role::Operator,
        Token::Mul if matches!(before, Some(Role::Call | Role::Comma)) => Role::Other,
        Token::Mul => Role::Times,
        Token::ParenOpen => Role::Call,
        Token::Comma => Role::Comma,
        Token::BracketOpen | Token::BraceOpen => Role::Operator,
        Token::Plus | Token::Minus | Token::Div | Token::FloorDiv | Token::Pow | Token::Mod => Role::Operator,
        Token::Tilde | Token::Pipe | Token::Dot => Role::Operator,
        Token::Eq | Token::Ne | Token::Gt | Token::Gte | Token::Lt | Token::Lte => Role::Operator,
        _ => Role::Other,
    }
}

fn replacement(role: Role) -> Option<&'static str> {
    match role {
        Role::Times => Some("* _one *"),
        Role::Generation => Some("if true"),
        Role::EndGeneration => Some("endif"),
        _ => None,
    }
}

fn refused(reason: String) -> TextError {
    TextError::TemplateSource(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_tags_become_plain_blocks() {
        assert_eq!(prepare("a{%- generation -%}b{% endgeneration%}c").unwrap(), "a{%- if true -%}b{% endif%}c");
        let same = "{% if generation %}{% generation %}{% endif %}{# {% generation %} #}";
        assert_eq!(prepare(same).unwrap(), same.replacen("{% generation %}", "{% if true %}", 1));
    }

    #[test]
    fn products_are_left_for_the_run() {
        assert_eq!(
            prepare("{{ 'a*' * 3 }} * {{ f(*x, *y) ** 2 }}").unwrap(),
            "{{ 'a*' * _one * 3 }} * {{ f(*x, *y) ** 2 }}"
        );
        assert!(replacement(Role::Times).unwrap().contains(ONE));
    }

    #[test]
    fn chains_cannot_hide_behind_comments_or_raw_text() {
        let chain = format!("{{{{ 1{} }}}}", " + 1".repeat(600));
        for hidden in ["{# {{ ' #}", "{% raw %}{{ ' {% endraw %}", "{{ '\\'' }}"] {
            let error = prepare(&format!("{hidden}{chain}")).unwrap_err();
            assert!(error.to_string().contains("operators in one tag"), "{error}");
        }
        assert!(prepare(&format!("{{% raw %}}{chain}{{% endraw %}}")).is_ok());
    }
}
