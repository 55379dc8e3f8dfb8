//! The shop: which services exist, what each of their operations calls, and how long the steps take.
//!
//! [`operations`] and [`steps`] are tables of constants that name each other by short ids. [`Shop::new`] resolves them
//! once into a graph of [`Step`]s, one per kind of span. A call to an operation of another service becomes two steps, the
//! caller's client (or producer) span and the callee's server (or consumer) span; everything else is one step in the
//! caller. The graph has no cycles, so growing a trace always ends.

mod operations;
mod services;
mod steps;

use std::collections::HashMap;

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

pub(super) use services::{Language, Service};

/// Where a step stands in [`Shop::steps`].
pub(super) type StepId = u16;

/// One call in the tables: whom, how often, and whether once or once per item.
#[derive(Clone, Copy, Debug)]
struct CallSpec {
    target: &'static str,
    percent: u8,
    repeat: Repeat,
}

/// How many times a call is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    /// Once.
    Once,
    /// Once per item of a list: a few times, and as often as needed to make the trace as large as asked for.
    Each,
}

const fn always(target: &'static str) -> CallSpec {
    CallSpec { target, percent: 100, repeat: Repeat::Once }
}

const fn maybe(percent: u8, target: &'static str) -> CallSpec {
    CallSpec { target, percent, repeat: Repeat::Once }
}

const fn each(target: &'static str) -> CallSpec {
    CallSpec { target, percent: 100, repeat: Repeat::Each }
}

