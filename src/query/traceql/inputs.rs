//! Which columns the fields of a condition come from, and their values row by row.
//!
//! An [`Inputs`] is made when a query is planned: the arguments of a call, and for each field where among them its value
//! is. An [`InputRows`] is made for each batch, and gives values.

use std::{cell::Cell, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, StringArray, StructArray, new_null_array},
    buffer::{BooleanBuffer, NullBuffer},
    datatypes::{Field, Int64Type},
};
use datafusion::{
    common::{Result, exec_err},
    logical_expr::{Expr, ScalarFunctionArgs, col},
};

use super::{
    lower::{LOOKUP, attr, intrinsic_int, intrinsic_text, nested_value},
    rows::{Found, Lists, Values},
    shown::shows,
};
use crate::{
    functions::{AttrFunction, ItemPart, ItemParts},
    model::{
        attributes::{AttributeScope, VALUE_INT, VALUE_JSON, VALUE_STR, value_fields},
        schema::column,
    },
    traceql::{
        ast::{FieldName, Intrinsic, Scope},
        literal::{Kind, Status},
        plan::Dynamic,
    },
};

/// The arguments that give the values of some fields.
#[derive(Clone, Debug, Default)]
pub(in crate::query) struct Inputs {
    /// The arguments.
    pub(in crate::query) args: Vec<Expr>,
    places: Vec<(FieldName, Place)>,
    events: Option<Items>,
    links: Option<Items>,
}

/// Events or links among the arguments.
#[derive(Clone, Debug)]
struct Items {
    position: usize,
    /// What is read of them.
    parts: Vec<ItemPart>,
}

impl Items {
    /// Reads a part more of the items of a column.
    fn read(items: &mut Option<Self>, args: &mut Vec<Expr>, list: &str, part: ItemPart) {
        let items = items.get_or_insert_with(|| {
            args.push(col(list));
            Self { position: args.len() - 1, parts: Vec::new() }
        });
        if let Err(place) = items.parts.binary_search(&part) {
            items.parts.insert(place, part);
            args[items.position] = ItemParts::of(col(list), &items.parts);
        }
    }
}

/// Where the value of a field is: positions of arguments.
#[derive(Clone, Debug)]
enum Place {
    /// Five typed values and whether the key is there.
    Attribute(usize),
    /// The same for each scope that has columns, in the order of look-up; the key, for events and links.
    Unscoped([usize; 3], String),
    /// An attribute of the event that is looked at.
    Event(String),
    /// An attribute of the link that is looked at.
    Link(String),
    Text(usize),
    Int(usize),
    Status(usize),
    Kind(usize),
    EventName,
    /// The start of the span.
    EventTime(usize),
    LinkTraceId,
    LinkSpanId,
    /// The parent's id: -1 without one.
    Root(usize),
    /// Only a whole trace can tell.
    Unknown,
}

/// Fields of events and links.
const EVENT_NAME: &str = "name";
const EVENT_TIME: &str = "time_unix_nano";
const LINK_TRACE_ID: &str = "trace_id";
const LINK_SPAN_ID: &str = "span_id";

/// Arguments of one attribute.
const ATTRIBUTE_ARGS: usize = 6;

/// The arguments of a call, each with a value per row. All of them can be constants, in a file without the attributes.
pub(in crate::query) fn arrays(args: &ScalarFunctionArgs) -> Result<Vec<ArrayRef>> {
    args.args.iter().map(|arg| arg.to_array(args.number_rows)).collect()
}

impl Inputs {
    /// The inputs for the values of these fields.
    pub(in crate::query) fn new(fields: impl IntoIterator<Item = FieldName>) -> Self {
        Self::reading(fields, |_| true)
    }

    /// The inputs for these fields, of which some need no value: whether they are there is enough.
    pub(super) fn reading(
        fields: impl IntoIterator<Item = FieldName>,
        needs_value: impl Fn(&FieldName) -> bool,
    ) -> Self {
        let mut inputs = Self::default();
        for field in fields {
            if !inputs.places.iter().any(|(name, _)| *name == field) {
                let place = inputs.place(&field, needs_value(&field));
                inputs.places.push((field, place));
            }
        }
        inputs
    }

