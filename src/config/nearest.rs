//! The suggestion behind "did you mean".

/// A name must look at least this much alike to be worth a suggestion (Jaro-Winkler, 1 is equal).
const SIMILARITY_MIN: f64 = 0.7;

/// The name among `known` that is most like `name`, if any is like it at all.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_ascii_lowercase();
    let likeness = |candidate: &str| {
        let candidate = candidate.to_ascii_lowercase();
        // A key without its section, or in the wrong one, is the right key in the wrong place.
        let last = |text: &str| text.rsplit('.').next().map(str::to_owned);
        let misplaced = if last(&name) == last(&candidate) { 1.0 } else { 0.0 };
        strsim::jaro_winkler(&name, &candidate) + misplaced
    };
    known
        .into_iter()
        .map(|candidate| (likeness(candidate), candidate))
        .filter(|(likeness, _)| *likeness >= SIMILARITY_MIN)
        .max_by(|(left, _), (right, _)| left.total_cmp(right))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_the_one_a_person_meant() {
        let known = ["server.tempo_listen", "server.flight_listen", "wal.bytes_max", "data"];
        assert_eq!(nearest("server.tempo_lisen", known), Some("server.tempo_listen"));
        assert_eq!(nearest("sever.flight_listen", known), Some("server.flight_listen"));
        assert_eq!(nearest("bytes_max", known), Some("wal.bytes_max"));
        assert_eq!(nearest("DATA", known), Some("data"));
        assert_eq!(nearest("q", known), None);
    }
}
