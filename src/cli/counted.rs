//! Numbers of things, as people say them.

/// `1 file`, `2 files`; `one` is the word for one of them.
pub(super) fn counted(count: impl TryInto<u64>, one: &str) -> String {
    match count.try_into().unwrap_or(u64::MAX) {
        1 => format!("1 {one}"),
        count => format!("{count} {one}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::counted;

    #[test]
    fn one_is_not_many() {
        assert_eq!(["0 files", "1 file", "2 files"], [0_u64, 1, 2].map(|count| counted(count, "file")));
    }
}
