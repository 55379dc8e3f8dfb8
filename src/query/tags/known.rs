//! What lists of keys and dictionaries tell, and what is left to scan.
//!
//! ```text
//!                      |<----- asked range ----->|
//!   file 1   [---]     .                         .        not looked at
//!   file 2          [--.-----]                   .        reaches out: scanned, unless it lists nothing new
//!   file 3             .   [----------------]    .        told by its list, or by the dictionaries of one column, or by the
//!                      .                         .        columns of the maps with the key
//!   batch              .                      [--.--]     names as file 2; values are read where they lie
//! ```

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use datafusion::{catalog::TableProvider, common::Result, execution::SessionState, logical_expr::LogicalPlan};
use futures::{StreamExt, TryStreamExt, stream};

use super::{
    buffered, lenient,
    names::{self, Names},
    values::{self, DISTINCT_MAX, Value},
};
use crate::{
    model::{
        attributes::AttributeScope,
        batch::SpanBatch,
        keys::{AttributeKeys, TypeSet},
        promotion::PromotedAttribute,
        schema::column,
        time::TimeRange,
    },
    query::{
        request::{QueryKind, TagNamesQuery, TagValuesQuery},
        run::Shape,
        spans_table::{FOOTER_READS_MAX, SpansTable, scan_file},
    },
    storage::{
        dictionary::{StoredValue, dictionary_values},
        footer,
        map_values::map_values,
        scan::ScanFile,
        store::Store,
    },
    traceql::ast::{FieldName, Intrinsic},
};

/// How far spans outside of the range matter: not at all, where filters speak of single spans.
const NO_EXTENT: i64 = 0;

/// The path of the column of the names of events.
const EVENT_NAME: [&str; 4] = [column::EVENTS, "list", "element", "name"];

/// A question about tags, as far as it is answered.
pub(crate) struct Known {
    /// The plan of what is left; `None` if nothing is.
    pub(crate) plan: Option<LogicalPlan>,
    /// The table that it reads.
    pub(crate) rest: Arc<dyn TableProvider>,
    /// Puts what is known and the plan's rows together.
    pub(crate) shape: Shape,
}

/// What is known without a scan of `base`; `None` if that is no question about tags, or one for names with a filter.
pub(crate) async fn known(
    kind: &QueryKind,
    base: &Arc<dyn TableProvider>,
    session: &SessionState,
) -> Result<Option<Known>> {
    let Some(spans) = SpansTable::of(base.as_ref()) else { return Ok(None) };
    match kind {
        QueryKind::TagNames(query) if query.filter.is_none() => known_names(query, spans, session).await.map(Some),
        // A trace of the range may have its root in a file outside of it.
        QueryKind::TagValues(query) if values::is_of_root(&query.field) => Ok(None),
        QueryKind::TagValues(query) if query.filter.is_none() => known_values(query, spans, session).await.map(Some),
        // A trace may lie in files that have no such attribute.
        QueryKind::TagValues(query) if lenient::reads_trace(query.filter.as_deref()) => Ok(None),
        QueryKind::TagValues(query) => known_places(query, spans, session).await.map(Some),
        _ => Ok(None),
    }
}

/// A file or buffered batch that can have spans in the range.
struct Part<'v> {
    source: Source<'v>,
    /// Whether all of its spans start in the range.
    is_inside: bool,
    /// Its attributes, if it has a list of them.
    keys: Option<Arc<AttributeKeys>>,
}

enum Source<'v> {
    File(Arc<str>, ScanFile),
    /// A buffered one, and its position among those.
    Batch(usize, &'v SpanBatch),
}

async fn parts<'v>(spans: &'v SpansTable, session: &SessionState, range: TimeRange) -> Result<Vec<Part<'v>>> {
    let runtime = session.runtime_env();
    let files = spans.view().files().filter(|file| file.can_hold(range)).map(|file| {
        let is_inside = file.start_range_unix_nano().is_some_and(|starts| range.holds(starts));
        (Arc::clone(&file.path), scan_file(file), is_inside)
    });
    let files = files.collect::<Vec<_>>().into_iter().map(|(path, file, is_inside)| async move {
        let keys = footer::read_keys(runtime, &Store::url(), &file).await?.map(Arc::new);
        Ok::<_, datafusion::error::DataFusionError>(Part { source: Source::File(path, file), is_inside, keys })
    });
    let mut parts: Vec<Part<'v>> = stream::iter(files).buffered(FOOTER_READS_MAX).try_collect().await?;
    for (at, batch) in spans.view().buffered().enumerate() {
        let Some(starts) = batch.start_time_range().filter(|(first, last)| range.overlaps(*first, *last)) else {
            continue;
        };
        parts.push(Part { source: Source::Batch(at, batch), is_inside: range.holds(starts), keys: Some(batch.keys()) });
    }
    Ok(parts)
}

