//! OTLP protobuf into a batch, in one walk over the bytes that were received.
//!
//! Nothing is copied on the way but what the columns keep. The fields of a message may come in any order, so resource
//! and scope are read before the spans below them, wherever they stand; a message that comes in several pieces reads
//! as one, as protobuf says. One malformed byte fails the request, because what follows cannot be believed; a span that
//! breaks a rule fails alone.

use std::sync::Arc;

use crate::{
    error::{Error, ErrorKind},
    model::{batch::BatchError, builder::Attribute, promotion::Promotion},
    otlp::{
        any_value::{self, Stop},
        assemble::{
            AssembleError, Assembler, AttributeParts, Decoded, EventParts, IdPart, LinkParts, ResourceParts,
            ScopeParts, SpanParts,
        },
        json_reader::JsonError,
        rules::{Fault, Limits, Rules},
        wire::{Pieces, Reader, WireError, WireProblem, delimited, fixed32, fixed64, varint},
    },
};

/// Largest request in bytes, whatever the settings say: nested values may grow six times as JSON text, and the columns
/// count their text with 31 bits.
pub const REQUEST_BYTES_MAX: usize = 256 << 20;

/// Why a request gave no spans at all.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not protobuf, or not this message.
    #[error("invalid protobuf at byte {offset} of the request: {problem}")]
    Protobuf {
        /// From the start of the request, after decompression.
        offset: usize,
        /// What is wrong there.
        problem: WireProblem,
    },
    /// Not JSON, or not this message.
    #[error("invalid JSON: {0}")]
    Json(#[from] JsonError),
    /// JSON that is not text.
    #[error("invalid JSON: byte {offset} of the request is not UTF-8")]
    NotUtf8 {
        /// From the start of the request, after decompression.
        offset: usize,
    },
    /// More spans than a request may have.
    #[error("request has more spans than the limit of {limit}")]
    TooManySpans {
        /// The limit.
        limit: usize,
    },
    /// More bytes than a request may have.
    #[error("request has {bytes} bytes, more than the limit of {limit}")]
    TooLarge {
        /// Bytes of the request, after decompression.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// More text than a batch can hold.
    #[error(transparent)]
    Batch(BatchError),
}

impl From<AssembleError> for DecodeError {
    fn from(error: AssembleError) -> Self {
        match error {
            AssembleError::TooManySpans { limit } => DecodeError::TooManySpans { limit },
            AssembleError::Batch(error) => DecodeError::Batch(error),
        }
    }
}

impl From<DecodeError> for Error {
    fn from(error: DecodeError) -> Self {
        let kind = match &error {
            DecodeError::Protobuf { .. } | DecodeError::Json(_) | DecodeError::NotUtf8 { .. } => {
                ErrorKind::InvalidArgument
            }
            DecodeError::TooManySpans { .. } | DecodeError::TooLarge { .. } | DecodeError::Batch(_) => {
                ErrorKind::TooLarge
            }
        };
        Error::new(kind, error.to_string())
    }
}

/// Decodes an `ExportTraceServiceRequest` (or the identical `TracesData`).
pub fn decode_protobuf(request: &[u8], promotion: &Arc<Promotion>, rules: &Rules) -> Result<Decoded, DecodeError> {
    check_size(request)?;
    let spans = count_spans(request).min(rules.limits.spans_max);
    let mut decoder = Decoder { assembler: Assembler::new(promotion, rules, spans), span: SpanParts::default() };
    decoder.request(request).map_err(|error| match error {
        Failure::Malformed(error) => DecodeError::Protobuf { offset: error.offset_in(request), problem: error.problem },
        Failure::Assemble(error) => error.into(),
    })?;
    Ok(decoder.assembler.finish()?)
}

/// Ids and times with their tags, without which a span is rejected.
const SPAN_BYTES_MIN: usize = 46;

/// How many spans a request has, so that room for them is made once. Nothing of a malformed request counts, nor do spans that
/// are too short to be any.
fn count_spans(request: &[u8]) -> usize {
    const MEMBERS: [u32; 3] = [RESOURCE_SPANS, Group::MEMBERS, Group::MEMBERS];
    fn count(message: &[u8], members: &[u32]) -> Result<usize, WireError> {
        let Some((members, below)) = members.split_first() else {
            return Ok(usize::from(message.len() >= SPAN_BYTES_MIN));
        };
        let (mut reader, mut spans) = (Reader::new(message), 0);
        while let Some(tag) = reader.tag()? {
            match tag {
                tag if tag == *members => spans += count(reader.bytes()?, below)?,
                _ => reader.skip(tag, "", 0)?,
            }
        }
        Ok(spans)
    }
    count(request, &MEMBERS).unwrap_or(0)
}

pub(super) fn check_size(request: &[u8]) -> Result<(), DecodeError> {
    let (bytes, limit) = (request.len(), REQUEST_BYTES_MAX);
    if bytes > limit { Err(DecodeError::TooLarge { bytes, limit }) } else { Ok(()) }
}

enum Failure {
    Malformed(WireError),
    Assemble(AssembleError),
}

impl From<WireError> for Failure {
    fn from(error: WireError) -> Self {
        Failure::Malformed(error)
    }
}

impl From<AssembleError> for Failure {
    fn from(error: AssembleError) -> Self {
        Failure::Assemble(error)
    }
}

const RESOURCE_SPANS: u32 = delimited(1);

struct Decoder<'a, 'r> {
    assembler: Assembler<'r>,
    span: SpanParts<'a>,
}

impl<'a> Decoder<'a, '_> {
    fn request(&mut self, request: &'a [u8]) -> Result<(), Failure> {
        let mut reader = Reader::new(request);
        while let Some(tag) = reader.tag()? {
            match tag {
                RESOURCE_SPANS => self.resource_spans(reader.bytes()?)?,
                _ => reader.skip(tag, "ExportTraceServiceRequest", 1)?,
            }
        }
        Ok(())
    }

    fn resource_spans(&mut self, message: &'a [u8]) -> Result<(), Failure> {
        let group = Group::read(message, "ResourceSpans", "ResourceSpans.schema_url")?;
        let mut resource = resource(&group.owner, self.assembler.limits())?;
        resource.fields.schema_url = group.schema_url;
        self.assembler.next_resource();
        group.members(|message| self.scope_spans(&resource, message))
    }

    fn scope_spans(&mut self, resource: &ResourceParts<'a>, message: &'a [u8]) -> Result<(), Failure> {
        let group = Group::read(message, "ScopeSpans", "ScopeSpans.schema_url")?;
        let mut scope = scope(&group.owner, self.assembler.limits())?;
        scope.fields.schema_url = group.schema_url;
        self.assembler.next_scope();
        group.members(|message| {
            self.span.clear();
            span(message, self.assembler.limits(), &mut self.span)?;
            Ok(self.assembler.span(resource, &scope, &self.span)?)
        })
    }
}

