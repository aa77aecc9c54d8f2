//! Shell assignments, read without a shell.
//!
//! Upstream sources `subnet.env`, so whoever writes that file runs commands as root. Here only assignments are read,
//! with the quotes a shell has: `A=1`, `A='1 2'`, `A="1 \"2\""`, `A=1\ 2`, `export A=1 B=2`, `A=1; B=2`, comments.
//! Everything else (commands, `$NAME`, `$(...)`) is refused, with its line.

use std::iter::Peekable;
use std::str::Chars;

/// A line that is no assignment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}; only assignments like NAME=\"value\" are read, nothing is run")]
pub struct BadLine {
    /// Its number, from 1.
    pub line: usize,
    /// What stands there.
    pub what: String,
}

/// Reads a text's assignments, in their order.
pub fn parse(text: &str) -> Result<Vec<(String, String)>, BadLine> {
    let mut scanner = Scanner { chars: text.chars().peekable(), line: 1 };
    let mut assignments = Vec::new();
    while scanner.chars.peek().is_some() {
        let line = scanner.line;
        let command = scanner.command()?;
        let exported = command.first().is_some_and(|word| word.text == "export");
        for word in command.into_iter().skip(exported.into()) {
            match word.assignment() {
                Some(assignment) => assignments.push(assignment),
                // A name that is exported, of whatever value.
                None if exported && is_name(&word.text) => {}
                None => return Err(BadLine { line, what: format!("{:?} is no assignment", word.text) }),
            }
        }
    }
    Ok(assignments)
}

/// Whether a shell takes it for a variable's name.
pub fn is_name(text: &str) -> bool {
    !text.starts_with(|c: char| c.is_ascii_digit())
        && !text.is_empty()
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// A word with its quotes taken off.
#[derive(Default)]
struct Word {
    text: String,
    /// How many bytes stood before the first quote: a name and its `=` must stand there.
    plain: Option<usize>,
}

impl Word {
    fn assignment(&self) -> Option<(String, String)> {
        let (name, value) = self.text.split_once('=')?;
        let quoted = self.plain.is_some_and(|plain| name.len() >= plain);
        (is_name(name) && !quoted).then(|| (name.to_owned(), value.to_owned()))
    }

    fn quoted(&mut self) {
        self.plain.get_or_insert(self.text.len());
    }
}

struct Scanner<'a> {
    chars: Peekable<Chars<'a>>,
    line: usize,
}

impl Scanner<'_> {
    fn next(&mut self) -> Option<char> {
        let next = self.chars.next();
        self.line += usize::from(next == Some('\n'));
        next
    }

    fn bad<T>(&self, what: impl Into<String>) -> Result<T, BadLine> {
        Err(BadLine { line: self.line, what: what.into() })
    }

    /// The words up to the end of the line, or to a semicolon.
    fn command(&mut self) -> Result<Vec<Word>, BadLine> {
        let mut words = Vec::new();
        loop {
            match self.chars.peek() {
                None => return Ok(words),
                Some('\n' | ';') => {
                    self.next();
                    return Ok(words);
                }
                Some(' ' | '\t') => {
                    self.next();
                }
                Some('#') => while self.chars.next_if(|c| *c != '\n').is_some() {},
                Some(_) => words.push(self.word()?),
            }
        }
    }

    fn word(&mut self) -> Result<Word, BadLine> {
        let mut word = Word::default();
        while let Some(char) = self.chars.next_if(|c| !matches!(c, ' ' | '\t' | '\n' | ';')) {
            match char {
                '\'' => {
                    word.quoted();
                    self.single_quoted(&mut word.text)?;
                }
                '"' => {
                    word.quoted();
                    self.double_quoted(&mut word.text)?;
                }
                '\\' => {
                    word.quoted();
                    word.text.extend(self.next().filter(|c| *c != '\n'));
                }
                '$' | '`' | '(' | ')' | '<' | '>' | '&' | '|' => {
                    return self.bad(format!("{char:?} has a meaning to a shell: quote it"));
                }
                _ => word.text.push(char),
            }
        }
        Ok(word)
    }

    fn single_quoted(&mut self, text: &mut String) -> Result<(), BadLine> {
        let opened = self.line;
        while let Some(char) = self.next() {
            if char == '\'' {
                return Ok(());
            }
            text.push(char);
        }
        Err(BadLine { line: opened, what: "a quote ' is not closed".into() })
    }

    fn double_quoted(&mut self, text: &mut String) -> Result<(), BadLine> {
        let opened = self.line;
        while let Some(char) = self.next() {
            match char {
                '"' => return Ok(()),
                '$' | '`' => return self.bad(format!("{char:?} has a meaning to a shell: write \\{char}")),
                '\\' => match self.next() {
                    Some('\n') => {}
                    Some(escaped @ ('"' | '\\' | '$' | '`')) => text.push(escaped),
                    other => {
                        text.push('\\');
                        text.extend(other);
                    }
                },
                _ => text.push(char),
            }
        }
        Err(BadLine { line: opened, what: "a quote \" is not closed".into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(String, String)> {
        parse(text).unwrap_or_else(|e| panic!("{text:?}: {e}"))
    }

    #[test]
    fn reads_what_a_shell_reads() {
        for (text, value) in [
            ("A=1", "1"),
            ("A=1\n", "1"),
            ("  A=1 # one", "1"),
            ("A=1#2", "1#2"),
            ("A=", ""),
            ("A='1 2'", "1 2"),
            ("A=\"1 \\\"2\\\" \\$3 \\4\"", "1 \"2\" $3 \\4"),
            ("A=1\\ 2", "1 2"),
            ("A=a'b'\"c\"d", "abcd"),
            ("A='1\n2'", "1\n2"),
            ("A=1\\\n2", "12"),
            ("A=b=c", "b=c"),
            ("export A=1", "1"),
            ("export A='$(reboot)'", "$(reboot)"),
        ] {
            assert_eq!(read(text), [("A".to_owned(), value.to_owned())], "{text:?}");
        }
        let two = [("A".to_owned(), "1".to_owned()), ("B".to_owned(), "2".to_owned())];
        for text in ["A=1\nB=2", "A=1;B=2", "A=1 B=2", "export A=1 B=2", "# x\n\nA=1\nexport B\nB=2\n"] {
            assert_eq!(read(text), two, "{text:?}");
        }
        assert_eq!(read(" \n# nothing\n"), []);
    }

    #[test]
    fn refuses_what_a_shell_would_run() {
        for (text, line, what) in [
            ("A=1\nreboot", 2, "\"reboot\" is no assignment"),
            ("A=1 reboot", 1, "\"reboot\" is no assignment"),
            ("A=$(reboot)", 1, "'$' has a meaning"),
            ("\nA=\"$HOME\"", 2, "'$' has a meaning"),
            ("A=`reboot`", 1, "'`' has a meaning"),
            ("A=1 && reboot", 1, "'&' has a meaning"),
            ("A=1\nB='x\ny\n", 2, "a quote ' is not closed"),
            ("A=\"x", 1, "a quote \" is not closed"),
            ("'A=1'", 1, "\"A=1\" is no assignment"),
            ("'A'=1", 1, "\"A=1\" is no assignment"),
            ("1A=1", 1, "\"1A=1\" is no assignment"),
            ("export A-B", 1, "\"A-B\" is no assignment"),
        ] {
            let error = parse(text).expect_err(text);
            assert_eq!(error.line, line, "{text:?}: {error}");
            assert!(error.what.starts_with(what), "{text:?}: {error}");
        }
    }
}