    /// The position of an argument, which is added if it is new.
    pub(in crate::query) fn arg(&mut self, expr: Expr) -> usize {
        match self.args.iter().position(|arg| *arg == expr) {
            Some(position) => position,
            None => {
                self.args.push(expr);
                self.args.len() - 1
            }
        }
    }

    fn place(&mut self, field: &FieldName, needs_value: bool) -> Place {
        let attribute = match field {
            FieldName::Intrinsic(intrinsic) => return self.intrinsic(*intrinsic),
            FieldName::Attribute(attribute) => attribute,
        };
        let key = attribute.key.as_str();
        let item = || match needs_value {
            true => ItemPart::Value(key.to_owned()),
            false => ItemPart::Has(key.to_owned()),
        };
        match attribute.scope {
            Scope::Span => Place::Attribute(self.attribute(AttributeScope::Span, key)),
            Scope::Resource => Place::Attribute(self.attribute(AttributeScope::Resource, key)),
            Scope::Instrumentation => Place::Attribute(self.attribute(AttributeScope::Scope, key)),
            Scope::Event => {
                self.events(item());
                Place::Event(key.to_owned())
            }
            Scope::Link => {
                self.links(item());
                Place::Link(key.to_owned())
            }
            Scope::Any => {
                let places = LOOKUP.map(|scope| self.attribute(scope, key));
                self.events(item());
                self.links(item());
                Place::Unscoped(places, key.to_owned())
            }
        }
    }

    /// Six arguments in a row, of which the last says whether the key is there.
    fn attribute(&mut self, scope: AttributeScope, key: &str) -> usize {
        let first = self.args.len();
        for function in [AttrFunction::Str, AttrFunction::Int, AttrFunction::Float, AttrFunction::Bool] {
            self.args.push(attr(function, scope, key));
        }
        self.args.push(nested_value(scope, key));
        self.args.push(attr(AttrFunction::Exists, scope, key));
        first
    }

    fn events(&mut self, part: ItemPart) {
        Items::read(&mut self.events, &mut self.args, column::EVENTS, part);
    }

    fn links(&mut self, part: ItemPart) {
        Items::read(&mut self.links, &mut self.args, column::LINKS, part);
    }

    fn intrinsic(&mut self, intrinsic: Intrinsic) -> Place {
        if let Some(text) = intrinsic_text(intrinsic) {
            let position = self.arg(text);
            return match intrinsic {
                Intrinsic::Status => Place::Status(position),
                Intrinsic::Kind => Place::Kind(position),
                _ => Place::Text(position),
            };
        }
        if let Some(number) = intrinsic_int(intrinsic) {
            return Place::Int(self.arg(number));
        }
        let field = |name: &str| ItemPart::Field(name.to_owned());
        match intrinsic {
            Intrinsic::EventName => self.events(field(EVENT_NAME)),
            Intrinsic::EventTimeSinceStart => self.events(field(EVENT_TIME)),
            Intrinsic::LinkTraceId => self.links(field(LINK_TRACE_ID)),
            Intrinsic::LinkSpanId => self.links(field(LINK_SPAN_ID)),
            _ => {}
        }
        match intrinsic {
            Intrinsic::EventName => Place::EventName,
            Intrinsic::EventTimeSinceStart => Place::EventTime(self.arg(col(column::START_TIME))),
            Intrinsic::LinkTraceId => Place::LinkTraceId,
            Intrinsic::LinkSpanId => Place::LinkSpanId,
            Intrinsic::NestedSetParent => Place::Root(self.arg(col(column::PARENT_SPAN_ID).is_null())),
            _ => Place::Unknown,
        }
    }

    /// The values in a batch; `columns` are the evaluated arguments.
    pub(in crate::query) fn rows<'a>(&'a self, columns: &'a [ArrayRef]) -> Result<InputRows<'a>> {
        if columns.len() < self.args.len() {
            return exec_err!("expected {} arguments, got {}", self.args.len(), columns.len());
        }
        let list = |items: &Option<Items>| match items {
            Some(items) => Lists::try_new(&columns[items.position]).map(Some),
            None => Ok(None),
        };
        let fields = self
            .places
            .iter()
            .map(|(name, place)| Ok((name, Source::try_new(place, columns)?)))
            .collect::<Result<_>>()?;
        let explicit = |in_list: fn(&FieldName) -> bool| self.places.iter().any(|(name, _)| in_list(name));
        Ok(InputRows {
            fields,
            events: list(&self.events)?,
            links: list(&self.links)?,
            names_events: explicit(FieldName::is_of_event),
            names_links: explicit(FieldName::is_of_link),
        })
    }
}

