//! How the type of a setting is read from TOML and text, and printed again.
//!
//! TOML is the common form: a file gives TOML values, environment variables and flags give TOML strings, and every type
//! reads its own text form from a string.

use std::{
    net::{SocketAddr, ToSocketAddrs},
    path::PathBuf,
    str::FromStr,
};

use chrono::NaiveDate;

use super::{ByteSize, DataLocation, HumanDuration, Secret};

/// The type of a setting.
pub(super) trait Value: Sized {
    /// The form that is expected, for error messages and help.
    fn expected() -> String;

    /// Reads a value; `None` where it does not have the expected form.
    fn from_toml(value: &toml::Value) -> Option<Self>;

    /// The value as a file would give it.
    fn to_toml(&self) -> toml::Value;
}

/// Types whose form in a file is a string.
macro_rules! text_value {
    ($type:ty, $expected:literal) => {
        impl Value for $type {
            fn expected() -> String {
                $expected.to_owned()
            }

            fn from_toml(value: &toml::Value) -> Option<Self> {
                Self::from_str(value.as_str()?.trim()).ok()
            }

            fn to_toml(&self) -> toml::Value {
                toml::Value::String(self.to_string())
            }
        }
    };
}

text_value!(HumanDuration, "a duration such as 30s, 5m or 1h30m");
text_value!(NaiveDate, "a date such as 2000-01-01");
text_value!(DataLocation, "a folder, or a bucket: s3://bucket/prefix, gs://bucket/prefix or az://container/prefix");
text_value!(String, "a text");

/// The address of an interface, or a name that this machine knows one by.
impl Value for SocketAddr {
    fn expected() -> String {
        "an address and a port such as 127.0.0.1:4317, [::1]:4317 or localhost:4317".to_owned()
    }

    fn from_toml(value: &toml::Value) -> Option<Self> {
        let text = value.as_str()?.trim();
        let resolved = || {
            let mut addresses = text.to_socket_addrs().ok()?;
            let first = addresses.next()?;
            // Of a name with several, what most clients try first.
            Some(std::iter::once(first).chain(addresses).find(Self::is_ipv4).unwrap_or(first))
        };
        text.parse().ok().or_else(resolved)
    }

    fn to_toml(&self) -> toml::Value {
        toml::Value::String(self.to_string())
    }
}

impl Value for ByteSize {
    fn expected() -> String {
        "a size such as 64MiB, 512KiB or 1GiB".to_owned()
    }

    fn from_toml(value: &toml::Value) -> Option<Self> {
        match value {
            toml::Value::Integer(bytes) => u64::try_from(*bytes).ok().map(Self::from_bytes),
            _ => value.as_str()?.parse().ok(),
        }
    }

    fn to_toml(&self) -> toml::Value {
        toml::Value::String(self.to_string())
    }
}

impl Value for usize {
    fn expected() -> String {
        "a whole number such as 1000".to_owned()
    }

    fn from_toml(value: &toml::Value) -> Option<Self> {
        match value {
            toml::Value::Integer(number) => Self::try_from(*number).ok(),
            // TOML numbers may carry underscores, so text forms may too.
            _ => value.as_str()?.trim().replace('_', "").parse().ok(),
        }
    }

    fn to_toml(&self) -> toml::Value {
        toml::Value::Integer(i64::try_from(*self).unwrap_or(i64::MAX))
    }
}

impl Value for bool {
    fn expected() -> String {
        "true or false".to_owned()
    }

    fn from_toml(value: &toml::Value) -> Option<Self> {
        match value {
            toml::Value::Boolean(flag) => Some(*flag),
            _ => value.as_str()?.trim().parse().ok(),
        }
    }

    fn to_toml(&self) -> toml::Value {
        toml::Value::Boolean(*self)
    }
}

/// A path that may be absent, which an empty text says.
impl Value for Option<PathBuf> {
    fn expected() -> String {
        "a path, or an empty text".to_owned()
    }

    fn from_toml(value: &toml::Value) -> Option<Self> {
        let path = value.as_str()?;
        Some((!path.is_empty()).then(|| PathBuf::from(path)))
    }

    fn to_toml(&self) -> toml::Value {
        toml::Value::String(self.as_ref().map_or_else(String::new, |path| path.display().to_string()))
    }
}

