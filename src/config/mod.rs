//! Settings: one tree of values, where each came from, and the rules between them.
//!
//! Four sources are laid over one another, each stronger than the one before: the defaults in [`Settings`], a TOML file,
//! `TRACEHOUSE_*` environment variables, command-line flags. What comes out is an [`Effective`]: the settings and, per
//! key, its [`Source`]. A key that does not exist is an error in every source, and the message names the nearest key
//! that does; a value that does not parse names the key, the source, the value and the form that is expected.
//!
//! ```text
//!  key                     file                                environment                      flag
//!  server.tempo_listen     [server] tempo_listen = "[::1]:80"  TRACEHOUSE_SERVER_TEMPO_LISTEN   --set server.tempo_listen=...
//!  data                    data = "/var/lib/tracehouse"        TRACEHOUSE_DATA                  --data ..., --set data=...
//! ```
//!
//! The tree is declared once, in `settings.rs`: the doc comment of a field is also the text that
//! `tracehouse config --explain` prints, and its default stands next to its type. Sizes are written `64MiB`
//! ([`ByteSize`]), durations `1h30m` ([`HumanDuration`]), secrets do not print ([`Secret`]).
//!
//! Absent on purpose: reloading while the process runs, includes, and a file that is read without being asked for. A
//! setting that a user cannot see in `tracehouse config` does not exist.

mod check;
mod duration;
mod location;
mod nearest;
mod retention;
mod secret;
mod settings;
mod size;
mod sources;
mod value;

pub use self::{
    duration::HumanDuration,
    location::{Bucket, BucketService, DataLocation},
    nearest::nearest,
    secret::Secret,
    settings::{
        BufferSettings, CacheSettings, CompactionSettings, DeletionSettings, Described, FlushSettings, IngestSettings,
        LogSettings, PromotionSettings, QuerySettings, RetentionSettings, ServerSettings, Settings, StoreSettings,
        WalSettings,
    },
    size::ByteSize,
    sources::{ConfigError, Effective, EffectiveEntry, Flag, Source, Sources},
    value::{LogFormat, LogLevel, WalSync},
};
