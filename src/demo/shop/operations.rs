//! The operations: what each service offers, and what it calls to do it.

use super::{CallSpec, Extra, Order, Repeat, Service, Shape, Step, StepId, always, each, maybe};

/// How an operation is entered.
#[derive(Clone, Copy, Debug)]
enum Entry {
    Http { method: &'static str, route: &'static str },
    Rpc { service: &'static str, method: &'static str },
    Queue { queue: &'static str },
    Job { name: &'static str },
}

/// One operation of a service.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operation {
    pub(super) id: &'static str,
    service: Service,
    entry: Entry,
    self_us: u32,
    order: Order,
    extras: &'static [Extra],
    pub(super) calls: &'static [CallSpec],
}

/// An operation that traces begin with, how often, and for traces of which sizes.
#[derive(Clone, Copy, Debug)]
pub(super) struct RootSpec {
    pub(super) operation: &'static str,
    pub(super) weight: u32,
    pub(super) spans: (usize, usize),
}

/// Time on the network around a remote call.
const NETWORK_US: u32 = 350;
const PUBLISH_US: u32 = 900;

impl Operation {
    const fn new(id: &'static str, service: Service, entry: Entry, self_us: u32) -> Self {
        Self { id, service, entry, self_us, order: Order::Sequence, extras: &[], calls: &[] }
    }

    const fn with(mut self, extras: &'static [Extra]) -> Self {
        self.extras = extras;
        self
    }

    const fn calls(mut self, calls: &'static [CallSpec]) -> Self {
        self.calls = calls;
        self
    }

    const fn together(mut self) -> Self {
        self.order = Order::Together;
        self
    }

    fn entry_name(&self) -> String {
        match self.entry {
            Entry::Http { method, route } => format!("{method} {route}"),
            Entry::Rpc { service, method } => format!("{service}/{method}"),
            Entry::Queue { queue } => format!("process {queue}"),
            Entry::Job { name } => name.to_owned(),
        }
    }

    /// The span of the service that does the work.
    pub(super) fn resolve(&self) -> Step {
        let shape = match self.entry {
            Entry::Http { method, route } => Shape::HttpServer { method, route },
            Entry::Rpc { service, method } => Shape::RpcServer { service, method },
            Entry::Queue { queue } => Shape::Consume { queue },
            Entry::Job { .. } => Shape::Internal,
        };
        Step {
            service: Some(self.service),
            name: self.entry_name(),
            shape,
            extras: self.extras,
            self_us: self.self_us,
            sigma: 0.6,
            order: self.order,
            calls: Vec::new(),
        }
    }

