//! The generated parser, and the precedence of operators.

use std::sync::LazyLock;

use pest::pratt_parser::{Assoc, Op, PrattParser};

/// The parser that the grammar file describes.
#[derive(pest_derive::Parser)]
#[grammar = "../grammar/traceql.pest"]
pub(super) struct TraceQlParser;

/// From loose to tight; one table for all expressions, since none holds operators of another.
pub(super) static PRECEDENCE: LazyLock<PrattParser<Rule>> = LazyLock::new(|| {
    PrattParser::new()
        .op(Op::infix(Rule::logical, Assoc::Left) | Op::infix(Rule::logical_word, Assoc::Left))
        .op(Op::infix(Rule::comparison, Assoc::Left) | Op::infix(Rule::relation, Assoc::Left))
        .op(Op::infix(Rule::additive, Assoc::Left))
        .op(Op::prefix(Rule::negate))
        .op(Op::prefix(Rule::not))
        .op(Op::infix(Rule::multiplicative, Assoc::Left))
        .op(Op::infix(Rule::power, Assoc::Right))
});
