//! Who belongs to the cluster: members, the ids that were removed for ever, and the version they all speak.
//!
//! Members come and go by Raft's configuration changes. Each carries etcd's JSON of the member in its context; a refused
//! change never reaches Raft's configuration, so [`Membership::check`] is asked first and [`Membership::apply`] holds it to
//! its answer. A member's name and client URLs come later, by a normal entry that the member itself proposes.
//!
//! The rules are etcd's, in etcd's order: a removed id never returns; ids and peer URLs are unique; learners are limited
//! (by a local flag, so it must be equal on all members); only a learner is promoted. One rule is added: the last voter stays,
//! because a Raft group without voters, which etcd's members die of, could never change again.

use quorate_proto::membershippb::ClusterMemberAttrSetRequest;
use quorate_proto::raftpb::{ConfChange, ConfChangeType};
use quorate_runtime::bug;
use quorate_types::{Error, MemberId};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A member of the cluster, as the state machine knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its id, unique for ever.
    #[serde(with = "member_id")]
    pub id: MemberId,
    /// Where other members reach it.
    #[serde(rename = "peerURLs", default, deserialize_with = "null_is_empty")]
    pub peer_urls: Vec<String>,
    /// It gets the log and does not vote.
    #[serde(rename = "isLearner", default, skip_serializing_if = "is_false")]
    pub is_learner: bool,
    /// Its name; empty until it has started once.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Where clients reach it; empty until it has started once.
    #[serde(rename = "clientURLs", default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub client_urls: Vec<String>,
}

/// The context of a configuration change: a member, and whether an existing one is meant.
#[derive(Deserialize)]
struct ChangeContext {
    #[serde(flatten)]
    member: Member,
    #[serde(rename = "isPromote", default)]
    is_promote: bool,
}

/// What was asked for last about going down to an older version, as etcd stores it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Downgrade {
    /// `major.minor.patch`; empty unless it is enabled.
    #[serde(rename = "target-version", default)]
    pub(crate) target_version: String,
    #[serde(default)]
    pub(crate) enabled: bool,
}

/// All of it, shared with readers as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// Ordered by id.
    members: Vec<Member>,
    /// Ordered.
    #[serde(with = "member_ids")]
    removed: Vec<MemberId>,
    cluster_version: Option<String>,
    /// `None` if nobody has ever asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    downgrade: Option<Downgrade>,
}

/// What a configuration change asks for, once its context is understood.
enum Change {
    Add { member: Member, as_learner: bool },
    Promote,
    Update { peer_urls: Vec<String> },
    Remove,
}

fn parse(change: &ConfChange) -> Result<(MemberId, Change), Error> {
    let id = MemberId(change.node_id());
    // A context that does not say which member, or says another one, stops every member of an etcd cluster. Here it is
    // refused, on all members alike.
    let context = || -> Result<ChangeContext, Error> {
        let context: ChangeContext = serde_json::from_slice(change.context()).map_err(|_| Error::MemberBadUrls)?;
        if context.member.id == id { Ok(context) } else { Err(Error::MemberBadUrls) }
    };
    // Not the generated accessor: it takes an unknown type for the default, which adds a voter.
    let change = match ConfChangeType::try_from(change.r#type.unwrap_or_default()) {
        Ok(kind @ (ConfChangeType::ConfChangeAddNode | ConfChangeType::ConfChangeAddLearnerNode)) => {
            let context = context()?;
            if context.is_promote {
                Change::Promote
            } else {
                let as_learner = kind == ConfChangeType::ConfChangeAddLearnerNode && context.member.is_learner;
                Change::Add { member: context.member, as_learner }
            }
        }
        Ok(ConfChangeType::ConfChangeUpdateNode) => Change::Update { peer_urls: context()?.member.peer_urls },
        Ok(ConfChangeType::ConfChangeRemoveNode) => Change::Remove,
        Err(_) => return Err(Error::MemberBadUrls),
    };
    Ok((id, change))
}

impl Membership {
    /// As they were stored, in any order; ids are unique.
    pub(crate) fn restore(mut members: Vec<Member>, mut removed: Vec<MemberId>) -> Self {
        members.sort_unstable_by_key(|member| member.id);
        removed.sort_unstable();
        let membership = Self { members, removed, cluster_version: None, downgrade: None };
        assert!(membership.is_consistent(), "an id came twice");
        membership
    }

    /// All members, ordered by id.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// True if that id belonged to a member, and never will again.
    pub fn is_removed(&self, id: MemberId) -> bool {
        self.removed.binary_search(&id).is_ok()
    }

    pub(crate) fn removed(&self) -> &[MemberId] {
        &self.removed
    }

    pub(crate) fn cluster_version(&self) -> Option<&str> {
        self.cluster_version.as_deref()
    }

    pub(crate) fn downgrade(&self) -> Option<&Downgrade> {
        self.downgrade.as_ref()
    }

    fn place(&self, id: MemberId) -> Result<usize, usize> {
        self.members.binary_search_by_key(&id, |member| member.id)
    }

    fn get(&self, id: MemberId) -> Option<&Member> {
        self.place(id).ok().map(|place| &self.members[place])
    }

