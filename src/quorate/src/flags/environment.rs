//! `ETCD_*` variables, by etcd's rules.
//!
//! `--some-flag` is `ETCD_SOME_FLAG`. An empty variable says nothing. The same setting by flag and by variable is a conflict
//! and ends the program (since etcd 3.4), because nobody can tell which of the two was meant.

use std::collections::BTreeMap;

use quorate_types::Quoted;

use super::table::{self, Flag};
use super::{Origin, Settings};

/// What is said about a variable in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// It became a setting.
    Used {
        /// The variable.
        name: String,
        /// Its value.
        value: String,
    },
    /// It looks like one of ours, and is not.
    Unknown {
        /// `NAME=value`.
        variable: String,
    },
    /// `ETCD_VERSION` names a release in many images; it is not `--version`.
    Special {
        /// The variable.
        name: String,
        /// Its value.
        value: String,
    },
}

impl Notice {
    /// Writes it into the log.
    pub fn log(&self) {
        match self {
            Notice::Used { name, value } => {
                tracing::info!(variable_name = name, variable_value = value, "recognized and used environment variable")
            }
            Notice::Unknown { variable } => {
                tracing::warn!(environment_variable = variable, "unrecognized environment variable");
            }
            Notice::Special { name, value } => {
                tracing::warn!(key = name, value, "cannot set special environment variable");
            }
        }
    }
}

/// Variables that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// The flag is given, too.
    Shadowed {
        /// The variable.
        name: String,
    },
    /// The value is no good; the sentence is etcd's.
    Invalid(String),
}

/// The text of [`Conflict::Shadowed`], with etcd's two closing brackets.
pub const SHADOWED: &str = "conflicting environment variable is shadowed by corresponding command-line flag (either unset environment variable or disable flag))";

/// The variable of a flag.
pub fn variable(flag: &Flag) -> String {
    format!("ETCD_{}", flag.name.to_uppercase().replace('-', "_"))
}

/// Fills in what the variables say about flags that were not given.
pub fn apply(settings: &mut Settings, variables: &BTreeMap<String, String>) -> (Vec<Notice>, Result<(), Conflict>) {
    let mut notices = Vec::new();
    let mut variables = variables.clone();
    if let Some(value) = variables.remove("ETCD_VERSION").filter(|value| !value.is_empty()) {
        notices.push(Notice::Special { name: "ETCD_VERSION".into(), value });
    }
    let mut flags: Vec<_> = table::all().map(|flag| (variable(flag), flag)).collect();
    flags.sort_by_key(|(_, flag)| flag.name);

    let (mut shadowed, mut invalid) = (None, None);
    for (name, flag) in flags {
        let Some(value) = variables.get(&name).filter(|value| !value.is_empty()) else { continue };
        if settings.is_given(flag.name) {
            shadowed.get_or_insert(Conflict::Shadowed { name });
            continue;
        }
        match flag.kind.parse(value) {
            Ok(parsed) => {
                settings.set(flag, parsed, Origin::Environment);
                notices.push(Notice::Used { name: name.clone(), value: value.clone() });
            }
            Err(why) => {
                invalid = Some(Conflict::Invalid(format!("invalid value {} for {name}: {why}", Quoted(value))));
            }
        }
        variables.remove(&name);
    }
    if let Some(conflict) = shadowed {
        return (notices, Err(conflict));
    }
    let unknown = variables.iter().filter(|(name, _)| name.starts_with("ETCD_"));
    notices.extend(unknown.map(|(name, value)| Notice::Unknown { variable: format!("{name}={value}") }));
    (notices, invalid.map_or(Ok(()), Err))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn variables_fill_in_what_was_not_given() {
        let mut settings = Settings::defaults();
        let given = variables(&[
            ("ETCD_NAME", "n1"),
            ("ETCD_PRE_VOTE", "f"),
            ("ETCD_DATA_DIR", ""),
            ("ETCD_FOO", "bar"),
            ("ETCD_VERSION", "3.5.0"),
            ("HOME", "/root"),
        ]);
        let (notices, outcome) = apply(&mut settings, &given);
        assert_eq!(outcome, Ok(()));
        assert_eq!((settings.text("name"), settings.bool("pre-vote")), ("n1", false));
        assert_eq!((settings.origin("name"), settings.origin("data-dir")), (Origin::Environment, Origin::Default));
        assert!(!settings.bool("version"));
        let used = |name: &str, value: &str| Notice::Used { name: name.into(), value: value.into() };
        assert_eq!(
            notices,
            [
                Notice::Special { name: "ETCD_VERSION".into(), value: "3.5.0".into() },
                used("ETCD_NAME", "n1"),
                used("ETCD_PRE_VOTE", "f"),
                Notice::Unknown { variable: "ETCD_DATA_DIR=".into() },
                Notice::Unknown { variable: "ETCD_FOO=bar".into() },
            ]
        );
    }

    #[test]
    fn a_flag_and_its_variable_conflict() {
        let mut settings = Settings::defaults();
        let flag = table::find("name").unwrap();
        settings.set(flag, flag.kind.parse("x").unwrap(), Origin::CommandLine);
        let (_, outcome) = apply(&mut settings, &variables(&[("ETCD_NAME", "x"), ("ETCD_MAX_WALS", "bad")]));
        assert_eq!(outcome, Err(Conflict::Shadowed { name: "ETCD_NAME".into() }));
        let (_, outcome) = apply(&mut settings, &variables(&[("ETCD_NAME", "")]));
        assert_eq!(outcome, Ok(()));
    }

    #[test]
    fn a_value_that_is_no_good_names_the_variable() {
        let (_, outcome) = apply(&mut Settings::defaults(), &variables(&[("ETCD_LISTEN_CLIENT_URLS", "x")]));
        let sentence =
            "invalid value \"x\" for ETCD_LISTEN_CLIENT_URLS: URL scheme must be http, https, unix, or unixs: x";
        assert_eq!(outcome, Err(Conflict::Invalid(sentence.into())));
    }
}
