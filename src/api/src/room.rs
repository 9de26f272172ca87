//! Room for large messages: what all calls together may hold of them in memory.
//!
//! A member that is asked for everything by a hundred clients at once, or sent a hundred values of a megabyte each, would grow by
//! all of that. So the bytes of large messages are counted, those that come in apart from those that go out, and whoever wants
//! more than there is waits: for who came before, in order, and no longer than a request may take. What is small costs
//! no more than the call itself and is not counted.
//!
//! - A large request gets its room when its length is known, before it is received: its client cannot send more than HTTP/2's
//!   window, and waits as well. It keeps the room until it is answered.
//! - How large an answer becomes is known when it was read. So it is read with the room that it has, and if that is too little,
//!   what was read is dropped, and it is read again with more. Nobody waits for room while he has some: that could be for ever.
//!   An answer larger than all the room there is gets all of it, and is alone.
//! - What was done is answered, whatever the room: a large answer to a write has the room that there is just then, or none.
//! - An answer keeps its room until its last byte was handed to the connection, or the connection is gone. A client that does
//!   not read keeps what it asked for, and no more.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use quorate_runtime::sync::{OwnedSemaphorePermit, Semaphore};
use quorate_runtime::{Rt, clock, mark};
use quorate_types::Error;
use tonic::Status;

use crate::errors::status;
use crate::grpc;

/// Messages up to this size are not counted, or up to this part of all room.
const SMALL_BYTES: usize = 64 << 10;
const SMALL_PART: usize = 16;

/// How much more room an answer gets that had too little: so reading again costs little beside reading.
const GROWTH: usize = 8;

/// Semaphores count in 32 bits.
const UNIT_BYTES: usize = 1 << 10;

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX)
}

/// The room for messages of one direction.
pub struct Room {
    rt: Rt,
    free: Arc<Semaphore>,
    all: u32,
    small_bytes: usize,
    patience: Duration,
}

impl Room {
    /// Room for `bytes`; who finds none waits `patience`.
    pub fn new(rt: Rt, bytes: usize, patience: Duration) -> Self {
        let all = units(bytes).max(1);
        let small_bytes = SMALL_BYTES.min(bytes / SMALL_PART);
        Self { rt, free: Arc::new(Semaphore::new(all as usize)), all, small_bytes, patience }
    }

    /// Room for a message of `bytes`, or all that there is; nothing for a small one.
    ///
    /// # Errors
    /// `TooManyRequests` if there was none for too long.
    pub async fn reserve(&self, bytes: usize) -> Result<Hold, Status> {
        let hold = self.reserve_at_once(bytes);
        if bytes <= self.small_bytes || hold.0.is_some() {
            return Ok(hold);
        }
        mark!("waited_for_room");
        let waiting = Arc::clone(&self.free).acquire_many_owned(self.units(bytes));
        match clock::timeout(&*self.rt, self.patience, waiting).await {
            Ok(Ok(permit)) => Ok(Hold(Some(permit))),
            // It is never closed.
            Ok(Err(_)) | Err(clock::Elapsed) => Err(status(Error::TooManyRequests)),
        }
    }

    /// The same, as far as there is room now.
    fn reserve_at_once(&self, bytes: usize) -> Hold {
        if bytes <= self.small_bytes {
            return Hold(None);
        }
        Hold(Arc::clone(&self.free).try_acquire_many_owned(self.units(bytes)).ok())
    }

    /// What a message of `bytes` counts as: never more than there is.
    fn units(&self, bytes: usize) -> u32 {
        units(bytes).min(self.all)
    }

    /// What `read` gives, which is told how many bytes it may give and says `None` if those are too few.
    ///
    /// # Errors
    /// Those of `read`, and `TooManyRequests`.
    pub async fn read<A: Message>(
        &self,
        mut read: impl FnMut(usize) -> Result<Option<A>, Status>,
    ) -> Result<Roomy<A>, Status> {
        let (mut bytes, mut hold) = (self.small_bytes, Hold(None));
        loop {
            let is_all = units(bytes) >= self.all;
            if let Some(answer) = read(if is_all && hold.0.is_some() { usize::MAX } else { bytes })? {
                hold.shrink_to(answer.encoded_len());
                return Ok(Roomy { answer, hold });
            }
            drop(hold);
            bytes = bytes.max(UNIT_BYTES).saturating_mul(GROWTH);
            hold = self.reserve(bytes).await?;
        }
    }

    /// Encodes an answer with its prefix. One that has no room, yet, takes what there is, and does not wait: what it answers may
    /// have been done.
    pub fn encode(&self, roomy: Roomy<impl Message>) -> Result<Bytes, Status> {
        let Roomy { answer, mut hold } = roomy;
        if hold.0.is_none() {
            hold = self.reserve_at_once(answer.encoded_len());
        }
        let message = grpc::encode(&answer)?;
        Ok(match hold.0 {
            None => message,
            Some(permit) => Bytes::from_owner(Held { message, _permit: permit }),
        })
    }
}

/// Room that somebody has; it is free again when this is dropped.
#[derive(Debug)]
pub struct Hold(Option<OwnedSemaphorePermit>);

impl Hold {
    /// Gives back what is not needed.
    fn shrink_to(&mut self, bytes: usize) {
        if let Some(permit) = &mut self.0 {
            let spare = permit.num_permits().saturating_sub(units(bytes) as usize);
            drop(permit.split(spare));
        }
    }
}

/// An answer, and the room that it has.
#[derive(Debug)]
pub struct Roomy<A> {
    answer: A,
    hold: Hold,
}

impl<A> Roomy<A> {
    /// The answer alone, for who keeps it elsewhere.
    pub fn into_answer(self) -> A {
        self.answer
    }
}

impl<A> From<A> for Roomy<A> {
    fn from(answer: A) -> Self {
        Self { answer, hold: Hold(None) }
    }
}

impl<A> std::ops::Deref for Roomy<A> {
    type Target = A;

    fn deref(&self) -> &A {
        &self.answer
    }
}

impl<A> std::ops::DerefMut for Roomy<A> {
    fn deref_mut(&mut self) -> &mut A {
        &mut self.answer
    }
}

/// An encoded message with its room.
struct Held {
    message: Bytes,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.message
    }
}
