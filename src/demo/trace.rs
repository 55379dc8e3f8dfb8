//! One trace at a time: a tree of the shop's steps becomes finished OTLP spans.

use std::collections::VecDeque;

use opentelemetry_proto::tonic::{
    common::v1::KeyValue,
    trace::v1::{
        Span, Status,
        span::{Event, Link},
        status::StatusCode,
    },
};

use super::{
    attributes::{self, Session, int, text},
    faults,
    pods::Pods,
    random::Dice,
    shop::{Family, Service, Shape, Shop, Step},
    tree::{Node, Tree},
};

/// Spans per trace: the median and spread of a log-normal distribution.
const SPANS_MEDIAN: f64 = 15.0;
const SPANS_SIGMA: f64 = 0.915;
/// The largest trace.
const SPANS_MAX: usize = 2_000;
/// Share of traces that are far larger than the distribution gives, as batch jobs are.
const GIANT_CHANCE: f64 = 0.000_6;

const ERROR_TRACE_CHANCE: f64 = 0.172;
const SLOW_TRACE_CHANCE: f64 = 0.030;
const LINKED_TRACE_CHANCE: f64 = 0.10;
/// Old tracers make ids of 64 bits, which arrive with eight leading zero bytes.
const SHORT_ID_CHANCE: f64 = 0.01;
const TRACE_STATE_CHANCE: f64 = 0.08;

/// How many earlier traces a link may point to.
const RECENT_TRACES: usize = 64;

/// Flag bits of a span: sampled, and whether it is known that the parent is in another process.
const SAMPLED: u32 = 0x01;
const HAS_IS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;

/// A span on its way into a request, with where it belongs there.
#[derive(Debug)]
pub(super) struct PlacedSpan {
    pub(super) pod: u16,
    pub(super) family: Family,
    pub(super) service: Service,
    pub(super) span: Span,
}

/// A finished trace.
#[derive(Debug)]
pub(super) struct Trace {
    pub(super) spans: Vec<PlacedSpan>,
    /// From the start of the root to the end of the last span.
    pub(super) length_ns: u64,
}

/// Makes traces; all times in them start at zero.
#[derive(Debug)]
pub(super) struct TraceMaker {
    shop: Shop,
    pub(super) pods: Pods,
    dice: Dice,
    tree: Tree,
    ids: IdMask,
    span_ids: Vec<[u8; 8]>,
    recent: VecDeque<([u8; 16], [u8; 8])>,
}

impl TraceMaker {
    /// Draws by `seed`; traces that begin at another `start_unix_nano` have other ids, and are otherwise the same.
    pub(super) fn new(seed: u64, start_unix_nano: u64) -> Self {
        let mut dice = Dice::new(seed);
        Self {
            shop: Shop::new(),
            pods: Pods::new(&mut dice),
            dice,
            tree: Tree::default(),
            ids: IdMask::of(start_unix_nano),
            span_ids: Vec::new(),
            recent: VecDeque::with_capacity(RECENT_TRACES),
        }
    }

    pub(super) fn dice(&mut self) -> &mut Dice {
        &mut self.dice
    }

    /// The next trace, of at most `spans_max` spans.
    pub(super) fn next_trace(&mut self, spans_max: usize) -> Trace {
        let spans = self.draw_size().min(spans_max).max(1);
        let root = self.shop.root_for(spans, self.dice.unit());
        self.tree.grow(&self.shop, root, spans, &mut self.dice);
        if self.dice.chance(ERROR_TRACE_CHANCE) {
            self.tree.fail_one(&self.shop, &mut self.dice);
        }
        if self.dice.chance(SLOW_TRACE_CHANCE) {
            self.tree.slow_down_one(&self.shop, &mut self.dice);
        }
        self.tree.set_http_statuses(&self.shop, &mut self.dice);
        let length_ns = self.tree.lay_out(&self.shop, &mut self.dice);
        Trace { spans: self.render(), length_ns }
    }

    fn draw_size(&mut self) -> usize {
        if self.dice.chance(GIANT_CHANCE) {
            // From 300 to the maximum, small ones more often.
            return (300.0 * (SPANS_MAX as f64 / 300.0).powf(self.dice.unit())) as usize;
        }
        let size = self.dice.log_normal(SPANS_MEDIAN, SPANS_SIGMA);
        (size.round() as usize).clamp(1, SPANS_MAX)
    }

