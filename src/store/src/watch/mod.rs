//! Watches: who asked for which keys from which revision on, and what they have not been told yet.
//!
//! A [`WatchHub`] serves some streams of one member; each stream carries many watches. It is a state machine: it is told what
//! clients ask, reads the store when it is asked to step, and keeps the answers of each stream until they are taken. Nothing
//! is pushed into it: applying an entry only rings a bell, and the hub then reads the rows that are new. So applying costs the
//! same however many watch, and what nobody has read yet lies in the store alone.
//!
//! A watcher is in one of these places:
//!
//! - *In step.* It has been told everything up to the hub's revision. Each new revision that it wants is one answer, at once.
//! - *Waiting* for a cursor, because it starts in the past or has fallen behind.
//! - *Catching up*, on a cursor (`catch_up`) that reads the history from some revision to the present for a group of watchers,
//!   up to 1000 revisions in an answer. At the present the group is in step.
//! - *Stalled.* Too much waits on its stream; it is told nothing more, so that nothing more is held for it. When the stream has
//!   been read it waits for a cursor.
//! - *Compacted.* What it should be told next is gone; it has been told so, and only keeps its id until it is cancelled.
//!
//! Invariants, for each watcher: answers are queued in rising order of revisions, each revision once and whole (I1); its next
//! revision is the first of which nothing is queued, and moves only when an answer is queued or the revisions up to it hold
//! nothing that it wants (I2); it is told that everything up to a revision has been sent only if that is so (I3).
//!
//! | file | holds |
//! |---|---|
//! | `hub` | watchers, streams, watchers in step |
//! | `catch_up` | cursors |
//! | `gather` `event` | rows become events |
//! | `interests` `intervals` `slots` | who wants a key |
//! | `stream` | ids and queues |

mod catch_up;
mod event;
mod gather;
mod hub;
mod interests;
mod intervals;
mod slots;
mod stream;
#[cfg(test)]
mod tests;

pub use event::{Event, Events};
pub use hub::{NewWatch, StreamId, WatchCounts, WatchHub, WatchLimits};
pub use stream::{Answer, Refusal};
