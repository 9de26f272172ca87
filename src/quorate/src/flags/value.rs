//! Kinds of flags and their values: what Go's flag types and etcd's own ones accept, and how they word a refusal.

use std::collections::BTreeMap;

use quorate_types::{GoDuration, Quoted};

use crate::go::number::{parse_bool, parse_int, parse_uint};
use crate::urls::Url;

/// A feature gate of etcd's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate {
    /// Its name.
    pub name: &'static str,
    /// How final the feature is, in etcd's words.
    pub stage: &'static str,
    /// What it is if nobody says anything.
    pub default: bool,
}

impl Gate {
    /// The gate that opens or closes all of its stage.
    fn all_of_stage(self) -> &'static str {
        if self.stage == "ALPHA" { "AllAlpha" } else { "AllBeta" }
    }
}

const fn alpha(name: &'static str) -> Gate {
    Gate { name, stage: "ALPHA", default: false }
}

const fn beta(name: &'static str, default: bool) -> Gate {
    Gate { name, stage: "BETA", default }
}

/// etcd's feature gates with their defaults in 3.7.
pub const FEATURE_GATES: [Gate; 11] = [
    alpha("AllAlpha"),
    beta("AllBeta", false),
    alpha("CompactHashCheck"),
    beta("FastLeaseKeepAlive", true),
    alpha("InitialCorruptCheck"),
    alpha("LeaseCheckpoint"),
    alpha("LeaseCheckpointPersist"),
    alpha("PriorityRequest"),
    alpha("SetMemberLocalAddr"),
    alpha("StopGRPCServiceOnDefrag"),
    beta("TxnModeWriteWithSharedBuffer", true),
];

/// What a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// May stand without a value, which means true.
    Bool,
    /// A signed number of 64 bits.
    Int,
    /// An unsigned number of 64 bits.
    Uint,
    /// An unsigned number of 32 bits.
    Uint32,
    /// `1m30s`.
    Duration,
    /// URLs separated by commas; an empty text leaves what was there.
    Urls,
    /// Origins (URLs) separated by commas, or `*`.
    Origins,
    /// Texts separated by commas.
    Words,
    /// One of these.
    OneOf(&'static [&'static str]),
    /// One of these; the refusal repeats the value, as that type of etcd's does.
    OneOfRepeating(&'static [&'static str]),
    /// `Name=true,Other=false`.
    FeatureGates,
    /// A name from before etcd 2.0: parsed like a boolean and dropped.
    Dropped,
}

