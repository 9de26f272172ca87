//! Numbers that must not be mixed up, each as a type of its own.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty), $format:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }

        impl From<$name> for $inner {
            fn from(value: $name) -> $inner {
                value.0
            }
        }
    };
}

number!(
    /// Who a member is. Shown as lower-case hex without leading zeros, as etcd does. 0 is nobody.
    MemberId(u64), "{:x}"
);
number!(
    /// Which cluster a member belongs to. Shown as lower-case hex without leading zeros.
    ClusterId(u64), "{:x}"
);
number!(
    /// A Raft term.
    Term(u64), "{}"
);
number!(
    /// A position in the Raft log; the first entry has 1.
    LogIndex(u64), "{}"
);
number!(
    /// A revision of the key space: rises by one with each change. A fresh store has 1.
    Revision(i64), "{}"
);
number!(
    /// A lease; 0 is none. Shown as hex, as etcd's tools do.
    LeaseId(i64), "{:x}"
);

impl LogIndex {
    /// The position after this one.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Revision {
    /// The revision after this one.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl LeaseId {
    /// No lease.
    pub const NONE: Self = Self(0);
}