/// `ResourceSpans` or `ScopeSpans`, which are built alike: what the members share, the members, a schema URL.
struct Group<'a> {
    message: &'a [u8],
    name: &'static str,
    owner: Pieces<'a>,
    schema_url: &'a str,
}

impl<'a> Group<'a> {
    const OWNER: u32 = delimited(1);
    const MEMBERS: u32 = delimited(2);
    const SCHEMA_URL: u32 = delimited(3);

    /// Reads everything but the members, which may stand before it.
    fn read(message: &'a [u8], name: &'static str, schema_url_name: &'static str) -> Result<Self, WireError> {
        let mut group = Self { message, name, owner: Pieces::None, schema_url: "" };
        let mut reader = Reader::new(message);
        while let Some(tag) = reader.tag()? {
            match tag {
                Self::OWNER => group.owner.add(reader.bytes()?),
                Self::MEMBERS => _ = reader.bytes()?,
                Self::SCHEMA_URL => group.schema_url = reader.text(schema_url_name)?,
                _ => reader.skip(tag, name, 3)?,
            }
        }
        Ok(group)
    }

    fn members(&self, mut take: impl FnMut(&'a [u8]) -> Result<(), Failure>) -> Result<(), Failure> {
        let mut reader = Reader::new(self.message);
        while let Some(tag) = reader.tag()? {
            match tag {
                Self::MEMBERS => take(reader.bytes()?)?,
                _ => reader.skip(tag, self.name, 0)?,
            }
        }
        Ok(())
    }
}

fn resource<'a>(message: &Pieces<'a>, limits: &Limits) -> Result<ResourceParts<'a>, WireError> {
    const ATTRIBUTES: u32 = delimited(1);
    const DROPPED: u32 = varint(2);
    let mut parts = ResourceParts::default();
    for piece in message.slices() {
        let mut reader = Reader::new(piece);
        while let Some(tag) = reader.tag()? {
            match tag {
                ATTRIBUTES => attribute(reader.bytes()?, limits, 0, &mut parts.attributes)?,
                DROPPED => parts.fields.dropped_attributes_count = reader.varint()? as u32,
                _ => reader.skip(tag, "Resource", 2)?,
            }
        }
    }
    Ok(parts)
}

