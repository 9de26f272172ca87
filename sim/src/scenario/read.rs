//! The words of one line, taken one after the other, and what to say when one of them is wrong.

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

/// What is wrong with a scenario file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Its line, from 1.
    pub line: usize,
    /// Its column in characters, from 1.
    pub column: usize,
    /// So many characters of it; 0 at the end of a line.
    pub width: usize,
    /// What should be there.
    pub expected: String,
    /// A word that is known, and much like the one that is not.
    pub suggestion: Option<String>,
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}, column {}: expected {}", self.line, self.column, self.expected)?;
        match &self.suggestion {
            Some(suggestion) => write!(f, "; did you mean `{suggestion}`?"),
            None => Ok(()),
        }
    }
}

impl Trouble {
    /// With the line of the file that it is about, as compilers show it.
    pub fn render(&self, path: &str, source: &str) -> String {
        let line_start: usize = source.split_inclusive('\n').take(self.line - 1).map(str::len).sum();
        let line = source[line_start..].split('\n').next().unwrap_or_default();
        let byte = |column: usize| line_start + line.char_indices().nth(column).map_or(line.len(), |(at, _)| at);
        let span = byte(self.column - 1)..byte(self.column - 1 + self.width);
        let title = format!("expected {}", self.expected);
        let snippet = Snippet::source(source).path(path).annotation(AnnotationKind::Primary.span(span).label("here"));
        let mut group = Level::ERROR.primary_title(&title).element(snippet);
        let help = self.suggestion.as_ref().map(|suggestion| format!("did you mean `{suggestion}`?"));
        if let Some(help) = &help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        Renderer::plain().render(&[group])
    }
}

/// A word of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// Without quotes.
    pub text: String,
    /// Its column in characters, from 1.
    pub column: usize,
    width: usize,
    is_quoted: bool,
}

/// The words of a line.
#[derive(Clone, Debug)]
pub struct Words {
    line: usize,
    words: Vec<Word>,
    next: usize,
    end_column: usize,
}

impl Words {
    /// The words of `text`, which begins in column `first_column` of line `line`. What follows a `#` is a comment.
    pub fn of(line: usize, first_column: usize, text: &str) -> Result<Self, Trouble> {
        let characters: Vec<char> = text.chars().collect();
        let (mut words, mut at) = (Vec::new(), 0);
        while at < characters.len() && characters[at] != '#' {
            let start = at;
            let mut word = Word { text: String::new(), column: first_column + start, width: 1, is_quoted: false };
            match characters[at] {
                character if character.is_whitespace() => {
                    at += 1;
                    continue;
                }
                ',' => {
                    at += 1;
                    word.text.push(',');
                }
                quote @ ('"' | '\'') => {
                    let Some(length) = characters[at + 1..].iter().position(|&character| character == quote) else {
                        let width = characters.len() - start;
                        let expected = format!("a `{quote}` at the end of this text");
                        return Err(Trouble { line, column: word.column, width, expected, suggestion: None });
                    };
                    word.text.extend(&characters[at + 1..at + 1 + length]);
                    word.is_quoted = true;
                    at += length + 2;
                }
                _ => {
                    let is_part = |character: &&char| !character.is_whitespace() && **character != ',';
                    let length = characters[at..].iter().take_while(is_part).count();
                    word.text.extend(&characters[at..at + length]);
                    at += length;
                }
            }
            word.width = at - start;
            words.push(word);
        }
        let end_column = first_column + text.trim_end().chars().count();
        Ok(Self { line, words, next: 0, end_column })
    }

    /// The next word, without taking it.
    pub fn peek(&self) -> Option<&str> {
        self.words.get(self.next).map(|word| word.text.as_str())
    }

    /// True if there are no more.
    pub fn is_empty(&self) -> bool {
        self.next >= self.words.len()
    }

    /// Takes the next words if they are these.
    pub fn take(&mut self, phrase: &str) -> bool {
        let wanted = phrase.split(' ');
        let count = wanted.clone().count();
        let there = self.words.iter().skip(self.next).take(count);
        let is_there = there.clone().count() == count
            && there.zip(wanted).all(|(word, wanted)| !word.is_quoted && word.text == wanted);
        if is_there {
            self.next += count;
        }
        is_there
    }

    /// Takes these words; nothing else may be there.
    pub fn need(&mut self, phrase: &str) -> Result<(), Trouble> {
        if self.take(phrase) {
            return Ok(());
        }
        // Where they part.
        let mut words = phrase.split(' ').peekable();
        while let Some(word) = words.peek()
            && self.take(word)
        {
            words.next();
        }
        let rest: Vec<_> = words.collect();
        Err(self.trouble(format!("`{}`", rest.join(" ")), rest.first().copied()))
    }

    /// Takes a word that `read` makes something of.
    pub fn value<T>(&mut self, what: &str, read: impl FnOnce(&str) -> Option<T>) -> Result<T, Trouble> {
        match self.peek().and_then(read) {
            Some(value) => {
                self.next += 1;
                Ok(value)
            }
            None => Err(self.trouble(what, [])),
        }
    }

    /// Takes a word that is one of `known`, and returns which.
    pub fn one_of<'a>(
        &mut self,
        what: &str,
        known: impl IntoIterator<Item = &'a str> + Clone,
    ) -> Result<&'a str, Trouble> {
        let found = known.clone().into_iter().find(|known| self.peek() == Some(known));
        match found {
            Some(found) => {
                self.next += 1;
                Ok(found)
            }
            None => Err(self.trouble(what, known)),
        }
    }

    /// Takes a number.
    pub fn number(&mut self, what: &str) -> Result<u64, Trouble> {
        self.value(what, |word| word.parse().ok())
    }

    /// Takes any word or quoted text.
    pub fn text(&mut self, what: &str) -> Result<String, Trouble> {
        self.value(what, |word| (word != ",").then(|| word.to_owned()))
    }

    /// Nothing may be left.
    pub fn finish(&self) -> Result<(), Trouble> {
        if self.is_empty() { Ok(()) } else { Err(self.trouble("the end of the line", [])) }
    }

    /// The next word is wrong. `known` words that are much like it are suggested.
    pub fn trouble<'a>(&self, expected: impl Into<String>, known: impl IntoIterator<Item = &'a str>) -> Trouble {
        let word = self.words.get(self.next);
        let text = word.map_or("", |word| word.text.as_str());
        let likeness = |known: &str| strsim::jaro_winkler(text, known);
        let close = known.into_iter().filter(|known| likeness(known) > 0.75);
        let suggestion = close.max_by(|one, other| likeness(one).total_cmp(&likeness(other))).map(str::to_owned);
        Trouble {
            line: self.line,
            column: word.map_or(self.end_column, |word| word.column),
            width: word.map_or(0, |word| word.width),
            expected: expected.into(),
            suggestion,
        }
    }
}
