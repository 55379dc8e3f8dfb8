//! Sessions that the client keeps.
//!
//! Options of a session come back with each call in a cookie, as Flight's clients do with cookies, so any server can answer
//! any call of a session and nothing expires here:
//!
//! ```text
//!  SetSessionOptions {types: flat, timeout: 10s}  ->  set-cookie: tracehouse-session=types:flat/timeout:10s
//!  GetFlightInfo, cookie: tracehouse-session=...  ->  a ticket that holds the options
//!  CloseSession                                   ->  set-cookie: tracehouse-session=; Max-Age=0
//! ```
//!
//! Nothing in it is a secret or gives a right. A header of a call goes before the session's option.

use std::{collections::BTreeMap, time::Duration};

use tonic::metadata::MetadataMap;

use crate::config::HumanDuration;

const COOKIE: &str = "tracehouse-session";
const BETWEEN: char = '/';

/// The options that can be chosen, with what they mean.
pub(super) const OPTIONS: [(&str, &str); 3] = [
    ("types", "in which types answers come: plain, flat or typed"),
    ("timeout", "longest run of a statement, such as 10s; below the server's limit"),
    ("rows_max", "most rows of an answer; below the server's limit"),
];

/// Options that were chosen, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Session(BTreeMap<&'static str, String>);

impl Session {
    /// The session of a call: what its cookie holds, as far as it means something.
    pub(super) fn of_call(headers: &MetadataMap) -> Self {
        let mut session = Self::default();
        let cookies = headers.get_all("cookie").iter().filter_map(|cookies| cookies.to_str().ok());
        let cookies = cookies.flat_map(|cookies| cookies.split(';')).filter_map(|cookie| cookie.trim().split_once('='));
        for (_, held) in cookies.filter(|(name, _)| *name == COOKIE) {
            for (name, value) in held.trim_matches('"').split(BETWEEN).filter_map(|option| option.split_once(':')) {
                // What another version of the server wrote is not this client's mistake.
                let _ = session.set(name, Some(value));
            }
        }
        session
    }

    /// Chooses an option, or takes the choice back.
    pub(super) fn set(&mut self, name: &str, value: Option<&str>) -> Result<(), NotSet> {
        let Some((name, _)) = OPTIONS.iter().find(|(known, _)| *known == name) else { return Err(NotSet::Name) };
        let Some(value) = value else {
            self.0.remove(name);
            return Ok(());
        };
        let is_valid = match *name {
            "types" => ["plain", "flat", "typed"].contains(&value),
            "timeout" => duration(value).is_some(),
            _ => value.parse::<u64>().is_ok(),
        };
        if !is_valid {
            return Err(NotSet::Value);
        }
        self.0.insert(name, value.to_owned());
        Ok(())
    }

    pub(super) fn options(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.iter().map(|(name, value)| (*name, value.as_str()))
    }

    /// In which types answers come, if that was chosen.
    pub(super) fn types(&self) -> Option<&str> {
        self.0.get("types").map(String::as_str)
    }

    /// Longest run of a statement.
    pub(super) fn timeout(&self) -> Option<Duration> {
        duration(self.0.get("timeout")?)
    }

    /// Most rows of an answer.
    pub(super) fn rows_max(&self) -> Option<u64> {
        self.0.get("rows_max")?.parse().ok()
    }

    /// The header that makes the client keep it.
    pub(super) fn cookie(&self) -> String {
        let held: Vec<String> = self.options().map(|(name, value)| format!("{name}:{value}")).collect();
        match held.is_empty() {
            true => format!("{COOKIE}=; Max-Age=0"),
            false => format!("{COOKIE}={}", held.join(&BETWEEN.to_string())),
        }
    }
}

/// Why an option was not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotSet {
    /// There is no such option.
    Name,
    /// It cannot have this value.
    Value,
}

fn duration(text: &str) -> Option<Duration> {
    let duration = text.parse::<HumanDuration>().ok()?.get();
    (!duration.is_zero()).then_some(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_cookie(cookie: &str) -> Session {
        let mut headers = MetadataMap::new();
        headers.insert("cookie", cookie.parse().unwrap());
        Session::of_call(&headers)
    }

    #[test]
    fn a_session_comes_back_in_its_cookie() {
        let mut session = Session::default();
        assert_eq!(session.set("types", Some("flat")), Ok(()));
        assert_eq!(session.set("timeout", Some("1m30s")), Ok(()));
        assert_eq!(session.set("rows_max", Some("7")), Ok(()));
        assert_eq!(session.set("types", Some("nice")), Err(NotSet::Value));
        assert_eq!(session.set("timeout", Some("0s")), Err(NotSet::Value));
        assert_eq!(session.set("rows_max", Some("-1")), Err(NotSet::Value));
        assert_eq!(session.set("colour", Some("red")), Err(NotSet::Name));
        let back = of_cookie(&format!("a=b; {}", session.cookie()));
        assert_eq!(back, session);
        assert_eq!(
            (back.types(), back.timeout(), back.rows_max()),
            (Some("flat"), Some(Duration::from_secs(90)), Some(7))
        );
        for name in ["types", "timeout", "rows_max"] {
            assert_eq!(session.set(name, None), Ok(()));
        }
        assert_eq!(session.cookie(), "tracehouse-session=; Max-Age=0");
    }

    #[test]
    fn a_cookie_that_means_nothing_is_an_empty_session() {
        for cookie in ["", "=", "tracehouse-session", "tracehouse-session=types:x/:/a:b/timeout", "other=types:flat"] {
            assert_eq!(of_cookie(cookie), Session::default(), "{cookie}");
        }
    }
}
