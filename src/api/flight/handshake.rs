//! Handshakes: what clients that offer credentials insist on.
//!
//! No credentials are needed, so none are checked; but an offer that cannot be read is a mistake, and is told. The answer
//! is a token, in the header as Flight SQL's clients expect it and in the body as the oldest ones do. Whoever offers a
//! token gets it back.

use std::pin::Pin;

use arrow_flight::HandshakeResponse;
use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use tonic::{
    Response, Status,
    metadata::{MetadataMap, MetadataValue},
};

/// The token for those who came with a name and a password, or with nothing.
const TOKEN: &str = "tracehouse";

/// Clients in Go leave the padding out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The body of the answer.
pub(super) type Handshakes = Pin<Box<dyn Stream<Item = Result<HandshakeResponse, Status>> + Send>>;

/// Answers a handshake with these headers.
pub(super) fn answer(headers: &MetadataMap) -> Result<Response<Handshakes>, Status> {
    let token = token(headers)?;
    let header =
        MetadataValue::try_from(format!("Bearer {token}")).map_err(|error| Status::internal(error.to_string()))?;
    let body = HandshakeResponse { protocol_version: 0, payload: Bytes::from(token) };
    let stream: Handshakes = stream::iter([Ok(body)]).boxed();
    let mut response = Response::new(stream);
    response.metadata_mut().insert("authorization", header);
    Ok(response)
}

fn token(headers: &MetadataMap) -> Result<String, Status> {
    let Some(offer) = headers.get("authorization") else { return Ok(TOKEN.to_owned()) };
    let offer = offer.to_str().map_err(|_| unreadable("it is not ASCII text"))?;
    let (scheme, credentials) = offer.split_once(' ').unwrap_or((offer, ""));
    match scheme.to_ascii_lowercase().as_str() {
        "bearer" => Ok(credentials.trim().to_owned()),
        "basic" => {
            let pair = BASE64.decode(credentials.trim()).map_err(|_| unreadable("it is not Base64"))?;
            let pair = String::from_utf8(pair).map_err(|_| unreadable("it is not UTF-8"))?;
            if !pair.contains(':') {
                return Err(unreadable("there is no colon between name and password"));
            }
            Ok(TOKEN.to_owned())
        }
        _ => Err(unreadable("its scheme has to be Basic or Bearer")),
    }
}

fn unreadable(why: &str) -> Status {
    Status::unauthenticated(format!("cannot read the authorization header: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(header: &str) -> Result<String, String> {
        let mut headers = MetadataMap::new();
        headers.insert("authorization", header.parse().unwrap());
        token(&headers).map_err(|status| status.message().to_owned())
    }

    #[test]
    fn a_token_is_given_back_and_a_password_gets_one() {
        assert_eq!(offered("Bearer abc").unwrap(), "abc");
        assert_eq!(offered("bearer None").unwrap(), "None");
        assert_eq!(offered("Basic dXNlcjpwYXNz").unwrap(), TOKEN);
        assert_eq!(offered("Basic YW5hOnNlY3JldA").unwrap(), TOKEN);
        assert_eq!(token(&MetadataMap::new()).unwrap(), TOKEN);
        for wrong in ["Basic !", "Basic dXNlcg==", "Digest x", ""] {
            assert!(offered(wrong).unwrap_err().starts_with("cannot read the authorization header: "), "{wrong}");
        }
    }
}