/// The table with these parts alone.
fn only<'a>(spans: &SpansTable, parts: impl Iterator<Item = &'a Part<'a>>) -> Arc<dyn TableProvider> {
    let (mut files, mut batches) = (HashSet::new(), HashSet::new());
    for part in parts {
        match &part.source {
            Source::File(path, _) => files.insert(Arc::clone(path)),
            Source::Batch(at, _) => batches.insert(*at),
        };
    }
    Arc::new(spans.only(files, batches))
}

async fn known_names(query: &TagNamesQuery, spans: &SpansTable, session: &SessionState) -> Result<Known> {
    let scopes = query.scopes();
    let parts = parts(spans, session, query.range).await?;
    let mut listed = Names::new();
    for (keys, scope) in parts
        .iter()
        .filter(|part| part.is_inside)
        .flat_map(|part| &part.keys)
        .flat_map(|keys| scopes.iter().map(move |scope| (keys, *scope)))
    {
        listed.extend(keys.scope(scope).keys.keys().map(|key| (scope.prefix().to_owned(), key.clone())));
    }
    let left =
        |part: &Part<'_>| scopes.iter().copied().filter(|scope| !is_told(part, *scope, &listed)).collect::<Vec<_>>();
    let left: Vec<(&Part<'_>, Vec<AttributeScope>)> = parts.iter().map(|part| (part, left(part))).collect();
    let rest = only(spans, left.iter().filter(|(_, scopes)| !scopes.is_empty()).map(|(part, _)| *part));
    let scopes: Vec<AttributeScope> =
        scopes.into_iter().filter(|scope| left.iter().any(|(_, left)| left.contains(scope))).collect();
    let plan = if scopes.is_empty() { None } else { Some(names::plan(query, &scopes, NO_EXTENT, &rest)?) };
    Ok(Known { plan, rest, shape: Shape::Names(names::Shape { listed }) })
}

/// Whether the rows of a part have no names in a scope besides these.
fn is_told(part: &Part<'_>, scope: AttributeScope, listed: &Names) -> bool {
    let Some(keys) = part.keys.as_ref().map(|keys| keys.scope(scope)) else { return false };
    let is_listed = |key: &String| listed.contains(&(scope.prefix().to_owned(), key.clone()));
    keys.closed && (part.is_inside || keys.keys.keys().all(is_listed))
}

/// Where a part has values of a field.
#[derive(Debug, PartialEq)]
enum Place {
    /// In a column.
    Column(String),
    /// In the names of events.
    Events,
    /// In the maps of a scope, with these types.
    Maps(AttributeScope, TypeSet),
}

/// What has to be read of a part to know the values of a field.
#[derive(Debug, PartialEq)]
enum Told {
    /// These; nothing if it has no values.
    By(Vec<Place>),
    /// Rows.
    ByRows,
}

async fn known_values(query: &TagValuesQuery, spans: &SpansTable, session: &SessionState) -> Result<Known> {
    let mut parts = parts(spans, session, query.range).await?;
    // What is told of the range alone comes first: it may be all that the others have.
    parts.sort_by_key(|part| !(part.is_inside || matches!(part.source, Source::Batch(..))));
    let read = parts.iter().map(|part| async move {
        Ok::<_, datafusion::error::DataFusionError>((part, of_part(query, part, spans, session).await?))
    });
    let most = DISTINCT_MAX.max(query.limit);
    let mut listed = BTreeSet::new();
    let mut left = Vec::new();
    let mut read = stream::iter(read.collect::<Vec<_>>()).buffered(FOOTER_READS_MAX);
    while let Some((part, values)) = read.try_next().await? {
        match values {
            Found::All(values) => listed.extend(values),
            Found::OfMoreRows(values) if values.iter().all(|value| listed.contains(value)) => {}
            Found::OfMoreRows(_) | Found::Nothing => left.push(part),
        }
        if listed.len() > most {
            left.clear();
            break;
        }
    }
    drop(read);
    let scopes = scopes_left(&query.field, &left);
    let rest = only(spans, left.into_iter());
    let plan = if scopes.is_empty() { None } else { Some(values::plan(query, &scopes, NO_EXTENT, &rest)?) };
    if let Some(rest) = SpansTable::of(rest.as_ref()) {
        rest.add_reads_of(spans);
    }
    let shape = values::Shape { listed, ..values::Shape::new(query) };
    Ok(Known { plan, rest, shape: Shape::Values(shape) })
}

/// Of values with a filter nothing is known but where to look for them.
async fn known_places(query: &TagValuesQuery, spans: &SpansTable, session: &SessionState) -> Result<Known> {
    let parts = parts(spans, session, query.range).await?;
    let left: Vec<&Part<'_>> = parts.iter().filter(|part| !scopes_left(&query.field, &[part]).is_empty()).collect();
    let scopes = scopes_left(&query.field, &left);
    let rest = only(spans, left.into_iter());
    let plan = if scopes.is_empty() { None } else { Some(values::plan(query, &scopes, NO_EXTENT, &rest)?) };
    Ok(Known { plan, rest, shape: Shape::Values(values::Shape::new(query)) })
}

/// Where parts that are scanned can have values of an attribute; nowhere if there are none. Of an intrinsic, every scope.
fn scopes_left(field: &FieldName, left: &[&Part<'_>]) -> Vec<AttributeScope> {
    let can_have = |part: &Part<'_>, scope: AttributeScope| match (field, &part.keys) {
        (FieldName::Attribute(attribute), keys) => {
            let is_asked = values::scopes(attribute).contains(&scope);
            is_asked && keys.as_ref().is_none_or(|keys| keys.can_have(scope, &attribute.key))
        }
        (FieldName::Intrinsic(_), _) => true,
    };
    let scopes = AttributeScope::ALL.into_iter();
    scopes.filter(|scope| left.iter().any(|part| can_have(part, *scope))).collect()
}

/// What a part tells of a field.
enum Found {
    /// The values of its spans in the range.
    All(Vec<Value>),
    /// Those of all its spans, of which some are outside of the range.
    OfMoreRows(Vec<Value>),
    /// Nothing, unless its rows are read.
    Nothing,
}

async fn of_part(query: &TagValuesQuery, part: &Part<'_>, spans: &SpansTable, session: &SessionState) -> Result<Found> {
    let Told::By(places) = told(&query.field, part.keys.as_deref()) else { return Ok(Found::Nothing) };
    if places.is_empty() {
        return Ok(Found::All(Vec::new()));
    }
    let values = match &part.source {
        Source::File(_, file) => of_file(query, file, &places, spans, session).await?,
        Source::Batch(_, batch) => return Ok(of_batch(query, batch, &places).map_or(Found::Nothing, Found::All)),
    };
    Ok(match values {
        Some(values) if part.is_inside => Found::All(values),
        Some(values) => Found::OfMoreRows(values),
        None => Found::Nothing,
    })
}

/// The values in a file, whether their rows are in the range or not; `None` if rows have to be read for that.
async fn of_file(
    query: &TagValuesQuery,
    file: &ScanFile,
    places: &[Place],
    spans: &SpansTable,
    session: &SessionState,
) -> Result<Option<Vec<Value>>> {
    let (runtime, store, objects) = (session.runtime_env(), Store::url(), spans.objects());
    let mut all = Vec::new();
    for place in places {
        let found = match (place, &query.field) {
            (Place::Column(column), _) => dictionary_values(runtime, &store, objects, file, &[column]).await?,
            (Place::Events, _) => dictionary_values(runtime, &store, objects, file, &EVENT_NAME).await?,
            (Place::Maps(scope, types), FieldName::Attribute(attribute)) => {
                map_values(runtime, &store, objects, file, (*scope, &attribute.key), *types).await?
            }
            (Place::Maps(..), FieldName::Intrinsic(_)) => None,
        };
        let Some(found) = found else { return Ok(None) };
        spans.count_read(found.read_bytes);
        for value in found.values {
            match value {
                StoredValue::Text(text) => all.push(Value::Text(text)),
                StoredValue::Int(int) => all.push(Value::Int(int)),
                StoredValue::Float(float) => all.push(Value::Float(float)),
                StoredValue::Bool(truth) => all.push(Value::Bool(truth)),
                StoredValue::Nested(json) => values::push_elements(&json, &mut all),
            }
        }
    }
    Ok(Some(all))
}

/// The values of the spans of a batch that are in the range.
fn of_batch(query: &TagValuesQuery, batch: &SpanBatch, places: &[Place]) -> Option<Vec<Value>> {
    let mut all = Vec::new();
    for place in places {
        all.extend(match (place, &query.field) {
            (Place::Column(column), _) => buffered::in_column(batch, column, query.range)?,
            (Place::Events, _) => buffered::of_events(batch, query.range)?,
            (Place::Maps(scope, _), FieldName::Attribute(attribute)) => {
                buffered::in_maps(batch, *scope, &attribute.key, query.range)?
            }
            (Place::Maps(..), FieldName::Intrinsic(_)) => return None,
        });
    }
    Some(all)
}

/// What tells the values of a field in a part with these attributes.
fn told(field: &FieldName, keys: Option<&AttributeKeys>) -> Told {
    // Without a list nobody knows who wrote the file, and whether its dictionaries have what no row has.
    let Some(keys) = keys else { return Told::ByRows };
    let attribute = match field {
        FieldName::Attribute(attribute) => attribute,
        FieldName::Intrinsic(intrinsic) => {
            let place = match intrinsic {
                Intrinsic::EventName => Some(Place::Events),
                other => text_column(*other).map(|column| Place::Column(column.to_owned())),
            };
            return place.map_or(Told::ByRows, |place| Told::By(vec![place]));
        }
    };
    let mut places = Vec::new();
    for scope in values::scopes(attribute) {
        let promoted = keys.scope(*scope).keys.get(&attribute.key).and_then(|key_use| key_use.promoted);
        let column = promoted.map(|value_type| PromotedAttribute::new(*scope, &attribute.key, value_type).column);
        places.extend(column.map(|column| Place::Column(column.to_string())));
        let in_maps = keys.residual(*scope, &attribute.key);
        if in_maps.intersects(TypeSet::VALUES) {
            places.push(Place::Maps(*scope, in_maps));
        }
    }
    Told::By(places)
}

/// The column of an intrinsic that is text.
fn text_column(intrinsic: Intrinsic) -> Option<&'static str> {
    match intrinsic {
        Intrinsic::Name => Some(column::NAME),
        Intrinsic::StatusMessage => Some(column::STATUS_MESSAGE),
        Intrinsic::InstrumentationName => Some(column::SCOPE_NAME),
        Intrinsic::InstrumentationVersion => Some(column::SCOPE_VERSION),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::attributes::AttributeType, traceql::parse_reference};

    #[test]
    fn columns_and_maps_tell_what_there_is() {
        let keys = AttributeKeys::from_json(
            r#"{"resource": {"closed": true, "keys": {"service.name": "S", "zone": "s"}},
                "instrumentation": {"closed": true, "keys": {}},
                "span": {"closed": true, "keys": {"code": "I", "mixed": "Is", "flag": "B", "list": "Sj", "zone": "S"}},
                "event": {"closed": true, "keys": {"exception.type": "s"}},
                "link": {"closed": true, "keys": {}}}"#,
        )
        .unwrap();
        let told = |field: &str| told(&parse_reference(field).unwrap(), Some(&keys));
        let column = |name: &str| Place::Column(name.to_owned());
        let maps = |scope: AttributeScope, types: &[AttributeType]| {
            Place::Maps(scope, types.iter().fold(TypeSet::NONE, |all, one| all.union(TypeSet::of(*one))))
        };
        let text = [AttributeType::Str];
        assert_eq!(told("resource.service.name"), Told::By(vec![column("service_name")]));
        assert_eq!(told(".code"), Told::By(vec![column("span.code")]));
        let nested = Place::Maps(AttributeScope::Span, TypeSet::NESTED);
        assert_eq!(told("span.list"), Told::By(vec![column("span.list"), nested]));
        assert_eq!(told("span.nothing"), Told::By(vec![]));
        assert_eq!(told("name"), Told::By(vec![column("name")]));
        assert_eq!(told("span.mixed"), Told::By(vec![column("span.mixed"), maps(AttributeScope::Span, &text)]));
        assert_eq!(told(".zone"), Told::By(vec![maps(AttributeScope::Resource, &text), column("span.zone")]));
        assert_eq!(told("event.exception.type"), Told::By(vec![maps(AttributeScope::Event, &text)]));
        assert_eq!(told("event:name"), Told::By(vec![Place::Events]));
        assert_eq!(told("rootName"), Told::ByRows);
        let open = AttributeKeys::from_json(r#"{"span": {"closed": false, "keys": {"code": "I"}}}"#).unwrap();
        let told = |field: &str| super::told(&parse_reference(field).unwrap(), Some(&open));
        assert_eq!(told("span.code"), Told::By(vec![column("span.code")]));
        assert_eq!(told("span.other"), Told::By(vec![Place::Maps(AttributeScope::Span, TypeSet::ALL)]));
    }

    #[test]
    fn a_range_holds_what_ends_before_its_end() {
        let range = TimeRange::new(10, 20);
        assert!(range.holds((10, 19)));
        assert!(!range.holds((9, 19)) && !range.holds((10, 20)));
        assert!(TimeRange::ALL.holds((i64::MIN, i64::MAX)));
    }
}
