//! Elections: campaigned in, led with new values, resigned from or lost with a lease, asked about and observed.

use std::time::Duration;

use bytes::Bytes;
use quorate_proto::etcdserverpb as pb;
use quorate_proto::v3electionpb::election_client::ElectionClient;
use quorate_proto::v3electionpb::{CampaignRequest, LeaderKey, LeaderRequest, ProclaimRequest, ResignRequest};
use quorate_runtime::BoxFuture;

use super::client::within;
use super::{Client, Workload};
use crate::history::Outcome;
use crate::history::election::{ElectionAnswer, ElectionRequest};
use crate::history::lease::LeaseRequest;
use crate::world::dice::Dice;

/// See the module.
pub struct Elections {
    /// So many elections exist.
    names: u64,
    /// Longest time that is asked for a lease, in seconds.
    ttl_max_secs: u64,
    /// How long it campaigns or observes at most.
    patience_max_ms: u64,
    /// Most values of one tenure.
    values_max: u64,
    /// Odds, in percent, that a turn is spent observing.
    observes: u64,
    /// Odds, in percent, that a leader goes away without a word.
    forgets: u64,
}

impl Elections {
    pub(super) fn draw(dice: &mut Dice) -> Self {
        Self {
            names: dice.between(1, 2),
            ttl_max_secs: dice.between(1, 10),
            patience_max_ms: dice.between(500, 10_000),
            values_max: dice.between(1, 8),
            observes: dice.between(10, 60),
            forgets: dice.below(25),
        }
    }
}

impl Workload for Elections {
    fn name(&self) -> &'static str {
        "elections"
    }

    fn run<'a>(&'a self, client: &'a mut Client) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let mut lease = None;
            while client.goes_on() {
                let name = Bytes::from(format!("post{}", client.dice.below(self.names)));
                if client.dice.percent(self.observes) {
                    self.observe(client, name).await;
                } else if client.dice.percent(20) {
                    client.elect(ElectionRequest::Leader(LeaderRequest { name }), client.options.timeout).await;
                } else {
                    lease = self.run_for(client, name, lease).await;
                }
                client.think().await;
            }
        })
    }
}

impl Elections {
    /// One campaign, and what follows if it is won. Returns the lease if it may still live.
    async fn run_for(&self, client: &mut Client, name: Bytes, lease: Option<i64>) -> Option<i64> {
        let lease = match lease {
            Some(lease) => lease,
            None => client.grant(self.ttl_max_secs).await?,
        };
        let patience = self.patience(client);
        let mark = client.mark();
        let value = client.value(&mark, 0);
        let campaign = ElectionRequest::Campaign(CampaignRequest { name: name.clone(), lease, value });
        let won = client.elect(campaign, patience).await;
        let Outcome::Answered(ElectionAnswer::Campaign(won)) = won else {
            let has_lost_it = client.last_error.contains("lease not found");
            return (!has_lost_it && client.dice.percent(70)).then_some(lease);
        };
        let leader = won.leader.unwrap_or_default();
        let forgets = client.dice.percent(self.forgets);
        for part in 1..=client.dice.between(1, self.values_max) {
            let value = client.value(&mark, part);
            proclaim(client, &leader, value).await;
            if client.dice.percent(20) {
                let name = name.clone();
                client.elect(ElectionRequest::Leader(LeaderRequest { name }), client.options.timeout).await;
            }
            if !forgets && client.dice.percent(50) {
                client.lease(LeaseRequest::KeepAlive(pb::LeaseKeepAliveRequest { id: lease })).await;
            }
            client.think().await;
        }
        if forgets {
            return None;
        }
        client.elect(ElectionRequest::Resign(ResignRequest { leader: Some(leader) }), client.options.timeout).await;
        Some(lease)
    }

    /// Listens for a while.
    async fn observe(&self, client: &mut Client, name: Bytes) {
        let Some(connection) = client.connection().await else { return };
        let patience = self.patience(client);
        let mut elections = ElectionClient::with_origin(connection.clone(), connection.origin());
        let observation = client.recorder.begin_observation(client.number, name.clone());
        let recorder = client.recorder.clone();
        let listening = async move {
            let Ok(answers) = elections.observe(LeaderRequest { name }).await else { return };
            let mut answers = answers.into_inner();
            while let Ok(Some(told)) = answers.message().await {
                recorder.observed(observation, told);
            }
        };
        // It ends with the member, or with the observer's patience.
        within(patience, listening).await;
    }

    fn patience(&self, client: &mut Client) -> Duration {
        Duration::from_millis(client.dice.between(100, self.patience_max_ms))
    }
}

async fn proclaim(client: &mut Client, leader: &LeaderKey, value: Bytes) {
    let request = ProclaimRequest { leader: Some(leader.clone()), value };
    client.elect(ElectionRequest::Proclaim(request), client.options.timeout).await;
}