fn scope<'a>(message: &Pieces<'a>, limits: &Limits) -> Result<ScopeParts<'a>, WireError> {
    const NAME: u32 = delimited(1);
    const VERSION: u32 = delimited(2);
    const ATTRIBUTES: u32 = delimited(3);
    const DROPPED: u32 = varint(4);
    let mut parts = ScopeParts::default();
    for piece in message.slices() {
        let mut reader = Reader::new(piece);
        while let Some(tag) = reader.tag()? {
            match tag {
                NAME => parts.fields.name = reader.text("InstrumentationScope.name")?,
                VERSION => parts.fields.version = reader.text("InstrumentationScope.version")?,
                ATTRIBUTES => attribute(reader.bytes()?, limits, 0, &mut parts.attributes)?,
                DROPPED => parts.fields.dropped_attributes_count = reader.varint()? as u32,
                _ => reader.skip(tag, "InstrumentationScope", 4)?,
            }
        }
    }
    Ok(parts)
}

/// Reads a span into `parts`, which is clear.
fn span<'a>(message: &'a [u8], limits: &Limits, parts: &mut SpanParts<'a>) -> Result<(), WireError> {
    const TRACE_ID: u32 = delimited(1);
    const SPAN_ID: u32 = delimited(2);
    const TRACE_STATE: u32 = delimited(3);
    const PARENT_SPAN_ID: u32 = delimited(4);
    const NAME: u32 = delimited(5);
    const KIND: u32 = varint(6);
    const START_TIME: u32 = fixed64(7);
    const END_TIME: u32 = fixed64(8);
    const ATTRIBUTES: u32 = delimited(9);
    const DROPPED_ATTRIBUTES: u32 = varint(10);
    const EVENTS: u32 = delimited(11);
    const DROPPED_EVENTS: u32 = varint(12);
    const LINKS: u32 = delimited(13);
    const DROPPED_LINKS: u32 = varint(14);
    const STATUS: u32 = delimited(15);
    const FLAGS: u32 = fixed32(16);
    let mut reader = Reader::new(message);
    while let Some(tag) = reader.tag()? {
        match tag {
            TRACE_ID => parts.trace_id = IdPart::Bytes(reader.bytes()?),
            SPAN_ID => parts.span_id = IdPart::Bytes(reader.bytes()?),
            TRACE_STATE => parts.trace_state = reader.text("Span.trace_state")?,
            PARENT_SPAN_ID => parts.parent_span_id = IdPart::Bytes(reader.bytes()?),
            NAME => parts.name = reader.text("Span.name")?,
            KIND => parts.kind = reader.varint()? as i32,
            START_TIME => parts.start_time_unix_nano = reader.fixed64()?,
            END_TIME => parts.end_time_unix_nano = reader.fixed64()?,
            ATTRIBUTES => attribute(reader.bytes()?, limits, 0, &mut parts.attributes)?,
            DROPPED_ATTRIBUTES => parts.dropped_attributes_count = reader.varint()? as u32,
            EVENTS => {
                let message = reader.bytes()?;
                if parts.has_room_for_event(limits) {
                    let event = event(message, limits, &mut parts.nested)?;
                    parts.events.push(event);
                }
            }
            DROPPED_EVENTS => parts.dropped_events_count = reader.varint()? as u32,
            LINKS => {
                let message = reader.bytes()?;
                if parts.has_room_for_link(limits) {
                    let link = link(message, limits, &mut parts.nested)?;
                    parts.links.push(link);
                }
            }
            DROPPED_LINKS => parts.dropped_links_count = reader.varint()? as u32,
            // Fields of a message that comes twice overwrite each other, so pieces need no collecting.
            STATUS => status(reader.bytes()?, parts)?,
            FLAGS => parts.flags = reader.fixed32()?,
            _ => reader.skip(tag, "Span", 16)?,
        }
    }
    Ok(())
}

