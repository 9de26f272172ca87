//! The members as etcd's v2 tree.
//!
//! Beside the file a Raft snapshot carries some bytes of its own. In etcd they are the JSON of its old store, which holds
//! members only by now: 3.7 does not look at them, 3.5 and 3.6 load them and die if they cannot. So it is a whole tree, with
//! everything that loading wants: a history of events that has not one, but its 1000 places.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::membership::{Member, Membership};

/// Places in the history. etcd writes event number n to place n modulo this without looking how many there are.
const EVENTS: usize = 1000;

const VERSION: u32 = 2;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Store {
    root: Node,
    watcher_hub: WatcherHub,
    current_index: u64,
    stats: Stats,
    current_version: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    path: String,
    created_index: u64,
    modified_index: u64,
    expire_time: &'static str,
    value: String,
    /// Null for a value, an object for a directory.
    children: Option<BTreeMap<String, Node>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct WatcherHub {
    event_history: EventHistory,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct EventHistory {
    queue: Queue,
    start_index: u64,
    last_index: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Queue {
    events: Vec<Option<()>>,
    size: usize,
    front: usize,
    back: usize,
    capacity: usize,
}

/// Counters of requests; none was made.
#[derive(Serialize)]
struct Stats {}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RaftAttributes<'a> {
    #[serde(rename = "peerURLs")]
    peer_urls: &'a [String],
    #[serde(skip_serializing_if = "is_false")]
    is_learner: bool,
}

#[derive(Serialize)]
struct Attributes<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(rename = "clientURLs")]
    client_urls: &'a [String],
}

fn is_false(value: &bool) -> bool {
    !value
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("strings and numbers become JSON")
}

/// Makes nodes. A value takes the next index; a directory has that of the first value in it.
struct Maker {
    index: u64,
}

fn node(path: &str, index: u64, value: String, children: Option<BTreeMap<String, Node>>) -> Node {
    Node {
        path: path.to_owned(),
        created_index: index,
        modified_index: index,
        expire_time: "0001-01-01T00:00:00Z",
        value,
        children,
    }
}

fn directory(path: &str, index: u64, children: BTreeMap<String, Node>) -> Node {
    node(path, index, String::new(), Some(children))
}

impl Maker {
    fn value(&mut self, path: &str, value: String) -> Node {
        self.index += 1;
        node(path, self.index, value, None)
    }

    fn member(&mut self, path: &str, member: &Member) -> Node {
        let index = self.index + 1;
        let raft = RaftAttributes { peer_urls: &member.peer_urls, is_learner: member.is_learner };
        let mut children = BTreeMap::new();
        children.insert("raftAttributes".to_owned(), self.value(&format!("{path}/raftAttributes"), json(&raft)));
        if !member.client_urls.is_empty() {
            let own = Attributes { name: &member.name, client_urls: &member.client_urls };
            children.insert("attributes".to_owned(), self.value(&format!("{path}/attributes"), json(&own)));
        }
        directory(path, index, children)
    }

    /// The part of the tree that is about the cluster.
    fn cluster(&mut self, membership: &Membership) -> BTreeMap<String, Node> {
        let mut cluster = BTreeMap::new();
        let (index, mut members) = (self.index + 1, BTreeMap::new());
        for member in membership.members() {
            let id = member.id.to_string();
            let node = self.member(&format!("/0/members/{id}"), member);
            members.insert(id, node);
        }
        if !members.is_empty() {
            cluster.insert("members".to_owned(), directory("/0/members", index, members));
        }
        let (index, mut removed) = (self.index + 1, BTreeMap::new());
        for id in membership.removed() {
            let id = id.to_string();
            let node = self.value(&format!("/0/removed_members/{id}"), String::new());
            removed.insert(id, node);
        }
        if !removed.is_empty() {
            cluster.insert("removed_members".to_owned(), directory("/0/removed_members", index, removed));
        }
        if let Some(version) = membership.cluster_version() {
            cluster.insert("version".to_owned(), self.value("/0/version", version.to_owned()));
        }
        cluster
    }
}

/// The tree, as JSON.
pub(crate) fn membership_v2_json(membership: &Membership) -> Vec<u8> {
    let mut maker = Maker { index: 0 };
    let cluster = maker.cluster(membership);
    let children = [
        ("0".to_owned(), directory("/0", 0, cluster)),
        // Where keys of clients were.
        ("1".to_owned(), directory("/1", 0, BTreeMap::new())),
    ];
    let queue = Queue { events: vec![None; EVENTS], size: 0, front: 0, back: 0, capacity: EVENTS };
    let store = Store {
        root: directory("/", 0, children.into()),
        watcher_hub: WatcherHub { event_history: EventHistory { queue, start_index: 0, last_index: 0 } },
        current_index: maker.index,
        stats: Stats {},
        current_version: VERSION,
    };
    json(&store).into_bytes()
}
