//! The call tree of one trace: grown to an exact number of spans, then given faults and times.

use super::{
    faults::{self, Fault},
    random::Dice,
    shop::{Order, Repeat, Service, Shape, Shop, StepId},
};

/// No node.
const NONE: u32 = u32::MAX;

/// One span before it becomes one.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) step: StepId,
    pub(super) service: Service,
    parent: u32,
    first_child: u32,
    last_child: u32,
    next_sibling: u32,
    children: u32,
    /// Time added on top of the usual one.
    delay_ns: u64,
    pub(super) fault: Option<Fault>,
    /// The HTTP status, for HTTP spans.
    pub(super) http_status: u16,
    /// Start after the parent's start; after that of the trace for the root. Later: after that of the trace for all.
    pub(super) start_ns: u64,
    pub(super) duration_ns: u64,
}

/// The tree; parents come before their children in [`Tree::nodes`]. Reused from trace to trace.
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) nodes: Vec<Node>,
    /// Nodes that work through a list, with the step they repeat.
    loops: Vec<(u32, StepId)>,
    lanes: Vec<u64>,
}

impl Tree {
    /// Replaces the tree by one of exactly `spans` spans (at least one) below `root`.
    pub(super) fn grow(&mut self, shop: &Shop, root: StepId, spans: usize, dice: &mut Dice) {
        self.nodes.clear();
        self.loops.clear();
        let service = shop.step(root).service.unwrap_or(Service::ApiGateway);
        self.push(root, service, NONE);
        let mut expanded = 0;
        while self.nodes.len() < spans {
            if expanded < self.nodes.len() {
                self.expand(shop, expanded, spans, dice);
                expanded += 1;
                continue;
            }
            let calls = &shop.step(root).calls;
            let (node, step) = match self.loops.as_slice() {
                [] if calls.is_empty() => break,
                [] => (0, dice.pick(calls).step),
                loops => dice.pick(loops),
            };
            self.push_child(shop, step, node);
        }
    }

    fn expand(&mut self, shop: &Shop, index: usize, spans: usize, dice: &mut Dice) {
        let node = index as u32;
        for call in &shop.step(self.nodes[index].step).calls {
            if !dice.percent(call.percent) {
                continue;
            }
            let times = match call.repeat {
                Repeat::Once => 1,
                Repeat::Each => {
                    self.loops.push((node, call.step));
                    1 + dice.below(3)
                }
            };
            for _ in 0..times {
                if self.nodes.len() == spans {
                    return;
                }
                self.push_child(shop, call.step, node);
            }
        }
    }

    fn push_child(&mut self, shop: &Shop, step: StepId, parent: u32) {
        let service = shop.step(step).service.unwrap_or(self.nodes[parent as usize].service);
        self.push(step, service, parent);
    }

    fn push(&mut self, step: StepId, service: Service, parent: u32) {
        let index = self.nodes.len() as u32;
        if let Some(above) = self.nodes.get_mut(parent as usize) {
            let last = above.last_child;
            above.last_child = index;
            above.children += 1;
            match self.nodes.get_mut(last as usize) {
                Some(last) => last.next_sibling = index,
                None => self.nodes[parent as usize].first_child = index,
            }
        }
        self.nodes.push(Node {
            step,
            service,
            parent,
            first_child: NONE,
            last_child: NONE,
            next_sibling: NONE,
            children: 0,
            delay_ns: 0,
            fault: None,
            http_status: 0,
            start_ns: 0,
            duration_ns: 0,
        });
    }

    /// The index of a node's parent; `None` for the root.
    pub(super) fn parent(&self, index: usize) -> Option<usize> {
        let parent = self.nodes[index].parent;
        (parent != NONE).then_some(parent as usize)
    }

    fn random_node(&self, dice: &mut Dice) -> usize {
        dice.below(u32::try_from(self.nodes.len()).unwrap_or(u32::MAX)) as usize
    }

    /// Lets one span fail, and in most cases those that waited for it.
    pub(super) fn fail_one(&mut self, shop: &Shop, dice: &mut Dice) {
        let mut index = self.random_node(dice);
        self.nodes[index].fault = Some(faults::origin(shop.step(self.nodes[index].step).shape, dice));
        while let Some(parent) = self.parent(index) {
            let detached = shop.step(self.nodes[index].step).is_detached();
            // A client sees what its server answered; everyone else may have handled it.
            let answered = shop.step(self.nodes[index].step).service.is_some();
            if detached || !(answered || dice.percent(faults::PASSED_ON_PERCENT)) {
                break;
            }
            self.nodes[parent].fault = Some(faults::passed_on(dice));
            index = parent;
        }
    }

