//! What a request asks: the statement, its parameters, the form of the answer and limits.

use std::collections::HashMap;

use datafusion::scalar::ScalarValue;
use http::{HeaderMap, header};
use serde::Deserialize;

use super::format::{Format, media_type};
use crate::{
    config::HumanDuration,
    error::{Error, Result},
    model::tenant::TenantId,
    query::{LimitOverrides, QueryKind, QueryRequest, SqlQuery},
};

/// One question, ready for the engine.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) request: QueryRequest,
    pub(super) format: Format,
}

/// The body of a request in JSON.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    query: Option<String>,
    #[serde(default)]
    params: Vec<serde_json::Value>,
    format: Option<String>,
    timeout: Option<String>,
    rows_max: Option<u64>,
}

/// What goes into the address as well as into a body.
#[derive(Debug, Default)]
struct Options {
    format: Option<String>,
    timeout: Option<String>,
    rows_max: Option<u64>,
}

/// The parameters that an address may have.
const PARAMETERS: [&str; 4] = ["query", "format", "timeout", "rows_max"];

impl Question {
    /// The question of a `GET`.
    pub(super) fn of_address(query: Option<&str>, headers: &HeaderMap) -> Result<Self> {
        let mut address = Address::parse(query)?;
        let text = address.query.take();
        let text = text.ok_or_else(|| Error::invalid("the parameter query is missing: /api/sql?query=SELECT..."))?;
        Self::new(SqlQuery { text, params: Vec::new() }, &address.options, headers)
    }

    /// The question of a `POST`. A form by its type that does not look like one is a statement: `curl -d` sends it so.
    pub(super) fn of_body(query: Option<&str>, headers: &HeaderMap, body: &[u8]) -> Result<Self> {
        let address = Address::parse(query)?;
        if address.query.is_some() {
            return Err(Error::invalid("the statement of a POST is its body and no parameter of its address"));
        }
        let text = std::str::from_utf8(body).map_err(|_| Error::invalid("the body is not UTF-8"))?;
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        match content_type.map(media_type) {
            Some("application/json") => Self::of_json(text, address.options, headers),
            Some("application/x-www-form-urlencoded") if text.starts_with("query=") => {
                let form = Address::parse(Some(text))?;
                let query = SqlQuery { text: form.query.unwrap_or_default(), params: Vec::new() };
                Self::new(query, &form.options.or(address.options), headers)
            }
            _ => Self::new(SqlQuery { text: text.to_owned(), params: Vec::new() }, &address.options, headers),
        }
    }

    fn of_json(text: &str, address: Options, headers: &HeaderMap) -> Result<Self> {
        let body: Body =
            serde_json::from_str(text).map_err(|error| Error::invalid(format!("the body is not a query: {error}")))?;
        let text = body.query.ok_or_else(|| Error::invalid("the body has no member query"))?;
        let params = body.params.iter().enumerate().map(|(index, value)| parameter(index, value));
        let query = SqlQuery { text, params: params.collect::<Result<_>>()? };
        let options = Options { format: body.format, timeout: body.timeout, rows_max: body.rows_max };
        Self::new(query, &options.or(address), headers)
    }

    fn new(query: SqlQuery, options: &Options, headers: &HeaderMap) -> Result<Self> {
        let format = match &options.format {
            Some(name) => Format::of_name(name)?,
            None => Format::accepted(headers)?,
        };
        let mut request = QueryRequest::new(TenantId::single(), QueryKind::Sql(query));
        request.limits = options.limits()?;
        Ok(Self { request, format })
    }
}

impl Options {
    /// These, and of the others what is not here.
    fn or(self, other: Self) -> Self {
        Self {
            format: self.format.or(other.format),
            timeout: self.timeout.or(other.timeout),
            rows_max: self.rows_max.or(other.rows_max),
        }
    }

    fn limits(&self) -> Result<LimitOverrides> {
        let timeout = self.timeout.as_deref().map(|text| {
            let parsed = text.parse::<HumanDuration>();
            parsed.map(HumanDuration::get).map_err(|error| Error::invalid(format!("timeout is {text:?}: {error}")))
        });
        let timeout = timeout.transpose()?;
        Ok(LimitOverrides { timeout, result_rows_max: self.rows_max, ..LimitOverrides::default() })
    }
}

/// The parameters of an address, or of a form.
#[derive(Debug, Default)]
struct Address {
    query: Option<String>,
    options: Options,
}

impl Address {
    fn parse(query: Option<&str>) -> Result<Self> {
        let pairs = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned();
        let mut parameters: HashMap<String, String> = HashMap::new();
        for (name, value) in pairs {
            if !PARAMETERS.contains(&name.as_str()) {
                let known = PARAMETERS.join(", ");
                return Err(Error::invalid(format!("there is no parameter {name:?}; parameters are: {known}")));
            }
            if parameters.insert(name.clone(), value).is_some() {
                return Err(Error::invalid(format!("the parameter {name} is there twice")));
            }
        }
        let rows_max = parameters.remove("rows_max").map(|text| {
            let wrong = |_| Error::invalid(format!("rows_max is {text:?}: expected a whole number"));
            text.parse().map_err(wrong)
        });
        let options = Options {
            format: parameters.remove("format"),
            timeout: parameters.remove("timeout"),
            rows_max: rows_max.transpose()?,
        };
        Ok(Self { query: parameters.remove("query"), options })
    }
}

/// The value of a parameter `$1`, `$2`, ... of the statement.
fn parameter(index: usize, value: &serde_json::Value) -> Result<ScalarValue> {
    use serde_json::Value;
    Ok(match value {
        Value::Null => ScalarValue::Null,
        Value::Bool(value) => ScalarValue::Boolean(Some(*value)),
        Value::String(value) => ScalarValue::Utf8(Some(value.clone())),
        Value::Number(value) => match (value.as_i64(), value.as_f64()) {
            (Some(int), _) => ScalarValue::Int64(Some(int)),
            (None, float) => ScalarValue::Float64(float),
        },
        Value::Array(_) | Value::Object(_) => {
            let number = index + 1;
            let message = format!("parameter ${number} is neither null, true, false, a number nor text");
            return Err(Error::invalid(message));
        }
    })
}
