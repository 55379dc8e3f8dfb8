//! Random traces.

use super::Random;
use crate::traceql::reference::{Attr, Attributes, Event, Link, Span};

/// Most traces of a world.
const TRACES_MAX: usize = 6;

/// Rows of the few small traces of a world.
pub(super) fn rows(random: &mut Random, world: usize) -> Vec<Span> {
    let traces = 1 + random.below(TRACES_MAX);
    let mut rows = Vec::new();
    for trace in 1..=traces {
        let trace = (world * TRACES_MAX + trace) as u64;
        let spans = 1 + random.below(9);
        let mut of_trace: Vec<Span> = Vec::new();
        for number in 1..=spans as u64 {
            let mut span = span(random, trace, number, spans);
            if number > 1 && random.chance(8) {
                // The other half of a call, as Zipkin sends it.
                let other = &of_trace[random.below(of_trace.len())];
                span.id = other.id;
                span.kind = (other.kind + 1 + random.below(5)) % 6;
                if random.chance(70) {
                    span.parent = other.parent;
                }
            }
            if of_trace.iter().all(|other| (other.id, other.kind) != (span.id, span.kind)) {
                of_trace.push(span);
            }
        }
        for index in 0..of_trace.len() {
            if random.chance(12) {
                let mut copy = of_trace[index].clone();
                if random.chance(40) {
                    copy.start += 1 + random.below(60) as i64;
                    copy.own = attributes(random, 60);
                    copy.name = name(random);
                }
                of_trace.push(copy);
            }
        }
        rows.extend(of_trace);
    }
    rows
}

fn name(random: &mut Random) -> String {
    random.pick(&["GET", "put", "x", "y", ""]).to_owned()
}

fn span(random: &mut Random, trace: u64, number: u64, spans: usize) -> Span {
    let parent = match random.below(100) {
        0..15 => None,
        15..25 => Some(90 + random.below(2) as u64),
        25..35 => Some(1 + random.below(spans) as u64),
        _ if number > 1 => Some(1 + random.below(number as usize - 1) as u64),
        _ => None,
    };
    let start = random.below(1000) as i64;
    let events = if random.chance(60) { random.below(3) } else { 0 };
    let links = usize::from(random.chance(15)) + usize::from(random.chance(8));
    Span {
        trace,
        id: number,
        parent,
        kind: random.below(6),
        status: random.below(3),
        name: name(random),
        message: random.pick(&["", "", "oops"]).to_owned(),
        start,
        duration: random.below(400) as i64 - 5,
        scope_name: random.pick(&["", "lib"]).to_owned(),
        scope_version: random.pick(&["", "1"]).to_owned(),
        own: attributes(random, 60),
        resource: resource(random),
        scope: attributes(random, 10),
        events: (0..events)
            .map(|_| Event {
                at: start + random.below(9) as i64 - 1,
                name: name(random),
                attributes: attributes(random, 40),
            })
            .collect(),
        links: (0..links)
            .map(|_| Link {
                trace: 1 + random.below(2) as u64,
                span: 1 + random.below(3) as u64,
                attributes: attributes(random, 40),
            })
            .collect(),
    }
}

fn resource(random: &mut Random) -> Attributes {
    let mut resource = attributes(random, 20);
    match random.below(12) {
        0 => {}
        1 => drop(resource.insert("service.name".to_owned(), Attr::Int(7))),
        other => {
            let name = ["shop", "cart", "pay"][other % 3];
            resource.insert("service.name".to_owned(), Attr::Str(name.to_owned()));
        }
    }
    resource
}

/// Attributes `a`, `b`, `c`, each there with a chance in percent.
fn attributes(random: &mut Random, percent: usize) -> Attributes {
    let mut attributes = Attributes::new();
    for key in ["a", "b", "c"] {
        if random.chance(percent) {
            attributes.insert(key.to_owned(), value(random, key));
        }
    }
    attributes
}

/// Mostly of the key's own type.
fn value(random: &mut Random, key: &str) -> Attr {
    let own = random.chance(75);
    match (key, own) {
        ("a", true) => Attr::Int(random.below(5) as i64 - 1),
        ("b", true) => Attr::Str(random.pick(&["x", "y", "GET", ""]).to_owned()),
        (_, true) => Attr::Bool(random.chance(50)),
        _ => match random.below(9) {
            0 => Attr::Empty,
            1 => Attr::Str(random.pick(&["1", "nil", "x"]).to_owned()),
            2 => Attr::Float([0.5, 1.0, -1.5, 2.0][random.below(4)]),
            3 => Attr::Int([i64::MAX, i64::MIN, 1 << 53, 3][random.below(4)]),
            4 => Attr::Json(random.pick(&["[1,2]", "[\"x\",\"y\"]", "[]", "[1,\"x\",true]", "[[1],2.5]"]).to_owned()),
            5 => Attr::Json(random.pick(&["{\"k\":1}", "{\"$bytes\":\"AA==\"}"]).to_owned()),
            6 => Attr::Bool(true),
            7 => Attr::Int(1),
            _ => Attr::Float(1.0),
        },
    }
}
