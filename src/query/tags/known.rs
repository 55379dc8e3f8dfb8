//! What lists of keys and dictionaries tell, and what is left to scan.
//!
//! ```text
//!                      |<----- asked range ----->|
//!   file 1   [---]     .                         .        not looked at
//!   file 2          [--.-----]                   .        reaches out: scanned, unless it lists nothing new
//!   file 3             .   [----------------]    .        told by its list, or by the dictionaries of one column
//!   batch              .                      [--.--]     as file 2
//! ```

use std::{
    any::Any,
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use datafusion::{catalog::TableProvider, common::Result, execution::SessionState, logical_expr::LogicalPlan};
use futures::{StreamExt, TryStreamExt, stream};

use super::{
    names::{self, Names},
    values::{self, DISTINCT_MAX, Value},
};
use crate::{
    model::{
        attributes::{AttributeScope, AttributeType},
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
        dictionary::{DictionaryValue, dictionary_values},
        footer,
        scan::ScanFile,
        store::Store,
    },
    traceql::ast::{FieldName, Intrinsic},
};

/// Types whose values are shown.
const SHOWN: TypeSet = TypeSet::VALUES.minus(TypeSet::NESTED);

/// A question about tags, as far as it is answered.
pub(crate) struct Known {
    /// The plan of what is left.
    pub(crate) plan: LogicalPlan,
    /// The table that it reads.
    pub(crate) rest: Arc<dyn TableProvider>,
    /// Puts what is known and the plan's rows together.
    pub(crate) shape: Shape,
}

/// What is known without a scan of `base`; `None` if that is no question about tags, or has a filter.
pub(crate) async fn known(
    kind: &QueryKind,
    base: &Arc<dyn TableProvider>,
    session: &SessionState,
) -> Result<Option<Known>> {
    let Some(spans) = (base.as_ref() as &dyn Any).downcast_ref::<SpansTable>() else { return Ok(None) };
    match kind {
        QueryKind::TagNames(query) if query.filter.is_none() => known_names(query, spans, session).await.map(Some),
        QueryKind::TagValues(query) if query.filter.is_none() => known_values(query, spans, session).await.map(Some),
        _ => Ok(None),
    }
}

/// A file or buffered batch that can have spans in the range.
struct Part {
    place: Place,
    /// Whether all of its spans start in the range.
    is_inside: bool,
    /// Its attributes, if it has a list of them.
    keys: Option<Arc<AttributeKeys>>,
}

enum Place {
    File(Arc<str>, ScanFile),
    /// The position among the buffered batches.
    Batch(usize),
}

/// Whether a range holds all starts between two, which are inside.
fn holds(range: TimeRange, (first, last): (i64, i64)) -> bool {
    range.start_unix_nano <= first && (last < range.end_unix_nano || range.end_unix_nano == i64::MAX)
}

async fn parts(spans: &SpansTable, session: &SessionState, range: TimeRange) -> Result<Vec<Part>> {
    let runtime = session.runtime_env();
    let files = spans.view().files().filter(|file| file.can_hold(range)).map(|file| {
        let is_inside = file.start_range_unix_nano().is_some_and(|starts| holds(range, starts));
        (Arc::clone(&file.path), scan_file(file), is_inside)
    });
    let files = files.collect::<Vec<_>>().into_iter().map(|(path, file, is_inside)| async move {
        let keys = footer::read_keys(runtime, &Store::url(), &file).await?.map(Arc::new);
        Ok::<_, datafusion::error::DataFusionError>(Part { place: Place::File(path, file), is_inside, keys })
    });
    let mut parts: Vec<Part> = stream::iter(files).buffered(FOOTER_READS_MAX).try_collect().await?;
    for (at, batch) in spans.view().buffered().enumerate() {
        let Some(starts) = batch.start_time_range().filter(|(first, last)| range.overlaps(*first, *last)) else {
            continue;
        };
        parts.push(Part { place: Place::Batch(at), is_inside: holds(range, starts), keys: Some(batch.keys()) });
    }
    Ok(parts)
}

/// The table with these parts alone.
fn only<'a>(spans: &SpansTable, parts: impl Iterator<Item = &'a Part>) -> Arc<dyn TableProvider> {
    let (mut files, mut batches) = (HashSet::new(), HashSet::new());
    for part in parts {
        match &part.place {
            Place::File(path, _) => files.insert(Arc::clone(path)),
            Place::Batch(at) => batches.insert(*at),
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
    let left = |part: &Part| scopes.iter().copied().filter(|scope| !is_told(part, *scope, &listed)).collect::<Vec<_>>();
    let left: Vec<(&Part, Vec<AttributeScope>)> = parts.iter().map(|part| (part, left(part))).collect();
    let rest = only(spans, left.iter().filter(|(_, scopes)| !scopes.is_empty()).map(|(part, _)| *part));
    let scopes: Vec<AttributeScope> =
        scopes.into_iter().filter(|scope| left.iter().any(|(_, left)| left.contains(scope))).collect();
    let plan = names::plan(query, &scopes, &rest)?;
    Ok(Known { plan, rest, shape: Shape::Names(names::Shape { listed }) })
}

/// Whether the rows of a part have no names in a scope besides these.
fn is_told(part: &Part, scope: AttributeScope, listed: &Names) -> bool {
    let Some(keys) = part.keys.as_ref().map(|keys| keys.scope(scope)) else { return false };
    let is_listed = |key: &String| listed.contains(&(scope.prefix().to_owned(), key.clone()));
    keys.closed && (part.is_inside || keys.keys.keys().all(is_listed))
}

/// What has to be read of a part to know the values of a field.
#[derive(Debug, PartialEq)]
enum Told {
    /// Dictionaries of these columns; of none if it has no values.
    By(Vec<String>),
    /// Rows.
    ByRows,
}

async fn known_values(query: &TagValuesQuery, spans: &SpansTable, session: &SessionState) -> Result<Known> {
    let mut parts = parts(spans, session, query.range).await?;
    // What lies inside comes first: it may tell all that the others have.
    parts.sort_by_key(|part| !part.is_inside);
    let read = parts.iter().map(|part| async move {
        Ok::<_, datafusion::error::DataFusionError>((part, of_part(query, part, spans, session).await?))
    });
    let most = DISTINCT_MAX.max(query.limit);
    let mut listed = BTreeSet::new();
    let mut left = Vec::new();
    let mut read = stream::iter(read.collect::<Vec<_>>()).buffered(FOOTER_READS_MAX);
    while let Some((part, values)) = read.try_next().await? {
        match values {
            None => left.push(part),
            Some(values) if part.is_inside => listed.extend(values),
            Some(values) if values.iter().all(|value| listed.contains(value)) => {}
            Some(_) => left.push(part),
        }
        if listed.len() > most {
            left.clear();
            break;
        }
    }
    drop(read);
    let rest = only(spans, left.into_iter());
    let plan = values::plan(query, &rest)?;
    if let Some(rest) = (rest.as_ref() as &dyn Any).downcast_ref::<SpansTable>() {
        rest.add_reads_of(spans);
    }
    let shape = values::Shape { listed, ..values::Shape::new(query) };
    Ok(Known { plan, rest, shape: Shape::Values(shape) })
}

/// The values in a part, whether their rows are in the range or not; `None` if rows have to be read for that.
async fn of_part(
    query: &TagValuesQuery,
    part: &Part,
    spans: &SpansTable,
    session: &SessionState,
) -> Result<Option<Vec<Value>>> {
    let Told::By(columns) = told(&query.field, part.keys.as_deref()) else { return Ok(None) };
    if columns.is_empty() {
        return Ok(Some(Vec::new()));
    }
    let Place::File(_, file) = &part.place else { return Ok(None) };
    let mut all = Vec::new();
    for column in columns {
        let runtime = session.runtime_env();
        let Some(found) = dictionary_values(runtime, &Store::url(), spans.objects(), file, &column).await? else {
            return Ok(None);
        };
        spans.count_read(found.read_bytes);
        all.extend(found.values.into_iter().map(|value| match value {
            DictionaryValue::Text(text) => Value::Text(text),
            DictionaryValue::Int(int) => Value::Int(int),
            DictionaryValue::Float(float) => Value::Float(float),
        }));
    }
    Ok(Some(all))
}

/// What tells the values of a field in a part with these attributes.
fn told(field: &FieldName, keys: Option<&AttributeKeys>) -> Told {
    // Without a list nobody knows who wrote the file, and whether its dictionaries have what no row has.
    let Some(keys) = keys else { return Told::ByRows };
    let attribute = match field {
        FieldName::Attribute(attribute) => attribute,
        FieldName::Intrinsic(intrinsic) => {
            return text_column(*intrinsic).map_or(Told::ByRows, |column| Told::By(vec![column.to_owned()]));
        }
    };
    let mut columns = Vec::new();
    for scope in values::scopes(attribute) {
        let promoted = keys.scope(*scope).keys.get(&attribute.key).and_then(|key_use| key_use.promoted);
        if keys.residual(*scope, &attribute.key).intersects(SHOWN) || promoted == Some(AttributeType::Bool) {
            return Told::ByRows;
        }
        let column = promoted.map(|value_type| PromotedAttribute::new(*scope, &attribute.key, value_type).column);
        columns.extend(column.map(|column| column.to_string()));
    }
    Told::By(columns)
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
    use crate::traceql::parse_reference;

    #[test]
    fn only_columns_without_residual_values_tell_what_there_is() {
        let keys = AttributeKeys::from_json(
            r#"{"resource": {"closed": true, "keys": {"service.name": "S", "zone": "s"}},
                "instrumentation": {"closed": true, "keys": {}},
                "span": {"closed": true, "keys": {"code": "I", "mixed": "Is", "flag": "B", "list": "Sj", "zone": "S"}},
                "event": {"closed": true, "keys": {"exception.type": "s"}},
                "link": {"closed": true, "keys": {}}}"#,
        )
        .unwrap();
        let told = |field: &str| told(&parse_reference(field).unwrap(), Some(&keys));
        let by = |columns: &[&str]| Told::By(columns.iter().map(|column| (*column).to_owned()).collect());
        assert_eq!(told("resource.service.name"), by(&["service_name"]));
        assert_eq!(told(".code"), by(&["span.code"]));
        assert_eq!(told("span.list"), by(&["span.list"]));
        assert_eq!(told("span.nothing"), by(&[]));
        assert_eq!(told("name"), by(&["name"]));
        for field in ["span.mixed", "span.flag", ".zone", "event.exception.type", "rootName", "event:name"] {
            assert_eq!(told(field), Told::ByRows, "{field}");
        }
        let open = AttributeKeys::from_json(r#"{"span": {"closed": false, "keys": {"code": "I"}}}"#).unwrap();
        let told = |field: &str| super::told(&parse_reference(field).unwrap(), Some(&open));
        assert_eq!((told("span.code"), told("span.other")), (by(&["span.code"]), Told::ByRows));
    }

    #[test]
    fn a_range_holds_what_ends_before_its_end() {
        let range = TimeRange::new(10, 20);
        assert!(holds(range, (10, 19)));
        assert!(!holds(range, (9, 19)) && !holds(range, (10, 20)));
        assert!(holds(TimeRange::ALL, (i64::MIN, i64::MAX)));
    }
}
