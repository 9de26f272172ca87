//! What one client asks, again and again.

use std::ops::ControlFlow;

use bytes::{Bytes, BytesMut};
use quorate_proto::etcdserverpb::{
    Compare, PutRequest, RangeRequest, RangeResponse, RequestOp, TxnRequest, TxnResponse, compare, request_op,
};
use quorate_proto::mvccpb::KeyValue;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

use super::grpc::{CallError, Channel, Rpc};

/// Digits in a key, after its prefix: keys of one key space are equally long, and sort by number.
const KEY_DIGITS: usize = 12;

/// One kind of operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// A put to a random key.
    Put,
    /// A linearizable get of a random key.
    Get,
    /// A serializable get of a random key.
    SerializableGet,
    /// The first `limit` keys under the prefix, with the total count that the API demands.
    Scan {
        /// Keys in one answer.
        limit: i64,
    },
    /// An update as controllers do it: get a random key, then put it if its mod revision is still the same; from the start
    /// if it is not.
    CompareAndPut,
    /// A put to a random key inside a transaction without comparisons.
    Txn,
    /// Every key of the key space once, `batch` to a request.
    Load {
        /// Puts in one transaction; 1 sends plain puts.
        batch: u64,
        /// In which order the keys come.
        order: KeyOrder,
    },
}

/// In which order a load writes its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyOrder {
    /// By number.
    Sequential,
    /// A fixed permutation that jumps about.
    Random,
}

impl Workload {
    /// What reports call it.
    pub fn name(self) -> &'static str {
        match self {
            Workload::Put => "put",
            Workload::Get => "get",
            Workload::SerializableGet => "serializable-get",
            Workload::Scan { .. } => "scan",
            Workload::CompareAndPut => "cas",
            Workload::Txn => "txn",
            Workload::Load { .. } => "load",
        }
    }

    /// True if it fills the key space; it is complete only if nothing was refused.
    pub fn is_load(self) -> bool {
        matches!(self, Workload::Load { .. })
    }
}

/// The keys `prefix` + number, numbers below `count`.
#[derive(Clone, Debug)]
pub struct KeySpace {
    /// What all keys begin with.
    pub prefix: String,
    /// How many keys there are; at least one.
    pub count: u64,
}

impl KeySpace {
    /// Key number `number`, as text.
    pub fn name(&self, number: u64) -> String {
        String::from_utf8_lossy(&self.key(number)).into_owned()
    }

    fn key(&self, number: u64) -> Bytes {
        assert!(number < self.count, "key {number} of a key space of {}", self.count);
        let mut key = BytesMut::with_capacity(self.prefix.len() + KEY_DIGITS);
        key.extend_from_slice(self.prefix.as_bytes());
        let mut digits = [b'0'; KEY_DIGITS];
        let mut rest = number;
        for digit in digits.iter_mut().rev() {
            *digit += u8::try_from(rest % 10).expect("a decimal digit");
            rest /= 10;
        }
        key.extend_from_slice(&digits);
        key.freeze()
    }

    /// The smallest key that does not begin with the prefix: a range's end.
    fn end(&self) -> Bytes {
        let mut end = self.prefix.clone().into_bytes();
        while let Some(last) = end.pop() {
            if last < u8::MAX {
                end.push(last + 1);
                return end.into();
            }
        }
        // Nothing but 0xff, or no prefix: up to the end of all keys, which the API writes as one zero byte.
        Bytes::from_static(b"\0")
    }

    /// The number that comes as the `turn`th in `order`. Each number comes exactly once.
    fn in_order(&self, order: KeyOrder, turn: u64) -> u64 {
        match order {
            KeyOrder::Sequential => turn,
            KeyOrder::Random => {
                let wide = u128::from(turn) * u128::from(self.stride());
                u64::try_from(wide % u128::from(self.count)).expect("below a u64")
            }
        }
    }

    /// About 0.618 of the count, and coprime to it, so that its multiples reach every number and spread well.
    fn stride(&self) -> u64 {
        let start = u64::try_from(u128::from(self.count) * 618 / 1000).expect("below a u64").max(1);
        (start..)
            .find(|stride| greatest_common_divisor(*stride, self.count) == 1)
            .expect("a prime above the count at last")
    }
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// One client: its dice, its value, its connection.
pub struct Client {
    workload: Workload,
    keys: KeySpace,
    value: Bytes,
    dice: ChaCha8Rng,
    channel: Channel,
    /// Compare-and-puts that found another revision and started again.
    pub conflicts: u64,
}

impl Client {
    /// Client number `number`; its choices follow from `seed` and that number.
    pub fn new(
        workload: Workload,
        keys: KeySpace,
        value_bytes: usize,
        seed: u64,
        number: u64,
        channel: Channel,
    ) -> Self {
        let mut dice = ChaCha8Rng::seed_from_u64(seed);
        dice.set_stream(number);
        let mut value = vec![0; value_bytes];
        dice.fill_bytes(&mut value);
        Self { workload, keys, value: value.into(), dice, channel, conflicts: 0 }
    }

    /// One operation. `turn` counts the operations of all clients; only a load asks for it.
    pub async fn operate(&mut self, turn: u64) -> Result<(), CallError> {
        match self.workload {
            Workload::Put => {
                let key = self.random_key();
                self.put(key).await
            }
            Workload::Get => self.get(false).await,
            Workload::SerializableGet => self.get(true).await,
            Workload::Scan { limit } => self.scan(limit).await,
            Workload::CompareAndPut => {
                let key = self.random_key();
                while self.compare_and_put(key.clone()).await?.is_continue() {
                    self.conflicts += 1;
                }
                Ok(())
            }
            Workload::Txn => {
                let number = self.random_number();
                let put = self.put_op(number);
                self.txn(TxnRequest { success: vec![put], ..Default::default() }).await.map(drop)
            }
            Workload::Load { batch, order } => self.load(batch, order, turn).await,
        }
    }

