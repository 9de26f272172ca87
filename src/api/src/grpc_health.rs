//! gRPC's health service. Like etcd it knows the server as a whole, under the empty name, and no service by itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::stream;
use quorate_proto::grpc::health::health_check_response::ServingStatus;
use quorate_proto::grpc::health::{HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse};
use quorate_runtime::select;
use quorate_runtime::sync::watch;
use quorate_types::Error;
use tonic::Status;

use crate::body::{Chunk, Messages};
use crate::errors::status;
use crate::grpc;
use crate::service::Api;

/// The name of the server as a whole.
const SERVER: &str = "";

impl Api {
    /// Health.Check.
    pub async fn health_check(self: Arc<Self>, request: HealthCheckRequest) -> Result<HealthCheckResponse, Status> {
        if request.service != SERVER {
            return Err(Status::not_found("unknown service"));
        }
        Ok(HealthCheckResponse { status: status_of(*self.unwell.borrow()) as i32 })
    }

    /// Health.List.
    pub async fn health_list(self: Arc<Self>, _: HealthListRequest) -> Result<HealthListResponse, Status> {
        let server = HealthCheckResponse { status: status_of(*self.unwell.borrow()) as i32 };
        Ok(HealthListResponse { statuses: BTreeMap::from([(SERVER.to_owned(), server)]) })
    }

    /// Health.Watch: the state now, and each that is another one.
    pub(crate) fn health_watch(self: Arc<Self>, request: HealthCheckRequest) -> Result<Messages, Status> {
        let is_known = request.service == SERVER;
        let state = Watching { unwell: self.unwell.subscribe(), is_known, told: None, api: self };
        Ok(Box::pin(stream::try_unfold(state, |mut state| async move {
            let told = state.next().await?;
            let response = HealthCheckResponse { status: told as i32 };
            Ok(Some((Chunk::message(grpc::encode(&response)?), state)))
        })))
    }
}

fn status_of(unwell: usize) -> ServingStatus {
    if unwell == 0 { ServingStatus::Serving } else { ServingStatus::NotServing }
}

/// As long as it lives the service says that nothing is served.
pub struct Unwell(Arc<watch::Sender<usize>>);

impl Unwell {
    /// From now on.
    pub fn begin(unwell: &Arc<watch::Sender<usize>>) -> Self {
        unwell.send_modify(|count| *count += 1);
        Self(Arc::clone(unwell))
    }
}

impl Drop for Unwell {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

struct Watching {
    api: Arc<Api>,
    unwell: watch::Receiver<usize>,
    is_known: bool,
    told: Option<ServingStatus>,
}

impl Watching {
    async fn next(&mut self) -> Result<ServingStatus, Status> {
        loop {
            let now = match self.is_known {
                true => status_of(*self.unwell.borrow_and_update()),
                false => ServingStatus::ServiceUnknown,
            };
            if self.told != Some(now) {
                self.told = Some(now);
                return Ok(now);
            }
            select! {
                biased;
                () = self.api.draining() => return Err(status(Error::Stopped)),
                () = self.api.member.stopping() => return Err(status(Error::Stopped)),
                // The sender lives as long as the API.
                _ = self.unwell.changed() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_serves_again_when_the_last_of_several_has_ended() {
        let unwell = Arc::new(watch::Sender::new(0));
        let status = || status_of(*unwell.borrow());
        let (first, second) = (Unwell::begin(&unwell), Unwell::begin(&unwell));
        drop(first);
        assert_eq!(status(), ServingStatus::NotServing);
        drop(second);
        assert_eq!(status(), ServingStatus::Serving);
    }
}