fn status<'a>(message: &'a [u8], parts: &mut SpanParts<'a>) -> Result<(), WireError> {
    const MESSAGE: u32 = delimited(2);
    const CODE: u32 = varint(3);
    let mut reader = Reader::new(message);
    while let Some(tag) = reader.tag()? {
        match tag {
            MESSAGE => parts.status_message = reader.text("Status.message")?,
            CODE => parts.status_code = reader.varint()? as i32,
            // Field 1 is a code of early OTLP that no reader honours any more.
            _ if tag >> 3 == 1 => reader.skip(tag, "Status", 0)?,
            _ => reader.skip(tag, "Status", 3)?,
        }
    }
    Ok(())
}

fn event<'a>(
    message: &'a [u8],
    limits: &Limits,
    attributes: &mut AttributeParts<'a>,
) -> Result<EventParts<'a>, WireError> {
    const TIME: u32 = fixed64(1);
    const NAME: u32 = delimited(2);
    const ATTRIBUTES: u32 = delimited(3);
    const DROPPED: u32 = varint(4);
    let mut parts = EventParts::default();
    let from = attributes.list.len();
    let mut reader = Reader::new(message);
    while let Some(tag) = reader.tag()? {
        match tag {
            TIME => parts.time_unix_nano = reader.fixed64()?,
            NAME => parts.name = reader.text("Event.name")?,
            ATTRIBUTES => attribute(reader.bytes()?, limits, from, attributes)?,
            DROPPED => parts.dropped_attributes_count = reader.varint()? as u32,
            _ => reader.skip(tag, "Event", 4)?,
        }
    }
    parts.attributes = from..attributes.list.len();
    Ok(parts)
}

fn link<'a>(
    message: &'a [u8],
    limits: &Limits,
    attributes: &mut AttributeParts<'a>,
) -> Result<LinkParts<'a>, WireError> {
    const TRACE_ID: u32 = delimited(1);
    const SPAN_ID: u32 = delimited(2);
    const TRACE_STATE: u32 = delimited(3);
    const ATTRIBUTES: u32 = delimited(4);
    const DROPPED: u32 = varint(5);
    const FLAGS: u32 = fixed32(6);
    let mut parts = LinkParts::default();
    let from = attributes.list.len();
    let mut reader = Reader::new(message);
    while let Some(tag) = reader.tag()? {
        match tag {
            TRACE_ID => parts.trace_id = reader.bytes()?,
            SPAN_ID => parts.span_id = reader.bytes()?,
            TRACE_STATE => parts.trace_state = reader.text("Link.trace_state")?,
            ATTRIBUTES => attribute(reader.bytes()?, limits, from, attributes)?,
            DROPPED => parts.dropped_attributes_count = reader.varint()? as u32,
            FLAGS => parts.flags = reader.fixed32()?,
            _ => reader.skip(tag, "Link", 6)?,
        }
    }
    parts.attributes = from..attributes.list.len();
    Ok(parts)
}

/// Reads one attribute of the owner whose attributes begin at `from`.
#[inline]
fn attribute<'a>(
    message: &'a [u8],
    limits: &Limits,
    from: usize,
    into: &mut AttributeParts<'a>,
) -> Result<(), WireError> {
    if let Some((key, value)) = any_value::short(message) {
        into.push(limits, from, Attribute { key, value });
        return Ok(());
    }
    let (key, value) = any_value::key_value(message)?;
    match any_value::value(&value, limits.depth_max()) {
        Ok(value) => into.push(limits, from, Attribute { key, value }),
        Err(Stop::TooDeep) => _ = into.fault.get_or_insert_with(|| Fault::too_deep(key, limits)),
        Err(Stop::Malformed(error)) => return Err(error),
    }
    Ok(())
}
