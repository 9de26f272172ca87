//! Calls that took long get a line in the log: what was asked, by whom, and how much came back (etcd
//! `server/etcdserver/api/v3rpc/interceptor.go`, `logUnaryRequestStats`). At level debug every call gets one.
//!
//! Whether a call was slow is known when it is over; until then only the bytes of its request are kept, which lie where they were
//! received. Values are never shown, only how long they are: they may be secrets.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use prost_reflect::{DynamicMessage, MessageDescriptor, Value};
use quorate_proto::etcdserverpb::{DeleteRangeResponse, RangeResponse, TxnRequest, TxnResponse};
use quorate_runtime::Rt;
use quorate_runtime::clock::MonoTime;
use quorate_runtime::net::Address;
use quorate_types::{GoDuration, Quoted};

use crate::descriptors;
use crate::method::Method;

/// The field that is never shown.
const SECRET: &str = "value";

/// A call that goes on.
pub struct Watched {
    method: Method,
    request: Bytes,
    begun_at: MonoTime,
}

impl Watched {
    /// A call of `method` begins with this message.
    pub fn begin(rt: &Rt, method: Method, request: Bytes) -> Self {
        Self { method, request, begun_at: rt.mono_now() }
    }

    /// It has ended, with this message or with an error; it is told of if it took longer than `slow_after`.
    pub fn end(self, rt: &Rt, slow_after: Duration, remote: Option<&Address>, response: Option<&[u8]>) {
        let took = rt.mono_now() - self.begun_at;
        let (is_slow, is_shown) = (took > slow_after, tracing::enabled!(tracing::Level::DEBUG));
        if !is_slow && !is_shown {
            return;
        }
        let begun = rt.wall_now().unix_nanos().saturating_sub(took.as_nanos() as u64);
        let start = jiff::Timestamp::from_nanosecond(begun.into()).map(|at| format!("{at:.6}")).unwrap_or_default();
        let took = GoDuration::from(took).to_string();
        let remote = remote.map_or_else(|| "No remote client info.".to_owned(), Address::to_string);
        let stats = Stats::of(self.method, &self.request, response);
        let Stats { request_count, request_bytes, response_count, response_bytes, content } = stats;
        let response_type = format!("/{}/{}", self.method.service(), self.method.name());
        macro_rules! tell {
            ($level:ident) => {
                tracing::$level!(
                    "start time" = start,
                    "time spent" = took,
                    remote,
                    "response type" = response_type,
                    "request count" = request_count,
                    "request size" = request_bytes,
                    "response count" = response_count,
                    "response size" = response_bytes,
                    "request content" = content,
                    "request stats"
                )
            };
        }
        if is_slow {
            tell!(warn);
        } else {
            tell!(debug);
        }
    }
}

/// How much went in and out; -1 where etcd does not look.
#[derive(Debug, PartialEq, Eq)]
struct Stats {
    request_count: i64,
    request_bytes: i64,
    response_count: i64,
    response_bytes: i64,
    content: String,
}

impl Stats {
    fn of(method: Method, request: &Bytes, response: Option<&[u8]>) -> Stats {
        let size = |bytes: &[u8]| i64::try_from(bytes.len()).unwrap_or(i64::MAX);
        let response = response.unwrap_or_default();
        let (request_count, request_bytes, response_count) = match method {
            Method::Range => (0, size(request), RangeResponse::decode(response).map_or(0, |range| range.count)),
            Method::Put => (1, size(request), 0),
            Method::DeleteRange => {
                (0, size(request), DeleteRangeResponse::decode(response).map_or(0, |deleted| deleted.deleted))
            }
            Method::Txn => {
                let succeeded = TxnResponse::decode(response).is_ok_and(|txn| txn.succeeded);
                let txn = TxnRequest::decode(request.clone()).unwrap_or_default();
                // What was done of it.
                let done = if succeeded { txn.success } else { txn.failure };
                let bytes: usize = done.iter().map(prost::Message::encoded_len).sum();
                (done.len() as i64, i64::try_from(bytes).unwrap_or(i64::MAX), 0)
            }
            _ => {
                return Stats {
                    request_count: -1,
                    request_bytes: -1,
                    response_count: -1,
                    response_bytes: -1,
                    content: String::new(),
                };
            }
        };
        let content = descriptors::of(method).map_or_else(String::new, |method| shown(method.input(), request.clone()));
        Stats { request_count, request_bytes, response_count, response_bytes: size(response), content }
    }
}

/// A message as text, without values.
fn shown(kind: MessageDescriptor, message: Bytes) -> String {
    let mut text = String::new();
    if let Ok(message) = DynamicMessage::decode(kind, message) {
        show(&message, &mut text);
    }
    text.trim_end().to_owned()
}

