//! Histories of real processes, judged by the simulator's checkers.
//!
//! Whoever drives real members writes down what the simulator's own recorder knows, one JSON object a line, in any order:
//!
//! | `type` | fields |
//! |---|---|
//! | `operation` | `client`, `start_ns`, `end_ns`; `call`: `range`, `put`, `delete`, `txn` or `compact`; `request`; and one of `answer`, `refused` (`{"code":N,"message":TEXT}`) and `unknown` (`true`) |
//! | `tap` | `revision`, `changed`: key → row, or null for a deletion: what a revision that no answered write claims has changed |
//! | `crash` | `at_ns` |
//! | `healed` | `at_ns`, `limit_ns`, `clients`: from then on each of these clients must be served, within the limit |
//! | `hash` | `member`, `revision`, `compact_revision`, `hash` |
//! | `complaint` | `text`: what a member did wrong, which nothing excuses |
//!
//! Times are nanoseconds of one clock that never goes back. Messages (requests, answers, rows) and keys are protobuf's and plain
//! bytes in hex. `refused` is only for errors that promise that nothing was changed, and that the checkers can judge; an error
//! that promises nothing is `unknown`.

use bytes::Bytes;
use prost::Message;
use quorate_proto::etcdserverpb as pb;
use serde_json::Value;

use crate::checkers::{Evidence, MemberHash};
use crate::history::{Answer, Operation, Outcome, Request, RevisionDiff};
use crate::world::clock::SimTime;

/// Reads a history. The error names the line.
pub fn read(text: &[u8]) -> Result<Evidence, String> {
    let mut evidence = Evidence { recovery_limit_ns: u64::MAX, ..Evidence::default() };
    for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
        if line.is_empty() {
            continue;
        }
        let record: Value = serde_json::from_slice(line).map_err(|error| format!("line {}: {error}", index + 1))?;
        add(&mut evidence, &record).map_err(|error| format!("line {}: {error}", index + 1))?;
    }
    evidence.operations.sort_by_key(|operation| operation.start);
    evidence.crashes.sort();
    Ok(evidence)
}

fn add(evidence: &mut Evidence, record: &Value) -> Result<(), String> {
    match text(record, "type")? {
        "operation" => evidence.operations.push(operation(record)?),
        "tap" => {
            let changed = record["changed"].as_object().ok_or("`changed` is no object")?;
            let row = |(key, row): (&String, &Value)| {
                let row = row.as_str().map(unhex).transpose()?;
                Ok::<_, String>((unhex(key)?, row))
            };
            let diff = changed.iter().map(row).collect::<Result<RevisionDiff, _>>()?;
            evidence.taps.insert(signed(record, "revision")?, diff);
        }
        "crash" => evidence.crashes.push(time(record, "at_ns")?),
        "healed" => {
            evidence.healed_at = time(record, "at_ns")?;
            evidence.recovery_limit_ns = number(record, "limit_ns")?;
            let clients = record["clients"].as_array().ok_or("`clients` is no array")?;
            let clients = clients.iter().map(|client| client.as_u64().ok_or("a client is no number"));
            evidence.clients = clients.collect::<Result<_, _>>()?;
        }
        "hash" => evidence.hashes.push(MemberHash {
            member: text(record, "member")?.to_owned(),
            revision: signed(record, "revision")?,
            compact_revision: signed(record, "compact_revision")?,
            hash: u32::try_from(number(record, "hash")?).map_err(|error| error.to_string())?,
        }),
        "complaint" => evidence.complaints.push(text(record, "text")?.to_owned()),
        other => return Err(format!("unknown type {other:?}")),
    }
    Ok(())
}

fn operation(record: &Value) -> Result<Operation, String> {
    let call = text(record, "call")?;
    let outcome = if let Some(answer) = record["answer"].as_str() {
        Outcome::Answered(decode_answer(call, unhex(answer)?)?)
    } else if record["unknown"].as_bool() == Some(true) {
        Outcome::Unknown
    } else {
        let refused = &record["refused"];
        let code = i32::try_from(number(refused, "code")?).map_err(|error| error.to_string())?;
        Outcome::Refused { code, message: text(refused, "message")?.to_owned() }
    };
    Ok(Operation {
        client: number(record, "client")?,
        start: time(record, "start_ns")?,
        end: time(record, "end_ns")?,
        request: decode_request(call, unhex(text(record, "request")?)?)?,
        outcome,
    })
}

fn decode_request(call: &str, encoded: Bytes) -> Result<Request, String> {
    Ok(match call {
        "range" => Request::Range(decode(encoded)?),
        "put" => Request::Put(decode(encoded)?),
        "delete" => Request::Delete(decode(encoded)?),
        "txn" => Request::Txn(decode(encoded)?),
        "compact" => Request::Compact(decode(encoded)?),
        other => return Err(format!("unknown call {other:?}")),
    })
}

fn decode_answer(call: &str, encoded: Bytes) -> Result<Answer, String> {
    Ok(match call {
        "range" => Answer::Range(decode(encoded)?),
        "put" => Answer::Put(decode::<pb::PutResponse>(encoded)?),
        "delete" => Answer::Delete(decode(encoded)?),
        "txn" => Answer::Txn(decode(encoded)?),
        "compact" => Answer::Compact(decode(encoded)?),
        other => return Err(format!("unknown call {other:?}")),
    })
}

