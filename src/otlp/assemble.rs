//! From decoded parts to a batch: checks each span by the rules, keeps it or counts it.
//!
//! Both encodings end here. What they read is *parts*, borrowed and unchecked; [`Assembler::span`] is the one place
//! that makes ids and times of them, and the builder takes nothing else.

use std::{ops::Range, sync::Arc};

use crate::{
    model::{
        batch::{BatchError, SpanBatch},
        builder::{
            Attribute, EventFields, LinkFields, ResourceFields, ResourceRow, ScopeFields, ScopeRow, SpanBatchBuilder,
            SpanFields,
        },
        ids::{SpanId, TraceId},
        promotion::Promotion,
    },
    otlp::rules::{Fault, Limits, Reason, Rejections, Rules},
};

/// A decoded request: the spans that fulfil the rules, and an account of those that do not.
#[derive(Clone, Debug)]
pub struct Decoded {
    /// The spans kept. Resources and scopes without such spans are not in it.
    pub batch: SpanBatch,
    /// The others.
    pub rejected: Rejections,
}

/// Why spans cannot be taken at all.
#[derive(Debug)]
pub(super) enum AssembleError {
    TooManySpans { limit: usize },
    Batch(BatchError),
}

impl From<BatchError> for AssembleError {
    fn from(error: BatchError) -> Self {
        AssembleError::Batch(error)
    }
}

/// Attributes of several owners, one after the other, and the first fault among them.
#[derive(Debug, Default)]
pub(super) struct AttributeParts<'a> {
    pub(super) list: Vec<Attribute<'a>>,
    pub(super) fault: Option<Fault>,
}

impl<'a> AttributeParts<'a> {
    /// Adds an attribute of the owner whose attributes begin at `from`.
    #[inline]
    pub(super) fn push(&mut self, limits: &Limits, from: usize, attribute: Attribute<'a>) {
        let Attribute { key, value } = &attribute;
        let bytes = key.len() + value.text_bytes();
        if bytes > limits.attribute_bytes_max {
            self.fault.get_or_insert_with(|| Fault::too_large(key, bytes, limits.attribute_bytes_max));
        } else if self.list.len() - from >= limits.attributes_max {
            let (reason, limit) = (Reason::TooManyAttributes, limits.attributes_max);
            self.fault.get_or_insert(Fault::TooMany { reason, what: "attributes", limit });
        } else {
            self.list.push(attribute);
        }
    }

    pub(super) fn clear(&mut self) {
        self.list.clear();
        self.fault = None;
    }
}

#[derive(Debug, Default)]
pub(super) struct ResourceParts<'a> {
    pub(super) fields: ResourceFields<'a>,
    pub(super) attributes: AttributeParts<'a>,
}

#[derive(Debug, Default)]
pub(super) struct ScopeParts<'a> {
    pub(super) fields: ScopeFields<'a>,
    pub(super) attributes: AttributeParts<'a>,
}

/// An id as an encoding gave it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum IdPart<'a> {
    #[default]
    Missing,
    Bytes(&'a [u8]),
    NotHex(&'a str),
}

#[derive(Debug, Default)]
pub(super) struct EventParts<'a> {
    pub(super) time_unix_nano: u64,
    pub(super) name: &'a str,
    /// In [`SpanParts::nested`].
    pub(super) attributes: Range<usize>,
    pub(super) dropped_attributes_count: u32,
}

#[derive(Debug, Default)]
pub(super) struct LinkParts<'a> {
    pub(super) trace_id: &'a [u8],
    pub(super) span_id: &'a [u8],
    pub(super) trace_state: &'a str,
    pub(super) flags: u32,
    /// In [`SpanParts::nested`].
    pub(super) attributes: Range<usize>,
    pub(super) dropped_attributes_count: u32,
}

