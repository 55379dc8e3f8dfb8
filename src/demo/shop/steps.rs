//! The steps inside a service: database, cache, model and outside calls, and work worth a span of its own.

use super::{CallSpec, Extra, Order, Shape, Step, always, each, maybe};

/// One step of whichever service calls it.
#[derive(Clone, Copy, Debug)]
pub(super) struct StepSpec {
    pub(super) id: &'static str,
    /// Set where the name does not follow from the shape.
    name: Option<&'static str>,
    shape: Shape,
    self_us: u32,
    sigma: f64,
    extras: &'static [Extra],
    pub(super) calls: &'static [CallSpec],
}

impl StepSpec {
    const fn new(id: &'static str, shape: Shape, self_us: u32, sigma: f64) -> Self {
        Self { id, name: None, shape, self_us, sigma, extras: &[], calls: &[] }
    }

    const fn with(mut self, extras: &'static [Extra]) -> Self {
        self.extras = extras;
        self
    }

    const fn calls(mut self, calls: &'static [CallSpec]) -> Self {
        self.calls = calls;
        self
    }

    fn span_name(&self) -> String {
        match (self.name, self.shape) {
            (Some(name), _) => name.to_owned(),
            (None, Shape::Database { operation, collection, .. }) => format!("{operation} {collection}"),
            (None, Shape::Cache { command, .. }) => command.to_owned(),
            (None, Shape::HttpClient { method, .. }) => method.to_owned(),
            (None, Shape::Agent { name }) => format!("invoke_agent {name}"),
            (None, Shape::Chat { model, .. }) => format!("chat {model}"),
            (None, Shape::Embeddings { model, .. }) => format!("embeddings {model}"),
            (None, Shape::Tool { name }) => format!("execute_tool {name}"),
            (None, _) => self.id.to_owned(),
        }
    }

    pub(super) fn resolve(&self) -> Step {
        Step {
            service: None,
            name: self.span_name(),
            shape: self.shape,
            extras: self.extras,
            self_us: self.self_us,
            sigma: self.sigma,
            order: Order::Sequence,
            calls: Vec::new(),
        }
    }
}

const fn sql(id: &'static str, operation: &'static str, collection: &'static str, statement: &'static str) -> StepSpec {
    StepSpec::new(id, Shape::Database { system: "postgresql", operation, collection, statement }, 1_300, 0.8)
}

const fn store(
    id: &'static str,
    system: &'static str,
    operation: &'static str,
    collection: &'static str,
    statement: &'static str,
) -> StepSpec {
    StepSpec::new(id, Shape::Database { system, operation, collection, statement }, 3_200, 0.8)
}

const fn cache(id: &'static str, command: &'static str, key: &'static str) -> StepSpec {
    StepSpec::new(id, Shape::Cache { command, key }, 260, 0.5)
}

const fn work(id: &'static str, name: &'static str, self_us: u32) -> StepSpec {
    let mut step = StepSpec::new(id, Shape::Internal, self_us, 0.6);
    step.name = Some(name);
    step
}

const fn outside(id: &'static str, method: &'static str, address: &'static str, route: &'static str) -> StepSpec {
    StepSpec::new(id, Shape::HttpClient { method, route, address }, 38_000, 0.7)
}

use Extra::{Amount, Channel, FraudScore, ResultCount};

