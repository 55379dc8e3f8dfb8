//! Which retention counts for which tenant.

use super::{ByteSize, HumanDuration, settings::RetentionSettings, value::Value};

impl RetentionSettings {
    /// The age at which spans of a tenant leave, in nanoseconds; `None` if they stay.
    pub fn age_max_of(&self, tenant: &str) -> Option<i64> {
        let age = of_tenant::<HumanDuration>(&self.age_max_by_tenant, tenant).unwrap_or(self.age_max);
        Some(age.as_nanos()).filter(|nanos| *nanos > 0)
    }

    /// Most bytes of the files of a tenant; `None` for any number.
    pub fn bytes_max_of(&self, tenant: &str) -> Option<u64> {
        let size = of_tenant::<ByteSize>(&self.bytes_max_by_tenant, tenant).unwrap_or(self.bytes_max);
        Some(size.bytes()).filter(|bytes| *bytes > 0)
    }

    /// Checks the settings of single tenants.
    pub(super) fn check(&self) -> Result<(), String> {
        for item in &self.age_max_by_tenant {
            parsed::<HumanDuration>(item).ok_or_else(|| refused::<HumanDuration>("age_max_by_tenant", item))?;
        }
        for item in &self.bytes_max_by_tenant {
            parsed::<ByteSize>(item).ok_or_else(|| refused::<ByteSize>("bytes_max_by_tenant", item))?;
        }
        Ok(())
    }
}

/// Of several values for one tenant the last counts.
fn of_tenant<T: Value>(items: &[String], tenant: &str) -> Option<T> {
    items.iter().rev().filter_map(|item| parsed(item)).find(|(name, _)| *name == tenant).map(|(_, value)| value)
}

fn parsed<T: Value>(item: &str) -> Option<(&str, T)> {
    // Neither a duration nor a size has an equals sign.
    let (tenant, value) = item.rsplit_once('=')?;
    let value = T::from_toml(&toml::Value::String(value.trim().to_owned()))?;
    Some((tenant.trim(), value)).filter(|(tenant, _)| !tenant.is_empty())
}

fn refused<T: Value>(key: &str, item: &str) -> String {
    format!("retention.{key} has {item:?}, which is not a tenant, an equals sign and {}", T::expected())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_has_its_own_retention_or_the_general_one() {
        let settings = RetentionSettings {
            age_max: HumanDuration::hours(2),
            age_max_by_tenant: vec!["shop=1h".to_owned(), "lab = 0s".to_owned()],
            bytes_max_by_tenant: vec!["shop=1KiB".to_owned()],
            ..RetentionSettings::default()
        };
        assert_eq!(settings.check(), Ok(()));
        assert_eq!(settings.age_max_of("shop"), Some(3_600_000_000_000));
        assert_eq!(settings.age_max_of("lab"), None);
        assert_eq!(settings.age_max_of("else"), Some(7_200_000_000_000));
        assert_eq!(settings.bytes_max_of("shop"), Some(1024));
        assert_eq!(settings.bytes_max_of("else"), None);
    }

    #[test]
    fn what_is_no_value_for_a_tenant_is_refused() {
        let age =
            |text: &str| RetentionSettings { age_max_by_tenant: vec![text.to_owned()], ..RetentionSettings::default() };
        assert_eq!(
            age("shop").check(),
            Err("retention.age_max_by_tenant has \"shop\", which is not a tenant, an equals sign and a duration such \
                 as 30s, 5m or 1h30m"
                .to_owned())
        );
        assert!(age("=1h").check().is_err());
        assert!(age("shop=1GiB").check().is_err());
    }
}
