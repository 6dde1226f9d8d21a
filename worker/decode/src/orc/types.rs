//! Whether the types of a file are a tree, before the library walks them.
//!
//! Comes in: the bytes of the tail. Goes out: nothing, or what is wrong. The library descends from each type to
//! those that it names; where a type names itself, or one that is above it, it would descend until the process
//! ends, and where many name the same, for ever. So the types are checked here: each one stands after the type
//! that names it, once, and not too deep. What cannot be read here is refused: the library might read it.

use std::io::Read;

use bytes::Bytes;
use orc_rust::compression::{Compression, Decompressor};
use orc_rust::reader::metadata::read_metadata;
use stevedore_common::error::Error;

use super::ranges::Fetched;
use super::tail::{field, varint};
use crate::columnar::guarded;

/// Types within types.
const MAX_DEPTH: usize = 100;
/// What a footer may become when it is decompressed.
const MAX_FOOTER: u64 = 64 << 20;
/// The footer's field that is its types, and a type's field that is the types within it.
const TYPES: u64 = 4;
const SUBTYPES: u64 = 2;
/// A footer of one type, a struct without fields, in a file of no rows.
const EMPTY_FOOTER: &[u8] = &[TYPES as u8 * 8 + 2, 2, 8, 12, 48, 0];

/// Checks a footer as stored; `postscript` is that of the file.
///
/// # Errors
/// What is wrong with it.
pub(super) fn check(footer: &Bytes, postscript: &[u8]) -> Result<(), String> {
    let compression = compression(postscript).ok_or("its postscript cannot be read")?;
    let plain = guarded(
        || "the footer".into(),
        || {
            let mut plain = Vec::new();
            let stored = Decompressor::new(footer.clone(), compression, Vec::new());
            let read = stored.take(MAX_FOOTER + 1).read_to_end(&mut plain);
            read.map_err(|error| Error::bad_data(error.to_string()))?;
            Ok(plain)
        },
    );
    let plain = plain.map_err(|error| error.message().to_owned())?;
    if plain.len() as u64 > MAX_FOOTER {
        return Err(format!("it has more than {MAX_FOOTER} bytes when decompressed"));
    }
    tree(&plain).map_err(str::to_owned)
}

const UNREADABLE: &str = "a type cannot be read";

/// The codec of a file, as the library understands its postscript: it is asked to read a file without
/// anything in it.
fn compression(postscript: &[u8]) -> Option<Option<Compression>> {
    let mut told = Vec::new();
    let (mut rest, mut packed) = (postscript, false);
    while !rest.is_empty() {
        let start = rest;
        let (number, value) = field(&mut rest)?;
        // The last one counts.
        if number == 2 {
            packed = value.0 != 0;
        }
        // The lengths of footer and metadata.
        if number != 1 && number != 5 {
            told.extend_from_slice(&start[..start.len() - rest.len()]);
        }
    }
    let mut file = Vec::new();
    if packed {
        // The head of a block that is stored as it is.
        file.extend_from_slice(&[(EMPTY_FOOTER.len() as u8) << 1 | 1, 0, 0]);
    }
    file.extend_from_slice(EMPTY_FOOTER);
    let length = file.len() as u8;
    told.extend_from_slice(&[8, length, 40, 0]);
    file.extend_from_slice(&told);
    file.push(u8::try_from(told.len()).ok()?);
    let size = file.len() as u64;
    let mut file = Fetched::new(size, vec![(0, file.into())], 0..0);
    let read = || read_metadata(&mut file).map_err(|error| Error::bad_data(error.to_string()));
    Some(guarded(|| "the postscript".into(), read).ok()?.compression())
}

fn tree(mut footer: &[u8]) -> Result<(), &'static str> {
    // The depth of each type that was named so far; 0 for one that was not.
    let mut depths: Vec<usize> = vec![1];
    let mut place = 0;
    while !footer.is_empty() {
        let (number, (_, value)) = field(&mut footer).ok_or(UNREADABLE)?;
        if number != TYPES {
            continue;
        }
        let depth = depths.get(place).copied().unwrap_or(0);
        let mut ty = value;
        while !ty.is_empty() {
            let (number, (single, mut packed)) = field(&mut ty).ok_or(UNREADABLE)?;
            if number != SUBTYPES {
                continue;
            }
            let mut children = Vec::new();
            if packed.is_empty() {
                children.push(single);
            }
            while !packed.is_empty() {
                children.push(varint(&mut packed).ok_or(UNREADABLE)?);
            }
            for child in children {
                let child = usize::try_from(child).unwrap_or(usize::MAX);
                if child <= place {
                    return Err("a type contains itself, or one before it");
                }
                // Each type takes two bytes at least.
                if child > footer.len() + value.len() + place {
                    return Err("a type contains one that is not there");
                }
                if depths.len() <= child {
                    depths.resize(child + 1, 0);
                }
                if depths[child] != 0 {
                    return Err("a type is contained twice");
                }
                depths[child] = depth + 1;
                if depth + 1 > MAX_DEPTH {
                    return Err("its types nest too deep");
                }
            }
        }
        place += 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A footer of structs that contain the types of these places.
    fn footer(types: &[&[u8]]) -> Vec<u8> {
        let mut footer = Vec::new();
        for children in types {
            let mut ty = vec![8, 12];
            if !children.is_empty() {
                ty.extend_from_slice(&[18, children.len() as u8]);
                ty.extend_from_slice(children);
            }
            footer.extend_from_slice(&[34, ty.len() as u8]);
            footer.extend_from_slice(&ty);
        }
        footer
    }

    #[test]
    fn types_are_a_tree() {
        assert_eq!(tree(&footer(&[&[1, 3], &[2], &[], &[]])), Ok(()));
        assert_eq!(tree(&footer(&[&[0]])), Err("a type contains itself, or one before it"));
        assert_eq!(tree(&footer(&[&[1], &[2], &[1]])), Err("a type contains itself, or one before it"));
        assert_eq!(tree(&footer(&[&[1, 2], &[3], &[3], &[]])), Err("a type is contained twice"));
        assert_eq!(tree(&footer(&[&[100]])), Err("a type contains one that is not there"));
    }

    #[test]
    fn what_the_library_might_read_otherwise_is_refused() {
        // A group, which is passed over by others, before a type that contains itself.
        let grouped = [&[0x3b, 0x3c][..], &footer(&[&[0]])].concat();
        assert_eq!(tree(&grouped), Err(UNREADABLE));
        // Two codecs, of which the last counts: none.
        let plain = Bytes::from(footer(&[&[0]]));
        let postscript = [8, 6, 16, 1, 16, 0, 0x82, 0xf4, 3, 3, b'O', b'R', b'C'];
        assert_eq!(check(&plain, &postscript), Err("a type contains itself, or one before it".to_owned()));
    }

    #[test]
    fn types_nest_so_deep_and_no_deeper() {
        let chain = |depth: u8| -> Vec<[u8; 1]> { (1..=depth).map(|n| [n]).collect() };
        for (depth, result) in [(98, Ok(())), (120, Err("its types nest too deep"))] {
            let chain = chain(depth);
            let mut types: Vec<&[u8]> = chain.iter().map(|children| &children[..]).collect();
            types.push(&[]);
            assert_eq!(tree(&footer(&types)), result);
        }
    }
}
