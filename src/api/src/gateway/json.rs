//! Messages as JSON and back, by proto3's rules as etcd sets them: names as in the protocol's files (lower camel case is taken,
//! too), what is zero or empty left out, unknown names passed over, bytes in base64, numbers of 64 bits as text.

use bytes::{Bytes, BytesMut};
use prost_reflect::{DeserializeOptions, DynamicMessage, MessageDescriptor, SerializeOptions};
use serde_json::{Value, json};
use tonic::Status;

use crate::method::Method;
use crate::{descriptors, grpc};

/// What goes in and out of a method.
#[derive(Clone, Debug)]
pub struct Types {
    request: MessageDescriptor,
    response: MessageDescriptor,
}

impl Types {
    /// Of `method`, which the gateway knows.
    pub fn of(method: Method) -> Self {
        let method = descriptors::of(method).expect("the gateway's methods are described");
        Self { request: method.input(), response: method.output() }
    }

    /// JSON as a gRPC message with its prefix. Nothing is a message that says nothing, and what follows the first value is not
    /// looked at, as in grpc-gateway.
    pub fn frame(&self, text: &[u8]) -> Result<Bytes, Status> {
        let message = if text.iter().all(u8::is_ascii_whitespace) {
            DynamicMessage::new(self.request.clone())
        } else {
            let options = DeserializeOptions::new().deny_unknown_fields(false);
            let mut text = serde_json::Deserializer::from_slice(text);
            DynamicMessage::deserialize_with_options(self.request.clone(), &mut text, &options)
                .map_err(|error| Status::invalid_argument(error.to_string()))?
        };
        let mut framed = BytesMut::new();
        grpc::append(&mut framed, &message)?;
        Ok(framed.freeze())
    }

    /// An answer, without its prefix, as JSON.
    pub fn show(&self, message: Bytes) -> Result<Vec<u8>, Status> {
        let wrong = |error: &dyn std::fmt::Display| Status::internal(format!("an answer that is no JSON: {error}"));
        let message = DynamicMessage::decode(self.response.clone(), message).map_err(|error| wrong(&error))?;
        let options = SerializeOptions::new().use_proto_field_name(true).skip_default_fields(true);
        let mut text = Vec::new();
        message
            .serialize_with_options(&mut serde_json::Serializer::new(&mut text), &options)
            .map_err(|error| wrong(&error))?;
        Ok(text)
    }
}

/// A status as JSON; as in proto3 what is zero or empty is left out.
pub fn error(status: &Status) -> Value {
    match status.message() {
        "" => json!({ "code": status.code() as i32 }),
        message => json!({ "code": status.code() as i32, "message": message }),
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use quorate_proto::etcdserverpb::{PutRequest, RangeRequest, ResponseHeader, StatusResponse};
    use tonic::Code;

    use super::*;

    fn read<M: prost::Message + Default>(method: Method, text: &str) -> Result<M, Status> {
        let framed = Types::of(method).frame(text.as_bytes())?;
        Ok(M::decode(&framed[grpc::PREFIX_BYTES..]).unwrap())
    }

    #[test]
    fn both_kinds_of_names_and_of_numbers_are_taken() {
        let expected = RangeRequest { key: "foo".into(), range_end: "fop".into(), limit: 7, ..Default::default() };
        for text in [
            r#"{"key":"Zm9v","range_end":"Zm9w","limit":"7"}"#,
            r#"{"key":"Zm9v","rangeEnd":"Zm9w","limit":7,"nobody":{"knows":[1]}} and more"#,
            r#"{"key":"Zm9v","range_end":"Zm9w","limit":7.0,"sort_order":null}"#,
        ] {
            assert_eq!(read::<RangeRequest>(Method::Range, text).unwrap(), expected, "{text}");
        }
        let sorted: RangeRequest =
            read(Method::Range, r#"{"sort_order":"DESCEND","sort_target":1,"serializable":true}"#).unwrap();
        assert_eq!((sorted.sort_order, sorted.sort_target, sorted.serializable), (2, 1, true));
        assert_eq!(read::<PutRequest>(Method::Put, " \n").unwrap(), PutRequest::default());
    }

    #[test]
    fn what_is_no_message_is_an_invalid_argument() {
        for text in ["{", "[]", "7", r#"{"key":1}"#, r#"{"key":"&&"}"#, r#"{"lease":"x"}"#] {
            assert_eq!(read::<PutRequest>(Method::Put, text).unwrap_err().code(), Code::InvalidArgument, "{text}");
        }
    }

    #[test]
    fn answers_leave_out_what_is_nothing() {
        let header = ResponseHeader { cluster_id: u64::MAX, member_id: 1, revision: 0, raft_term: 2 };
        let answer = StatusResponse { header: Some(header), version: "3.7.1".into(), ..Default::default() };
        let text = Types::of(Method::Status).show(answer.encode_to_vec().into()).unwrap();
        let told: Value = serde_json::from_slice(&text).unwrap();
        let header = json!({"cluster_id": "18446744073709551615", "member_id": "1", "raft_term": "2"});
        assert_eq!(told, json!({"header": header, "version": "3.7.1"}));
    }
}
