//! Random queries by the grammar. Not all make sense; those that the check refuses are thrown away.

use super::Random;
use crate::query::data::START;

const FIELDS: &[&str] = &[
    ".a",
    ".b",
    ".c",
    "span.a",
    "span.b",
    "span.c",
    "resource.a",
    "resource.service.name",
    "instrumentation.b",
    "event.a",
    "event.b",
    "link.a",
    "parent.a",
    "parent.span.b",
    "parent.resource.service.name",
    "name",
    "duration",
    "status",
    "kind",
    "statusMessage",
    "span:id",
    "span:parentID",
    "span:childCount",
    "trace:id",
    "trace:duration",
    "rootName",
    "rootServiceName",
    "nestedSetLeft",
    "nestedSetRight",
    "nestedSetParent",
    "event:name",
    "event:timeSinceStart",
    "link:traceID",
    "link:spanID",
    "instrumentation:name",
    "instrumentation:version",
];

const NUMBERS: &[&str] = &[
    ".a",
    "span.a",
    "resource.a",
    "event.a",
    "duration",
    "span:childCount",
    "nestedSetLeft",
    "trace:duration",
    "parent.a",
    "event:timeSinceStart",
    ".c",
    "1",
    "2",
    "100ns",
    "0.5",
    "-1",
];

const COMPARISONS: &[&str] = &["=", "!=", "<", "<=", ">", ">="];

const RELATIONS: &[&str] = &[
    ">", ">>", "<", "<<", "~", "!>", "!>>", "!<", "!<<", "!~", "&>", "&>>", "&<", "&<<", "&~", "&&", "||", "&&", "||",
];

pub(super) fn query(random: &mut Random) -> String {
    match random.below(20) {
        0..5 => format!("{{ {} }}", condition(random, 3)),
        5..8 => of_items(random),
        _ => pipeline(random, 3, true),
    }
}

/// Fields of which a span may have several values, and what may stand beside them.
const OF_ITEMS: &[&str] = &[
    "event.a",
    "event.a",
    "event.b",
    "event.b",
    ".a",
    ".b",
    "event:name",
    "event:timeSinceStart",
    "link.a",
    "link.b",
    "link:spanID",
    "link:traceID",
    "parent.a",
    "instrumentation.a",
    "nestedSetParent",
];

/// A search that looks for events and links, and shows some.
fn of_items(random: &mut Random) -> String {
    let filter = |random: &mut Random| format!("{{ {} }}", item_condition(random, 2));
    let found = match random.below(6) {
        0 => format!("{} || {}", filter(random), filter(random)),
        1 => format!("{{ }} {} {}", random.pick(RELATIONS), filter(random)),
        2 => format!("{} | {}", filter(random), filter(random)),
        _ => filter(random),
    };
    let shown: Vec<&str> = (0..random.below(4)).map(|_| random.pick(OF_ITEMS)).collect();
    if shown.is_empty() { found } else { format!("{found} | select({})", shown.join(", ")) }
}

fn item_condition(random: &mut Random, depth: usize) -> String {
    if depth > 0 && random.chance(60) {
        let (a, b) = (item_condition(random, depth - 1), item_condition(random, depth - 1));
        return match random.below(10) {
            0 => format!("!({a})"),
            1..4 => format!("({a}) || ({b})"),
            _ => format!("{a} && {b}"),
        };
    }
    let field = random.pick(OF_ITEMS);
    match random.below(8) {
        0 => format!("{field} != nil"),
        1 => format!("{field} = nil"),
        _ => format!("{field} {} {}", random.pick(&["=", "=", "!=", ">", "<="]), literal(random, field)),
    }
}

/// Numbers that functions take of spans.
const MEASURES: &[&str] = &[
    "duration",
    "duration",
    "trace:duration",
    "event:timeSinceStart",
    "span.a",
    ".a",
    "resource.a",
    "event.a",
    "parent.a",
    "span:childCount",
    "nestedSetLeft",
    "nestedSetParent",
];

/// A query for time series.
pub(super) fn metrics(random: &mut Random) -> String {
    if random.chance(80) {
        return series(random);
    }
    let number = random.pick(&["2", "0.5", "3", "0"]);
    let op = random.pick(&["+", "-", "*", "/"]);
    match random.below(4) {
        0 => format!("({}) {op} {number}", series(random)),
        1 => format!("{number} {op} ({})", series(random)),
        _ => format!("({}) {op} ({})", series(random), series(random)),
    }
}

