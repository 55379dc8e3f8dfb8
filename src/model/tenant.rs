//! Tenants: whose data it is. Every path, call and table belongs to one.

use std::{fmt, sync::Arc};

use crate::error::{Error, Result};

/// The name of a tenant, by Tempo's rules: 1 to 150 bytes of letters, digits and `! - _ . * ' ( )`, not `.` or `..`.
///
/// Such a name is safe as a folder and in a URL path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantId(Arc<str>);

impl TenantId {
    /// Longest name, in bytes.
    pub const LEN_BYTES_MAX: usize = 150;

    /// The tenant of a server without multi-tenancy, named as in Tempo.
    pub fn single() -> Self {
        Self(Arc::from("single-tenant"))
    }

    /// Checks and takes a name from outside.
    pub fn parse(name: &str) -> Result<Self> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "!-_.*'()".contains(c);
        if name.is_empty() || name == "." || name == ".." {
            return Err(Error::invalid(format!("tenant id {name:?} is not allowed")));
        }
        if name.len() > Self::LEN_BYTES_MAX {
            let limit = Self::LEN_BYTES_MAX;
            return Err(Error::invalid(format!("tenant id has {} bytes, more than the limit of {limit}", name.len())));
        }
        if let Some(character) = name.chars().find(|c| !allowed(*c)) {
            return Err(Error::invalid(format!(
                "tenant id {name:?} contains {character:?}; allowed are letters, digits and ! - _ . * ' ( )"
            )));
        }
        Ok(Self(Arc::from(name)))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TenantId({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_their_folder_are_refused() {
        for name in ["", ".", "..", "a/b", "a\\b", "a b", "a\0", &"x".repeat(151)] {
            assert!(TenantId::parse(name).is_err(), "{name:?}");
        }
        assert_eq!(TenantId::parse("team-a_1.(x)!*'").unwrap().as_str(), "team-a_1.(x)!*'");
    }
}
