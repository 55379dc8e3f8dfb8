//! Prometheus families.
