//! The processes: pods with their resources, and the libraries that instrument them.

use opentelemetry_proto::tonic::{common::v1::InstrumentationScope, resource::v1::Resource};

use super::{
    attributes::text,
    random::Dice,
    shop::{Family, Language, Service},
};

/// The schema that the attributes follow.
pub(super) const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.40.0";

/// Where a request is served; a trace stays in one zone.
#[derive(Clone, Copy, Debug)]
struct Zone {
    cluster: &'static str,
    region: &'static str,
    environment: &'static str,
    /// Share of the traces.
    percent: u32,
}

const ZONES: [Zone; 3] = [
    Zone { cluster: "prod-eu-1", region: "eu-central-1", environment: "production", percent: 58 },
    Zone { cluster: "prod-us-1", region: "us-east-1", environment: "production", percent: 36 },
    Zone { cluster: "staging-eu-1", region: "eu-central-1", environment: "staging", percent: 6 },
];

/// All pods of the shop.
#[derive(Debug)]
pub(super) struct Pods {
    resources: Vec<Resource>,
    services: Vec<Service>,
    /// By zone and service, the pods there.
    placed: Vec<Vec<u16>>,
    scopes: Vec<InstrumentationScope>,
}

impl Pods {
    pub(super) fn new(dice: &mut Dice) -> Self {
        let mut pods = Self {
            resources: Vec::new(),
            services: Vec::new(),
            placed: vec![Vec::new(); ZONES.len() * Service::COUNT],
            scopes: Vec::new(),
        };
        for service in Service::ALL {
            for number in 0..service.pods() {
                // Of six pods, three are in the first zone, two in the second, one in staging.
                let zone = [0, 1, 0, 1, 0, 2][number % 6];
                let pod = pods.resources.len() as u16;
                pods.resources.push(resource(service, &ZONES[zone], number, dice));
                pods.services.push(service);
                pods.placed[zone * Service::COUNT + service as usize].push(pod);
            }
            pods.scopes.extend((0..Family::COUNT).map(|family| scope(service.language(), family)));
        }
        pods
    }

    pub(super) fn count(&self) -> usize {
        self.resources.len()
    }

    pub(super) fn resource(&self, pod: u16) -> Resource {
        self.resources[usize::from(pod)].clone()
    }

    /// The instrumentation library behind spans of `family` (an index of [`Family`]) in a pod.
    pub(super) fn scope(&self, pod: u16, family: usize) -> InstrumentationScope {
        let service = self.services[usize::from(pod)];
        self.scopes[service as usize * Family::COUNT + family].clone()
    }

    /// For a new trace, one pod of each service in one zone.
    pub(super) fn choose(&self, dice: &mut Dice) -> [u16; Service::COUNT] {
        let draw = dice.below(100);
        let mut zone = 0;
        let mut share = ZONES[0].percent;
        while draw >= share && zone + 1 < ZONES.len() {
            zone += 1;
            share += ZONES[zone].percent;
        }
        Service::ALL.map(|service| dice.pick(&self.placed[zone * Service::COUNT + service as usize]))
    }
}

fn resource(service: Service, zone: &Zone, number: usize, dice: &mut Dice) -> Resource {
    let name = service.name();
    let [version, next_version] = service.versions();
    let version = if number % 7 == 3 { next_version } else { version };
    let replica_set = hex::encode(dice.bytes::<5>());
    let suffix = hex::encode(dice.bytes::<3>());
    let node = dice.below(24);
    let attributes = vec![
        text("service.name", name),
        text("service.namespace", service.namespace()),
        text("service.version", version),
        text("deployment.environment.name", zone.environment),
        text("k8s.cluster.name", zone.cluster),
        text("k8s.namespace.name", format!("shop-{}", service.namespace())),
        text("k8s.deployment.name", name),
        text("k8s.pod.name", format!("{name}-{replica_set}-{suffix}")),
        text("cloud.region", zone.region),
        text("host.name", format!("{}-node-{node:02}", zone.cluster)),
        text("telemetry.sdk.name", "opentelemetry"),
        text("telemetry.sdk.language", service.language().name()),
        text("telemetry.sdk.version", service.language().sdk_version()),
    ];
    Resource { attributes, ..Resource::default() }
}

fn scope(language: Language, family: usize) -> InstrumentationScope {
    let names = match language {
        Language::Go => ["otelhttp", "otelgrpc", "otelkafka", "otelpgx", "redisotel", "otelgenai", "shop"],
        Language::Java => [
            "io.opentelemetry.tomcat-10.0",
            "io.opentelemetry.grpc-1.6",
            "io.opentelemetry.kafka-clients-2.6",
            "io.opentelemetry.jdbc",
            "io.opentelemetry.lettuce-5.1",
            "io.opentelemetry.openai-java-1.1",
            "com.example.shop",
        ],
        Language::NodeJs => [
            "@opentelemetry/instrumentation-http",
            "@opentelemetry/instrumentation-grpc",
            "@opentelemetry/instrumentation-kafkajs",
            "@opentelemetry/instrumentation-pg",
            "@opentelemetry/instrumentation-ioredis",
            "@opentelemetry/instrumentation-openai",
            "shop-frontend",
        ],
        Language::Python => [
            "opentelemetry.instrumentation.fastapi",
            "opentelemetry.instrumentation.grpc",
            "opentelemetry.instrumentation.aiokafka",
            "opentelemetry.instrumentation.asyncpg",
            "opentelemetry.instrumentation.redis",
            "opentelemetry.instrumentation.openai_v2",
            "shop",
        ],
        Language::DotNet => [
            "Microsoft.AspNetCore",
            "OpenTelemetry.Instrumentation.GrpcNetClient",
            "Confluent.Kafka",
            "Npgsql",
            "OpenTelemetry.Instrumentation.StackExchangeRedis",
            "Experimental.Microsoft.Extensions.AI",
            "Shop",
        ],
    };
    let attributes = if family == Family::App as usize { vec![text("shop.component", "domain")] } else { Vec::new() };
    let version = if family == Family::App as usize { "1.0.0" } else { "0.61.0" };
    InstrumentationScope {
        name: names[family].to_owned(),
        version: version.to_owned(),
        attributes,
        ..Default::default()
    }
}
