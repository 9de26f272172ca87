//! A member's settings by the names of their flags, as a scenario gives them.

use std::fmt;
use std::time::Duration;

use quorate_member::{AutoCompaction, ClusterState, MemberConfig};

use super::words::Span;

/// A setting, and what it is set to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The flag, without dashes.
    pub name: &'static str,
    /// As written.
    pub value: String,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.value)
    }
}

type Set = fn(&mut MemberConfig, &str) -> Option<()>;
type Get = fn(&MemberConfig) -> String;

fn set<T: std::str::FromStr>(field: &mut T, value: &str) -> Option<()> {
    *field = value.parse().ok()?;
    Some(())
}

fn set_span(field: &mut Duration, value: &str) -> Option<()> {
    *field = Duration::from_nanos(Span::read(value)?.0);
    Some(())
}

fn span(field: Duration) -> String {
    Span(field.as_nanos() as u64).to_string()
}

/// Every setting that a scenario may change: its name, how it is set, how it is read. etcd's flags first, then our own.
const ALL: &[(&str, Set, Get)] = &[
    ("heartbeat-interval", |c, v| set(&mut c.heartbeat_ms, v), |c| c.heartbeat_ms.to_string()),
    ("election-timeout", |c, v| set(&mut c.election_ms, v), |c| c.election_ms.to_string()),
    ("pre-vote", |c, v| set(&mut c.pre_vote, v), |c| c.pre_vote.to_string()),
    ("snapshot-count", |c, v| set(&mut c.snapshot_count, v), |c| c.snapshot_count.to_string()),
    (
        "snapshot-catchup-entries",
        |c, v| set(&mut c.snapshot_catchup_entries, v),
        |c| c.snapshot_catchup_entries.to_string(),
    ),
    ("strict-reconfig-check", |c, v| set(&mut c.strict_reconfig_check, v), |c| c.strict_reconfig_check.to_string()),
    ("max-learners", |c, v| set(&mut c.max_learners, v), |c| c.max_learners.to_string()),
    ("max-request-bytes", |c, v| set(&mut c.max_request_bytes, v), |c| c.max_request_bytes.to_string()),
    ("max-inflight-bytes", |c, v| set(&mut c.inflight_bytes_max, v), |c| c.inflight_bytes_max.to_string()),
    (
        "quota-backend-bytes",
        |c, v| {
            c.quota_bytes = u64::try_from(v.parse::<i64>().ok()?).ok();
            Some(())
        },
        |c| c.quota_bytes.map_or_else(|| "-1".to_owned(), |bytes| bytes.to_string()),
    ),
    ("force-new-cluster", |c, v| set(&mut c.force_new_cluster, v), |c| c.force_new_cluster.to_string()),
    (
        "initial-cluster-state",
        |c, v| {
            c.initial_cluster_state =
                [ClusterState::New, ClusterState::Existing].into_iter().find(|s| s.name() == v)?;
            Some(())
        },
        |c| c.initial_cluster_state.name().to_owned(),
    ),
    ("initial-cluster-token", |c, v| set(&mut c.initial_cluster_token, v), |c| c.initial_cluster_token.clone()),
    ("unsafe-no-fsync", |c, v| set(&mut c.unsafe_no_fsync, v), |c| c.unsafe_no_fsync.to_string()),
    ("flush-interval", |c, v| set_span(&mut c.flush_interval, v), |c| span(c.flush_interval)),
    ("pending-bytes", |c, v| set(&mut c.pending_bytes_max, v), |c| c.pending_bytes_max.to_string()),
    ("cache-bytes", |c, v| set(&mut c.cache_bytes, v), |c| c.cache_bytes.to_string()),
    ("wal-segment-bytes", |c, v| set(&mut c.wal_segment_bytes, v), |c| c.wal_segment_bytes.to_string()),
    ("log-memory-bytes", |c, v| set(&mut c.log_memory_bytes, v), |c| c.log_memory_bytes.to_string()),
    ("compaction-batch-limit", |c, v| set(&mut c.compaction_batch_rows, v), |c| c.compaction_batch_rows.to_string()),
    ("defragment-slice-bytes", |c, v| set(&mut c.defragment_slice_bytes, v), |c| c.defragment_slice_bytes.to_string()),
    (
        "watch-stream-answers",
        |c, v| set(&mut c.watch_limits.stream_answers_max, v),
        |c| c.watch_limits.stream_answers_max.to_string(),
    ),
    (
        "watch-stream-bytes",
        |c, v| set(&mut c.watch_limits.stream_bytes_max, v),
        |c| c.watch_limits.stream_bytes_max.to_string(),
    ),
    (
        "watch-held-bytes",
        |c, v| set(&mut c.watch_limits.held_bytes_max, v),
        |c| c.watch_limits.held_bytes_max.to_string(),
    ),
    (
        "watch-answer-revisions",
        |c, v| set(&mut c.watch_limits.answer_revisions_max, v),
        |c| c.watch_limits.answer_revisions_max.to_string(),
    ),
    (
        "watch-answer-bytes",
        |c, v| set(&mut c.watch_limits.answer_bytes_max, v),
        |c| c.watch_limits.answer_bytes_max.to_string(),
    ),
    (
        "watch-cursor-watchers",
        |c, v| set(&mut c.watch_limits.cursor_watchers_max, v),
        |c| c.watch_limits.cursor_watchers_max.to_string(),
    ),
    ("watch-step-rows", |c, v| set(&mut c.watch_limits.step_rows_max, v), |c| c.watch_limits.step_rows_max.to_string()),
    (
        "watch-step-bytes",
        |c, v| set(&mut c.watch_limits.step_bytes_max, v),
        |c| c.watch_limits.step_bytes_max.to_string(),
    ),
    ("watch-step-told", |c, v| set(&mut c.watch_limits.step_told_max, v), |c| c.watch_limits.step_told_max.to_string()),
    (
        "lease-checkpoint-interval",
        |c, v| set_span(c.lease_checkpoint_interval.get_or_insert_default(), v),
        |c| c.lease_checkpoint_interval.map_or_else(|| "0s".to_owned(), span),
    ),
    (
        "auto-compaction-period",
        |c, v| {
            let period = Duration::from_nanos(Span::read(v)?.0);
            c.auto_compaction = (!period.is_zero()).then_some(AutoCompaction::Periodic(period));
            Some(())
        },
        |c| match c.auto_compaction {
            Some(AutoCompaction::Periodic(period)) => span(period),
            _ => "0s".to_owned(),
        },
    ),
    // A number of revisions, and after a slash how often the leader looks.
    (
        "auto-compaction-revisions",
        |c, v| {
            let (kept, interval) = v.split_once('/').unwrap_or((v, "5m"));
            let (kept, interval) = (kept.parse().ok()?, Duration::from_nanos(Span::read(interval)?.0));
            c.auto_compaction = (kept > 0).then_some(AutoCompaction::Revision { kept, interval });
            (kept >= 0).then_some(())
        },
        |c| match c.auto_compaction {
            Some(AutoCompaction::Revision { kept, interval }) => format!("{kept}/{}", span(interval)),
            _ => "0".to_owned(),
        },
    ),
    ("compaction-sleep-interval", |c, v| set_span(&mut c.compaction_interval, v), |c| span(c.compaction_interval)),
];

