//! Go's rules for a command line, in front of clap.
//!
//! `-name` and `--name` are the same; a value follows as `=value` or as the next word; a boolean takes only `=value`; the
//! first word that is no flag ends the flags, and so does `--`; a flag given twice has its last value. What comes out is the
//! same command line in clap's strictest form, `--name=value` for each flag, so that clap has nothing left to interpret.

use super::value::Kind;

/// A command line in clap's form.
#[derive(Debug, PartialEq, Eq)]
pub struct Normal {
    /// `--name=value` each, in order.
    pub words: Vec<String>,
    /// What stands behind the flags.
    pub rest: Vec<String>,
    /// Why reading ended before the end. The words before it count first: one of them may be wrong as well, and Go reports
    /// what comes first.
    pub stopped: Option<Stop>,
}

/// What ends the reading of a command line.
#[derive(Debug, PartialEq, Eq)]
pub enum Stop {
    /// `-h`, `-help` and so on.
    Help,
    /// A mistake, in Go's words.
    Wrong(String),
}

/// Reads `arguments` (without the program's name); `kind_of` knows the flags.
pub fn normalise(arguments: &[String], kind_of: impl Fn(&str) -> Option<Kind>) -> Normal {
    let mut words = Vec::new();
    let mut left = arguments.iter();
    loop {
        let before = left.clone();
        let Some(word) = left.next() else { break };
        let Some(name) = word.strip_prefix('-').filter(|name| !name.is_empty()) else {
            left = before;
            break;
        };
        if name == "-" {
            break;
        }
        let name = name.strip_prefix('-').unwrap_or(name);
        let stop = |stop| Normal { words: Vec::new(), rest: Vec::new(), stopped: Some(stop) };
        if name.is_empty() || name.starts_with(['-', '=']) {
            return Normal { words, ..stop(Stop::Wrong(format!("bad flag syntax: {word}"))) };
        }
        let (name, value) = match name.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (name, None),
        };
        let value = match (kind_of(name), value) {
            (None, _) if name == "help" || name == "h" => return Normal { words, ..stop(Stop::Help) },
            (None, _) => {
                return Normal { words, ..stop(Stop::Wrong(format!("flag provided but not defined: -{name}"))) };
            }
            (Some(_), Some(value)) => value,
            (Some(kind), None) if kind.is_bool() => "true",
            (Some(_), None) => match left.next() {
                Some(value) => value,
                None => return Normal { words, ..stop(Stop::Wrong(format!("flag needs an argument: -{name}"))) },
            },
        };
        words.push(format!("--{name}={value}"));
    }
    Normal { words, rest: left.cloned().collect(), stopped: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &[&str]) -> Normal {
        let arguments: Vec<String> = line.iter().map(|word| (*word).to_owned()).collect();
        normalise(&arguments, |name| match name {
            "name" | "x-y" => Some(Kind::Text),
            "b" => Some(Kind::Bool),
            _ => None,
        })
    }

    fn words(line: &[&str]) -> Vec<String> {
        let normal = read(line);
        assert_eq!((normal.stopped, normal.rest.len()), (None, 0), "{line:?}");
        normal.words
    }

    #[test]
    fn one_dash_and_two_are_the_same_and_values_follow_either_way() {
        for line in [["-name", "v"].as_slice(), &["--name", "v"], &["-name=v"], &["--name=v"]] {
            assert_eq!(words(line), ["--name=v"]);
        }
        assert_eq!(words(&["-name", "-b"]), ["--name=-b"]);
        assert_eq!(words(&["-name", "--"]), ["--name=--"]);
        assert_eq!(words(&["-name=a=b", "-x-y="]), ["--name=a=b", "--x-y="]);
        assert_eq!(words(&["-name", ""]), ["--name="]);
    }

    #[test]
    fn a_boolean_never_takes_the_next_word() {
        assert_eq!(words(&["-b", "--b=false", "-b"]), ["--b=true", "--b=false", "--b=true"]);
        assert_eq!(
            read(&["-b", "false", "-name", "v"]),
            Normal {
                words: vec!["--b=true".into()],
                rest: vec!["false".into(), "-name".into(), "v".into()],
                stopped: None
            }
        );
    }

    #[test]
    fn flags_end_at_the_first_other_word_or_at_two_dashes() {
        for (line, rest) in [
            (["-b", "x", "-b"].as_slice(), ["x", "-b"].as_slice()),
            (&["-b", "--", "-b"], &["-b"]),
            (&["-b", "--"], &[]),
            (&["-b", "-", "-b"], &["-", "-b"]),
            (&["-b", "", "-b"], &["", "-b"]),
        ] {
            let normal = read(line);
            assert_eq!((normal.words, normal.stopped), (vec!["--b=true".to_owned()], None));
            assert_eq!(normal.rest, rest, "{line:?}");
        }
    }

    #[test]
    fn mistakes_in_gos_words() {
        for (line, text) in [
            (["-b", "-zz"].as_slice(), "flag provided but not defined: -zz"),
            (&["-b", "--zz=1"], "flag provided but not defined: -zz"),
            (&["-b", "-nam=v"], "flag provided but not defined: -nam"),
            (&["-b", "-name"], "flag needs an argument: -name"),
            (&["-b", "---name"], "bad flag syntax: ---name"),
            (&["-b", "-=x"], "bad flag syntax: -=x"),
            (&["-b", "--=x"], "bad flag syntax: --=x"),
        ] {
            let normal = read(line);
            assert_eq!(normal.stopped, Some(Stop::Wrong(text.to_owned())));
            assert_eq!(normal.words, ["--b=true"]);
        }
        for help in ["-h", "--h", "-help", "--help", "-help=1"] {
            assert_eq!(read(&[help, "-zz"]).stopped, Some(Stop::Help));
        }
    }
}
