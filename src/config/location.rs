//! Where the tables lie: a folder of this machine, or a bucket of an object store.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

/// Where the tables lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataLocation {
    /// A folder of this machine.
    Folder(PathBuf),
    /// A bucket, or a part of one.
    Bucket(Bucket),
}

/// A part of a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Who keeps it.
    pub service: BucketService,
    /// Its name; a container, where the service calls it so.
    pub name: String,
    /// What the names of all objects begin with, without slashes at its ends; empty for the whole bucket.
    pub prefix: String,
}

/// A kind of object store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BucketService {
    /// Amazon S3, and what speaks its protocol.
    S3,
    /// Google Cloud Storage.
    Gcs,
    /// Azure Blob Storage.
    Azure,
}

impl BucketService {
    const ALL: [Self; 3] = [Self::S3, Self::Gcs, Self::Azure];

    /// What stands before `://`.
    pub fn scheme(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Gcs => "gs",
            Self::Azure => "az",
        }
    }
}

impl DataLocation {
    /// The folder, if it is one.
    pub fn folder(&self) -> Option<&Path> {
        match self {
            Self::Folder(folder) => Some(folder),
            Self::Bucket(_) => None,
        }
    }
}

impl From<PathBuf> for DataLocation {
    fn from(folder: PathBuf) -> Self {
        Self::Folder(folder)
    }
}

/// Text that is neither a folder nor a known kind of bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotALocation;

impl FromStr for DataLocation {
    type Err = NotALocation;

    fn from_str(text: &str) -> Result<Self, NotALocation> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return if text.is_empty() { Err(NotALocation) } else { Ok(Self::Folder(PathBuf::from(text))) };
        };
        let service = BucketService::ALL.into_iter().find(|service| service.scheme() == scheme).ok_or(NotALocation)?;
        let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        // Credentials and ports have settings of their own; here they would end up in log lines.
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '$');
        if name.is_empty() || !name.chars().all(is_name) || prefix.contains(['?', '#']) {
            return Err(NotALocation);
        }
        Ok(Self::Bucket(Bucket { service, name: name.to_owned(), prefix: prefix.trim_matches('/').to_owned() }))
    }
}

impl fmt::Display for DataLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => folder.display().fmt(f),
            Self::Bucket(bucket) => bucket.fmt(f),
        }
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.service.scheme(), self.name)?;
        if self.prefix.is_empty() { Ok(()) } else { write!(f, "/{}", self.prefix) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_a_folder_or_a_bucket() {
        let bucket = |service, name: &str, prefix: &str| {
            Ok(DataLocation::Bucket(Bucket { service, name: name.to_owned(), prefix: prefix.to_owned() }))
        };
        for (text, expected) in [
            ("data/x", Ok(DataLocation::Folder(PathBuf::from("data/x")))),
            ("s3://traces", bucket(BucketService::S3, "traces", "")),
            ("s3://traces/a/b/", bucket(BucketService::S3, "traces", "a/b")),
            ("gs://my.bucket_1/x", bucket(BucketService::Gcs, "my.bucket_1", "x")),
            ("az://container/", bucket(BucketService::Azure, "container", "")),
            ("", Err(NotALocation)),
            ("s3://", Err(NotALocation)),
            ("s3:///x", Err(NotALocation)),
            ("s3://key:secret@bucket", Err(NotALocation)),
            ("http://bucket", Err(NotALocation)),
        ] {
            assert_eq!(text.parse(), expected, "{text}");
        }
    }

    #[test]
    fn a_location_is_read_back_as_printed() {
        for text in ["./data", "s3://traces", "s3://traces/a/b", "gs://t/x", "az://c"] {
            assert_eq!(text.parse::<DataLocation>().unwrap().to_string(), text);
        }
    }
}
