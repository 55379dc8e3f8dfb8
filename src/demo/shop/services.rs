//! The services, and what their processes look like from outside.

/// The languages that the services are written in; decides SDK names, library names and stack traces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::demo) enum Language {
    Go,
    Java,
    NodeJs,
    Python,
    DotNet,
}

impl Language {
    /// The value of `telemetry.sdk.language`.
    pub(in crate::demo) fn name(self) -> &'static str {
        match self {
            Language::Go => "go",
            Language::Java => "java",
            Language::NodeJs => "nodejs",
            Language::Python => "python",
            Language::DotNet => "dotnet",
        }
    }

    /// The version of the language's OpenTelemetry SDK.
    pub(in crate::demo) fn sdk_version(self) -> &'static str {
        match self {
            Language::Go => "1.43.0",
            Language::Java => "1.62.0",
            Language::NodeJs => "2.8.0",
            Language::Python => "1.45.2",
            Language::DotNet => "1.15.1",
        }
    }
}

/// One service of the shop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::demo) enum Service {
    FrontendWeb,
    ApiGateway,
    User,
    Auth,
    Catalog,
    Search,
    Cart,
    Order,
    Payment,
    Inventory,
    Pricing,
    Recommendation,
    Assistant,
    Shipping,
    Notification,
}

impl Service {
    pub(in crate::demo) const COUNT: usize = 15;

    pub(in crate::demo) const ALL: [Service; Service::COUNT] = [
        Service::FrontendWeb,
        Service::ApiGateway,
        Service::User,
        Service::Auth,
        Service::Catalog,
        Service::Search,
        Service::Cart,
        Service::Order,
        Service::Payment,
        Service::Inventory,
        Service::Pricing,
        Service::Recommendation,
        Service::Assistant,
        Service::Shipping,
        Service::Notification,
    ];

    /// `service.name`.
    pub(in crate::demo) const fn name(self) -> &'static str {
        match self {
            Service::FrontendWeb => "frontend-web",
            Service::ApiGateway => "api-gateway",
            Service::User => "user-service",
            Service::Auth => "auth-service",
            Service::Catalog => "catalog-service",
            Service::Search => "search-service",
            Service::Cart => "cart-service",
            Service::Order => "order-service",
            Service::Payment => "payment-service",
            Service::Inventory => "inventory-service",
            Service::Pricing => "pricing-service",
            Service::Recommendation => "recommendation-service",
            Service::Assistant => "llm-assistant",
            Service::Shipping => "shipping-service",
            Service::Notification => "notification-service",
        }
    }

    /// `service.namespace`: the team that runs it.
    pub(in crate::demo) fn namespace(self) -> &'static str {
        match self {
            Service::FrontendWeb | Service::ApiGateway => "edge",
            Service::User | Service::Auth => "identity",
            Service::Catalog | Service::Search | Service::Recommendation | Service::Assistant => "discovery",
            Service::Cart | Service::Order | Service::Payment | Service::Pricing => "checkout",
            Service::Inventory | Service::Shipping | Service::Notification => "fulfilment",
        }
    }

    /// What the service is written in.
    pub(in crate::demo) fn language(self) -> Language {
        match self {
            Service::FrontendWeb => Language::NodeJs,
            Service::ApiGateway | Service::Auth | Service::Inventory | Service::Pricing => Language::Go,
            Service::User | Service::Catalog | Service::Order | Service::Payment => Language::Java,
            Service::Search | Service::Recommendation | Service::Assistant | Service::Notification => Language::Python,
            Service::Cart | Service::Shipping => Language::DotNet,
        }
    }

    /// How many pods run it, over all zones.
    pub(in crate::demo) fn pods(self) -> usize {
        match self {
            Service::ApiGateway => 24,
            Service::FrontendWeb => 20,
            Service::Catalog => 18,
            Service::Order => 16,
            Service::User | Service::Search | Service::Cart => 14,
            Service::Auth | Service::Payment | Service::Inventory | Service::Pricing => 12,
            Service::Recommendation => 9,
            Service::Assistant | Service::Shipping | Service::Notification => 6,
        }
    }

    /// The version in production, and the next one that some pods already run.
    pub(in crate::demo) fn versions(self) -> [&'static str; 2] {
        match self {
            Service::FrontendWeb => ["2025.47.1", "2025.48.0"],
            Service::ApiGateway => ["3.12.4", "3.13.0"],
            Service::Catalog | Service::Order => ["1.41.0", "1.42.0"],
            Service::Assistant => ["0.9.7", "0.10.0"],
            _ => ["2.6.3", "2.7.0"],
        }
    }
}
