//! Words of a Dockerfile: quotes, escapes, and variables as its reference has them.

/// Why text is no list of words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WordError {
    /// A quote that does not end.
    #[error("a quote is not closed")]
    Quote,
    /// `${` that does not end, or holds something else than is known.
    #[error("`${{{0}` is no variable that can be replaced")]
    Variable(String),
    /// `${NAME:?why}` and there is no such variable.
    #[error("{name}: {why}")]
    Required { name: String, why: String },
    /// Variables within variables, too deep.
    #[error("variables are nested too deep")]
    Deep,
}

/// How deep the replacements of variables may be nested.
const DEPTH: usize = 16;

/// Looks a variable up.
pub(crate) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The text as one word: variables replaced, quotes taken away.
pub(crate) fn word(text: &str, escape: char, lookup: Lookup<'_>) -> Result<String, WordError> {
    let mut reader = Reader::new(text, escape, lookup, 0);
    let mut out = String::new();
    reader.read(&mut out, &|_| false, false)?;
    Ok(out)
}

/// Splits at blanks outside of quotes; quotes and escapes stay.
pub(crate) fn split(text: &str, escape: char) -> Result<Vec<String>, WordError> {
    let mut pieces = vec![];
    let mut piece = String::new();
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match quote {
            None if c.is_whitespace() => {
                if !piece.is_empty() {
                    pieces.push(std::mem::take(&mut piece));
                }
                continue;
            }
            None if c == '"' || c == '\'' => quote = Some(c),
            Some(open) if open == c => quote = None,
            _ => {}
        }
        piece.push(c);
        if c == escape && quote != Some('\'') {
            piece.extend(chars.next());
        }
    }
    if quote.is_some() {
        return Err(WordError::Quote);
    }
    if !piece.is_empty() {
        pieces.push(piece);
    }
    Ok(pieces)
}

struct Reader<'a> {
    chars: std::iter::Peekable<std::str::Chars<'a>>,
    escape: char,
    lookup: Lookup<'a>,
    depth: usize,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str, escape: char, lookup: Lookup<'a>, depth: usize) -> Self {
        Self {
            chars: text.chars().peekable(),
            escape,
            lookup,
            depth,
        }
    }

    /// Reads up to a character that `ends` it, which is taken, or to the text's end.
    fn read(
        &mut self,
        out: &mut String,
        ends: &dyn Fn(char) -> bool,
        must_end: bool,
    ) -> Result<(), WordError> {
        while let Some(c) = self.chars.next() {
            match c {
                c if ends(c) => return Ok(()),
                '\'' => self.single(out)?,
                '"' => self.double(out)?,
                '$' => self.variable(out)?,
                c if c == self.escape => out.extend(self.chars.next()),
                c => out.push(c),
            }
        }
        if must_end {
            return Err(WordError::Variable(out.clone()));
        }
        Ok(())
    }

    fn single(&mut self, out: &mut String) -> Result<(), WordError> {
        for c in self.chars.by_ref() {
            if c == '\'' {
                return Ok(());
            }
            out.push(c);
        }
        Err(WordError::Quote)
    }

    fn double(&mut self, out: &mut String) -> Result<(), WordError> {
        while let Some(c) = self.chars.next() {
            match c {
                '"' => return Ok(()),
                '$' => self.variable(out)?,
                c if c == self.escape => match self.chars.next() {
                    Some(next) if next == '"' || next == '$' || next == self.escape => {
                        out.push(next);
                    }
                    Some(next) => out.extend([c, next]),
                    None => return Err(WordError::Quote),
                },
                c => out.push(c),
            }
        }
        Err(WordError::Quote)
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(c) = self
            .chars
            .next_if(|c| c.is_ascii_alphanumeric() || *c == '_')
        {
            name.push(c);
        }
        name
    }

    fn variable(&mut self, out: &mut String) -> Result<(), WordError> {
        if self.chars.next_if_eq(&'{').is_none() {
            let name = self.name();
            if name.is_empty() {
                out.push('$');
            } else {
                out.push_str(&(self.lookup)(&name).unwrap_or_default());
            }
            return Ok(());
        }
        if self.depth >= DEPTH {
            return Err(WordError::Deep);
        }
        let name = self.name();
        let value = (self.lookup)(&name);
        let unknown = |rest: &str| Err(WordError::Variable(format!("{name}{rest}")));
        if name.is_empty() {
            return unknown("");
        }
        let colon = self.chars.next_if_eq(&':').is_some();
        let value = value.filter(|value| !colon || !value.is_empty());
        let operator = match self.chars.next() {
            Some('}') if !colon => {
                out.push_str(&value.unwrap_or_default());
                return Ok(());
            }
            Some(operator @ ('-' | '+' | '?')) => operator,
            Some(other) => return unknown(&other.to_string()),
            None => return unknown(""),
        };
        let mut word = String::new();
        self.depth += 1;
        self.read(&mut word, &|c| c == '}', true)?;
        self.depth -= 1;
        match (operator, value) {
            ('-', value) => out.push_str(&value.unwrap_or(word)),
            ('+', Some(_)) => out.push_str(&word),
            ('?', Some(value)) => out.push_str(&value),
            ('?', None) => return Err(WordError::Required { name, why: word }),
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lookup(name: &str) -> Option<String> {
        match name {
            "A" => Some("one".to_owned()),
            "EMPTY" => Some(String::new()),
            "SPACED" => Some("a b".to_owned()),
            _ => None,
        }
    }

    fn one(text: &str) -> Result<String, WordError> {
        word(text, '\\', &lookup)
    }

    #[test]
    fn variables_quotes_and_escapes_are_as_the_reference_has_them() {
        for (text, whole) in [
            ("plain", "plain"),
            ("$A/${A}x", "one/onex"),
            ("'$A'\"$A\"", "$Aone"),
            (r"\$A", "$A"),
            (r#""\$A \x""#, r"$A \x"),
            ("${B:-two}", "two"),
            ("${EMPTY:-two}", "two"),
            ("${EMPTY-two}", ""),
            ("${A:+there}${B:+there}", "there"),
            ("${B:-${A}-${C:-x}}", "one-x"),
            ("${A:?needed}", "one"),
            ("$", "$"),
            ("$B", ""),
            ("a$ b", "a$ b"),
        ] {
            assert_eq!(one(text).unwrap(), whole, "{text}");
        }
    }

    #[test]
    fn what_does_not_end_is_told() {
        for text in [
            "'a",
            "\"a",
            "${A",
            "${",
            "${A:",
            "${A%x}",
            "${B:?why}",
            "${}",
        ] {
            assert!(one(text).is_err(), "{text}");
        }
        let deep = format!("{}x{}", "${B:-".repeat(100), "}".repeat(100));
        assert_eq!(one(&deep), Err(WordError::Deep));
    }

    #[test]
    fn words_are_split_outside_of_quotes_only() {
        let all = split(r#"a "b c"  d\ e $SPACED"#, '\\').unwrap();
        assert_eq!(all, ["a", "\"b c\"", r"d\ e", "$SPACED"]);
        assert_eq!(split("", '\\').unwrap(), Vec::<String>::new());
        assert!(split("a 'b", '\\').is_err());
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "[\\PC\\\\$\\{\\}'\": ]{0,60}") {
            let _ = split(&text, '\\');
            let _ = word(&text, '\\', &lookup);
            let _ = word(&text, '`', &lookup);
        }
    }
}
