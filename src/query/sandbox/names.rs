//! Names with capitals, without quotes.
//!
//! SQL folds names without quotes to lower case, so a table with capitals in its columns would need quotes everywhere.
//! Where such a table is named in a statement, words that are spelled exactly like one of its columns count as quoted.

use datafusion::sql::sqlparser::{
    keywords::Keyword,
    tokenizer::{Token, TokenWithSpan},
};

/// A table whose columns are matched as they are spelled.
#[derive(Clone, Debug)]
pub(crate) struct SpelledTable {
    pub(crate) name: &'static str,
    pub(crate) columns: Vec<String>,
}

/// Quotes the columns of those of `tables` that are named among the tokens.
pub(super) fn quote(tokens: &mut [TokenWithSpan], tables: &[SpelledTable]) {
    for table in tables {
        let is_named = tokens
            .iter()
            .any(|token| matches!(&token.token, Token::Word(word) if word.value.eq_ignore_ascii_case(table.name)));
        if is_named {
            quote_columns(tokens, &table.columns);
        }
    }
}

fn quote_columns(tokens: &mut [TokenWithSpan], columns: &[String]) {
    for index in 0..tokens.len() {
        // TIMESTAMP '2026-01-01' is a value, however it is spelled.
        let is_value = tokens[index + 1..]
            .iter()
            .find(|next| !matches!(next.token, Token::Whitespace(_)))
            .is_some_and(|next| matches!(next.token, Token::SingleQuotedString(_)));
        if let Token::Word(word) = &mut tokens[index].token
            && word.quote_style.is_none()
            && !is_value
            && columns.contains(&word.value)
        {
            word.quote_style = Some('"');
            word.keyword = Keyword::NoKeyword;
        }
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::{dialect::GenericDialect, tokenizer::Tokenizer};

    use super::*;

    #[test]
    fn only_columns_of_a_named_table_are_quoted() {
        let tables = [SpelledTable { name: "traces_of_old", columns: vec!["Timestamp".into(), "TraceId".into()] }];
        let quoted = |text: &str| {
            let mut tokens = Tokenizer::new(&GenericDialect {}, text).tokenize_with_location().unwrap();
            quote(&mut tokens, &tables);
            tokens.iter().map(|token| token.token.to_string()).collect::<String>()
        };
        assert_eq!(quoted("SELECT TraceId FROM Traces_Of_Old t"), "SELECT \"TraceId\" FROM Traces_Of_Old t");
        assert_eq!(
            quoted("SELECT t.TraceId FROM traces_of_old t WHERE Timestamp > Timestamp '2026-01-01' AND traceid = ''"),
            "SELECT t.\"TraceId\" FROM traces_of_old t WHERE \"Timestamp\" > Timestamp '2026-01-01' AND traceid = ''"
        );
        assert_eq!(quoted("SELECT TraceId FROM spans"), "SELECT TraceId FROM spans");
    }
}
