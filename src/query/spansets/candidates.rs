//! Which traces can be found at all: what must hold for some span of them.
//!
//! A final spanset of `{ a } >> { b }` has spans that fulfil `b`, and there must be one that fulfils `a`. So a trace without the
//! one or the other need not be looked at. What comes out is a list of predicates on single spans: every found trace has,
//! for each of them, a span that fulfils it. More traces can pass; the evaluation decides.

use datafusion::logical_expr::{Expr, lit};

use super::program::Program;
use crate::{
    query::traceql::lower,
    traceql::{
        ast::{LogicalOp, SpansetOp, Variant},
        plan::{PlannedSpansets, PlannedStage},
    },
};

/// A condition on one span, out of those of a pipeline.
#[derive(Clone, Debug, PartialEq)]
enum Predicate {
    Anything,
    Condition(usize),
    And(Box<Predicate>, Box<Predicate>),
    Or(Box<Predicate>, Box<Predicate>),
}

impl Predicate {
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Predicate::Anything, other) | (other, Predicate::Anything) => other,
            (one, other) if one == other => one,
            (one, other) => Predicate::And(Box::new(one), Box::new(other)),
        }
    }

    fn or(self, other: Self) -> Self {
        match (self, other) {
            (Predicate::Anything, _) | (_, Predicate::Anything) => Predicate::Anything,
            (one, other) if one == other => one,
            (one, other) => Predicate::Or(Box::new(one), Box::new(other)),
        }
    }
}

/// What must be there for a spanset not to be empty.
#[derive(Clone, Debug)]
struct Needs {
    /// What every span of it fulfils.
    members: Predicate,
    /// What some span of the trace fulfils, each.
    witnesses: Vec<Predicate>,
}

/// A predicate that some span of every found trace fulfils.
#[derive(Clone, Debug)]
pub(crate) struct Witness {
    /// The predicate; NULL counts as false.
    pub(crate) filter: Expr,
    /// Whether such a span starts in the range of the query; else it starts within the extent around it.
    pub(crate) in_range: bool,
}

/// The predicates; none if every trace with a span in the range can be found.
pub(crate) fn witnesses(program: &Program) -> Vec<Witness> {
    let anything = |index: usize| {
        use crate::traceql::plan::Condition::Constant;
        matches!(program.conditions[index].early, None | Some(Constant(true)))
    };
    let start = Needs { members: Predicate::Anything, witnesses: Vec::new() };
    let needs = of_stages(&program.plan.stages, start, &anything);
    let expr = |predicate: &Predicate| lower(program, predicate);
    let mut found: Vec<Witness> = Vec::new();
    for predicate in needs.witnesses.iter().filter(|predicate| **predicate != Predicate::Anything) {
        let in_range = *predicate == needs.members;
        let filter = expr(predicate);
        if !found.iter().any(|known| known.filter == filter) {
            found.push(Witness { filter, in_range });
        }
    }
    if found.is_empty() && needs.members != Predicate::Anything {
        found.push(Witness { filter: expr(&needs.members), in_range: true });
    }
    found
}

fn lower(program: &Program, predicate: &Predicate) -> Expr {
    match predicate {
        Predicate::Anything => lit(true),
        Predicate::Condition(index) => {
            program.conditions[*index].early.as_ref().map_or_else(|| lit(true), lower::filter)
        }
        Predicate::And(one, other) => lower(program, one).and(lower(program, other)),
        Predicate::Or(one, other) => lower(program, one).or(lower(program, other)),
    }
}

fn of_stages(stages: &[PlannedStage], input: Needs, anything: &impl Fn(usize) -> bool) -> Needs {
    stages.iter().fold(input, |input, stage| match stage {
        PlannedStage::Spansets(spansets) => of_spansets(spansets, input, anything),
        PlannedStage::Filter { .. } | PlannedStage::GroupBy { .. } | PlannedStage::Coalesce => input,
    })
}

fn of_spansets(spansets: &PlannedSpansets, input: Needs, anything: &impl Fn(usize) -> bool) -> Needs {
    match spansets {
        PlannedSpansets::Filter(index) if anything(*index) => input,
        PlannedSpansets::Filter(index) => {
            let members = input.members.clone().and(Predicate::Condition(*index));
            let mut witnesses = input.witnesses;
            // Where all spans fulfil this, they fulfil what went before.
            witnesses.retain(|known| *known != input.members);
            witnesses.push(members.clone());
            Needs { members, witnesses }
        }
        PlannedSpansets::Pipeline(stages) => of_stages(stages, input, anything),
        PlannedSpansets::Binary { op, lhs, rhs } => {
            let left = of_spansets(lhs, input.clone(), anything);
            let right = of_spansets(rhs, input, anything);
            let both = |left: Needs, right: Needs, members| {
                let witnesses = left.witnesses.into_iter().chain(right.witnesses).collect();
                Needs { members, witnesses }
            };
            match op {
                SpansetOp::Structural { variant: Variant::Negated, .. } => right,
                SpansetOp::Structural { variant: Variant::Plain, .. } => {
                    let members = right.members.clone();
                    both(left, right, members)
                }
                SpansetOp::Structural { variant: Variant::Union, .. } | SpansetOp::Logical(LogicalOp::And) => {
                    let members = left.members.clone().or(right.members.clone());
                    both(left, right, members)
                }
                SpansetOp::Logical(LogicalOp::Or) => {
                    let members = left.members.or(right.members);
                    // One of the sides is not empty, whichever: one witness of each makes one of both.
                    let witness = match (left.witnesses.last(), right.witnesses.last()) {
                        (Some(left), Some(right)) => vec![left.clone().or(right.clone())],
                        _ => Vec::new(),
                    };
                    Needs { members, witnesses: witness }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::time::TimeRange, query::spansets::Output, traceql};

    /// Each predicate, and whether such a span starts in the range.
    fn shown(query: &str) -> Vec<(String, bool)> {
        let spansets = traceql::search(query).unwrap().spansets;
        let program = Program::new(&spansets, TimeRange::ALL, Output::Traces { spans_max: 1 }).unwrap();
        witnesses(&program).into_iter().map(|witness| (witness.filter.to_string(), witness.in_range)).collect()
    }

    #[test]
    fn what_must_be_there_follows_from_the_operators() {
        let (a, b) = (r#"name = Utf8("a")"#, r#"kind = Utf8("server")"#);
        let expect = |query: &str, expected: &[(&str, bool)]| {
            let query = query.replace('A', r#"{ name = "a" }"#).replace('B', "{ kind = server }");
            let expected: Vec<(String, bool)> =
                expected.iter().map(|(filter, in_range)| ((*filter).to_owned(), *in_range)).collect();
            assert_eq!(shown(&query), expected, "{query}");
        };
        expect("A", &[(a, true)]);
        expect("{}", &[]);
        expect("A >> B", &[(a, false), (b, true)]);
        expect("A &>> B", &[(a, false), (b, false)]);
        expect("A >> {}", &[(a, false)]);
        expect("{} >> B", &[(b, true)]);
        expect("A !>> B", &[(b, true)]);
        expect("A && B", &[(a, false), (b, false)]);
        expect("A || B", &[(&format!("{a} OR {b}"), true)]);
        expect("A || {}", &[]);
        expect("A | B", &[(&format!("{a} AND {b}"), true)]);
        expect("(A | count() > 1) > B | by(name) | coalesce()", &[(a, false), (b, true)]);
        expect(r#"{ rootName = "x" && name = "a" }"#, &[(a, true)]);
        expect(r#"{ rootName = "x" }"#, &[]);
    }
}
