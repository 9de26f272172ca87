//! etcd's errors: one variant each, with the gRPC code and the text that clients compare.
//!
//! Source: etcd `api/v3rpc/rpctypes/error.go`, and what the server really puts on the wire (two of them lose their code on
//! the way and arrive as `Unknown`).

use std::fmt;

/// gRPC status codes, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum GrpcCode {
    /// The caller went away.
    Canceled = 1,
    /// No code that says more.
    Unknown = 2,
    /// The request can never be right.
    InvalidArgument = 3,
    /// The caller's time ran out.
    DeadlineExceeded = 4,
    /// What it names does not exist.
    NotFound = 5,
    /// Not allowed to.
    PermissionDenied = 7,
    /// A limit is reached.
    ResourceExhausted = 8,
    /// Not in this state.
    FailedPrecondition = 9,
    /// Outside what exists.
    OutOfRange = 11,
    /// This server does not do that.
    Unimplemented = 12,
    /// A bug, or damage.
    Internal = 13,
    /// Try again, perhaps elsewhere.
    Unavailable = 14,
    /// Data is lost or damaged.
    DataLoss = 15,
    /// Who are you?
    Unauthenticated = 16,
}

macro_rules! errors {
    ($($(#[$doc:meta])* $variant:ident, $code:ident, $text:literal;)*) => {
        /// An answer that is an error, as etcd words it. It changed nothing.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Error {
            $($(#[$doc])* $variant,)*
        }

        impl Error {
            /// Every error, in the order of etcd's list.
            pub const ALL: &[Error] = &[$(Error::$variant,)*];

            /// The gRPC status code on the wire.
            pub const fn code(self) -> GrpcCode {
                match self {
                    $(Error::$variant => GrpcCode::$code,)*
                }
            }

            /// The text on the wire.
            pub const fn message(self) -> &'static str {
                match self {
                    $(Error::$variant => $text,)*
                }
            }
        }
    };
}

errors! {
    /// Range/Put/Delete/compare key empty.
    EmptyKey, InvalidArgument, "etcdserver: key is not provided";
    /// Ignore_value/ignore_lease on missing key; empty op inside txn.
    KeyNotFound, InvalidArgument, "etcdserver: key not found";
    /// Ignore_value set together with a value.
    ValueProvided, InvalidArgument, "etcdserver: value is provided";
    /// Ignore_lease set together with a lease.
    LeaseProvided, InvalidArgument, "etcdserver: lease is provided";
    /// Compare/success/failure list longer than max-txn-ops (nested share remainder).
    TooManyOps, InvalidArgument, "etcdserver: too many operations in txn request";
    /// Same key put twice, or put and deleted, in one txn branch.
    DuplicateKey, InvalidArgument, "etcdserver: duplicate key given in txn request";
    /// Client-api-version metadata not UTF-8.
    InvalidClientApiVersion, InvalidArgument, "etcdserver: invalid client api version";
    /// Sort_order or sort_target number unknown.
    InvalidSortOption, InvalidArgument, "etcdserver: invalid sort option";
    /// Read, watch cancel_reason, hash or compaction at/below compacted revision.
    Compacted, OutOfRange, "etcdserver: mvcc: required revision has been compacted";
    /// Read, hash or compaction above current revision.
    FutureRev, OutOfRange, "etcdserver: mvcc: required revision is a future revision";
    /// Put, txn with puts or lease grant while over quota or NOSPACE alarm; the pre-check also raises the alarm.
    NoSpace, ResourceExhausted, "etcdserver: mvcc: database space exceeded";
    /// Put with unknown lease, revoke of unknown lease.
    LeaseNotFound, NotFound, "etcdserver: requested lease not found";
    /// Grant with an ID in use.
    LeaseExist, FailedPrecondition, "etcdserver: lease already exists";
    /// Grant TTL above 9000000000.
    LeaseTtlTooLarge, OutOfRange, "etcdserver: too large lease TTL";
    /// Client cancelled the watch stream.
    WatchCanceled, Canceled, "etcdserver: watch canceled";
    /// Add of an ID already present.
    MemberExist, FailedPrecondition, "etcdserver: member ID already exist";
    /// Add/update with peer URL of another member.
    PeerUrlExist, FailedPrecondition, "etcdserver: Peer URLs already exists";
    /// Strict-reconfig-check: started voting members too few.
    MemberNotEnoughStarted, Unknown, "etcdserver: re-configuration failed due to not enough started members";
    /// MemberAdd with unparsable peer URLs.
    MemberBadUrls, InvalidArgument, "etcdserver: given member URLs are invalid";
    /// Remove/update/promote of unknown or removed ID.
    MemberNotFound, NotFound, "etcdserver: member not found";
    /// Promote of a voting member.
    MemberNotLearner, FailedPrecondition, "etcdserver: can only promote a learner member";
    /// Promote while learner match below 90% of leader.
    LearnerNotReady, FailedPrecondition, "etcdserver: can only promote a learner member which is in sync with leader";
    /// Learner add beyond max-learners.
    TooManyLearners, FailedPrecondition, "etcdserver: too many learner members in cluster";
    /// Declared for clients; server path is peer HTTP 412.
    ClusterIdMismatch, FailedPrecondition, "etcdserver: cluster ID mismatch";
    /// Marshalled raft request above max-request-bytes.
    RequestTooLarge, InvalidArgument, "etcdserver: request is too large";
    /// Committed minus applied above 5000.
    TooManyRequests, Unknown, "etcdserver: too many requests";
    /// AuthEnable without user root.
    RootUserNotExist, FailedPrecondition, "etcdserver: root user does not exist";
    /// AuthEnable while root lacks role root.
    RootRoleNotExist, FailedPrecondition, "etcdserver: root user does not have root role";
    /// UserAdd of existing name.
    UserAlreadyExist, FailedPrecondition, "etcdserver: user name already exists";
    /// Empty user name, or auth on and no credentials sent.
    UserEmpty, InvalidArgument, "etcdserver: user name is empty";
    /// User operation on unknown name.
    UserNotFound, FailedPrecondition, "etcdserver: user name not found";
    /// RoleAdd of existing name.
    RoleAlreadyExist, FailedPrecondition, "etcdserver: role name already exists";
    /// Role operation on unknown name.
    RoleNotFound, FailedPrecondition, "etcdserver: role name not found";
    /// RoleAdd with empty name.
    RoleEmpty, InvalidArgument, "etcdserver: role name is empty";
    /// Authenticate with unknown user or wrong password.
    AuthFailed, InvalidArgument, "etcdserver: authentication failed, invalid user ID or password";
    /// RoleGrantPermission without perm.
    PermissionNotGiven, InvalidArgument, "etcdserver: permission not given";
    /// Key range not granted, or root role missing for admin call.
    PermissionDenied, PermissionDenied, "etcdserver: permission denied";
    /// UserRevokeRole of a role not held.
    RoleNotGranted, FailedPrecondition, "etcdserver: role is not granted to the user";
    /// RoleRevokePermission without exact match.
    PermissionNotGranted, FailedPrecondition, "etcdserver: permission is not granted to the role";
    /// Authenticate while auth is off.
    AuthNotEnabled, FailedPrecondition, "etcdserver: authentication is not enabled";
    /// Token unknown, expired or malformed.
    InvalidAuthToken, Unauthenticated, "etcdserver: invalid auth token";
    /// Deleting root user/role or revoking it while auth on; bad permission range.
    InvalidAuthMgmt, InvalidArgument, "etcdserver: invalid auth management";
    /// Auth store changed since the token/request was made.
    AuthOldRevision, InvalidArgument, "etcdserver: revision of auth store is old";
    /// Hasleader metadata and no leader; stream cancelled after 3 election timeouts; forward without leader.
    NoLeader, Unavailable, "etcdserver: no leader";
    /// MoveLeader sent to a follower.
    NotLeader, FailedPrecondition, "etcdserver: not leader";
    /// Leader changed while waiting for read index, or lease lookup demoted.
    LeaderChanged, Unavailable, "etcdserver: leader changed";
    /// V3 API not enabled yet (cluster version undecided).
    NotCapable, FailedPrecondition, "etcdserver: not capable";
    /// Server stopping while request pending.
    Stopped, Unavailable, "etcdserver: server stopped";
    /// Proposal or read index not done in 5s+2*election timeout.
    Timeout, Unavailable, "etcdserver: request timed out";
    /// Timeout and leader lost since request start.
    TimeoutDueToLeaderFail, Unavailable, "etcdserver: request timed out, possibly due to previous leader failure";
    /// Timeout and quorum connection was lost.
    TimeoutDueToConnectionLost, Unavailable, "etcdserver: request timed out, possibly due to connection lost";
    /// Lease calls waited over 1s for applied index.
    TimeoutWaitAppliedIndex, Unavailable, "etcdserver: request timed out, waiting for the applied index took too long";
    /// Strict-reconfig-check: quorum not connected for 5s (MemberAdd/Remove).
    Unhealthy, Unavailable, "etcdserver: unhealthy cluster";
    /// CORRUPT alarm active.
    Corrupt, DataLoss, "etcdserver: corrupt cluster";
    /// Call other than Status/serializable Range/Snapshot on a learner.
    NotSupportedForLearner, FailedPrecondition, "etcdserver: rpc not supported for learner";
    /// MoveLeader target unknown or learner.
    BadLeaderTransferee, FailedPrecondition, "etcdserver: bad leader transferee";
    /// Downgrade version not semver-like.
    WrongDowngradeVersionFormat, InvalidArgument, "etcdserver: wrong downgrade target version format";
    /// Downgrade target not exactly one minor lower.
    InvalidDowngradeTargetVersion, InvalidArgument, "etcdserver: invalid downgrade target version";
    /// Downgrade before cluster version is set.
    ClusterVersionUnavailable, FailedPrecondition, "etcdserver: cluster version not found during downgrade";
    /// VALIDATE/ENABLE during a downgrade.
    DowngradeInProcess, FailedPrecondition, "etcdserver: cluster has a downgrade job in progress";
    /// CANCEL without a downgrade.
    NoInflightDowngrade, FailedPrecondition, "etcdserver: no inflight downgrade job";
    /// Context cancelled inside server.
    Canceled, Canceled, "etcdserver: request canceled";
    /// Context deadline inside server.
    DeadlineExceeded, DeadlineExceeded, "etcdserver: context deadline exceeded";
    /// A write that was never proposed, because nobody led; Go's own text.
    ContextDeadlineExceeded, DeadlineExceeded, "context deadline exceeded";
    /// MoveLeader not done before client deadline.
    TimeoutLeaderTransfer, Unknown, "etcdserver: request timed out, leader transfer took too long";
    /// Keepalive when leadership cannot be confirmed.
    NotPrimary, Unknown, "not a primary lessor";
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for Error {}