fn series(random: &mut Random) -> String {
    let spans = match random.below(10) {
        0..3 => "{ }".to_owned(),
        3..6 => format!("{{ {} }}", condition(random, 2)),
        6 => format!("{{ {} }} | {{ {} }}", condition(random, 1), condition(random, 1)),
        _ => pipeline(random, 2, true),
    };
    if random.chance(15) {
        let arguments = match random.below(3) {
            0 => String::new(),
            1 => format!(", {}", 1 + random.below(3)),
            _ => format!(", {}, {}, {}", 1 + random.below(12), START + 200, START + 600),
        };
        return format!("{spans} | compare({{ {} }}{arguments})", condition(random, 2));
    }
    let measure = random.pick(MEASURES);
    let function = match random.below(9) {
        0..2 => "rate()".to_owned(),
        2..4 => "count_over_time()".to_owned(),
        4 => format!("histogram_over_time({measure})"),
        5 => format!("quantile_over_time({measure}, {})", random.pick(&["0.5", "0.9, 0.99", "0", "1, 0.1"])),
        _ => format!("{}_over_time({measure})", random.pick(&["min", "max", "avg", "sum"])),
    };
    let by = match random.below(4) {
        0 => format!(" by({})", random.pick(FIELDS)),
        1 => format!(" by({}, {})", random.pick(FIELDS), random.pick(FIELDS)),
        _ => String::new(),
    };
    let mut text = format!("{spans} | {function}{by}");
    for _ in 0..random.below(3) {
        let stage = match random.below(3) {
            0 => format!(" | topk({})", 1 + random.below(3)),
            1 => format!(" | bottomk({})", 1 + random.below(3)),
            _ => format!(" {} {}", random.pick(COMPARISONS), random.pick(&["0", "1", "2", "0.5", "100ns", "10000000"])),
        };
        text.push_str(&stage);
    }
    text
}

fn pipeline(random: &mut Random, depth: usize, may_group: bool) -> String {
    let mut stages = Vec::new();
    if random.chance(90) {
        stages.push(spansets(random, depth));
    }
    let mut grouped = false;
    let more = random.below(3) + usize::from(stages.is_empty());
    for _ in 0..more {
        let stage = match random.below(10) {
            0..2 => spansets(random, 1),
            2..6 => scalar_filter(random, depth),
            6..8 => {
                grouped = true;
                format!("by({})", group(random))
            }
            8 if !stages.is_empty() => {
                grouped = false;
                "coalesce()".to_owned()
            }
            _ => format!("select({}, {})", random.pick(FIELDS), random.pick(FIELDS)),
        };
        stages.push(stage);
    }
    if grouped && !may_group {
        stages.push("coalesce()".to_owned());
    }
    stages.join(" | ")
}

fn group(random: &mut Random) -> String {
    match random.below(4) {
        0 => number(random, 1),
        1 => condition(random, 0),
        _ => random.pick(FIELDS).to_owned(),
    }
}

fn spansets(random: &mut Random, depth: usize) -> String {
    if depth == 0 || random.chance(35) {
        return format!("{{ {} }}", condition(random, depth.min(2)));
    }
    let side = |random: &mut Random| match random.below(6) {
        0 => format!("({})", pipeline(random, depth - 1, false)),
        1 => format!("({})", spansets(random, depth - 1)),
        2 => "{ }".to_owned(),
        _ => format!("{{ {} }}", condition(random, 1)),
    };
    let mut text = side(random);
    for _ in 0..=usize::from(random.chance(20)) {
        text = format!("{text} {} {}", random.pick(RELATIONS), side(random));
    }
    text
}

fn scalar_filter(random: &mut Random, depth: usize) -> String {
    let (a, b) = (scalar(random, depth), if random.chance(75) { constant(random) } else { scalar(random, depth) });
    let op = random.pick(COMPARISONS);
    if random.chance(85) { format!("{a} {op} {b}") } else { format!("{b} {op} {a}") }
}

fn constant(random: &mut Random) -> String {
    random.pick(&["0", "1", "2", "3", "100ns", "0.5", "200", "-1"]).to_owned()
}