/// What a span is about; decides its kind, its instrumentation library and its attributes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    HttpServer { method: &'static str, route: &'static str },
    HttpClient { method: &'static str, route: &'static str, address: &'static str },
    RpcServer { service: &'static str, method: &'static str },
    RpcClient { service: &'static str, method: &'static str, address: &'static str },
    Publish { queue: &'static str },
    Consume { queue: &'static str },
    Database { system: &'static str, operation: &'static str, collection: &'static str, statement: &'static str },
    Cache { command: &'static str, key: &'static str },
    Agent { name: &'static str },
    Chat { provider: &'static str, model: &'static str },
    Embeddings { provider: &'static str, model: &'static str },
    Tool { name: &'static str },
    Internal,
}

/// Groups of shapes that come from one instrumentation library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Http,
    Rpc,
    Messaging,
    Database,
    Cache,
    GenAi,
    App,
}

impl Family {
    pub(super) const COUNT: usize = 7;
}

impl Shape {
    pub(super) fn kind(self) -> SpanKind {
        match self {
            Shape::HttpServer { .. } | Shape::RpcServer { .. } => SpanKind::Server,
            Shape::HttpClient { .. }
            | Shape::RpcClient { .. }
            | Shape::Database { .. }
            | Shape::Cache { .. }
            | Shape::Chat { .. }
            | Shape::Embeddings { .. } => SpanKind::Client,
            Shape::Publish { .. } => SpanKind::Producer,
            Shape::Consume { .. } => SpanKind::Consumer,
            Shape::Agent { .. } | Shape::Tool { .. } | Shape::Internal => SpanKind::Internal,
        }
    }

    pub(super) fn family(self) -> Family {
        match self {
            Shape::HttpServer { .. } | Shape::HttpClient { .. } => Family::Http,
            Shape::RpcServer { .. } | Shape::RpcClient { .. } => Family::Rpc,
            Shape::Publish { .. } | Shape::Consume { .. } => Family::Messaging,
            Shape::Database { .. } => Family::Database,
            Shape::Cache { .. } => Family::Cache,
            Shape::Agent { .. } | Shape::Chat { .. } | Shape::Embeddings { .. } | Shape::Tool { .. } => Family::GenAi,
            Shape::Internal => Family::App,
        }
    }
}

/// Attributes of the shop itself, on top of those that the shape brings.
#[derive(Clone, Copy, Debug)]
pub(super) enum Extra {
    UserId,
    SessionId,
    OrderId,
    ProductId,
    CartItems,
    Amount,
    Coupon,
    FraudScore,
    Premium,
    FeatureFlag,
    ResultCount,
    BatchSize,
    Channel,
    Categories,
}

/// How the children of a span follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// One after the other.
    Sequence,
    /// At the same time, over a few lanes.
    Together,
}

/// A call of a resolved step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) step: StepId,
    pub(super) percent: u8,
    pub(super) repeat: Repeat,
}

/// One kind of span, and what it calls.
#[derive(Debug)]
pub(super) struct Step {
    /// `None`: the service of the caller.
    pub(super) service: Option<Service>,
    pub(super) name: String,
    pub(super) shape: Shape,
    pub(super) extras: &'static [Extra],
    /// Median of the time spent outside of children, in microseconds.
    pub(super) self_us: u32,
    /// Spread of that time: the sigma of its log-normal distribution.
    pub(super) sigma: f64,
    pub(super) order: Order,
    pub(super) calls: Vec<Call>,
}

impl Step {
    /// Runs after its parent has ended, as a consumer of a queue does.
    pub(super) fn is_detached(&self) -> bool {
        matches!(self.shape, Shape::Consume { .. })
    }
}

/// An operation with which traces begin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Root {
    pub(super) step: StepId,
    weight: u32,
    spans_min: usize,
    spans_max: usize,
}

/// The resolved graph of steps.
#[derive(Debug)]
pub(super) struct Shop {
    pub(super) steps: Vec<Step>,
    roots: Vec<Root>,
}

impl Shop {
    pub(super) fn new() -> Self {
        let mut ids: HashMap<&str, StepId> = HashMap::new();
        let mut steps = Vec::new();
        let mut call_specs = Vec::new();
        for leaf in steps::STEPS {
            ids.insert(leaf.id, id_of(steps.len()));
            steps.push(leaf.resolve());
            call_specs.push(leaf.calls);
        }
        let mut entries: HashMap<&str, StepId> = HashMap::new();
        for operation in operations::OPERATIONS {
            let entry = id_of(steps.len());
            entries.insert(operation.id, entry);
            steps.push(operation.resolve());
            call_specs.push(operation.calls);
            if let Some(caller) = operation.resolve_caller(entry) {
                ids.insert(operation.id, id_of(steps.len()));
                steps.push(caller);
                call_specs.push(&[]);
            }
        }
        for (step, specs) in steps.iter_mut().zip(&call_specs) {
            step.calls.extend(specs.iter().filter_map(|spec| {
                let target = *ids.get(spec.target)?;
                Some(Call { step: target, percent: spec.percent, repeat: spec.repeat })
            }));
        }
        let roots = operations::ROOTS
            .iter()
            .filter_map(|root| {
                let (spans_min, spans_max) = root.spans;
                Some(Root { step: *entries.get(root.operation)?, weight: root.weight, spans_min, spans_max })
            })
            .collect();
        Self { steps, roots }
    }

    pub(super) fn step(&self, id: StepId) -> &Step {
        &self.steps[usize::from(id)]
    }

    /// The operation that begins a trace of `spans` spans; `draw` in [0, 1) chooses among the fitting ones.
    pub(super) fn root_for(&self, spans: usize, draw: f64) -> StepId {
        let fits = |root: &&Root| (root.spans_min..=root.spans_max).contains(&spans);
        let total: u32 = self.roots.iter().filter(fits).map(|root| root.weight).sum();
        let mut left = draw * f64::from(total);
        let mut chosen = self.roots[0].step;
        for root in self.roots.iter().filter(fits) {
            chosen = root.step;
            left -= f64::from(root.weight);
            if left < 0.0 {
                break;
            }
        }
        chosen
    }
}

/// The tables are far smaller than the id's range.
fn id_of(index: usize) -> StepId {
    StepId::try_from(index).unwrap_or(StepId::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_id_in_the_tables_resolves() {
        let known: BTreeSet<&str> =
            steps::STEPS.iter().map(|s| s.id).chain(operations::OPERATIONS.iter().map(|o| o.id)).collect();
        assert_eq!(known.len(), steps::STEPS.len() + operations::OPERATIONS.len(), "ids are unique");
        let calls =
            steps::STEPS.iter().flat_map(|s| s.calls).chain(operations::OPERATIONS.iter().flat_map(|o| o.calls));
        let mut called = BTreeSet::new();
        for call in calls {
            assert!(known.contains(call.target), "{} is called and does not exist", call.target);
            called.insert(call.target);
        }
        for root in operations::ROOTS {
            assert!(operations::OPERATIONS.iter().any(|o| o.id == root.operation), "{}", root.operation);
            called.insert(root.operation);
        }
        let idle: Vec<_> = known.difference(&called).collect();
        assert!(idle.is_empty(), "nothing calls {idle:?}");
    }

    #[test]
    fn the_shop_has_the_intended_breadth() {
        let shop = Shop::new();
        let services: BTreeSet<_> = shop.steps.iter().filter_map(|s| s.service).map(Service::name).collect();
        let names: BTreeSet<_> = shop.steps.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(services.len(), 15);
        assert_eq!(operations::OPERATIONS.len(), 60);
        assert_eq!(names.len(), 119, "{names:#?}");
        assert_eq!(Service::ALL.iter().map(|s| s.pods()).sum::<usize>(), 195);
    }

    #[test]
    fn the_call_graph_has_no_cycle() {
        fn visit(shop: &Shop, step: StepId, path: &mut Vec<StepId>, done: &mut BTreeSet<StepId>) {
            assert!(!path.contains(&step), "cycle through {}", shop.step(step).name);
            if done.contains(&step) {
                return;
            }
            path.push(step);
            for call in &shop.step(step).calls {
                visit(shop, call.step, path, done);
            }
            path.pop();
            done.insert(step);
        }
        let shop = Shop::new();
        let mut done = BTreeSet::new();
        for root in &shop.roots {
            visit(&shop, root.step, &mut Vec::new(), &mut done);
        }
    }

    #[test]
    fn a_trace_of_any_size_has_a_root_that_calls_something() {
        let shop = Shop::new();
        for spans in 1..=2_000 {
            let step = shop.root_for(spans, 0.999);
            assert!(shop.roots.iter().any(|r| r.step == step && (r.spans_min..=r.spans_max).contains(&spans)));
            assert!(spans == 1 || !shop.step(step).calls.is_empty());
        }
    }
}
