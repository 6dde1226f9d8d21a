//! How the state's keys and values lie in the store.
//!
//! `g<generation>d<key>` holds a value; one that is too large for the store's pages lies in pieces at
//! `g<generation>c<key><piece>`. `m` holds the meta record.

use std::ops::Bound;

use bytes::{BufMut as _, Bytes};
use stevedore_common::Result;

use super::backend::{KeyValue, Writes};

pub(super) const META: &[u8] = b"m";
/// Values up to this size are kept whole.
const PIECE_BYTES: usize = 32 * 1024;
const WHOLE: u8 = 0;
const IN_PIECES: u8 = 1;

fn physical(generation: u64, space: u8, key: &[u8], extra: usize) -> Vec<u8> {
    let mut physical = Vec::with_capacity(10 + key.len() + extra);
    physical.push(b'g');
    physical.put_u64(generation);
    physical.push(space);
    physical.extend_from_slice(key);
    physical
}

pub(super) fn data_key(generation: u64, key: &[u8]) -> Vec<u8> {
    physical(generation, b'd', key, 0)
}

fn piece_key(generation: u64, key: &[u8], piece: u32) -> Vec<u8> {
    let mut physical = physical(generation, b'c', key, 4);
    physical.put_u32(piece);
    physical
}

/// Everything of a generation lies in `[low, high)`.
pub(super) fn generation_bounds(generation: u64) -> (Vec<u8>, Vec<u8>) {
    let low = physical(generation, 0, b"", 0);
    let high = physical(generation, 0xff, b"", 0);
    (low[..9].to_vec(), high)
}

/// The generation that a physical key belongs to.
pub(super) fn generation_of(physical: &[u8]) -> Option<u64> {
    match physical.strip_prefix(b"g")?.get(..8)?.try_into() {
        Ok(bytes) => Some(u64::from_be_bytes(bytes)),
        Err(_) => None,
    }
}

/// A stored record: the value itself, or into how many pieces it was cut.
enum Record {
    Whole(Bytes),
    Pieces(u32),
}

fn parse(kv: &dyn KeyValue, record: &Bytes) -> Result<Record> {
    match record.first() {
        Some(&WHOLE) => Ok(Record::Whole(record.slice(1..))),
        Some(&IN_PIECES) => match record[1..].try_into() {
            Ok(count) => Ok(Record::Pieces(u32::from_be_bytes(count))),
            Err(_) => Err(kv.damaged("a record of the state has the wrong length".to_owned())),
        },
        _ => Err(kv.damaged("a record of the state has an unknown form".to_owned())),
    }
}

fn assemble(kv: &dyn KeyValue, generation: u64, key: &[u8], record: &Bytes) -> Result<Bytes> {
    match parse(kv, record)? {
        Record::Whole(value) => Ok(value),
        Record::Pieces(count) => {
            let mut value = Vec::new();
            for piece in 0..count {
                let part = kv
                    .get(&piece_key(generation, key, piece))?
                    .ok_or_else(|| kv.damaged("a piece of a large value is missing".to_owned()))?;
                value.extend_from_slice(&part);
            }
            Ok(value.into())
        }
    }
}

pub(super) fn get(kv: &dyn KeyValue, generation: u64, key: &[u8]) -> Result<Option<Bytes>> {
    kv.get(&data_key(generation, key))?.map(|record| assemble(kv, generation, key, &record)).transpose()
}

/// What a scan found: keys with values, which fail one by one, since a large value that is being
/// overwritten may be caught in between (the caller then has its earlier value).
pub(super) type Found = Vec<(Bytes, Result<Bytes>)>;

pub(super) fn scan(
    kv: &dyn KeyValue,
    generation: u64,
    prefix: &[u8],
    after: Option<&[u8]>,
    limit: usize,
) -> Result<Found> {
    let high = prefix_end(&data_key(generation, prefix));
    let after = after.filter(|after| *after >= prefix).map(|after| data_key(generation, after));
    let start = data_key(generation, prefix);
    let low = match &after {
        Some(after) if after.as_slice() >= high.as_slice() => return Ok(Vec::new()),
        Some(after) => Bound::Excluded(after.as_slice()),
        None => Bound::Included(start.as_slice()),
    };
    let records = kv.range(low, &high, limit)?;
    Ok(records
        .into_iter()
        .map(|(physical, record)| {
            let key = physical.slice(10..);
            let value = assemble(kv, generation, &key, &record);
            (key, value)
        })
        .collect())
}

/// The first key after all that start with `prefix`. Physical keys start with `g`, so there is one.
fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            break;
        }
    }
    end
}

/// Adds what sets or deletes a key, given what lies there now; answers the value it has now.
pub(super) fn put(
    kv: &dyn KeyValue,
    generation: u64,
    key: &[u8],
    value: Option<&Bytes>,
    writes: &mut Writes,
) -> Result<Option<Bytes>> {
    let physical = data_key(generation, key);
    let mut stale_pieces = 0;
    let before = match kv.get(&physical)? {
        Some(record) => {
            if let Record::Pieces(count) = parse(kv, &record)? {
                stale_pieces = count;
            }
            Some(assemble(kv, generation, key, &record)?)
        }
        None => None,
    };
    let mut pieces = 0;
    match value {
        Some(value) if value.len() <= PIECE_BYTES => {
            let mut record = Vec::with_capacity(value.len() + 1);
            record.push(WHOLE);
            record.extend_from_slice(value);
            writes.push((physical, Some(record)));
        }
        Some(value) => {
            for part in value.chunks(PIECE_BYTES) {
                writes.push((piece_key(generation, key, pieces), Some(part.to_vec())));
                pieces += 1;
            }
            let mut record = vec![IN_PIECES];
            record.put_u32(pieces);
            writes.push((physical, Some(record)));
        }
        None if before.is_some() => writes.push((physical, None)),
        None => {}
    }
    for piece in pieces..stale_pieces {
        writes.push((piece_key(generation, key, piece), None));
    }
    Ok(before)
}
