//! The alarms that stand, one series each (etcd `server/etcdserver/apply/metrics.go`).
//!
//! One that was taken back stays, at 0. In etcd a series counts how often an alarm was raised since the member's start; here it
//! says whether the alarm stands, also after a start.

use prometheus::{IntGaugeVec, Opts, Registry};
use quorate_proto::etcdserverpb::{AlarmMember, AlarmType};
use quorate_types::MemberId;

use super::register;

/// What was shown last, and where.
pub struct AlarmMetrics {
    shown: Vec<AlarmMember>,
    series: IntGaugeVec,
}

impl AlarmMetrics {
    /// Shows nothing yet.
    pub fn register(registry: &Registry) -> Self {
        let opts = Opts::new("etcd_debugging_server_alarms", "Alarms that stand: 1 for a member and a kind of alarm.");
        let series = IntGaugeVec::new(opts, &["server_id", "alarm_type"]);
        Self { shown: Vec::new(), series: register(registry, series) }
    }

    /// These are raised now.
    pub fn look(&mut self, raised: &[AlarmMember]) {
        if self.shown == raised {
            return;
        }
        for alarm in self.shown.iter().filter(|alarm| !raised.contains(alarm)) {
            self.set(alarm, 0);
        }
        for alarm in raised {
            self.set(alarm, 1);
        }
        self.shown = raised.to_vec();
    }

    fn set(&self, alarm: &AlarmMember, value: i64) {
        let kind = match AlarmType::try_from(alarm.alarm) {
            Ok(kind) => kind.as_str_name().to_owned(),
            Err(_) => alarm.alarm.to_string(),
        };
        self.series.with_label_values(&[&MemberId(alarm.member_id).to_string(), &kind]).set(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_that_was_taken_back_is_shown_at_zero() {
        let registry = Registry::new();
        let mut alarms = AlarmMetrics::register(&registry);
        let mut shown = |raised: &[(u64, i32)]| {
            let raised: Vec<_> = raised.iter().map(|&(member_id, alarm)| AlarmMember { member_id, alarm }).collect();
            alarms.look(&raised);
            let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
            text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>()
        };
        let series = |kind: &str, value: u64| {
            format!("etcd_debugging_server_alarms{{alarm_type=\"{kind}\",server_id=\"ab\"}} {value}")
        };
        assert!(shown(&[]).is_empty());
        assert_eq!(shown(&[(0xab, 1)]), [series("NOSPACE", 1)]);
        assert_eq!(shown(&[(0xab, 1), (0xab, 2)]), [series("CORRUPT", 1), series("NOSPACE", 1)]);
        assert_eq!(shown(&[(0xab, 2), (0xab, 9)]), [series("9", 1), series("CORRUPT", 1), series("NOSPACE", 0)]);
    }
}
