//! gRPC reflection: what services there are, and the files that describe them. etcd has none; tools such as grpcurl and
//! Postman then need etcd's files.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http_body::Body;
use prost_reflect::FileDescriptor;
use quorate_proto::grpc::reflection::server_reflection_request::MessageRequest;
use quorate_proto::grpc::reflection::server_reflection_response::MessageResponse;
use quorate_proto::grpc::reflection::{
    ErrorResponse, ExtensionNumberResponse, FileDescriptorResponse, ListServiceResponse, ServerReflectionRequest,
    ServerReflectionResponse, ServiceResponse,
};
use quorate_runtime::select;
use tonic::Code;

use crate::body::{Chunk, Messages};
use crate::descriptors::POOL;
use crate::errors::status;
use crate::grpc;
use crate::leader_watch::LeaderLost;
use crate::method::Method;
use crate::service::{Api, Incoming, end_of_stream};

impl Api {
    /// ServerReflection.ServerReflectionInfo.
    pub(crate) fn reflection<B>(self: Arc<Self>, incoming: Incoming<B>, leader_lost: LeaderLost) -> Messages
    where
        B: Body<Data = Bytes, Error: Display> + Send + 'static,
    {
        let end = end_of_stream(&self, leader_lost);
        Box::pin(stream::try_unfold((incoming, end), |(mut incoming, mut end)| async move {
            let request: Option<ServerReflectionRequest> = select! {
                biased;
                error = &mut end => return Err(status(error)),
                request = incoming.next() => request?,
            };
            let Some(request) = request else { return Ok(None) };
            let answer = ServerReflectionResponse {
                valid_host: request.host.clone(),
                message_response: Some(answer(request.message_request.as_ref())),
                original_request: Some(request),
            };
            Ok(Some((Chunk::message(grpc::encode(&answer)?), (incoming, end))))
        }))
    }
}

fn answer(asked: Option<&MessageRequest>) -> MessageResponse {
    let not_found = |what: String| error(Code::NotFound, what);
    match asked {
        Some(MessageRequest::ListServices(_)) => MessageResponse::ListServicesResponse(services()),
        Some(MessageRequest::FileByFilename(name)) => match POOL.get_file_by_name(name) {
            Some(file) => described(&file),
            None => not_found(format!("no file {name:?}")),
        },
        Some(MessageRequest::FileContainingSymbol(symbol)) => match file_of(symbol) {
            Some(file) => described(&file),
            None => not_found(format!("no symbol {symbol:?}")),
        },
        Some(MessageRequest::AllExtensionNumbersOfType(name)) => match POOL.get_message_by_name(name) {
            Some(message) => MessageResponse::AllExtensionNumbersResponse(ExtensionNumberResponse {
                base_type_name: name.clone(),
                extension_number: message.extensions().map(|extension| extension.number() as i32).collect(),
            }),
            None => not_found(format!("no message {name:?}")),
        },
        Some(MessageRequest::FileContainingExtension(asked)) => {
            not_found(format!("{:?} has no extension {}", asked.containing_type, asked.extension_number))
        }
        None => error(Code::InvalidArgument, "the request asks for nothing".to_owned()),
    }
}

fn error(code: Code, error_message: String) -> MessageResponse {
    MessageResponse::ErrorResponse(ErrorResponse { error_code: code as i32, error_message })
}

/// Those that this server answers, whatever the files describe.
fn services() -> ListServiceResponse {
    let names: BTreeSet<&str> = Method::ALL.iter().map(|method| method.service()).collect();
    let service = names.into_iter().map(|name| ServiceResponse { name: name.to_owned() }).collect();
    ListServiceResponse { service }
}

/// The file in which a service, method, message, field or enum is.
fn file_of(symbol: &str) -> Option<FileDescriptor> {
    let whole = |name: &str| {
        let message = POOL.get_message_by_name(name).map(|message| message.parent_file());
        let in_enum = || POOL.get_enum_by_name(name).map(|names| names.parent_file());
        let in_service = || POOL.get_service_by_name(name).map(|service| service.parent_file());
        message.or_else(in_enum).or_else(in_service)
    };
    whole(symbol).or_else(|| {
        // A part of something.
        let (parent, part) = symbol.rsplit_once('.')?;
        let method =
            POOL.get_service_by_name(parent).is_some_and(|service| service.methods().any(|m| m.name() == part));
        let field =
            || POOL.get_message_by_name(parent).is_some_and(|message| message.get_field_by_name(part).is_some());
        if method || field() { whole(parent) } else { None }
    })
}

/// A file, and all that it imports.
fn described(file: &FileDescriptor) -> MessageResponse {
    let (mut seen, mut waiting, mut files) = (BTreeSet::new(), vec![file.clone()], Vec::new());
    while let Some(file) = waiting.pop() {
        if seen.insert(file.name().to_owned()) {
            files.push(file.encode_to_vec().into());
            waiting.extend(file.dependencies());
        }
    }
    MessageResponse::FileDescriptorResponse(FileDescriptorResponse { file_descriptor_proto: files })
}

#[cfg(test)]
mod tests {
    use prost_reflect::DescriptorPool;

    use super::*;

    fn files(answer: MessageResponse) -> Vec<Bytes> {
        match answer {
            MessageResponse::FileDescriptorResponse(files) => files.file_descriptor_proto,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn services_are_told() {
        let names: Vec<String> = services().service.into_iter().map(|service| service.name).collect();
        assert!(names.iter().any(|name| name == "etcdserverpb.KV"), "{names:?}");
        assert!(names.iter().any(|name| name == "grpc.reflection.v1.ServerReflection"), "{names:?}");
    }

    #[test]
    fn the_files_of_a_symbol_are_enough_to_understand_it() {
        for symbol in [
            "etcdserverpb.KV",
            "etcdserverpb.KV.Range",
            "etcdserverpb.PutRequest",
            "mvccpb.KeyValue.key",
            "etcdserverpb.AlarmType",
        ] {
            let mut files = files(answer(Some(&MessageRequest::FileContainingSymbol(symbol.to_owned()))));
            // Those that import come first.
            files.reverse();
            let mut set = prost_reflect::prost_types::FileDescriptorSet::default();
            for file in files {
                set.file.push(prost::Message::decode(file).unwrap());
            }
            let mut pool = DescriptorPool::new();
            pool.add_file_descriptor_set(set).unwrap_or_else(|error| panic!("{symbol}: {error}"));
        }
        for nothing in ["etcdserverpb.KV.Drop", "nothing", "etcdserverpb.PutRequest.x"] {
            let answer = answer(Some(&MessageRequest::FileContainingSymbol(nothing.to_owned())));
            assert!(matches!(&answer, MessageResponse::ErrorResponse(error) if error.error_code == 5), "{answer:?}");
        }
        assert!(!files(answer(Some(&MessageRequest::FileByFilename("kv.proto".to_owned())))).is_empty());
    }
}
