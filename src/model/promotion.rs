//! Which attributes have a typed column of their own.
//!
//! A promoted attribute of the right type is stored in its column and nowhere else; a value of another type, and every
//! other key, is in the residual map of its scope. A batch or file holds the column only if some row has the value.
//! Readers outside put a value together as `coalesce("span.http.route", span_attributes['http.route'].str)`.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use arrow::datatypes::Field;

use crate::model::{
    attributes::{AttributeScope, AttributeType},
    key_table::KeyTable,
    schema::column,
};

/// One attribute with a column of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromotedAttribute {
    /// Where the attribute is attached: resource, scope or span.
    pub scope: AttributeScope,
    /// The attribute's key.
    pub key: Arc<str>,
    /// The type of its column; other types stay in the residual.
    pub value_type: AttributeType,
    /// The column's name: `service_name` and `service_namespace`, else scope, dot, key.
    pub column: Arc<str>,
}

impl PromotedAttribute {
    /// The attribute `key` of `scope`, with the column name that follows from them.
    pub fn new(scope: AttributeScope, key: &str, value_type: AttributeType) -> Self {
        let column = match (scope, key) {
            (AttributeScope::Resource, "service.name") => Arc::from("service_name"),
            (AttributeScope::Resource, "service.namespace") => Arc::from("service_namespace"),
            _ => Arc::from(format!("{}.{key}", scope.prefix())),
        };
        Self { scope, key: Arc::from(key), value_type, column }
    }
}

/// Longest name of a promoted column, in bytes.
const COLUMN_NAME_BYTES_MAX: usize = 128;

impl PromotedAttribute {
    /// Whether every reader of the table format takes the name of the column. Names differ there by more than case, so
    /// only ASCII is taken: readers do not agree on the case of other letters.
    pub fn has_storable_name(&self) -> bool {
        let storable = |byte: u8| byte.is_ascii_graphic() && !b",;{}()=`\"'\\".contains(&byte);
        !self.key.is_empty() && self.column.len() <= COLUMN_NAME_BYTES_MAX && self.column.bytes().all(storable)
    }
}

/// A set of promoted attributes, in the order of their columns.
#[derive(Clone, Debug, Default)]
pub struct Promotion {
    attributes: Vec<PromotedAttribute>,
    /// One table per scope, at the scope's place in its enum.
    by_key: [KeyTable; AttributeScope::COUNT],
    by_column: HashMap<Arc<str>, usize>,
}

impl Promotion {
    /// A set of these attributes; of several with one column the first counts.
    pub fn new(attributes: impl IntoIterator<Item = PromotedAttribute>) -> Self {
        let mut set = Self::default();
        for attribute in attributes {
            if set.by_column.contains_key(&attribute.column) {
                continue;
            }
            let index = set.attributes.len();
            set.by_key[attribute.scope as usize].insert(&attribute.key, index);
            set.by_column.insert(Arc::clone(&attribute.column), index);
            set.attributes.push(attribute);
        }
        set
    }

    /// The attributes, in column order.
    pub fn attributes(&self) -> &[PromotedAttribute] {
        &self.attributes
    }

    /// Those of one scope, in column order.
    pub fn of_scope(&self, scope: AttributeScope) -> impl Iterator<Item = &PromotedAttribute> {
        self.attributes.iter().filter(move |attribute| attribute.scope == scope)
    }

    /// The promoted attribute with this key, if there is one.
    pub fn get(&self, scope: AttributeScope, key: &str) -> Option<&PromotedAttribute> {
        self.position(scope, key).map(|index| &self.attributes[index])
    }

    /// The place of the promoted attribute with this key among [`Promotion::attributes`].
    pub fn position(&self, scope: AttributeScope, key: &str) -> Option<usize> {
        self.by_key[scope as usize].get(key)
    }

    /// The promoted attribute whose column has this name.
    pub fn of_column(&self, column: &str) -> Option<&PromotedAttribute> {
        self.by_column.get(column).map(|index| &self.attributes[*index])
    }
}

/// The attribute that a column of the flat shape stands for. `None` for a core column, and for one whose type no attribute
/// column has.
///
/// The name alone decides, so that a file written under another set of promoted attributes reads right.
pub fn promoted_attribute(field: &Field) -> Option<PromotedAttribute> {
    let value_type = AttributeType::ALL.into_iter().find(|value_type| value_type.data_type() == *field.data_type())?;
    let (scope, key) = attribute_of_column(field.name())?;
    Some(PromotedAttribute::new(scope, key, value_type))
}