    /// Makes one span, and so those that wait for it, take a second or more.
    pub(super) fn slow_down_one(&mut self, shop: &Shop, dice: &mut Dice) {
        let detached = self.nodes.iter().position(|node| shop.step(node.step).is_detached());
        let index = match dice.below(100) {
            0..55 => detached.unwrap_or(0),
            55..75 => 0,
            _ => self.random_node(dice),
        };
        self.nodes[index].delay_ns = nanoseconds(dice.log_normal(1_700_000.0, 0.45));
    }

    /// Decides the HTTP statuses; a server's answer is what its client saw.
    pub(super) fn set_http_statuses(&mut self, shop: &Shop, dice: &mut Dice) {
        for index in 0..self.nodes.len() {
            let method = match shop.step(self.nodes[index].step).shape {
                Shape::HttpServer { method, .. } | Shape::HttpClient { method, .. } => method,
                _ => continue,
            };
            let asked = self
                .parent(index)
                .map(|parent| &self.nodes[parent])
                .filter(|parent| shop.step(self.nodes[index].step).service.is_some() && parent.http_status != 0);
            let status = match (&self.nodes[index].fault, asked) {
                (fault, Some(client)) if fault.is_some() == client.fault.is_some() => client.http_status,
                (Some(_), _) => faults::http_status(dice),
                (None, _) => usual_http_status(method, dice),
            };
            self.nodes[index].http_status = status;
        }
    }

    /// Gives every node its start and duration, children within their parents except for consumers of queues.
    ///
    /// Returns the nanoseconds from the start of the trace to the end of its last span.
    pub(super) fn lay_out(&mut self, shop: &Shop, dice: &mut Dice) -> u64 {
        for index in (0..self.nodes.len()).rev() {
            self.lay_out_children(shop, index, dice);
        }
        let mut end = 0;
        for index in 0..self.nodes.len() {
            if let Some(parent) = self.parent(index) {
                self.nodes[index].start_ns += self.nodes[parent].start_ns;
            }
            end = end.max(self.nodes[index].start_ns + self.nodes[index].duration_ns);
        }
        end
    }

    /// Children have durations by now: places them, and so gives the node its own.
    fn lay_out_children(&mut self, shop: &Shop, index: usize, dice: &mut Dice) {
        let (step, children) = (shop.step(self.nodes[index].step), self.nodes[index].children);
        let own = nanoseconds(dice.log_normal(f64::from(step.self_us), step.sigma)) + self.nodes[index].delay_ns;
        let lanes = match step.order {
            Order::Together => children.clamp(1, 6),
            Order::Sequence => 1,
        };
        // Long lists are worked through in batches, so that no request takes minutes.
        let lanes = lanes.max(children / 12);
        let before = own * 2 / 5;
        self.lanes.clear();
        self.lanes.resize(lanes as usize, before);
        let mut child = self.nodes[index].first_child;
        let mut detached = false;
        let mut turn = 0;
        while let Some(node) = self.nodes.get_mut(child as usize) {
            if shop.step(node.step).is_detached() {
                detached = true;
            } else {
                let lane = &mut self.lanes[turn % lanes as usize];
                node.start_ns = *lane;
                *lane += node.duration_ns + own / 50;
                turn += 1;
            }
            child = node.next_sibling;
        }
        let busy_until = self.lanes.iter().copied().max().unwrap_or(before);
        let duration = busy_until + (own - before);
        self.nodes[index].duration_ns = duration;
        if detached {
            self.lay_out_detached(shop, index, dice);
        }
    }

    /// Consumers start after their producer has ended, by the time that the message waited.
    fn lay_out_detached(&mut self, shop: &Shop, index: usize, dice: &mut Dice) {
        let producer_end = self.nodes[index].duration_ns;
        let mut child = self.nodes[index].first_child;
        while let Some(node) = self.nodes.get_mut(child as usize) {
            if shop.step(node.step).is_detached() {
                node.start_ns = producer_end + nanoseconds(dice.log_normal(9_000.0, 0.9));
            }
            child = node.next_sibling;
        }
    }
}

fn nanoseconds(microseconds: f64) -> u64 {
    (microseconds * 1_000.0) as u64
}

fn usual_http_status(method: &str, dice: &mut Dice) -> u16 {
    match (dice.below(100), method) {
        (0, _) => 404,
        (1, _) => dice.pick(&[400, 401, 403, 409, 429]),
        (2..8, "GET") => 304,
        (_, "POST") => 201,
        (_, "DELETE") => 204,
        _ => 200,
    }
}