/// A flag's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Of [`Kind::Text`] and the two of one out of a list.
    Text(String),
    /// Of [`Kind::Bool`].
    Bool(bool),
    /// Of [`Kind::Int`].
    Int(i64),
    /// Of [`Kind::Uint`] and [`Kind::Uint32`].
    Uint(u64),
    /// Of [`Kind::Duration`].
    Duration(GoDuration),
    /// Of [`Kind::Urls`]: sorted, each once.
    Urls(Vec<Url>),
    /// Of [`Kind::Words`] and [`Kind::Origins`]: sorted, each once.
    Words(Vec<String>),
    /// Of [`Kind::FeatureGates`]: the gates that differ from their default, sorted.
    Gates(Vec<(&'static str, bool)>),
    /// The flag was given, but says nothing: an earlier value or the default stays.
    Nothing,
}

impl Kind {
    /// True if the flag may stand alone, so that the next word is never its value.
    pub fn is_bool(self) -> bool {
        matches!(self, Kind::Bool | Kind::Dropped)
    }

    /// Reads a value; the error is the reason that Go or etcd gives.
    pub fn parse(self, text: &str) -> Result<Value, String> {
        match self {
            Kind::Text => Ok(Value::Text(text.to_owned())),
            Kind::Bool => parse_bool(text).map(Value::Bool).map_err(|error| error.to_string()),
            Kind::Int => parse_int(text).map(Value::Int).map_err(|error| error.to_string()),
            Kind::Uint => parse_uint(text, 64).map(Value::Uint).map_err(|error| error.to_string()),
            Kind::Uint32 => parse_uint(text, 32).map(Value::Uint).map_err(|error| {
                // This type is etcd's own and shows strconv's error as it is.
                let why = match error {
                    crate::go::number::Error::Syntax => "invalid syntax",
                    crate::go::number::Error::Range => "value out of range",
                };
                format!("strconv.ParseUint: parsing {}: {why}", Quoted(text))
            }),
            Kind::Duration => GoDuration::parse(text).map(Value::Duration).map_err(|_| "parse error".into()),
            Kind::Urls if text.is_empty() => Ok(Value::Nothing),
            Kind::Urls => Url::parse_list(text).map(Value::Urls),
            Kind::Origins if text == "*" => Ok(Value::Words(vec!["*".into()])),
            Kind::Origins => Ok(Value::Words(crate::urls::texts(&Url::parse_list(text)?))),
            Kind::Words => {
                let mut words: Vec<String> = text.split(',').map(str::to_owned).collect();
                words.sort();
                words.dedup();
                Ok(Value::Words(words))
            }
            Kind::OneOf(valid) if valid.contains(&text) => Ok(Value::Text(text.to_owned())),
            Kind::OneOf(_) => Err("invalid value".into()),
            Kind::OneOfRepeating(valid) if valid.contains(&text) => Ok(Value::Text(text.to_owned())),
            Kind::OneOfRepeating(_) => Err(format!("invalid value {}", Quoted(text))),
            Kind::FeatureGates => parse_gates(text).map(Value::Gates),
            Kind::Dropped => Ok(Value::Nothing),
        }
    }
}

fn parse_gates(text: &str) -> Result<Vec<(&'static str, bool)>, String> {
    let mut given = BTreeMap::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let Some((name, value)) = pair.split_once('=') else {
            return Err(format!("missing bool value for {pair}"));
        };
        let (name, value) = (name.trim(), value.trim());
        let on = parse_bool(value).map_err(|_| {
            let why = format!("strconv.ParseBool: parsing {}: invalid syntax", Quoted(value));
            format!("invalid value of {name}={value}, err: {why}")
        })?;
        let Some(known) = FEATURE_GATES.iter().find(|known| known.name == name) else {
            return Err(format!("unrecognized feature gate: {name}"));
        };
        given.insert(known.name, on);
    }
    // Who is named is not meant by "all", whichever comes first.
    let open = |gate: Gate| given.get(gate.name).or_else(|| given.get(gate.all_of_stage())).copied();
    let differing = FEATURE_GATES
        .into_iter()
        .filter_map(|gate| Some((gate.name, open(gate)?)).filter(|(_, on)| *on != gate.default));
    Ok(differing.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_worded_as_go_and_etcd_word_them() {
        for (kind, text, why) in [
            (Kind::Bool, "xx", "parse error"),
            (Kind::Uint, "-1", "parse error"),
            (Kind::Uint, "99999999999999999999", "value out of range"),
            (Kind::Int, "0x", "parse error"),
            (Kind::Uint32, "99999999999", "strconv.ParseUint: parsing \"99999999999\": value out of range"),
            (Kind::Uint32, "x", "strconv.ParseUint: parsing \"x\": invalid syntax"),
            (Kind::Duration, "5", "parse error"),
            (Kind::Urls, "foo", "URL scheme must be http, https, unix, or unixs: foo"),
            (Kind::OneOf(&["new", "existing"]), "bad", "invalid value"),
            (Kind::OneOfRepeating(&["gone"]), "not-yet", "invalid value \"not-yet\""),
            (Kind::FeatureGates, "Foo=true", "unrecognized feature gate: Foo"),
            (Kind::FeatureGates, "AllBeta", "missing bool value for AllBeta"),
            (
                Kind::FeatureGates,
                "AllBeta=x",
                "invalid value of AllBeta=x, err: strconv.ParseBool: parsing \"x\": invalid syntax",
            ),
        ] {
            assert_eq!(kind.parse(text), Err(why.to_owned()), "{kind:?} {text:?}");
        }
    }

    #[test]
    fn accepted_values() {
        let words = |words: &[&str]| Ok(Value::Words(words.iter().map(|word| (*word).to_owned()).collect()));
        assert_eq!(Kind::Words.parse("b,a,b"), words(&["a", "b"]));
        assert_eq!(Kind::Origins.parse("*"), words(&["*"]));
        assert_eq!(Kind::Urls.parse(""), Ok(Value::Nothing));
        assert_eq!(Kind::Text.parse(""), Ok(Value::Text(String::new())));
        assert_eq!(
            Kind::FeatureGates.parse("AllAlpha=true,FastLeaseKeepAlive=true,AllAlpha=false"),
            Ok(Value::Gates(vec![]))
        );
        assert_eq!(
            Kind::FeatureGates.parse(" LeaseCheckpoint = t "),
            Ok(Value::Gates(vec![("LeaseCheckpoint", true)]))
        );
        assert_eq!(
            Kind::FeatureGates.parse("TxnModeWriteWithSharedBuffer=true,AllBeta=false"),
            Ok(Value::Gates(vec![("FastLeaseKeepAlive", false)]))
        );
        let Ok(Value::Gates(all)) = Kind::FeatureGates.parse("AllAlpha=true,PriorityRequest=false") else { panic!() };
        assert_eq!(all.len(), 7, "every one of that stage but one: {all:?}");
    }
}
