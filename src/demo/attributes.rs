//! Span attributes, by the semantic conventions for the shape of the span, and by the shop's own names.

use std::fmt::Write;

use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, any_value::Value};

use super::{
    faults,
    random::Dice,
    shop::{Extra, Service, Shape, Step},
    tree::Node,
};

/// Users that there are; a run of a million spans meets about 21,000 of them.
const USERS: u32 = 31_500;
const PRODUCTS: u32 = 40_000;

const COUPONS: &[&str] = &["WELCOME10", "SUMMER25", "FREESHIP", "BUNDLE5", "LOYAL15"];
/// Seen in a few traces of ten thousand, so that searches for something rare have an answer.
const RARE_COUPON: &str = "GOLDEN-TICKET";

const USER_AGENTS: &[&str] = &[
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10.15; rv:145.0) Gecko/20100101 Firefox/145.0",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.6 Mobile/15E148 Safari/604.1",
    "shop-android/7.14.2 (okhttp 5.3)",
    "shop-ios/7.14.0 CFNetwork/3826.600.41 Darwin/24.6.0",
];

/// What the spans of one trace have in common.
#[derive(Debug)]
pub(super) struct Session {
    user: u32,
    user_agent: &'static str,
    client: [u8; 4],
    order: u64,
    session: [u8; 8],
    cart_items: u32,
    amount_cents: u32,
    coupon: Option<&'static str>,
}

impl Session {
    pub(super) fn new(dice: &mut Dice) -> Self {
        let coupon = match dice.below(10_000) {
            0..16 => Some(RARE_COUPON),
            16..2_500 => Some(COUPONS[dice.skewed(COUPONS.len() as u32, 1.6) as usize]),
            _ => None,
        };
        Self {
            user: dice.skewed(USERS, 1.35),
            user_agent: dice.pick(USER_AGENTS),
            client: dice.bytes(),
            order: dice.bits() >> 24,
            session: dice.bytes(),
            cart_items: 1 + dice.skewed(12, 2.5),
            amount_cents: dice.log_normal(4_900.0, 0.8) as u32,
            coupon,
        }
    }
}

pub(super) fn text(key: &str, value: impl Into<String>) -> KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

pub(super) fn int(key: &str, value: impl Into<i64>) -> KeyValue {
    attribute(key, Value::IntValue(value.into()))
}

fn double(key: &str, value: f64) -> KeyValue {
    attribute(key, Value::DoubleValue(value))
}

fn flag(key: &str, value: bool) -> KeyValue {
    attribute(key, Value::BoolValue(value))
}

fn list(key: &str, values: &[&str]) -> KeyValue {
    let item = |text: &&str| AnyValue { value: Some(Value::StringValue((*text).to_owned())) };
    attribute(key, Value::ArrayValue(ArrayValue { values: values.iter().map(item).collect() }))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), key_strindex: 0 }
}