fn decode<M: Message + Default>(encoded: Bytes) -> Result<M, String> {
    M::decode(encoded).map_err(|error| error.to_string())
}

fn text<'a>(record: &'a Value, field: &str) -> Result<&'a str, String> {
    record[field].as_str().ok_or_else(|| format!("`{field}` is no text"))
}

fn number(record: &Value, field: &str) -> Result<u64, String> {
    record[field].as_u64().ok_or_else(|| format!("`{field}` is no number from 0 on"))
}

fn signed(record: &Value, field: &str) -> Result<i64, String> {
    record[field].as_i64().ok_or_else(|| format!("`{field}` is no number"))
}

fn time(record: &Value, field: &str) -> Result<SimTime, String> {
    number(record, field).map(SimTime::from_nanos)
}

fn unhex(text: &str) -> Result<Bytes, String> {
    let digit = |byte: u8| char::from(byte).to_digit(16).ok_or_else(|| format!("{text:?} is no hex"));
    let pairs = text.as_bytes().chunks(2);
    let byte = |pair: &[u8]| match pair {
        [high, low] => Ok((digit(*high)? * 16 + digit(*low)?) as u8),
        _ => Err(format!("{text:?} has half a byte at its end")),
    };
    pairs.map(byte).collect::<Result<Vec<u8>, _>>().map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::{self, doctored::Story};

    /// The record of a story, as a driver of real processes writes it.
    fn written(evidence: &Evidence) -> String {
        let mut lines = Vec::new();
        for operation in &evidence.operations {
            let (call, request) = match &operation.request {
                Request::Range(request) => ("range", request.encode_to_vec()),
                Request::Put(request) => ("put", request.encode_to_vec()),
                Request::Delete(request) => ("delete", request.encode_to_vec()),
                Request::Txn(request) => ("txn", request.encode_to_vec()),
                Request::Compact(request) => ("compact", request.encode_to_vec()),
            };
            let mut record = serde_json::json!({
                "type": "operation", "client": operation.client, "call": call, "request": hex(&request),
                "start_ns": operation.start.as_nanos(), "end_ns": operation.end.as_nanos(),
            });
            match &operation.outcome {
                Outcome::Answered(answer) => record["answer"] = hex(&answer.encoded()).into(),
                Outcome::Refused { code, message } => {
                    record["refused"] = serde_json::json!({ "code": code, "message": message });
                }
                Outcome::Unknown => record["unknown"] = true.into(),
            }
            lines.push(record.to_string());
        }
        for (revision, diff) in &evidence.taps {
            let row = |(key, row): (&Bytes, &Option<Bytes>)| (hex(key), row.as_ref().map(|row| hex(row)).into());
            let changed: serde_json::Map<String, Value> = diff.iter().map(row).collect();
            lines.push(serde_json::json!({ "type": "tap", "revision": revision, "changed": changed }).to_string());
        }
        for at in &evidence.crashes {
            lines.push(serde_json::json!({ "type": "crash", "at_ns": at.as_nanos() }).to_string());
        }
        lines.reverse();
        lines.join("\n")
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn story() -> Story {
        let mut story = Story::default();
        story.put("a", "1").put("b", "2").put_both("a", "c", "x3").delete("b").put("d", "4").forget_last();
        story.crash();
        story.compact(2).read_all();
        story
    }

    #[test]
    fn a_history_is_read_as_it_was_written() {
        let evidence = story().evidence();
        let read = read(written(&evidence).as_bytes()).unwrap();
        assert_eq!(read.operations, evidence.operations);
        assert_eq!(read.taps, evidence.taps);
        assert_eq!(read.crashes, evidence.crashes);
        assert_eq!(checkers::judge(&read), []);
    }

    #[test]
    fn what_is_wrong_in_a_history_is_found_in_what_was_read() {
        let mut story = story();
        story.doctor_last(|answer| {
            if let Answer::Range(range) = answer {
                range.kvs.remove(0);
                range.count -= 1;
            }
        });
        let read = read(written(&story.evidence()).as_bytes()).unwrap();
        let found: Vec<_> = checkers::judge(&read).into_iter().map(|violation| violation.checker).collect();
        assert_eq!(found, ["durable_acks", "linearizable"]);
    }

    #[test]
    fn the_end_of_a_history_is_read() {
        let text = r#"{"type":"hash","member":"m1","revision":9,"compact_revision":-1,"hash":7}
            {"type":"hash","member":"m2","revision":9,"compact_revision":-1,"hash":8}
            {"type":"healed","at_ns":5,"limit_ns":6,"clients":[3]}
            {"type":"complaint","text":"m1 was told too much"}"#;
        let read = read(text.replace("            ", "").as_bytes()).unwrap();
        let found: Vec<_> = checkers::judge(&read).into_iter().map(|violation| violation.checker).collect();
        assert_eq!(found, ["member_health", "liveness", "equal_hashes"]);
    }

    #[test]
    fn a_line_that_is_no_record_is_named() {
        for (line, why) in [
            ("{", "line 2: EOF"),
            (r#"{"type":"crash"}"#, "line 2: `at_ns`"),
            (r#"{"type":"news"}"#, "line 2: unknown type"),
            (r#"{"type":"tap","revision":2,"changed":{"6":null}}"#, "line 2: \"6\" has half a byte"),
        ] {
            let error = read(format!("\n{line}").as_bytes()).unwrap_err();
            assert!(error.starts_with(why), "{error}");
        }
    }
}