fn scalar(random: &mut Random, depth: usize) -> String {
    match random.below(12) {
        0..5 => "count()".to_owned(),
        5..9 => format!("{}({})", random.pick(&["min", "max", "avg", "sum"]), number(random, 1)),
        9 if depth > 0 => {
            format!("({} | {})", pipeline(random, depth - 1, false), scalar(random, 0))
        }
        10 => format!("-({})", scalar(random, 0)),
        _ => format!("({} {} {})", scalar(random, 0), random.pick(&["+", "-", "*", "/"]), constant(random)),
    }
}

fn number(random: &mut Random, depth: usize) -> String {
    if depth == 0 || random.chance(60) {
        return random.pick(NUMBERS).to_owned();
    }
    let op = random.pick(&["+", "-", "*", "/", "%", "^"]);
    format!("({} {op} {})", number(random, depth - 1), number(random, depth - 1))
}

fn literal(random: &mut Random, field: &str) -> String {
    let of_its_own: &[&str] = match field {
        "name" | "rootName" | "event:name" => &["\"GET\"", "\"put\"", "\"x\"", "\"\""],
        "status" => &["ok", "error", "unset"],
        "kind" => &["server", "client", "internal", "producer", "consumer", "unspecified"],
        "duration" | "trace:duration" | "event:timeSinceStart" => &["0ns", "2ns", "100ns", "200ns", "500"],
        "span:id" | "span:parentID" | "link:spanID" => &["\"0000000000000001\"", "\"0000000000000002\"", "\"\""],
        "trace:id" => &["\"1\"", "\"02\"", "\"3\""],
        "link:traceID" => &["\"00000000000000000000000000000001\""],
        "span:childCount" | "nestedSetLeft" | "nestedSetRight" | "nestedSetParent" => &["0", "1", "2", "-1", "4"],
        "resource.service.name" | "parent.resource.service.name" | "rootServiceName" => &["\"shop\"", "\"cart\""],
        "instrumentation:name" => &["\"lib\"", "\"\""],
        _ if field.ends_with('a') => &["0", "1", "2", "-1", "0.5", "1.0"],
        _ if field.ends_with('b') => &["\"x\"", "\"y\"", "\"GET\"", "\"\""],
        _ if field.ends_with(".c") => &["true", "false"],
        _ => &["\"x\"", "\"1\"", "\"oops\"", "\"\""],
    };
    let other = &["1", "\"x\"", "true", "nil", "1.5", "2ns", "error", "9223372036854775807", "\"nil\""];
    if random.chance(80) { random.pick(of_its_own).to_owned() } else { random.pick(other).to_owned() }
}

fn condition(random: &mut Random, depth: usize) -> String {
    if depth > 0 && random.chance(45) {
        return match random.below(10) {
            0 => format!("!({})", condition(random, depth - 1)),
            1 => format!("({}) = ({})", condition(random, depth - 1), condition(random, depth - 1)),
            other => {
                let op = if other < 6 { "&&" } else { "||" };
                format!("({}) {op} ({})", condition(random, depth - 1), condition(random, depth - 1))
            }
        };
    }
    match random.below(20) {
        0 => "true".to_owned(),
        1 => "nestedSetParent < 0".to_owned(),
        2 => random.pick(&[".c", "span.c", "!.c", "!span.c", "!parent.c", "parent.c", "!!.c", "event.c"]).to_owned(),
        3 => {
            let field =
                random.pick(&["name", ".b", "span.b", "event.b", "rootName", "parent.b", "span:id", "statusMessage"]);
            format!(
                "{field} {} \"{}\"",
                random.pick(&["=~", "!~"]),
                random.pick(&["x|y", "[xy]", ".*", "", "G.T", ".*1"])
            )
        }
        4 => format!("{} {} {}", number(random, 2), random.pick(COMPARISONS), number(random, 1)),
        5 => format!("{} {} {}", random.pick(FIELDS), random.pick(COMPARISONS), random.pick(FIELDS)),
        6 => format!("{} {} nil", random.pick(FIELDS), random.pick(&["=", "!="])),
        _ => {
            let field = random.pick(FIELDS);
            let op = if random.chance(50) { "=" } else { random.pick(COMPARISONS) };
            let literal = literal(random, field);
            if random.chance(85) { format!("{field} {op} {literal}") } else { format!("{literal} {op} {field}") }
        }
    }
}