pub(super) const STEPS: &[StepSpec] = &[
    // PostgreSQL.
    sql(
        "db-user-select",
        "SELECT",
        "users",
        "SELECT id, email, name, locale, premium, created_at FROM users WHERE id = $1",
    ),
    sql(
        "db-user-update",
        "UPDATE",
        "users",
        "UPDATE users SET name = $2, locale = $3, updated_at = now() WHERE id = $1",
    ),
    sql(
        "db-address-select",
        "SELECT",
        "addresses",
        "SELECT id, street, city, postcode, country FROM addresses WHERE user_id = $1",
    ),
    sql(
        "db-session-insert",
        "INSERT",
        "sessions",
        "INSERT INTO sessions (token_hash, user_id, expires_at, scopes) VALUES ($1, $2, $3, $4)",
    ),
    sql(
        "db-products-select",
        "SELECT",
        "products",
        "SELECT p.id, p.title, p.slug, p.image FROM products p JOIN categories c ON c.id = p.category_id WHERE c.slug = $1 ORDER BY p.rank LIMIT $2",
    ),
    sql(
        "db-product-select",
        "SELECT",
        "products",
        "SELECT id, title, slug, description, image, category_id FROM products WHERE id = $1",
    ),
    sql(
        "db-variants-select",
        "SELECT",
        "product_variants",
        "SELECT id, size, colour, sku FROM product_variants WHERE product_id = $1",
    ),
    sql(
        "db-order-insert",
        "INSERT",
        "orders",
        "INSERT INTO orders (id, user_id, total_cents, currency, state) VALUES ($1, $2, $3, $4, 'placed')",
    ),
    sql(
        "db-order-select",
        "SELECT",
        "orders",
        "SELECT id, user_id, total_cents, currency, state FROM orders WHERE user_id = $1 ORDER BY created_at DESC LIMIT 50",
    ),
    sql(
        "db-order-update",
        "UPDATE",
        "orders",
        "UPDATE orders SET state = $2, updated_at = now() WHERE id = $1 AND state = $3",
    ),
    sql(
        "db-items-insert",
        "INSERT",
        "order_items",
        "INSERT INTO order_items (order_id, sku, quantity, price_cents) SELECT * FROM unnest($1, $2, $3, $4)",
    ),
    sql(
        "db-items-select",
        "SELECT",
        "order_items",
        "SELECT sku, quantity, price_cents FROM order_items WHERE order_id = $1",
    ),
    sql(
        "db-payment-insert",
        "INSERT",
        "payments",
        "INSERT INTO payments (order_id, amount_cents, currency, acquirer_ref) VALUES ($1, $2, $3, $4)",
    ),
    sql(
        "db-payment-select",
        "SELECT",
        "payments",
        "SELECT id, order_id, amount_cents FROM payments WHERE state = 'captured' AND settled_at IS NULL LIMIT 500",
    ),
    sql("db-payment-lock", "SELECT", "payments", "SELECT id FROM payments WHERE order_id = $1 FOR UPDATE NOWAIT"),
    sql("db-payment-update", "UPDATE", "payments", "UPDATE payments SET state = $2, settled_at = now() WHERE id = $1"),
    sql(
        "db-price-select",
        "SELECT",
        "prices",
        "SELECT amount_cents, currency, valid_until FROM prices WHERE product_id = $1 AND region = $2",
    ),
    sql(
        "db-discount-select",
        "SELECT",
        "discounts",
        "SELECT percent, minimum_cents FROM discounts WHERE code = $1 AND valid_until > now()",
    ),
    sql("db-stock-select", "SELECT", "stock", "SELECT warehouse, available, reserved FROM stock WHERE sku = $1"),
    sql(
        "db-stock-update",
        "UPDATE",
        "stock",
        "UPDATE stock SET reserved = reserved + $2 WHERE sku = $1 AND available - reserved >= $2",
    ),
    sql(
        "db-shipment-select",
        "SELECT",
        "shipments",
        "SELECT id, carrier, tracking, state FROM shipments WHERE id = $1",
    ),
    sql(
        "db-shipment-insert",
        "INSERT",
        "shipments",
        "INSERT INTO shipments (id, order_id, carrier, state) VALUES ($1, $2, $3, 'created')",
    ),
    sql(
        "db-template-select",
        "SELECT",
        "templates",
        "SELECT subject, body FROM templates WHERE name = $1 AND locale = $2",
    ),
    sql(
        "db-chat-select",
        "SELECT",
        "chat_messages",
        "SELECT role, content FROM chat_messages WHERE chat_id = $1 ORDER BY id DESC LIMIT 20",
    ),
    sql(
        "db-chat-insert",
        "INSERT",
        "chat_messages",
        "INSERT INTO chat_messages (chat_id, role, content) VALUES ($1, $2, $3)",
    ),
    // Other stores.
    store(
        "db-cart-find",
        "mongodb",
        "find",
        "carts",
        "{\"find\":\"carts\",\"filter\":{\"user_id\":\"?\"},\"limit\":1}",
    ),
    store(
        "db-cart-update",
        "mongodb",
        "findAndModify",
        "carts",
        "{\"findAndModify\":\"carts\",\"query\":{\"user_id\":\"?\"},\"update\":{\"$push\":{\"items\":\"?\"}}}",
    ),
    store(
        "es-search",
        "elasticsearch",
        "search",
        "products-v7",
        "{\"query\":{\"multi_match\":{\"query\":\"?\",\"fields\":[\"title^3\",\"description\"]}},\"size\":24}",
    ),
    store("es-bulk", "elasticsearch", "bulk", "products-v7", "{\"index\":{\"_id\":\"?\"}}"),
    store(
        "db-events-select",
        "clickhouse",
        "SELECT",
        "user_events",
        "SELECT product_id, count() AS n FROM user_events WHERE user_id = ? AND at > now() - INTERVAL 30 DAY GROUP BY product_id ORDER BY n DESC LIMIT 200",
    ),
    store(
        "vector-search",
        "qdrant",
        "query",
        "product_vectors",
        "{\"query\":\"?\",\"limit\":64,\"with_payload\":false}",
    ),
    // Redis.
    cache("cache-get-user", "GET", "user:"),
    cache("cache-set-user", "SETEX", "user:"),
    cache("cache-get-session", "GET", "session:"),
    cache("cache-set-session", "SETEX", "session:"),
    cache("cache-get-product", "GET", "product:"),
    cache("cache-mget-products", "MGET", "product:"),
    cache("cache-get-price", "GET", "price:"),
    cache("cache-get-stock", "GET", "stock:"),
    cache("cache-del-stock", "DEL", "stock:"),
    cache("cache-hgetall-cart", "HGETALL", "cart:"),
    cache("cache-set-cart", "SETEX", "cart:"),
    cache("cache-del-cart", "DEL", "cart:"),
    // Outside services.
    outside("acquirer-charge", "POST", "api.acquirer.example", "/v2/charges").with(&[Amount]),
    outside("acquirer-refund", "POST", "api.acquirer.example", "/v2/refunds").with(&[Amount]),
    outside("carrier-rates", "GET", "rates.carrier.example", "/rates/{shipment_id}"),
    outside("carrier-label", "POST", "labels.carrier.example", "/labels"),
    outside("mail-send", "POST", "api.mail.example", "/v3/mail/send").with(&[Channel]),
    outside("warehouse-export", "GET", "wms.warehouse.example", "/export/stock").with(&[ResultCount]),
    // The assistant.
    StepSpec::new("agent", Shape::Agent { name: "shop-assistant" }, 1_500, 0.5).calls(&[
        maybe(65, "chat-small"),
        maybe(55, "tool-search"),
        maybe(25, "tool-order"),
        maybe(45, "chat-large"),
        maybe(12, "chat-other"),
        each("guardrail"),
    ]),
    StepSpec::new("chat-small", Shape::Chat { provider: "openai", model: "gpt-4o-mini" }, 210_000, 0.5),
    StepSpec::new("chat-large", Shape::Chat { provider: "openai", model: "gpt-4o" }, 320_000, 0.5),
    StepSpec::new("chat-other", Shape::Chat { provider: "anthropic", model: "claude-sonnet-4" }, 310_000, 0.5),
    StepSpec::new("embeddings", Shape::Embeddings { provider: "openai", model: "text-embedding-3-small" }, 24_000, 0.5),
    StepSpec::new("tool-search", Shape::Tool { name: "search_products" }, 700, 0.5).calls(&[always("search-query")]),
    StepSpec::new("tool-order", Shape::Tool { name: "order_status" }, 600, 0.5).calls(&[always("order-get")]),
    work("guardrail", "guardrail.check", 4_000),
    // Work inside a service.
    work("render-page", "render page", 6_000),
    work("rate-limit", "middleware.rate_limit", 90),
    work("verify-signature", "jwt.verify", 160),
    work("hash-password", "password.hash", 42_000),
    work("rank", "rank.results", 2_400).with(&[ResultCount]),
    work("score-candidates", "score.candidates", 5_200).with(&[ResultCount]),
    work("tax", "tax.calculate", 700).with(&[Amount]).calls(&[maybe(50, "discounts")]),
    work("fraud-check", "fraud.check", 6_500).with(&[FraudScore]).calls(&[maybe(40, "user-get")]),
    work("price-rules", "price.rules", 240),
    work("invoice", "invoice.pdf", 26_000).with(&[Amount]),
];