    /// The span of whoever calls it; jobs have no caller.
    pub(super) fn resolve_caller(&self, entry: StepId) -> Option<Step> {
        let address = self.service.name();
        let (shape, name, self_us) = match self.entry {
            Entry::Http { method, route } => {
                (Shape::HttpClient { method, route, address }, method.to_owned(), NETWORK_US)
            }
            Entry::Rpc { service, method } => {
                (Shape::RpcClient { service, method, address }, self.entry_name(), NETWORK_US)
            }
            Entry::Queue { queue } => (Shape::Publish { queue }, format!("send {queue}"), PUBLISH_US),
            Entry::Job { .. } => return None,
        };
        let calls = vec![super::Call { step: entry, percent: 100, repeat: Repeat::Once }];
        Some(Step { service: None, name, shape, extras: &[], self_us, sigma: 0.5, order: Order::Sequence, calls })
    }
}

const fn http(id: &'static str, on: Service, method: &'static str, route: &'static str, self_us: u32) -> Operation {
    Operation::new(id, on, Entry::Http { method, route }, self_us)
}

const fn rpc(id: &'static str, on: Service, service: &'static str, method: &'static str, self_us: u32) -> Operation {
    Operation::new(id, on, Entry::Rpc { service, method }, self_us)
}

const fn queue(id: &'static str, on: Service, queue: &'static str, self_us: u32) -> Operation {
    Operation::new(id, on, Entry::Queue { queue }, self_us)
}

const fn job(id: &'static str, on: Service, name: &'static str, self_us: u32) -> Operation {
    Operation::new(id, on, Entry::Job { name }, self_us)
}

use Extra::{
    Amount, BatchSize, CartItems, Categories, Channel, Coupon, FeatureFlag, FraudScore, OrderId, Premium, ProductId,
    ResultCount, SessionId, UserId,
};
use Service::{
    ApiGateway, Assistant, Auth, Cart, Catalog, FrontendWeb, Inventory, Notification, Order as Orders, Payment,
    Pricing, Recommendation, Search, Shipping, User,
};

const AUTH: &str = "shop.auth.v1.Auth";
const CART: &str = "shop.cart.v1.Cart";
const PAYMENT: &str = "shop.payment.v1.Payment";
const INVENTORY: &str = "shop.inventory.v1.Inventory";
const PRICING: &str = "shop.pricing.v1.Pricing";

pub(super) const OPERATIONS: &[Operation] = &[
    // Pages.
    http("home", FrontendWeb, "GET", "/", 1_800)
        .with(&[SessionId, UserId, FeatureFlag])
        .calls(&[
            always("api-products"),
            maybe(60, "api-recommendations"),
            maybe(40, "api-cart"),
            always("render-page"),
        ])
        .together(),
    http("product-page", FrontendWeb, "GET", "/product/{product_id}", 1_600)
        .with(&[SessionId, UserId, ProductId])
        .calls(&[always("api-product"), maybe(50, "api-recommendations"), always("render-page")])
        .together(),
    http("search-page", FrontendWeb, "GET", "/search", 1_500)
        .with(&[SessionId, UserId])
        .calls(&[always("api-search"), always("render-page")]),
    http("cart-page", FrontendWeb, "GET", "/cart", 1_400).with(&[SessionId, UserId]).calls(&[
        always("api-cart"),
        maybe(30, "api-recommendations"),
        always("render-page"),
    ]),
    http("checkout-page", FrontendWeb, "POST", "/checkout", 2_200)
        .with(&[SessionId, UserId, CartItems, FeatureFlag])
        .calls(&[always("api-order-create"), always("render-page")]),
    http("account-page", FrontendWeb, "GET", "/account", 1_400)
        .with(&[SessionId, UserId])
        .calls(&[always("api-user"), always("api-orders"), always("render-page")])
        .together(),
    http("assistant-page", FrontendWeb, "POST", "/assistant", 1_200)
        .with(&[SessionId, UserId])
        .calls(&[always("api-chat"), always("render-page")]),
    // The gateway, for pages and mobile clients alike.
    http("api-products", ApiGateway, "GET", "/api/products", 500).with(&[UserId]).calls(&[
        always("rate-limit"),
        always("verify-token"),
        always("catalog-list"),
    ]),
    http("api-product", ApiGateway, "GET", "/api/products/{product_id}", 450).with(&[UserId, ProductId]).calls(&[
        always("rate-limit"),
        always("verify-token"),
        always("catalog-get"),
    ]),
    http("api-search", ApiGateway, "GET", "/api/search", 450).with(&[UserId]).calls(&[
        always("rate-limit"),
        always("verify-token"),
        always("search-query"),
        maybe(40, "search-suggest"),
    ]),
    http("api-cart", ApiGateway, "GET", "/api/cart", 400).with(&[UserId]).calls(&[
        always("rate-limit"),
        always("verify-token"),
        always("cart-get"),
    ]),
    http("api-cart-add", ApiGateway, "POST", "/api/cart/items", 450).with(&[UserId, ProductId]).calls(&[
        always("rate-limit"),
        always("verify-token"),
        always("cart-add"),
    ]),
    http("api-cart-remove", ApiGateway, "DELETE", "/api/cart/items/{product_id}", 400)
        .with(&[UserId])
        .calls(&[always("verify-token"), always("cart-remove")]),
    http("api-order-create", ApiGateway, "POST", "/api/orders", 700).with(&[UserId, CartItems]).calls(&[
        always("rate-limit"),
        always("verify-token"),
        always("order-create"),
    ]),
    http("api-order", ApiGateway, "GET", "/api/orders/{order_id}", 450)
        .with(&[UserId, OrderId])
        .calls(&[always("verify-token"), always("order-get")]),
    http("api-orders", ApiGateway, "GET", "/api/orders", 500)
        .with(&[UserId])
        .calls(&[always("verify-token"), always("order-list")]),
    http("api-login", ApiGateway, "POST", "/api/login", 600).with(&[SessionId]).calls(&[
        always("rate-limit"),
        always("auth-login"),
        maybe(70, "user-get"),
    ]),
    http("api-refresh", ApiGateway, "POST", "/api/token/refresh", 400)
        .with(&[SessionId, UserId])
        .calls(&[always("auth-refresh")]),
    http("api-user", ApiGateway, "GET", "/api/users/{user_id}", 400).with(&[UserId]).calls(&[
        always("verify-token"),
        always("user-get"),
        maybe(30, "user-addresses"),
    ]),
    http("api-user-update", ApiGateway, "PUT", "/api/users/{user_id}", 450)
        .with(&[UserId])
        .calls(&[always("verify-token"), always("user-update")]),
    http("api-recommendations", ApiGateway, "GET", "/api/recommendations", 450)
        .with(&[UserId])
        .calls(&[always("verify-token"), always("recommend")]),
    http("api-chat", ApiGateway, "POST", "/api/assistant/chat", 600).with(&[UserId]).calls(&[
        always("rate-limit"),
        always("verify-token"),
        always("chat"),
    ]),
    http("healthz", ApiGateway, "GET", "/healthz", 120).calls(&[maybe(60, "cache-get-session"), always("rate-limit")]),
    // Identity.
    http("user-get", User, "GET", "/users/{user_id}", 700).with(&[UserId, Premium]).calls(&[
        always("cache-get-user"),
        maybe(45, "db-user-select"),
        maybe(40, "cache-set-user"),
    ]),
    http("user-update", User, "PUT", "/users/{user_id}", 900).with(&[UserId]).calls(&[
        always("db-user-select"),
        always("db-user-update"),
        always("cache-set-user"),
        maybe(50, "notify"),
    ]),
    http("user-addresses", User, "GET", "/users/{user_id}/addresses", 500)
        .with(&[UserId])
        .calls(&[always("db-address-select")]),
    rpc("verify-token", Auth, AUTH, "VerifyToken", 250)
        .calls(&[always("verify-signature"), always("cache-get-session")]),
    rpc("auth-login", Auth, AUTH, "Login", 600).with(&[UserId]).calls(&[
        always("db-user-select"),
        always("hash-password"),
        always("db-session-insert"),
        always("cache-set-session"),
    ]),
    rpc("auth-refresh", Auth, AUTH, "RefreshToken", 350).calls(&[
        always("cache-get-session"),
        always("db-session-insert"),
        always("cache-set-session"),
    ]),
    // Discovery.
    http("catalog-list", Catalog, "GET", "/products", 1_100).with(&[ResultCount, Categories]).calls(&[
        maybe(70, "cache-mget-products"),
        maybe(50, "db-products-select"),
        each("price-quote"),
    ]),
    http("catalog-get", Catalog, "GET", "/products/{product_id}", 800)
        .with(&[ProductId])
        .calls(&[
            always("cache-get-product"),
            maybe(45, "db-product-select"),
            always("price-quote"),
            maybe(70, "stock-check"),
            each("db-variants-select"),
        ])
        .together(),
    http("catalog-batch", Catalog, "POST", "/products/batch", 900)
        .with(&[BatchSize])
        .calls(&[always("cache-mget-products"), each("db-product-select")]),
    job("catalog-reindex", Catalog, "catalog.reindex", 9_000)
        .with(&[BatchSize])
        .calls(&[always("db-products-select"), each("index-product")])
        .together(),
    http("search-query", Search, "POST", "/query", 1_400).with(&[ResultCount]).calls(&[
        maybe(35, "embed"),
        always("es-search"),
        always("rank"),
        always("catalog-batch"),
    ]),
    http("search-suggest", Search, "GET", "/suggest", 500)
        .calls(&[always("cache-get-product"), maybe(30, "es-search")]),
    queue("index-product", Search, "index-updates", 900).with(&[ProductId]).calls(&[
        always("db-product-select"),
        maybe(20, "embed"),
        always("es-bulk"),
    ]),
    http("recommend", Recommendation, "GET", "/recommendations/{user_id}", 1_600)
        .with(&[UserId, ResultCount])
        .calls(&[always("db-events-select"), always("vector-search"), always("score-candidates"), each("similar")]),
    rpc("similar", Recommendation, "shop.reco.v1.Recommender", "Similar", 700)
        .with(&[ProductId])
        .calls(&[always("vector-search"), maybe(40, "cache-mget-products")]),
    http("chat", Assistant, "POST", "/v1/chat", 1_500).with(&[UserId]).calls(&[
        always("db-chat-select"),
        always("agent"),
        always("db-chat-insert"),
    ]),
    http("embed", Assistant, "POST", "/v1/embed", 600).calls(&[always("embeddings")]),
    // Checkout.
    rpc("cart-get", Cart, CART, "GetCart", 500).with(&[UserId, CartItems]).calls(&[
        always("cache-hgetall-cart"),
        maybe(25, "db-cart-find"),
        each("price-quote"),
    ]),
    rpc("cart-add", Cart, CART, "AddItem", 550).with(&[UserId, ProductId]).calls(&[
        always("stock-check"),
        always("db-cart-update"),
        always("cache-set-cart"),
        each("price-quote"),
    ]),
    rpc("cart-remove", Cart, CART, "RemoveItem", 450)
        .with(&[UserId])
        .calls(&[always("db-cart-update"), always("cache-set-cart")]),
    rpc("cart-empty", Cart, CART, "EmptyCart", 300)
        .with(&[UserId])
        .calls(&[always("db-cart-update"), always("cache-del-cart")]),
    http("order-create", Orders, "POST", "/orders", 1_800).with(&[OrderId, UserId, Amount, Coupon]).calls(&[
        always("cart-get"),
        maybe(60, "user-addresses"),
        always("quote-shipping"),
        each("stock-reserve"),
        always("tax"),
        always("charge"),
        always("db-order-insert"),
        always("db-items-insert"),
        always("cart-empty"),
        always("order-events"),
    ]),
    http("order-get", Orders, "GET", "/orders/{order_id}", 700).with(&[OrderId]).calls(&[
        always("db-order-select"),
        each("db-items-select"),
        maybe(40, "shipment-get"),
    ]),
    http("order-list", Orders, "GET", "/orders", 800)
        .with(&[UserId, ResultCount])
        .calls(&[always("db-order-select"), each("db-items-select")]),
    queue("order-events", Orders, "order-events", 1_200).with(&[OrderId]).calls(&[
        always("db-order-update"),
        always("shipments"),
        always("notify"),
        maybe(30, "invoice"),
    ]),
    rpc("charge", Payment, PAYMENT, "Charge", 1_500).with(&[OrderId, Amount, FraudScore]).calls(&[
        always("fraud-check"),
        always("acquirer-charge"),
        always("db-payment-insert"),
        maybe(4, "db-payment-lock"),
    ]),
    rpc("refund", Payment, PAYMENT, "Refund", 1_300).with(&[OrderId, Amount]).calls(&[
        always("db-payment-select"),
        always("acquirer-refund"),
        always("db-payment-update"),
    ]),
    job("settlement", Payment, "payment.settlement", 12_000)
        .with(&[BatchSize])
        .calls(&[always("db-payment-select"), each("db-payment-update"), maybe(70, "refund"), always("notify")])
        .together(),
    rpc("price-quote", Pricing, PRICING, "Quote", 300).with(&[ProductId]).calls(&[
        always("cache-get-price"),
        maybe(30, "db-price-select"),
        maybe(35, "price-rules"),
    ]),
    rpc("discounts", Pricing, PRICING, "Discounts", 350).with(&[Coupon]).calls(&[always("db-discount-select")]),
    // Fulfilment.
    rpc("stock-check", Inventory, INVENTORY, "CheckStock", 300)
        .with(&[ProductId])
        .calls(&[always("cache-get-stock"), maybe(40, "db-stock-select")]),
    rpc("stock-reserve", Inventory, INVENTORY, "Reserve", 600).with(&[ProductId]).calls(&[
        always("db-stock-select"),
        always("db-stock-update"),
        maybe(30, "cache-del-stock"),
    ]),
    job("inventory-sync", Inventory, "inventory.sync", 8_000)
        .with(&[BatchSize])
        .calls(&[always("warehouse-export"), each("db-stock-update"), each("cache-del-stock")])
        .together(),
    http("quote-shipping", Shipping, "POST", "/quotes", 700)
        .with(&[CartItems])
        .calls(&[each("carrier-rates")])
        .together(),
    http("shipment-get", Shipping, "GET", "/shipments/{shipment_id}", 600).calls(&[always("db-shipment-select")]),
    queue("shipments", Shipping, "shipments", 1_000).with(&[OrderId]).calls(&[
        always("db-shipment-insert"),
        always("carrier-label"),
        maybe(60, "notify"),
    ]),
    queue("notify", Notification, "notifications", 700)
        .with(&[UserId, Channel])
        .calls(&[always("db-template-select"), always("mail-send")]),
];

const fn root(operation: &'static str, weight: u32, spans: (usize, usize)) -> RootSpec {
    RootSpec { operation, weight, spans }
}

/// The largest size is open, so that there is a root for any.
const ANY: usize = usize::MAX;

/// Which operations begin traces. Large traces come from batch jobs and from pages with long lists.
pub(super) const ROOTS: &[RootSpec] = &[
    root("healthz", 60, (1, 3)),
    root("api-refresh", 20, (1, 8)),
    root("api-login", 40, (4, 30)),
    root("api-user", 30, (3, 24)),
    root("api-user-update", 12, (5, 40)),
    root("api-cart", 45, (5, 90)),
    root("api-cart-add", 40, (6, 90)),
    root("api-cart-remove", 15, (4, 16)),
    root("api-products", 55, (4, 160)),
    root("api-product", 70, (6, 120)),
    root("api-search", 50, (6, 120)),
    root("api-order", 25, (4, 80)),
    root("api-orders", 20, (4, 120)),
    root("api-recommendations", 20, (5, 140)),
    root("api-chat", 12, (8, 90)),
    root("home", 60, (12, 400)),
    root("product-page", 55, (12, 250)),
    root("search-page", 40, (10, 250)),
    root("cart-page", 30, (10, 200)),
    root("checkout-page", 45, (24, 300)),
    root("account-page", 25, (12, 200)),
    root("assistant-page", 14, (12, 150)),
    root("api-order-create", 30, (20, 300)),
    root("catalog-reindex", 25, (60, ANY)),
    root("settlement", 14, (40, ANY)),
    root("inventory-sync", 18, (40, ANY)),
];