    fn render(&mut self) -> Vec<PlacedSpan> {
        let Self { shop, pods, dice, tree, ids, span_ids, recent } = self;
        let mut trace_id = ids.trace(dice.bytes());
        if dice.chance(SHORT_ID_CHANCE) {
            trace_id[..8].fill(0);
        }
        span_ids.clear();
        span_ids.extend((0..tree.nodes.len()).map(|_| ids.span(dice.bytes())));
        let session = Session::new(dice);
        let chosen_pods = pods.choose(dice);
        let trace_state =
            if dice.chance(TRACE_STATE_CHANCE) { format!("shop=s:{:x}", dice.below(0x1_0000)) } else { String::new() };
        let linked = dice.chance(LINKED_TRACE_CHANCE).then(|| link_holder(tree, shop));
        let mut spans = Vec::with_capacity(tree.nodes.len());
        for (index, node) in tree.nodes.iter().enumerate() {
            let step = shop.step(node.step);
            let parent = tree.parent(index);
            let links = match linked {
                Some(holder) if holder == index => link_to_recent(recent, dice),
                _ => Vec::new(),
            };
            let is_remote = step.service.is_some() && parent.is_some();
            let span = Span {
                trace_id: trace_id.to_vec(),
                span_id: span_ids[index].to_vec(),
                trace_state: trace_state.clone(),
                parent_span_id: parent.map(|parent| span_ids[parent].to_vec()).unwrap_or_default(),
                flags: SAMPLED | HAS_IS_REMOTE | if is_remote { IS_REMOTE } else { 0 },
                name: step.name.clone(),
                kind: step.shape.kind() as i32,
                start_time_unix_nano: node.start_ns,
                end_time_unix_nano: node.start_ns + node.duration_ns,
                attributes: attributes::of_span(node, step, &session, dice),
                dropped_attributes_count: 0,
                events: events(node, step, dice),
                dropped_events_count: 0,
                links,
                dropped_links_count: 0,
                status: Some(status(node, step)),
            };
            let pod = chosen_pods[node.service as usize];
            spans.push(PlacedSpan { pod, family: step.shape.family(), service: node.service, span });
        }
        if recent.len() == RECENT_TRACES {
            recent.pop_front();
        }
        recent.push_back((trace_id, span_ids[0]));
        spans
    }
}

/// Links are held by the first consumer, else by the root.
/// What turns the ids of a seed into those of a seed and a start, so that a second run adds traces instead of adding spans
/// to the traces of the first. Ids that differ differ afterwards too.
#[derive(Debug)]
struct IdMask([u8; 16]);

impl IdMask {
    fn of(start_unix_nano: u64) -> Self {
        Self(Dice::new(start_unix_nano).bytes())
    }

    fn trace(&self, drawn: [u8; 16]) -> [u8; 16] {
        std::array::from_fn(|at| drawn[at] ^ self.0[at])
    }

    fn span(&self, drawn: [u8; 8]) -> [u8; 8] {
        // The half that short trace ids have too, so that both differ.
        std::array::from_fn(|at| drawn[at] ^ self.0[8 + at])
    }
}

fn link_holder(tree: &Tree, shop: &Shop) -> usize {
    tree.nodes.iter().position(|node| shop.step(node.step).is_detached()).unwrap_or(0)
}

fn link_to_recent(recent: &VecDeque<([u8; 16], [u8; 8])>, dice: &mut Dice) -> Vec<Link> {
    let count = u32::try_from(recent.len()).unwrap_or(0);
    let Some((trace_id, span_id)) = recent.get(dice.below(count) as usize) else {
        return Vec::new();
    };
    let reason = dice.pick(&["follows_from", "retry_of", "batch_member"]);
    vec![Link {
        trace_id: trace_id.to_vec(),
        span_id: span_id.to_vec(),
        trace_state: String::new(),
        attributes: vec![text("link.reason", reason), int("link.position", dice.below(8))],
        dropped_attributes_count: 0,
        flags: SAMPLED,
    }]
}

fn status(node: &Node, step: &Step) -> Status {
    match &node.fault {
        Some(fault) => Status { code: StatusCode::Error as i32, message: fault.message.to_owned() },
        // Instrumentation leaves the status unset; the few that set it by hand are in the payment code.
        None if node.service == Service::Payment && matches!(step.shape, Shape::RpcServer { .. }) => {
            Status { code: StatusCode::Ok as i32, message: String::new() }
        }
        None => Status::default(),
    }
}

fn events(node: &Node, step: &Step, dice: &mut Dice) -> Vec<Event> {
    let mut events = Vec::new();
    if matches!(step.shape, Shape::Chat { .. }) {
        let attributes = vec![int("gen_ai.response.chunks", 1 + dice.below(90))];
        events.push(event(node.start_ns + node.duration_ns / 3, "gen_ai.first_token", attributes));
    }
    if let Some(fault) = node.fault.as_ref().filter(|fault| fault.has_exception) {
        let attributes = vec![
            text("exception.type", fault.error_type),
            text("exception.message", fault.message),
            text("exception.stacktrace", faults::stack_trace(node.service.language(), fault, dice)),
        ];
        events.push(event(node.start_ns + node.duration_ns * 9 / 10, "exception", attributes));
    }
    events
}

fn event(time_unix_nano: u64, name: &str, attributes: Vec<KeyValue>) -> Event {
    Event { time_unix_nano, name: name.to_owned(), attributes, dropped_attributes_count: 0 }
}
