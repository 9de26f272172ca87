//! Ids, units, URLs and error kinds that more than one layer names.
//!
//! A type is here only when two crates name it; limits live beside the code that enforces them.

mod duration;
mod error;
mod ids;
mod quoted;
mod url;

pub use duration::GoDuration;
pub use error::{Error, GrpcCode};
pub use ids::{ClusterId, LeaseId, LogIndex, MemberId, Revision, Term};
pub use quoted::Quoted;
pub use url::{Scheme, Url};
