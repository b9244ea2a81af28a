//! "Did you mean …?"

/// The candidate nearest to `given`, when one is near enough to be what was meant.
pub fn nearest<'a>(given: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|name| (strsim::jaro_winkler(given, name), name))
        .filter(|(score, _)| *score > 0.75)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn the_nearest_name_wins_and_nonsense_has_none() {
        assert_eq!(nearest("demp", ["demo", "other"]), Some("demo"));
        assert_eq!(nearest("zzzz", ["demo", "other"]), None);
    }
}