/// A span as an encoding gave it. One value serves for all spans of a request, so its lists allocate once.
#[derive(Debug, Default)]
pub(super) struct SpanParts<'a> {
    pub(super) trace_id: IdPart<'a>,
    pub(super) span_id: IdPart<'a>,
    pub(super) parent_span_id: IdPart<'a>,
    pub(super) trace_state: &'a str,
    pub(super) flags: u32,
    pub(super) name: &'a str,
    pub(super) kind: i32,
    pub(super) start_time_unix_nano: u64,
    pub(super) end_time_unix_nano: u64,
    pub(super) dropped_attributes_count: u32,
    pub(super) dropped_events_count: u32,
    pub(super) dropped_links_count: u32,
    pub(super) status_code: i32,
    pub(super) status_message: &'a str,
    pub(super) attributes: AttributeParts<'a>,
    /// Attributes of events and links.
    pub(super) nested: AttributeParts<'a>,
    pub(super) events: Vec<EventParts<'a>>,
    pub(super) links: Vec<LinkParts<'a>>,
    /// A time that is none, which only some encodings can hold.
    pub(super) time_fault: Option<Fault>,
    /// More events or links than the limits allow.
    pub(super) fault: Option<Fault>,
}

impl<'a> SpanParts<'a> {
    /// Forgets the span and keeps the allocations.
    pub(super) fn clear(&mut self) {
        let mut fresh = Self::default();
        for lists in [(&mut fresh.attributes, &mut self.attributes), (&mut fresh.nested, &mut self.nested)] {
            lists.1.clear();
            std::mem::swap(lists.0, lists.1);
        }
        self.events.clear();
        std::mem::swap(&mut fresh.events, &mut self.events);
        self.links.clear();
        std::mem::swap(&mut fresh.links, &mut self.links);
        *self = fresh;
    }

    /// Whether one more event may come.
    pub(super) fn has_room_for_event(&mut self, limits: &Limits) -> bool {
        let limit = limits.events_max;
        if self.events.len() >= limit {
            let reason = Reason::TooManyEvents;
            self.fault.get_or_insert(Fault::TooMany { reason, what: "events", limit });
        }
        self.events.len() < limit
    }

    /// Whether one more link may come.
    pub(super) fn has_room_for_link(&mut self, limits: &Limits) -> bool {
        let limit = limits.links_max;
        if self.links.len() >= limit {
            let reason = Reason::TooManyLinks;
            self.fault.get_or_insert(Fault::TooMany { reason, what: "links", limit });
        }
        self.links.len() < limit
    }

    fn events(&self) -> impl Iterator<Item = EventFields<'_>> + Clone {
        self.events.iter().map(|event| EventFields {
            time_unix_nano: event.time_unix_nano,
            name: event.name,
            attributes: self.nested.list.get(event.attributes.clone()).unwrap_or_default(),
            dropped_attributes_count: event.dropped_attributes_count,
        })
    }

    fn links(&self) -> impl Iterator<Item = LinkFields<'_>> + Clone {
        self.links.iter().map(|link| LinkFields {
            trace_id: link.trace_id,
            span_id: link.span_id,
            trace_state: link.trace_state,
            flags: link.flags,
            attributes: self.nested.list.get(link.attributes.clone()).unwrap_or_default(),
            dropped_attributes_count: link.dropped_attributes_count,
        })
    }
}

/// Puts the spans of a request together; see the module's documentation.
#[derive(Debug)]
pub(super) struct Assembler<'r> {
    rules: &'r Rules,
    builder: SpanBatchBuilder,
    rejected: Rejections,
    spans: usize,
    /// Rows of the resource and the scope at hand, once a span needed them.
    resource_row: Option<ResourceRow>,
    scope_row: Option<ScopeRow>,
}

impl<'r> Assembler<'r> {
    /// Makes room for so many spans, of which fewer or more may come.
    pub(super) fn new(promotion: &Arc<Promotion>, rules: &'r Rules, spans: usize) -> Self {
        Self {
            rules,
            builder: SpanBatchBuilder::with_capacity(promotion, spans),
            rejected: Rejections::default(),
            spans: 0,
            resource_row: None,
            scope_row: None,
        }
    }