/// An attribute as columns.
#[derive(Clone, Copy, Debug)]
struct AttributeSource<'a> {
    columns: &'a [ArrayRef],
    values: Values<'a>,
    exists: &'a BooleanArray,
}

impl<'a> AttributeSource<'a> {
    fn try_new(columns: &'a [ArrayRef], first: usize) -> Result<Self> {
        let exists = &columns[first + ATTRIBUTE_ARGS - 1];
        let columns = &columns[first..first + ATTRIBUTE_ARGS - 1];
        let values = Values::try_new(columns)?;
        match exists.as_boolean_opt() {
            Some(exists) => Ok(Self { columns, values, exists }),
            None => exec_err!("expected whether an attribute exists"),
        }
    }

    /// The values as structs, unless some are nested.
    fn whole(self) -> Option<ArrayRef> {
        if self.columns[VALUE_JSON].null_count() < self.columns[VALUE_JSON].len() {
            return None;
        }
        // Where no value is nested, the key is there if one of the others is, or if it has nothing to show.
        let (mut valid, rows) = (None, self.exists.len());
        for column in self.columns.iter().filter(|column| column.null_count() < rows) {
            let here = column.nulls().map_or_else(|| BooleanBuffer::new_set(rows), |nulls| nulls.inner().clone());
            valid = Some(valid.map_or_else(|| here.clone(), |valid: BooleanBuffer| &valid | &here));
        }
        let valid = valid.unwrap_or_else(|| BooleanBuffer::new_unset(rows));
        let values = StructArray::try_new(value_fields(), self.columns.to_vec(), Some(NullBuffer::new(valid)));
        values.ok().map(|values| Arc::new(values) as ArrayRef)
    }

    fn get(self, row: usize) -> Option<Found<'a>> {
        (self.exists.is_valid(row) && self.exists.value(row)).then_some(Found::Attribute(self.values, row))
    }
}