fn show(message: &DynamicMessage, text: &mut String) {
    for (field, value) in message.fields() {
        let name = field.name();
        match value {
            Value::Bytes(bytes) if name == SECRET => {
                let _ = write!(text, "{name}_size:{} ", bytes.len());
            }
            Value::List(values) => values.iter().for_each(|value| show_field(name, value, &field, text)),
            value => show_field(name, value, &field, text),
        }
    }
}

/// Writing to a text cannot fail.
fn show_field(name: &str, value: &Value, field: &prost_reflect::FieldDescriptor, text: &mut String) {
    let _ = match value {
        Value::Message(message) => {
            let _ = write!(text, "{name}:<");
            show(message, text);
            text.truncate(text.trim_end().len());
            write!(text, "> ")
        }
        Value::Bytes(bytes) => write!(text, "{name}:{} ", Quoted(&String::from_utf8_lossy(bytes))),
        Value::String(string) => write!(text, "{name}:{} ", Quoted(string)),
        Value::EnumNumber(number) => {
            let kind = field.kind();
            match kind.as_enum().and_then(|names| names.get_value(*number)) {
                Some(named) => write!(text, "{name}:{} ", named.name()),
                None => write!(text, "{name}:{number} "),
            }
        }
        Value::Bool(on) => write!(text, "{name}:{on} "),
        Value::I32(number) => write!(text, "{name}:{number} "),
        Value::I64(number) => write!(text, "{name}:{number} "),
        Value::U32(number) => write!(text, "{name}:{number} "),
        Value::U64(number) => write!(text, "{name}:{number} "),
        // No request has others.
        other => write!(text, "{name}:{other:?} "),
    };
}

#[cfg(test)]
mod tests {
    use quorate_proto::etcdserverpb::{Compare, PutRequest, RangeRequest, RequestOp, compare, request_op};

    use super::*;

    fn put(key: &str, value: &str) -> PutRequest {
        PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), lease: 7, ..Default::default() }
    }

    fn content(method: Method, request: &impl prost::Message) -> String {
        Stats::of(method, &request.encode_to_vec().into(), None).content
    }

    #[test]
    fn values_are_not_shown() {
        assert_eq!(content(Method::Put, &put("a\"\n", "secret")), r#"key:"a\"\n" value_size:6 lease:7"#);
        let compare = Compare {
            key: "k".into(),
            target: compare::CompareTarget::Value as i32,
            target_union: Some(compare::TargetUnion::Value("secret".into())),
            ..Default::default()
        };
        let op = RequestOp { request: Some(request_op::Request::RequestPut(put("b", "secret"))) };
        let txn = TxnRequest { compare: vec![compare], success: vec![op.clone(), op], failure: vec![] };
        let text = content(Method::Txn, &txn);
        assert!(!text.contains("secret"), "{text}");
        assert_eq!(
            text,
            r#"compare:<target:VALUE key:"k" value_size:6> success:<request_put:<key:"b" value_size:6 lease:7>> success:<request_put:<key:"b" value_size:6 lease:7>>"#
        );
        let range = RangeRequest { key: "a".into(), limit: 3, sort_order: 2, serializable: true, ..Default::default() };
        assert_eq!(content(Method::Range, &range), r#"key:"a" limit:3 sort_order:DESCEND serializable:true"#);
    }

    #[test]
    fn what_was_done_counts() {
        let range = RangeResponse { count: 9, ..Default::default() }.encode_to_vec();
        let asked: Bytes = RangeRequest { key: "a".into(), ..Default::default() }.encode_to_vec().into();
        let stats = Stats::of(Method::Range, &asked, Some(&range));
        assert_eq!((stats.request_count, stats.request_bytes), (0, 3));
        assert_eq!((stats.response_count, stats.response_bytes), (9, range.len() as i64));

        let op = RequestOp { request: Some(request_op::Request::RequestPut(put("b", "v"))) };
        let txn: Bytes = TxnRequest { success: vec![op.clone()], failure: vec![op.clone(), op], ..Default::default() }
            .encode_to_vec()
            .into();
        let response = |succeeded| TxnResponse { succeeded, ..Default::default() }.encode_to_vec();
        assert_eq!(Stats::of(Method::Txn, &txn, Some(&response(true))).request_count, 1);
        assert_eq!(Stats::of(Method::Txn, &txn, Some(&response(false))).request_count, 2);
        assert_eq!(Stats::of(Method::Status, &Bytes::new(), None).request_count, -1);
    }
}