    /// True if the stored form is in order.
    pub(crate) fn is_consistent(&self) -> bool {
        self.members.is_sorted_by(|a, b| a.id < b.id) && self.removed.is_sorted_by(|a, b| a < b)
    }

    /// Whether a configuration change may be made.
    pub(crate) fn check(&self, change: &ConfChange, max_learners: usize) -> Result<(), Error> {
        let (id, change) = parse(change)?;
        self.check_parsed(id, &change, max_learners)
    }

    fn check_parsed(&self, id: MemberId, change: &Change, max_learners: usize) -> Result<(), Error> {
        if self.removed.binary_search(&id).is_ok() {
            return Err(Error::MemberNotFound);
        }
        let url_in_use = |urls: &[String]| {
            self.members
                .iter()
                .filter(|member| member.id != id)
                .any(|member| member.peer_urls.iter().any(|used| urls.contains(used)))
        };
        match change {
            Change::Add { .. } if self.get(id).is_some() => Err(Error::MemberExist),
            Change::Add { member, .. } if url_in_use(&member.peer_urls) => Err(Error::PeerUrlExist),
            Change::Add { as_learner: true, .. }
                if self.members.iter().filter(|member| member.is_learner).count() >= max_learners =>
            {
                Err(Error::TooManyLearners)
            }
            Change::Add { .. } => Ok(()),
            Change::Promote => match self.get(id) {
                None => Err(Error::MemberNotFound),
                Some(member) if !member.is_learner => Err(Error::MemberNotLearner),
                Some(_) => Ok(()),
            },
            Change::Update { .. } | Change::Remove if self.get(id).is_none() => Err(Error::MemberNotFound),
            Change::Update { peer_urls } if url_in_use(peer_urls) => Err(Error::PeerUrlExist),
            Change::Remove if self.members.iter().all(|member| member.id == id || member.is_learner) => {
                Err(Error::MemberNotEnoughStarted)
            }
            Change::Update { .. } | Change::Remove => Ok(()),
        }
    }

    /// Makes a configuration change, or refuses it and changes nothing.
    pub fn apply(&mut self, change: &ConfChange, max_learners: usize) -> Result<(), Error> {
        let (id, change) = parse(change)?;
        self.check_parsed(id, &change, max_learners)?;
        let place = self.place(id);
        match (change, place) {
            (Change::Add { member, .. }, Err(place)) => self.members.insert(place, member),
            (Change::Promote, Ok(place)) => self.members[place].is_learner = false,
            (Change::Update { peer_urls }, Ok(place)) => self.members[place].peer_urls = peer_urls,
            (Change::Remove, Ok(place)) => {
                self.members.remove(place);
                if let Err(place) = self.removed.binary_search(&id)
                    && !bug!("removed-member-forgotten")
                {
                    self.removed.insert(place, id);
                }
            }
            (Change::Add { .. }, Ok(_)) | (_, Err(_)) => unreachable!("the change was checked"),
        }
        Ok(())
    }

    /// A member tells its name and client URLs. What a removed one still says is ignored.
    pub(crate) fn set_attributes(&mut self, request: &ClusterMemberAttrSetRequest) -> Result<(), Error> {
        let id = MemberId(request.member_id);
        let attributes = request.member_attributes.clone().unwrap_or_default();
        match self.place(id) {
            Ok(place) => {
                let member = &mut self.members[place];
                member.name = attributes.name;
                member.client_urls = attributes.client_urls;
                Ok(())
            }
            Err(_) if self.removed.binary_search(&id).is_ok() => Ok(()),
            Err(_) => Err(Error::MemberNotFound),
        }
    }

    /// All members speak this version, `major.minor.patch`. Whether it may go down is the proposer's business.
    pub(crate) fn set_cluster_version(&mut self, version: &str) -> Result<(), Error> {
        check_version(version)?;
        self.cluster_version = Some(version.to_owned());
        Ok(())
    }

    /// The cluster shall speak an older version, or shall not any more.
    pub(crate) fn set_downgrade(&mut self, downgrade: Downgrade) -> Result<(), Error> {
        let Downgrade { target_version, enabled } = downgrade;
        self.downgrade = Some(if enabled {
            check_version(&target_version)?;
            Downgrade { target_version, enabled }
        } else {
            Downgrade::default()
        });
        Ok(())
    }
}

fn check_version(version: &str) -> Result<(), Error> {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let is_version = version.split('.').count() == 3 && version.split('.').all(is_number);
    if is_version { Ok(()) } else { Err(Error::WrongDowngradeVersionFormat) }
}

fn is_false(value: &bool) -> bool {
    !value
}

/// Go writes an absent list as `null`.
fn null_is_empty<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

mod member_id {
    use super::{Deserialize, Deserializer, MemberId, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(id: &MemberId, to: S) -> Result<S::Ok, S::Error> {
        id.0.serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<MemberId, D::Error> {
        u64::deserialize(from).map(MemberId)
    }
}

mod member_ids {
    use super::{Deserialize, Deserializer, MemberId, Serializer};

    pub(super) fn serialize<S: Serializer>(ids: &[MemberId], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(ids.iter().map(|id| id.0))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<MemberId>, D::Error> {
        Ok(Vec::<u64>::deserialize(from)?.into_iter().map(MemberId).collect())
    }
}