/// Scope and key of the attribute that a column with this name holds.
pub(crate) fn attribute_of_column(name: &str) -> Option<(AttributeScope, &str)> {
    match name {
        column::SERVICE_NAME => Some((AttributeScope::Resource, "service.name")),
        column::SERVICE_NAMESPACE => Some((AttributeScope::Resource, "service.namespace")),
        _ => {
            let (scope, key) = name.split_once('.')?;
            let scope: AttributeScope = scope.parse().ok()?;
            scope.map_column().is_some().then_some((scope, key))
        }
    }
}

static STANDARD: LazyLock<Arc<Promotion>> = LazyLock::new(|| {
    use AttributeScope::{Resource, Span};
    use AttributeType::{Int, Str};
    let attribute = |(scope, key, value_type): &(AttributeScope, &str, AttributeType)| {
        PromotedAttribute::new(*scope, key, *value_type)
    };
    Arc::new(Promotion::new(
        [
            (Resource, "service.name", Str),
            (Resource, "service.namespace", Str),
            (Resource, "service.version", Str),
            (Resource, "service.instance.id", Str),
            (Resource, "deployment.environment", Str),
            (Resource, "deployment.environment.name", Str),
            (Resource, "cloud.region", Str),
            (Resource, "cloud.availability_zone", Str),
            (Resource, "host.name", Str),
            (Resource, "k8s.cluster.name", Str),
            (Resource, "k8s.namespace.name", Str),
            (Resource, "k8s.deployment.name", Str),
            (Resource, "k8s.node.name", Str),
            (Resource, "k8s.pod.name", Str),
            (Resource, "telemetry.sdk.language", Str),
            (Resource, "telemetry.sdk.name", Str),
            (Resource, "telemetry.sdk.version", Str),
            (Span, "http.request.method", Str),
            (Span, "http.response.status_code", Int),
            (Span, "http.route", Str),
            (Span, "http.method", Str),
            (Span, "http.status_code", Int),
            (Span, "http.url", Str),
            (Span, "url.full", Str),
            (Span, "url.path", Str),
            (Span, "url.scheme", Str),
            (Span, "server.address", Str),
            (Span, "server.port", Int),
            (Span, "client.address", Str),
            (Span, "user_agent.original", Str),
            (Span, "network.protocol.version", Str),
            (Span, "network.peer.address", Str),
            (Span, "db.system", Str),
            (Span, "db.system.name", Str),
            (Span, "db.statement", Str),
            (Span, "db.query.text", Str),
            (Span, "db.namespace", Str),
            (Span, "db.operation.name", Str),
            (Span, "db.collection.name", Str),
            (Span, "rpc.system", Str),
            (Span, "rpc.service", Str),
            (Span, "rpc.method", Str),
            (Span, "rpc.grpc.status_code", Int),
            (Span, "messaging.system", Str),
            (Span, "messaging.destination.name", Str),
            (Span, "messaging.operation.type", Str),
            (Span, "peer.service", Str),
            (Span, "user.id", Str),
            (Span, "error.type", Str),
            (Span, "code.function.name", Str),
            (Span, "thread.id", Int),
            (Span, "thread.name", Str),
            (Span, "gen_ai.request.model", Str),
            (Span, "gen_ai.operation.name", Str),
            (Span, "gen_ai.provider.name", Str),
            (Span, "gen_ai.usage.input_tokens", Int),
            (Span, "gen_ai.usage.output_tokens", Int),
        ]
        .iter()
        .map(attribute),
    ))
});

/// The attributes of the OpenTelemetry semantic conventions that services send most and queries ask for most.
pub fn standard() -> Arc<Promotion> {
    Arc::clone(&STANDARD)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::schema;

    #[test]
    fn column_names_are_those_of_traceql_but_for_the_service() {
        let set = standard();
        assert_eq!(&*set.get(AttributeScope::Span, "http.route").unwrap().column, "span.http.route");
        assert_eq!(&*set.get(AttributeScope::Resource, "service.name").unwrap().column, "service_name");
        assert_eq!(&*set.of_column("service_namespace").unwrap().key, "service.namespace");
        assert!(set.get(AttributeScope::Resource, "http.route").is_none());
    }

    #[test]
    fn column_names_differ_by_more_than_case() {
        // The table format compares column names without case.
        let set = standard();
        let mut names: Vec<String> = set.attributes().iter().map(|a| a.column.to_lowercase()).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), set.attributes().len());
    }

    #[test]
    fn every_promoted_column_is_recognised_by_its_name_and_no_core_column_is() {
        for attribute in standard().attributes() {
            assert_eq!(promoted_attribute(&schema::promoted_field(attribute)).as_ref(), Some(attribute));
        }
        for core in schema::CORE_COLUMNS.iter() {
            assert_eq!(promoted_attribute(&core.field), None);
        }
    }
}