    async fn put(&mut self, key: Bytes) -> Result<(), CallError> {
        let request = PutRequest { key, value: self.value.clone(), ..Default::default() };
        self.channel.call(Rpc::Put, &request).await.map(drop)
    }

    async fn range(&mut self, request: &RangeRequest) -> Result<RangeResponse, CallError> {
        let answer = self.channel.call(Rpc::Range, request).await?;
        decode::<RangeResponse>(answer)
    }

    async fn get(&mut self, serializable: bool) -> Result<(), CallError> {
        let key = self.random_key();
        let answer = self.range(&RangeRequest { key: key.clone(), serializable, ..Default::default() }).await?;
        if answer.kvs.is_empty() { Err(missing(&key)) } else { Ok(()) }
    }

    async fn scan(&mut self, limit: i64) -> Result<(), CallError> {
        let key = Bytes::copy_from_slice(self.keys.prefix.as_bytes());
        let request = RangeRequest { key: key.clone(), range_end: self.keys.end(), limit, ..Default::default() };
        let answer = self.range(&request).await?;
        if answer.kvs.is_empty() { Err(missing(&key)) } else { Ok(()) }
    }

    /// `Continue` if another client was faster.
    async fn compare_and_put(&mut self, key: Bytes) -> Result<ControlFlow<()>, CallError> {
        let answer = self.range(&RangeRequest { key: key.clone(), ..Default::default() }).await?;
        let found = answer.kvs.into_iter().next().ok_or_else(|| missing(&key))?;
        let found = decode::<KeyValue>(found)?;
        let unchanged = Compare {
            result: compare::CompareResult::Equal.into(),
            target: compare::CompareTarget::Mod.into(),
            key: key.clone(),
            target_union: Some(compare::TargetUnion::ModRevision(found.mod_revision)),
            ..Default::default()
        };
        let put = PutRequest { key, value: self.value.clone(), ..Default::default() };
        let request = TxnRequest { compare: vec![unchanged], success: vec![put_op(put)], failure: Vec::new() };
        let answer = self.txn(request).await?;
        Ok(if answer.succeeded { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }

    async fn txn(&mut self, request: TxnRequest) -> Result<TxnResponse, CallError> {
        let answer = self.channel.call(Rpc::Txn, &request).await?;
        decode::<TxnResponse>(answer)
    }

    async fn load(&mut self, batch: u64, order: KeyOrder, turn: u64) -> Result<(), CallError> {
        let first = turn * batch;
        let numbers = first..(first + batch).min(self.keys.count);
        if batch == 1 {
            let key = self.keys.key(self.keys.in_order(order, first));
            return self.put(key).await;
        }
        let success = numbers.map(|number| self.put_op(self.keys.in_order(order, number))).collect();
        self.txn(TxnRequest { success, ..Default::default() }).await.map(drop)
    }

    fn put_op(&self, number: u64) -> RequestOp {
        put_op(PutRequest { key: self.keys.key(number), value: self.value.clone(), ..Default::default() })
    }

    fn random_key(&mut self) -> Bytes {
        let number = self.random_number();
        self.keys.key(number)
    }

    fn random_number(&mut self) -> u64 {
        // The high half of the product: uniform up to one part in 2^64 / count.
        let wide = u128::from(self.dice.next_u64()) * u128::from(self.keys.count);
        u64::try_from(wide >> 64).expect("the high half of a product of two u64")
    }
}

fn put_op(put: PutRequest) -> RequestOp {
    RequestOp { request: Some(request_op::Request::RequestPut(put)) }
}

fn decode<M: prost::Message + Default>(answer: Bytes) -> Result<M, CallError> {
    M::decode(answer).map_err(|error| CallError::Broken(format!("an answer that cannot be decoded: {error}")))
}

fn missing(key: &[u8]) -> CallError {
    CallError::Broken(format!(
        "nothing found at {:?}: fill the key space first (quorate-bench load, with the same --key-count and --key-prefix)",
        String::from_utf8_lossy(key)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(prefix: &str, count: u64) -> KeySpace {
        KeySpace { prefix: prefix.to_owned(), count }
    }

    #[test]
    fn keys_are_equally_long_and_sort_by_number() {
        let keys = keys("bench/", 1_000_000);
        assert_eq!(keys.key(0), "bench/000000000000");
        assert_eq!(keys.key(999_999), "bench/000000999999");
        assert!(keys.key(99) < keys.key(100));
    }

    #[test]
    fn a_random_order_has_every_key_once() {
        for count in [1, 2, 3, 10, 1000, 4096, 99_991] {
            let keys = keys("", count);
            let mut seen = vec![false; usize::try_from(count).unwrap()];
            for turn in 0..count {
                let number = usize::try_from(keys.in_order(KeyOrder::Random, turn)).unwrap();
                assert!(!std::mem::replace(&mut seen[number], true), "{number} of {count} twice");
            }
        }
    }

    #[test]
    fn a_prefix_ends_where_the_next_one_begins() {
        assert_eq!(keys("bench/", 1).end(), "bench0");
        assert_eq!(keys("", 1).end(), "\0");
    }
}
