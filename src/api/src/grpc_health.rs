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
        Ok(answer(*self.serving.borrow()))
    }

    /// Health.List.
    pub async fn health_list(self: Arc<Self>, _: HealthListRequest) -> Result<HealthListResponse, Status> {
        let serving = *self.serving.borrow();
        Ok(HealthListResponse { statuses: BTreeMap::from([(SERVER.to_owned(), answer(serving))]) })
    }

    /// Health.Watch: the state now, and each that is another one.
    pub(crate) fn health_watch(self: Arc<Self>, request: HealthCheckRequest) -> Result<Messages, Status> {
        let is_known = request.service == SERVER;
        let state = Watching { serving: self.serving.subscribe(), is_known, told: None, api: self };
        Ok(Box::pin(stream::try_unfold(state, |mut state| async move {
            let told = state.next().await?;
            let response = HealthCheckResponse { status: told as i32 };
            Ok(Some((Chunk::message(grpc::encode(&response)?), state)))
        })))
    }
}

fn answer(is_serving: bool) -> HealthCheckResponse {
    HealthCheckResponse { status: serving_status(is_serving) as i32 }
}

fn serving_status(is_serving: bool) -> ServingStatus {
    if is_serving { ServingStatus::Serving } else { ServingStatus::NotServing }
}

struct Watching {
    api: Arc<Api>,
    serving: watch::Receiver<bool>,
    is_known: bool,
    told: Option<ServingStatus>,
}

impl Watching {
    async fn next(&mut self) -> Result<ServingStatus, Status> {
        loop {
            let now = match self.is_known {
                true => serving_status(*self.serving.borrow_and_update()),
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
                _ = self.serving.changed() => {}
            }
        }
    }
}
