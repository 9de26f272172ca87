//! Tests of the crate as a whole: what is written reads back, and whatever is read does no harm.

mod hostile;
mod round_trip;

use std::path::Path;

use crate::testing::Image;
use crate::{Plan, Planner, ReadError, Reader, Writer};

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;
/// Buckets with their pairs, all in order.
type Buckets = Vec<(Vec<u8>, Pairs)>;

fn plan(buckets: &Buckets, page_bytes: usize) -> Plan {
    let mut planner = Planner::new(page_bytes);
    for (name, pairs) in buckets {
        planner.bucket(name.len());
        pairs.iter().for_each(|(key, value)| planner.pair(key.len(), value.len()));
    }
    planner.finish()
}

/// The file of these buckets, as its chunks came.
fn written(buckets: &Buckets, page_bytes: usize) -> Vec<u8> {
    let plan = plan(buckets, page_bytes);
    let mut writer = Writer::new(plan);
    let mut file = Vec::new();
    let mut chunks = Vec::new();
    let mut take = |writer: &mut Writer| {
        while let Some(chunk) = writer.pop_chunk() {
            chunks.push(chunk.len());
            file.extend_from_slice(&chunk);
        }
    };
    for (name, pairs) in buckets {
        writer.bucket(name).expect("names in order");
        for (key, value) in pairs {
            writer.pair(key, value).expect("keys in order");
            take(&mut writer);
        }
    }
    writer.finish().expect("as planned");
    take(&mut writer);
    let (last, others) = chunks.split_last().expect("no file is empty");
    assert!(*last <= crate::CHUNK_BYTES && others.iter().all(|len| *len == crate::CHUNK_BYTES), "{chunks:?}");
    assert_eq!(file.len() as u64, plan.len_bytes());
    file
}

fn read(file: Vec<u8>) -> Result<Buckets, ReadError> {
    let reader = Reader::open(Box::new(Image(file)), Path::new("snap.db"))?;
    let pairs = |bucket: &crate::Bucket| {
        let entries = bucket.entries().map(|pair| pair.map(|(key, value)| (key.to_vec(), value.to_vec())));
        entries.collect::<Result<Pairs, _>>()
    };
    reader.buckets().map(|(name, bucket)| Ok((name.to_vec(), pairs(bucket)?))).collect()
}
