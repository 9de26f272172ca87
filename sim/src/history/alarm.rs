//! What clients asked about alarms, and were told.

use prost::Message;
use quorate_proto::etcdserverpb as pb;

use super::{Operation, Recorded, Service};

/// One call of Maintenance.Alarm.
pub type AlarmCall = Operation<pb::AlarmRequest, pb::AlarmResponse>;

impl Service for pb::AlarmRequest {
    type Answer = pb::AlarmResponse;
    const NUMBER: u64 = 6;

    fn calls(recorded: &mut Recorded) -> &mut Vec<AlarmCall> {
        &mut recorded.alarms
    }

    fn encoded(answer: &pb::AlarmResponse) -> Vec<u8> {
        answer.encode_to_vec()
    }
}
