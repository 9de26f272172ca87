//! etcd's errors as gRPC statuses: the same code, the same text.

use quorate_types::Error;
use tonic::{Code, Status};

/// The status that a client sees for `error`.
pub fn status(error: Error) -> Status {
    Status::new(Code::from_i32(error.code() as i32), error.message())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_keeps_its_number_and_text() {
        for error in Error::ALL {
            let status = status(*error);
            assert_eq!(status.code() as i32, error.code() as i32, "{error:?}");
            assert_eq!(status.message(), error.message(), "{error:?}");
            assert_ne!(status.code(), Code::Ok, "{error:?}");
        }
    }

    #[test]
    fn texts_that_clients_compare() {
        let golden = [
            (Error::EmptyKey, Code::InvalidArgument, "etcdserver: key is not provided"),
            (Error::RequestTooLarge, Code::InvalidArgument, "etcdserver: request is too large"),
            (Error::TooManyOps, Code::InvalidArgument, "etcdserver: too many operations in txn request"),
            (Error::DuplicateKey, Code::InvalidArgument, "etcdserver: duplicate key given in txn request"),
            (Error::Compacted, Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted"),
            (Error::FutureRev, Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision"),
            (Error::LeaseNotFound, Code::NotFound, "etcdserver: requested lease not found"),
            (Error::NoSpace, Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"),
            // These two lose their code on etcd's own way to the wire.
            (Error::TooManyRequests, Code::Unknown, "etcdserver: too many requests"),
            (
                Error::MemberNotEnoughStarted,
                Code::Unknown,
                "etcdserver: re-configuration failed due to not enough started members",
            ),
        ];
        for (error, code, text) in golden {
            let status = status(error);
            assert_eq!((status.code(), status.message()), (code, text));
        }
    }
}