/// Every name.
pub fn names() -> impl Iterator<Item = &'static str> + Clone {
    ALL.iter().map(|(name, ..)| *name)
}

impl Setting {
    /// The setting of that name; `None` if there is none, or it does not take the value.
    pub fn new(name: &str, value: &str) -> Option<Self> {
        let &(name, set, _) = ALL.iter().find(|(known, ..)| *known == name)?;
        let mut config = defaults();
        set(&mut config, value)?;
        Some(Self { name, value: value.to_owned() })
    }

    /// Changes `config`.
    pub fn apply(&self, config: &mut MemberConfig) {
        let (_, set, _) = ALL.iter().find(|(known, ..)| *known == self.name).expect("it was there when it was made");
        set(config, &self.value).expect("it was taken before");
    }

    /// Where `config` is not the default.
    pub fn of(config: &MemberConfig) -> Vec<Self> {
        let defaults = defaults();
        let differs = |(_, _, get): &&(&str, Set, Get)| get(config) != get(&defaults);
        ALL.iter().filter(differs).map(|&(name, _, get)| Self { name, value: get(config) }).collect()
    }
}

/// The settings of a member of which nothing is known.
pub fn defaults() -> MemberConfig {
    MemberConfig::single("m", std::path::Path::new("/"), "http://0:1", "http://0:2")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_can_be_written_and_read() {
        let changed = MemberConfig {
            pre_vote: false,
            flush_interval: Duration::from_millis(7),
            initial_cluster_state: ClusterState::Existing,
            snapshot_count: 3,
            ..defaults()
        };
        let settings = Setting::of(&changed);
        assert_eq!(settings.len(), 4);
        let mut again = defaults();
        for setting in &settings {
            assert_eq!(Setting::new(setting.name, &setting.value).as_ref(), Some(setting));
            setting.apply(&mut again);
        }
        assert_eq!(format!("{again:?}"), format!("{changed:?}"));
        assert_eq!(Setting::new("snapshot-count", "many"), None);
        assert_eq!(Setting::new("no-such-flag", "1"), None);
    }
}
