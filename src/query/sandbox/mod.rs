//! What SQL may do here: read, in one statement.
//!
//! Text comes in, a [`CheckedStatement`] goes out, which is the only thing that the engine plans. The check works on
//! the parser's tree, so comments, quoting and nesting hide nothing; the planner's own options refuse the same things a
//! second time. Allowed are queries, `EXPLAIN [ANALYZE]` of a query, `SHOW` and `DESCRIBE`.
//!
//! Four bounds hold before there is a tree: the length of the text, the number of words in it, the number of operators (a
//! chain `1+1+1+...` is parsed in a loop into a tree as deep as it is long), and the depth of nesting. A fifth holds before
//! there is a plan: the number of tables once `WITH` is written out ([`tables`]).
//!
//! No function that reads files or the network is compiled in, and table functions are an allow list. Functions that make
//! much out of little are bounded or left out ([`growth`]).

pub(crate) mod growth;
mod names;
mod statement;
mod tables;

use datafusion::{
    error::DataFusionError,
    execution::SessionState,
    sql::{
        parser::{DFParserBuilder, Statement},
        sqlparser::{
            dialect::GenericDialect,
            keywords::Keyword,
            parser::ParserError,
            tokenizer::{Token, TokenWithSpan, Tokenizer},
        },
    },
};

pub(crate) use self::{names::SpelledTable, statement::TABLE_FUNCTIONS};
use crate::{
    error::{Error, ErrorKind, Result},
    query::{failure, limits::QueryLimits},
};

/// A statement that reads and does nothing else.
#[derive(Clone, Debug)]
pub(crate) struct CheckedStatement(Statement);

impl CheckedStatement {
    /// Parses `text` and refuses what is not one read-only statement. Columns of the `spelled` tables need no quotes.
    pub(crate) fn parse(text: &str, limits: &QueryLimits, spelled: &[SpelledTable]) -> Result<Self> {
        check_text_length(text, limits)?;
        let dialect = GenericDialect {};
        let mut tokens = Tokenizer::new(&dialect, text)
            .tokenize_with_location()
            .map_err(|error| failure::from_datafusion(&DataFusionError::from(ParserError::from(error))))?;
        check_word_count(&tokens, limits)?;
        check_operator_count(&tokens, limits)?;
        number_placeholders(&mut tokens);
        names::quote(&mut tokens, spelled);
        let statements = DFParserBuilder::new(tokens)
            .with_dialect(&dialect)
            .with_recursion_limit(limits.sql_depth_max)
            .build()
            .and_then(|mut parser| parser.parse_statements())
            .map_err(|error| parse_error(&error, limits))?;
        let mut statements = statements.into_iter();
        let statement = statements.next().ok_or_else(|| Error::invalid("the query is empty"))?;
        if statements.next().is_some() {
            return Err(Error::invalid("only one statement is allowed in a query"));
        }
        statement::check(&statement)?;
        Ok(Self(statement))
    }

    /// Refuses tables that do not exist, naming the nearest that does.
    pub(crate) fn check_tables(&self, session: &SessionState, known: &[&str]) -> Result<()> {
        let references = session.resolve_table_references(&self.0).map_err(|error| failure::from_datafusion(&error))?;
        for reference in references {
            statement::check_table(&reference, known)?;
        }
        Ok(())
    }

    pub(crate) fn into_inner(self) -> Statement {
        self.0
    }
}

/// Refuses a text above the limit; for every language.
pub(crate) fn check_text_length(text: &str, limits: &QueryLimits) -> Result<()> {
    let (length, limit) = (text.len(), limits.text_bytes_max);
    if length > limit {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!("query text has {length} bytes, more than the limit query.expression_bytes_max = {limit}"),
        ));
    }
    Ok(())
}

fn check_word_count(tokens: &[TokenWithSpan], limits: &QueryLimits) -> Result<()> {
    let counts = |token: &&TokenWithSpan| {
        !matches!(
            token.token,
            Token::Whitespace(_)
                | Token::Comma
                | Token::LParen
                | Token::RParen
                | Token::Number(..)
                | Token::SingleQuotedString(_)
        )
    };
    let (words, limit) = (tokens.iter().filter(counts).count(), limits.sql_words_max);
    if words > limit {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!("query has {words} words and operators, more than the limit of {limit}"),
        ));
    }
    Ok(())
}