    pub(super) fn limits(&self) -> &'r Limits {
        &self.rules.limits
    }

    /// The spans that follow are of another resource.
    pub(super) fn next_resource(&mut self) {
        self.resource_row = None;
        self.scope_row = None;
    }

    /// The spans that follow are of another scope.
    pub(super) fn next_scope(&mut self) {
        self.scope_row = None;
    }

    /// Keeps or counts a span of the resource and the scope at hand.
    pub(super) fn span(
        &mut self,
        resource: &ResourceParts<'_>,
        scope: &ScopeParts<'_>,
        span: &SpanParts<'_>,
    ) -> Result<(), AssembleError> {
        self.spans += 1;
        let limit = self.rules.limits.spans_max;
        if self.spans > limit {
            return Err(AssembleError::TooManySpans { limit });
        }
        let faults = [&resource.attributes.fault, &scope.attributes.fault];
        let fields = match faults.into_iter().find_map(Option::as_ref) {
            Some(fault) => Err(fault.clone()),
            None => self.check(span),
        };
        let fields = match fields {
            Ok(fields) => fields,
            Err(fault) => {
                self.rejected.add(&fault);
                return Ok(());
            }
        };
        let resource_row = match self.resource_row {
            Some(row) => row,
            None => self.builder.push_resource(&resource.fields, &resource.attributes.list)?,
        };
        self.resource_row = Some(resource_row);
        let scope_row = match self.scope_row {
            Some(row) => row,
            None => self.builder.push_scope(&scope.fields, &scope.attributes.list)?,
        };
        self.scope_row = Some(scope_row);
        let rows = (resource_row, scope_row);
        self.builder.push_span(rows, &fields, &span.attributes.list, span.events(), span.links())?;
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Decoded, AssembleError> {
        Ok(Decoded { batch: self.builder.finish()?, rejected: self.rejected })
    }

    fn check<'s>(&self, span: &'s SpanParts<'_>) -> Result<SpanFields<'s>, Fault> {
        let trace_id = id(span.trace_id, Reason::InvalidTraceId, "trace id")?;
        let span_id = id(span.span_id, Reason::InvalidSpanId, "span id")?;
        if let Some(fault) = &span.time_fault {
            return Err(fault.clone());
        }
        let start_time_unix_nano = time(span.start_time_unix_nano, Reason::InvalidStartTime, "start time")?;
        let end_time_unix_nano = time(span.end_time_unix_nano, Reason::InvalidEndTime, "end time")?;
        let window = self.rules.time_window;
        if !window.contains(start_time_unix_nano) {
            return Err(Fault::OutsideWindow { start_unix_nano: start_time_unix_nano, window });
        }
        let faults = [&span.fault, &span.attributes.fault, &span.nested.fault];
        if let Some(fault) = faults.into_iter().find_map(Option::as_ref) {
            return Err(fault.clone());
        }
        Ok(SpanFields {
            trace_id: TraceId::from_bytes(trace_id),
            span_id: SpanId::from_bytes(span_id),
            parent_span_id: parent(span.parent_span_id)?,
            trace_state: span.trace_state,
            flags: span.flags,
            name: span.name,
            kind: span.kind,
            status_code: span.status_code,
            status_message: span.status_message,
            start_time_unix_nano,
            // Both lie in 1..=i64::MAX.
            duration_nano: end_time_unix_nano - start_time_unix_nano,
            dropped_attributes_count: span.dropped_attributes_count,
            dropped_events_count: span.dropped_events_count,
            dropped_links_count: span.dropped_links_count,
        })
    }
}

fn id<const N: usize>(part: IdPart<'_>, reason: Reason, what: &'static str) -> Result<[u8; N], Fault> {
    let bytes = match part {
        IdPart::Missing => &[],
        IdPart::Bytes(bytes) => bytes,
        IdPart::NotHex(text) => return Err(Fault::not_hex(reason, what, text)),
    };
    match <[u8; N]>::try_from(bytes) {
        Err(_) => Err(Fault::IdLength { reason, what, bytes: bytes.len(), must: N }),
        Ok(id) if id == [0; N] => Err(Fault::IdZero { reason, what }),
        Ok(id) => Ok(id),
    }
}

/// A root has no parent id; some senders write zeros for that.
fn parent(part: IdPart<'_>) -> Result<Option<SpanId>, Fault> {
    match part {
        IdPart::Missing | IdPart::Bytes(&[]) => Ok(None),
        _ => match id(part, Reason::InvalidParentSpanId, "parent span id") {
            Ok(bytes) => Ok(Some(SpanId::from_bytes(bytes))),
            Err(Fault::IdZero { .. }) => Ok(None),
            Err(fault) => Err(fault),
        },
    }
}

fn time(unix_nano: u64, reason: Reason, what: &'static str) -> Result<i64, Fault> {
    match i64::try_from(unix_nano) {
        Err(_) => Err(Fault::TimeTooLarge { reason, what, unix_nano }),
        Ok(0) => Err(Fault::TimeMissing { reason, what }),
        Ok(time) => Ok(time),
    }
}
