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

/// Conditions of a predicate; beyond, it is a weaker one. Planning a condition takes longer than it saves at some time, and
/// the evaluation decides anyway.
const CONDITIONS_MAX: usize = 32;

/// Most predicates, for the same reason.
const WITNESSES_MAX: usize = 32;

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

impl Predicate {
    fn size(&self) -> usize {
        match self {
            Predicate::Anything => 0,
            Predicate::Condition(_) => 1,
            Predicate::And(one, other) | Predicate::Or(one, other) => one.size() + other.size(),
        }
    }

    /// A predicate of at most so many conditions that holds wherever this one does.
    fn weakened(&self, most: usize) -> Self {
        match self {
            whole if whole.size() <= most => whole.clone(),
            Predicate::And(one, other) => {
                let one = one.weakened(most);
                let left = most - one.size();
                one.and(other.weakened(left))
            }
            Predicate::Anything | Predicate::Condition(_) | Predicate::Or(..) => Predicate::Anything,
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
    for predicate in &needs.witnesses {
        let in_range = *predicate == needs.members;
        let predicate = predicate.weakened(CONDITIONS_MAX);
        if predicate == Predicate::Anything {
            continue;
        }
        let filter = expr(&predicate);
        if !found.iter().any(|known| known.filter == filter) {
            found.push(Witness { filter, in_range });
        }
    }
    let members = needs.members.weakened(CONDITIONS_MAX);
    if found.is_empty() && members != Predicate::Anything {
        found.push(Witness { filter: expr(&members), in_range: true });
    }
    if found.len() > WITNESSES_MAX {
        found.sort_by_key(|witness| !witness.in_range);
        found.truncate(WITNESSES_MAX);
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

    #[test]
    fn of_large_predicates_a_part_is_asked_and_of_large_choices_nothing() {
        let named =
            |count: usize, link: &str| (0..count).map(|n| format!("{{ name = `{n}` }}")).collect::<Vec<_>>().join(link);
        let found = shown(&named(CONDITIONS_MAX + 8, " | "));
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].0.matches(" AND ").count(), found[0].1), (CONDITIONS_MAX - 1, true));
        assert_eq!(shown(&named(CONDITIONS_MAX + 1, " || ")), []);
        assert_eq!(shown(&named(WITNESSES_MAX + 8, " >> ")).len(), WITNESSES_MAX);
    }
}