/// A chain of operators is a tree as deep as it is long, and planning takes time in proportion to the square of that.
fn check_operator_count(tokens: &[TokenWithSpan], limits: &QueryLimits) -> Result<()> {
    let is_operator = |token: &&TokenWithSpan| match &token.token {
        Token::Word(word) => word.quote_style.is_none() && OPERATORS.contains(&word.keyword),
        Token::Whitespace(_)
        | Token::Comma
        | Token::Period
        | Token::LParen
        | Token::RParen
        | Token::RBracket
        | Token::SemiColon
        | Token::Number(..)
        | Token::Placeholder(_)
        | Token::SingleQuotedString(_) => false,
        _ => true,
    };
    let (operators, limit) = (tokens.iter().filter(is_operator).count(), limits.sql_operators_max);
    if operators > limit {
        let message = format!(
            "query has {operators} operators, more than the limit of {limit}; IN (...) compares with many values at once"
        );
        return Err(Error::new(ErrorKind::TooLarge, message));
    }
    Ok(())
}

/// Words that make a tree deeper.
const OPERATORS: [Keyword; 13] = [
    Keyword::AND,
    Keyword::BETWEEN,
    Keyword::EXCEPT,
    Keyword::ILIKE,
    Keyword::IN,
    Keyword::INTERSECT,
    Keyword::IS,
    Keyword::JOIN,
    Keyword::LIKE,
    Keyword::NOT,
    Keyword::OR,
    Keyword::UNION,
    Keyword::WITH,
];

/// `?` is the next of `$1`, `$2`, ...: JDBC and ODBC programs write it so.
fn number_placeholders(tokens: &mut [TokenWithSpan]) {
    let mut number = 0;
    for token in tokens {
        if let Token::Placeholder(name) = &mut token.token
            && name == "?"
        {
            number += 1;
            *name = format!("${number}");
        }
    }
}

fn parse_error(error: &DataFusionError, limits: &QueryLimits) -> Error {
    match error.find_root() {
        DataFusionError::SQL(parser, _) if matches!(**parser, ParserError::RecursionLimitExceeded) => {
            let limit = limits.sql_depth_max;
            Error::invalid(format!("query is nested deeper than the limit of {limit}"))
        }
        _ => failure::from_datafusion(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        CheckedStatement::parse(text, &QueryLimits::default(), &[]).unwrap_err().to_string()
    }

    #[test]
    fn long_operator_chains_are_refused_before_they_become_a_deep_tree() {
        let chain = |operator: &str, length| format!("SELECT 1{}", format!("{operator}1").repeat(length));
        assert_eq!(refusal(&chain("+", 20_000)), "query has 20001 words and operators, more than the limit of 10000");
        assert!(CheckedStatement::parse(&chain(" OR ", 500), &QueryLimits::default(), &[]).is_ok());
        let refusal = refusal(&chain(" || ", 1_001));
        assert!(refusal.starts_with("query has 1001 operators, more than the limit of 1000"), "{refusal}");
    }

    #[test]
    fn long_in_lists_are_cheap() {
        let list = vec!["'a'"; 20_000].join(",");
        let text = format!("SELECT 1 WHERE 'a' IN ({list})");
        assert!(CheckedStatement::parse(&text, &QueryLimits::default(), &[]).is_ok());
    }

    #[test]
    fn text_and_depth_have_limits_with_names() {
        let text = format!("SELECT '{}'", "x".repeat(200_000));
        assert_eq!(
            refusal(&text),
            "query text has 200009 bytes, more than the limit query.expression_bytes_max = 131072"
        );
        let nested = format!("SELECT {}1{}", "(".repeat(300), ")".repeat(300));
        assert_eq!(refusal(&nested), "query is nested deeper than the limit of 64");
    }
}