/// The attributes of the span that `node` becomes.
pub(super) fn of_span(node: &Node, step: &Step, session: &Session, dice: &mut Dice) -> Vec<KeyValue> {
    let mut attributes = Vec::with_capacity(12);
    let out = &mut attributes;
    match step.shape {
        Shape::HttpServer { method, route } => http_server(out, node, method, route, session, dice),
        Shape::HttpClient { method, route, address } => {
            let outside = address.contains('.');
            let scheme = if outside { "https" } else { "http" };
            let path = path(route, session, dice);
            out.push(text("http.request.method", method));
            out.push(text("url.full", format!("{scheme}://{address}{path}")));
            out.push(text("server.address", address));
            out.push(int("server.port", if outside { 443 } else { 8080 }));
            out.push(peer(session));
            out.push(int("http.response.status_code", node.http_status));
            out.push(text("network.protocol.version", "1.1"));
        }
        Shape::RpcServer { service, method } => rpc(out, node, service, method),
        Shape::RpcClient { service, method, address } => {
            rpc(out, node, service, method);
            out.push(text("server.address", address));
            out.push(int("server.port", 9090));
            out.push(peer(session));
        }
        Shape::Publish { queue } => messaging(out, queue, "send", dice),
        Shape::Consume { queue } => messaging(out, queue, "process", dice),
        Shape::Database { system, operation, collection, statement } => {
            out.push(text("db.system.name", system));
            out.push(text("db.namespace", "shop"));
            out.push(text("db.operation.name", operation));
            out.push(text("db.collection.name", collection));
            out.push(text("db.query.text", statement));
            out.push(text("server.address", format!("{system}-{}.db.internal", session.user % 4)));
            out.push(int("server.port", database_port(system)));
            out.push(peer(session));
            if operation == "SELECT" || operation == "search" {
                out.push(int("db.response.returned_rows", dice.skewed(200, 3.0)));
            }
        }
        Shape::Cache { command, key } => cache(out, command, key, session, dice),
        Shape::Agent { name } => {
            out.push(text("gen_ai.operation.name", "invoke_agent"));
            out.push(text("gen_ai.agent.name", name));
            out.push(text("gen_ai.conversation.id", hex::encode(session.session)));
        }
        Shape::Chat { provider, model } => chat(out, provider, model, dice),
        Shape::Embeddings { provider, model } => {
            out.push(text("gen_ai.operation.name", "embeddings"));
            out.push(text("gen_ai.provider.name", provider));
            out.push(text("gen_ai.request.model", model));
            out.push(int("gen_ai.usage.input_tokens", 4 + dice.skewed(400, 2.0)));
        }
        Shape::Tool { name } => {
            out.push(text("gen_ai.operation.name", "execute_tool"));
            out.push(text("gen_ai.tool.name", name));
        }
        Shape::Internal => {
            out.push(text("code.function.name", format!("{}.{}", node.service.name(), step.name)));
            let thread = dice.below(64);
            out.push(int("thread.id", thread));
            out.push(text("thread.name", format!("worker-{thread}")));
        }
    }
    for extra in step.extras {
        out.extend(extra_attribute(*extra, session, dice));
    }
    if let Some(fault) = &node.fault {
        out.push(text("error.type", fault.error_type));
    }
    attributes
}

fn http_server(out: &mut Vec<KeyValue>, node: &Node, method: &str, route: &str, session: &Session, dice: &mut Dice) {
    out.push(text("http.request.method", method));
    out.push(text("http.route", route));
    out.push(text("url.path", path(route, session, dice)));
    out.push(text("url.scheme", "http"));
    out.push(text("server.address", node.service.name()));
    out.push(int("http.response.status_code", node.http_status));
    out.push(text("network.protocol.version", "1.1"));
    if matches!(node.service, Service::FrontendWeb | Service::ApiGateway) {
        let [a, b, c, d] = session.client;
        out.push(text("client.address", format!("{a}.{b}.{c}.{d}")));
        out.push(text("user_agent.original", session.user_agent));
    }
    if method != "GET" {
        out.push(int("http.request.body.size", 64 + dice.skewed(16_000, 3.0)));
    }
}

fn rpc(out: &mut Vec<KeyValue>, node: &Node, service: &str, method: &str) {
    out.push(text("rpc.system", "grpc"));
    out.push(text("rpc.service", service));
    out.push(text("rpc.method", method));
    out.push(int("rpc.grpc.status_code", node.fault.as_ref().map_or(0, faults::rpc_status)));
}

fn database_port(system: &str) -> i64 {
    match system {
        "postgresql" => 5432,
        "mongodb" => 27_017,
        "elasticsearch" => 9200,
        "clickhouse" => 9440,
        _ => 6334,
    }
}

/// The address on the other end of a connection, inside the cluster.
fn peer(session: &Session) -> KeyValue {
    let [_, _, c, d] = session.client;
    text("network.peer.address", format!("10.{}.{c}.{d}", session.user % 16))
}

fn messaging(out: &mut Vec<KeyValue>, queue: &str, operation: &str, dice: &mut Dice) {
    out.push(text("messaging.system", "kafka"));
    out.push(text("messaging.destination.name", queue));
    out.push(text("messaging.operation.type", operation));
    out.push(text("messaging.message.id", hex::encode(dice.bytes::<12>())));
    out.push(text("messaging.destination.partition.id", dice.below(12).to_string()));
    out.push(int("messaging.kafka.offset", 70_000_000 + i64::from(dice.below(9_000_000))));
}