#[derive(Debug)]
enum Source<'a> {
    Attribute(AttributeSource<'a>),
    Unscoped([AttributeSource<'a>; 3], &'a str),
    Event(&'a str),
    Link(&'a str),
    Text(&'a StringArray),
    Int(&'a Int64Array),
    Status(&'a StringArray),
    Kind(&'a StringArray),
    EventName,
    EventTime(&'a Int64Array),
    LinkTraceId,
    LinkSpanId,
    Root(&'a BooleanArray),
    Unknown,
}

impl<'a> Source<'a> {
    fn try_new(place: &'a Place, columns: &'a [ArrayRef]) -> Result<Self> {
        let text = |position: &usize| match columns[*position].as_string_opt::<i32>() {
            Some(text) => Ok(text),
            None => exec_err!("expected text, got {}", columns[*position].data_type()),
        };
        let int = |position: &usize| match columns[*position].as_primitive_opt::<Int64Type>() {
            Some(int) => Ok(int),
            None => exec_err!("expected integers, got {}", columns[*position].data_type()),
        };
        Ok(match place {
            Place::Attribute(first) => Source::Attribute(AttributeSource::try_new(columns, *first)?),
            Place::Unscoped([span, resource, scope], key) => Source::Unscoped(
                [
                    AttributeSource::try_new(columns, *span)?,
                    AttributeSource::try_new(columns, *resource)?,
                    AttributeSource::try_new(columns, *scope)?,
                ],
                key,
            ),
            Place::Event(key) => Source::Event(key),
            Place::Link(key) => Source::Link(key),
            Place::Text(position) => Source::Text(text(position)?),
            Place::Int(position) => Source::Int(int(position)?),
            Place::Status(position) => Source::Status(text(position)?),
            Place::Kind(position) => Source::Kind(text(position)?),
            Place::EventName => Source::EventName,
            Place::EventTime(position) => Source::EventTime(int(position)?),
            Place::LinkTraceId => Source::LinkTraceId,
            Place::LinkSpanId => Source::LinkSpanId,
            Place::Root(position) => match columns[*position].as_boolean_opt() {
                Some(root) => Source::Root(root),
                None => return exec_err!("expected whether a span is a root"),
            },
            Place::Unknown => Source::Unknown,
        })
    }
}

impl Source<'_> {
    /// Whether an attribute without a scope is looked up in these events or links.
    fn is_found_in(&self, lists: Lists<'_>, row: usize) -> bool {
        let Source::Unscoped([span, resource, _], key) = self else { return false };
        span.get(row).is_none() && resource.get(row).is_none() && lists.any_has(row, key)
    }
}

/// The values of fields in one batch.
#[derive(Debug)]
pub(in crate::query) struct InputRows<'a> {
    fields: Vec<(&'a FieldName, Source<'a>)>,
    events: Option<Lists<'a>>,
    links: Option<Lists<'a>>,
    names_events: bool,
    names_links: bool,
}

/// A span, and the event and link of it that are looked at.
#[derive(Clone, Copy, Debug)]
pub(in crate::query) struct Focus {
    pub(in crate::query) row: usize,
    pub(in crate::query) event: Option<usize>,
    pub(in crate::query) link: Option<usize>,
}

impl<'a> InputRows<'a> {
    /// Whether `holds` says yes for some event and link of the span; for none, where it has none or none matters.
    pub(in crate::query) fn any(&self, row: usize, holds: impl Fn(Focus) -> bool) -> bool {
        let mut events = self.items(self.events, self.names_events, row);
        let links = self.items(self.links, self.names_links, row);
        events.any(|event| links.clone().any(|link| holds(Focus { row, event, link })))
    }

    /// Whether there is more than one pair of an event and a link to look at.
    pub(super) fn has_choice(&self, row: usize) -> bool {
        let mut events = self.items(self.events, self.names_events, row);
        let mut links = self.items(self.links, self.names_links, row);
        events.nth(1).is_some() || links.nth(1).is_some()
    }

    /// The items to look at one by one; a single none where it does not matter which.
    fn items(
        &self,
        lists: Option<Lists<'_>>,
        named: bool,
        row: usize,
    ) -> impl Iterator<Item = Option<usize>> + Clone + use<> {
        let items = lists.map_or(0..0, |lists| {
            let matters = named || self.fields.iter().any(|(_, source)| source.is_found_in(lists, row));
            if matters { lists.items(row) } else { 0..0 }
        });
        let none = items.is_empty().then_some(None);
        items.map(Some).chain(none)
    }

    /// The first event and link of the span that `wanted` accepts, for showing.
    pub(in crate::query) fn first(&self, row: usize, wanted: impl Fn(Focus) -> bool) -> Option<Focus> {
        let found = Cell::new(None);
        self.any(row, |focus| {
            let yes = wanted(focus);
            if yes {
                found.set(Some(focus));
            }
            yes
        });
        found.get()
    }

    /// The value of a field for grouping and aggregates: that of the first event and link that has one to show; an empty one
    /// only if none has another.
    pub(in crate::query) fn shown(&self, name: &FieldName, row: usize) -> Option<Found<'a>> {
        let found = |focus| self.find(name, focus);
        let focus = self.first(row, |focus| found(focus).is_some_and(|found| shows(&found)));
        found(focus.or_else(|| self.first(row, |focus| found(focus).is_some()))?)
    }

    /// The values of a field of all spans as [`ValueBuilder`] would put them together, where they are columns already.
    ///
    /// [`ValueBuilder`]: super::shown::ValueBuilder
    pub(in crate::query) fn whole(&self, name: &FieldName) -> Option<ArrayRef> {
        let (_, source) = self.fields.iter().find(|(field, _)| *field == name)?;
        let texts = match source {
            Source::Attribute(attribute) => return attribute.whole(),
            Source::Text(texts) => texts,
            Source::Status(texts) if texts.iter().flatten().all(|name| Status::from_name(name).is_some()) => texts,
            Source::Kind(texts) if texts.iter().flatten().all(|name| Kind::from_name(name).is_some()) => texts,
            _ => return None,
        };
        if texts.null_count() > 0 {
            return None;
        }
        one_type(VALUE_STR, Arc::new((*texts).clone()))
    }

    /// The same of a field that is always an integer, such as a duration that is not shown.
    pub(in crate::query) fn whole_int(&self, name: &FieldName) -> Option<ArrayRef> {
        match self.fields.iter().find(|(field, _)| *field == name)? {
            (_, Source::Int(ints)) if ints.null_count() == 0 => one_type(VALUE_INT, Arc::new((*ints).clone())),
            _ => None,
        }
    }

    /// The value of a field, for conditions.
    pub(in crate::query) fn get(&self, name: &FieldName, focus: Focus) -> Dynamic<'a> {
        self.find(name, focus).map_or(Dynamic::Missing, Found::value)
    }

    /// The value of a field.
    pub(in crate::query) fn find(&self, name: &FieldName, focus: Focus) -> Option<Found<'a>> {
        let (_, source) = self.fields.iter().find(|(field, _)| *field == name)?;
        self.found(source, focus)
    }

    fn found(&self, source: &Source<'a>, focus: Focus) -> Option<Found<'a>> {
        let row = focus.row;
        let event = || Some((self.events?, focus.event?));
        let link = || Some((self.links?, focus.link?));
        Some(Found::Value(match source {
            Source::Attribute(attribute) => return attribute.get(row),
            Source::Unscoped(columns, key) => return self.unscoped(columns, key, focus),
            Source::Event(key) => return event().and_then(|(events, item)| events.attribute(item, key)),
            Source::Link(key) => return link().and_then(|(links, item)| links.attribute(item, key)),
            Source::Text(texts) => Dynamic::text(texts.value(row)),
            Source::Int(ints) => Dynamic::Int(ints.value(row)),
            Source::Status(texts) => Dynamic::Status(Status::from_name(texts.value(row))?),
            Source::Kind(texts) => Dynamic::Kind(Kind::from_name(texts.value(row))?),
            Source::EventName => event().and_then(|(events, item)| events.text(item, EVENT_NAME)).map(Dynamic::text)?,
            Source::EventTime(starts) => {
                let (events, item) = event()?;
                Dynamic::Int(events.int(item, EVENT_TIME)?.wrapping_sub(starts.value(row)))
            }
            Source::LinkTraceId => link_id(link()?, LINK_TRACE_ID)?,
            Source::LinkSpanId => link_id(link()?, LINK_SPAN_ID)?,
            Source::Root(root) if root.value(row) => Dynamic::Int(-1),
            Source::Root(_) | Source::Unknown => return None,
        }))
    }

    /// The first of span, resource, events, links and scope that has the key. Where that are the events, one without it
    /// has a value that no operator takes: the attribute is there, and not this event's.
    fn unscoped(&self, columns: &[AttributeSource<'a>; 3], key: &str, focus: Focus) -> Option<Found<'a>> {
        let [span, resource, scope] = columns;
        if let Some(value) = span.get(focus.row).or_else(|| resource.get(focus.row)) {
            return Some(value);
        }
        for (lists, item) in [(self.events, focus.event), (self.links, focus.link)] {
            if let Some(lists) = lists
                && lists.any_has(focus.row, key)
            {
                let here = item.and_then(|item| lists.attribute(item, key));
                return Some(here.unwrap_or(Found::Value(Dynamic::Opaque)));
            }
        }
        scope.get(focus.row)
    }
}

/// Values that are all of one type.
fn one_type(value: usize, column: ArrayRef) -> Option<ArrayRef> {
    let fields = value_fields();
    let nothing = |field: &Arc<Field>| new_null_array(field.data_type(), column.len());
    let mut columns: Vec<ArrayRef> = fields.iter().map(nothing).collect();
    columns[value] = column;
    StructArray::try_new(fields, columns, None).ok().map(|values| Arc::new(values) as ArrayRef)
}

fn link_id((links, item): (Lists<'_>, usize), field: &str) -> Option<Dynamic<'static>> {
    links.hex(item, field).map(|id| Dynamic::String(id.into()))
}
