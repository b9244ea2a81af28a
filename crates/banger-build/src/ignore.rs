//! `.dockerignore`: which files of a context do not belong to it.

use globset::{GlobBuilder, GlobMatcher};

/// The patterns of a `.dockerignore`, in order: the last one that matches decides.
#[derive(Debug, Clone, Default)]
pub struct Ignore {
    patterns: Vec<(GlobMatcher, bool)>,
}

/// A line that is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of .dockerignore is no pattern: `{pattern}`")]
pub struct IgnoreError {
    /// Which line.
    pub line: usize,
    /// What stands there.
    pub pattern: String,
}

/// A pattern as `filepath.Match` of Go has it, with `**` for any folders. `None`: it is none.
#[must_use]
pub fn pattern(text: &str) -> Option<GlobMatcher> {
    // Braces are nothing special there.
    let mut escaped = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '{' | '}' => escaped.extend(['\\', c]),
            '\\' => escaped.extend([c, chars.next()?]),
            c => escaped.push(c),
        }
    }
    let glob = GlobBuilder::new(&escaped)
        .literal_separator(true)
        .backslash_escape(true)
        .build();
    Some(glob.ok()?.compile_matcher())
}

impl Ignore {
    /// Reads the file's text.
    ///
    /// # Errors
    /// A line is no pattern.
    pub fn parse(text: &str) -> Result<Self, IgnoreError> {
        let mut patterns = vec![];
        for (at, line) in text.lines().enumerate() {
            let line = line.trim_start_matches('\u{feff}').trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (kept, rest) = match line.strip_prefix('!') {
                Some(rest) => (true, rest.trim()),
                None => (false, line),
            };
            let clean = crate::config::absolute("/", rest);
            let clean = clean.trim_matches('/');
            if clean.is_empty() {
                continue;
            }
            let wrong = || IgnoreError {
                line: at + 1,
                pattern: line.chars().take(100).collect(),
            };
            patterns.push((pattern(clean).ok_or_else(wrong)?, kept));
        }
        Ok(Self { patterns })
    }

    /// Whether a path, relative to the context, stays out. What an ignored folder holds does so, too, unless a later
    /// pattern brings it back.
    #[must_use]
    pub fn leaves_out(&self, path: &str) -> bool {
        let mut out = false;
        let ends = path.match_indices('/').map(|(at, _)| at);
        let prefixes: Vec<&str> = ends
            .map(|at| &path[..at])
            .chain(std::iter::once(path))
            .collect();
        for (pattern, kept) in &self.patterns {
            if prefixes.iter().any(|prefix| pattern.is_match(prefix)) {
                out = !kept;
            }
        }
        out
    }

    /// Whether something in a folder that stays out may belong to the context all the same.
    #[must_use]
    pub fn has_exceptions(&self) -> bool {
        self.patterns.iter().any(|(_, kept)| *kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_last_pattern_that_matches_decides() {
        let text = "# a comment\n\n*.log\n/target/\n**/tmp\nsecret?\n!keep.log\ndocs\n!docs/README*\n{a,b}\n";
        let ignore = Ignore::parse(text).unwrap();
        for (path, out) in [
            ("a.log", true),
            ("keep.log", false),
            ("sub/a.log", false),
            ("target/x/y", true),
            ("sub/target", false),
            ("a/b/tmp/c", true),
            ("tmp", true),
            ("secret1", true),
            ("secret", false),
            ("docs/a.md", true),
            ("docs/README.md", false),
            ("{a,b}", true),
            ("a", false),
        ] {
            assert_eq!(ignore.leaves_out(path), out, "{path}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_told_with_its_line() {
        let error = Ignore::parse("a\n[b\n").unwrap_err();
        assert_eq!(error.line, 2);
        Ignore::parse("a\\").unwrap_err();
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "\\PC{0,80}", path in "\\PC{0,30}") {
            if let Ok(ignore) = Ignore::parse(&text) {
                let _ = ignore.leaves_out(&path);
            }
        }
    }
}