impl Value for Vec<String> {
    fn expected() -> String {
        "a list of texts; in the environment and in flags separated by commas".to_owned()
    }

    fn from_toml(value: &toml::Value) -> Option<Self> {
        match value {
            toml::Value::Array(items) => items.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
            _ => {
                let items = value.as_str()?.split(',').map(str::trim).filter(|item| !item.is_empty());
                Some(items.map(str::to_owned).collect())
            }
        }
    }

    fn to_toml(&self) -> toml::Value {
        toml::Value::Array(self.iter().cloned().map(toml::Value::String).collect())
    }
}

impl Value for Secret {
    fn expected() -> String {
        "a text".to_owned()
    }

    fn from_toml(value: &toml::Value) -> Option<Self> {
        value.as_str().map(Self::new)
    }

    fn to_toml(&self) -> toml::Value {
        // Whether there is a secret may be seen.
        let shown = if self.reveal().is_empty() { "" } else { Self::HIDDEN };
        toml::Value::String(shown.to_owned())
    }
}

/// Closed sets of names.
macro_rules! choice {
    ($(#[doc = $about:literal])* pub enum $name:ident { $( $(#[doc = $doc:literal])+ $variant:ident = $text:literal, )+ }) => {
        $(#[doc = $about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $( $(#[doc = $doc])+ $variant, )+
        }

        impl $name {
            /// The name in settings and on screen.
            pub fn as_str(self) -> &'static str {
                match self {
                    $( Self::$variant => $text, )+
                }
            }
        }

        impl Value for $name {
            fn expected() -> String {
                format!("one of {}", [$($text),+].join(", "))
            }

            fn from_toml(value: &toml::Value) -> Option<Self> {
                match value.as_str()?.trim() {
                    $( $text => Some(Self::$variant), )+
                    _ => None,
                }
            }

            fn to_toml(&self) -> toml::Value {
                toml::Value::String(self.as_str().to_owned())
            }
        }
    };
}

choice! {
    /// The form of log lines.
    pub enum LogFormat {
        /// One line of text per event, for people.
        Text = "text",
        /// One JSON object per line, for collectors.
        Json = "json",
    }
}

choice! {
    /// The least important events that are logged.
    pub enum LogLevel {
        /// Nothing.
        Off = "off",
        /// What needs an operator.
        Error = "error",
        /// What may become a problem.
        Warn = "warn",
        /// What an operator wants to have seen.
        Info = "info",
        /// What helps to find a defect.
        Debug = "debug",
        /// Everything.
        Trace = "trace",
    }
}

choice! {
    /// When an appended record counts as stored.
    pub enum WalSync {
        /// After it was synced to the disk.
        Always = "always",
        /// After it was handed to the operating system: a crash of the machine loses the last moments.
        Relaxed = "relaxed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: Value + PartialEq + std::fmt::Debug>(given: impl Into<toml::Value>, expected: &Option<T>) {
        assert_eq!(&T::from_toml(&given.into()), expected);
    }

    #[test]
    fn text_from_the_environment_reads_like_a_value_from_a_file() {
        check("true", &Some(true));
        check(true, &Some(true));
        check("yes", &None::<bool>);
        check("100_000", &Some(100_000usize));
        check(-1, &None::<usize>);
        check("0.0.0.0:1", &Some(SocketAddr::from(([0, 0, 0, 0], 1))));
        check("localhost", &None::<SocketAddr>);
        check("localhost:3200", &Some(SocketAddr::from(([127, 0, 0, 1], 3200))));
        check("no such name:3200", &None::<SocketAddr>);
        check("a, b,", &Some(vec!["a".to_owned(), "b".to_owned()]));
        check("", &Some(Vec::<String>::new()));
        check(vec!["a,b"], &Some(vec!["a,b".to_owned()]));
        check("json", &Some(LogFormat::Json));
        check("JSON", &None::<LogFormat>);
        check("2000-02-30", &None::<NaiveDate>);
        check("", &None::<DataLocation>);
        check("", &Some(None::<PathBuf>));
        check("s4://x", &None::<DataLocation>);
        check(300, &None::<HumanDuration>);
    }

    #[test]
    fn a_secret_is_read_and_not_written() {
        check("hunter2", &Some(Secret::new("hunter2")));
        assert_eq!(Secret::new("hunter2").to_toml().as_str(), Some(Secret::HIDDEN));
    }
}