fn cache(out: &mut Vec<KeyValue>, command: &str, key: &str, session: &Session, dice: &mut Dice) {
    let id = if key == "user:" || key == "cart:" { session.user } else { dice.skewed(PRODUCTS, 2.0) };
    out.push(text("db.system.name", "redis"));
    out.push(text("db.operation.name", command));
    out.push(text("db.query.text", format!("{command} {key}{id}")));
    out.push(text("server.address", "redis-main.cache.internal"));
    out.push(int("server.port", 6379));
    out.push(peer(session));
    if command == "GET" || command == "MGET" {
        out.push(flag("cache.hit", dice.percent(72)));
    }
}

fn chat(out: &mut Vec<KeyValue>, provider: &str, model: &str, dice: &mut Dice) {
    let finish = if dice.percent(70) { "stop" } else { "tool_calls" };
    out.push(text("gen_ai.operation.name", "chat"));
    out.push(text("gen_ai.provider.name", provider));
    out.push(text("gen_ai.request.model", model));
    out.push(double("gen_ai.request.temperature", 0.2));
    out.push(int("gen_ai.usage.input_tokens", dice.log_normal(900.0, 0.7) as i64));
    out.push(int("gen_ai.usage.output_tokens", dice.log_normal(180.0, 0.8) as i64));
    out.push(list("gen_ai.response.finish_reasons", &[finish]));
    out.push(double("gen_ai.evaluation.score.value", rounded(1.0 - 0.6 * dice.unit() * dice.unit())));
    out.push(flag("gen_ai.request.stream", dice.percent(60)));
}

fn extra_attribute(extra: Extra, session: &Session, dice: &mut Dice) -> Option<KeyValue> {
    Some(match extra {
        Extra::UserId => text("user.id", format!("user-{:05}", session.user)),
        Extra::SessionId => text("session.id", hex::encode(session.session)),
        Extra::OrderId => text("shop.order.id", format!("ord-{:010x}", session.order)),
        Extra::ProductId => int("shop.product.id", dice.skewed(PRODUCTS, 2.0)),
        Extra::CartItems => int("shop.cart.items", session.cart_items),
        Extra::Amount => double("shop.amount", f64::from(session.amount_cents) / 100.0),
        Extra::Coupon => text("shop.coupon.code", session.coupon?),
        Extra::FraudScore => double("shop.fraud.score", rounded(dice.unit() * dice.unit() * dice.unit())),
        Extra::Premium => flag("shop.user.premium", session.user.is_multiple_of(9)),
        Extra::FeatureFlag => {
            text("feature_flag.result.variant", if session.user.is_multiple_of(2) { "on" } else { "off" })
        }
        Extra::ResultCount => int("shop.result.count", dice.skewed(120, 1.5)),
        Extra::BatchSize => int("shop.batch.size", 10 + dice.skewed(990, 2.0)),
        Extra::Channel => {
            text("shop.notification.channel", if session.user.is_multiple_of(3) { "push" } else { "email" })
        }
        Extra::Categories => list(
            "shop.categories",
            [&["shoes", "outdoor"][..], &["books"], &["kitchen", "home", "sale"]][dice.below(3) as usize],
        ),
    })
}

/// Three decimals, as scores are usually reported.
fn rounded(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

/// The route with its placeholders filled in.
fn path(route: &str, session: &Session, dice: &mut Dice) -> String {
    let mut path = String::with_capacity(route.len() + 16);
    let mut rest = route;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').unwrap_or((after, ""));
        path.push_str(before);
        // Writing to a string cannot fail.
        let _ = match name {
            "user_id" => write!(path, "user-{:05}", session.user),
            "order_id" => write!(path, "ord-{:010x}", session.order),
            "product_id" => write!(path, "{}", dice.skewed(PRODUCTS, 2.0)),
            _ => write!(path, "{:08x}", dice.bits() >> 32),
        };
        rest = after;
    }
    path.push_str(rest);
    path
}
