//! Whether the pages of a column chunk can become as large as they claim, before memory is taken for them.
//!
//! Comes in: the bytes of a chunk and its codec. Goes out: nothing, or what is wrong. For Snappy and LZ4 the
//! library fills as much memory as a page's header claims, up to 2 GiB, and decompresses into it then; these
//! codecs cannot reach any size, so lies are told from the bytes. Whatever cannot be read here is left to the
//! library to judge.

use ::parquet::basic::Compression;

use super::footer_shape::Walk;

/// The fields of a page's header that are its sizes.
const UNCOMPRESSED: i16 = 2;
const COMPRESSED: i16 = 3;
/// Pages this small may claim anything.
const SMALL: i64 = 1 << 20;

/// What a codec's output can be, in multiples of its input; `None` where the library writes as it goes.
fn most(codec: Compression) -> Option<i64> {
    match codec {
        // 64 bytes for three.
        Compression::SNAPPY => Some(22),
        // 255 bytes for one.
        Compression::LZ4 | Compression::LZ4_RAW => Some(256),
        _ => None,
    }
}

/// Checks the headers of all pages.
///
/// # Errors
/// What is wrong with one.
pub(super) fn check(chunk: &[u8], codec: Compression) -> Result<(), String> {
    let Some(most) = most(codec) else { return Ok(()) };
    let mut rest = chunk;
    while !rest.is_empty() {
        let mut walk = Walk::new(rest);
        let Some((uncompressed, compressed)) = sizes(&mut walk) else { return Ok(()) };
        if uncompressed > SMALL && uncompressed / most > compressed {
            return Err(format!("a page of {compressed} bytes claims to become {uncompressed}"));
        }
        let Some(after) = usize::try_from(compressed).ok().and_then(|size| walk.rest().get(size..)) else {
            return Ok(());
        };
        rest = after;
    }
    Ok(())
}

/// Both sizes of the page whose header begins here.
fn sizes(walk: &mut Walk<'_>) -> Option<(i64, i64)> {
    let (mut uncompressed, mut compressed, mut last) = (0, 0, 0);
    while let Some((id, kind)) = walk.field(last).ok()? {
        last = id;
        match id {
            UNCOMPRESSED => uncompressed = walk.zigzag().ok()?,
            COMPRESSED => compressed = walk.zigzag().ok()?,
            _ => walk.skip_field(kind).ok()?,
        }
    }
    Some((uncompressed, compressed))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A page of 4 bytes: type 0, so many bytes uncompressed, 4 compressed, a header of a data page.
    fn page(uncompressed: u32) -> Vec<u8> {
        let mut bytes = vec![0x15, 0, 0x15];
        let mut size = u64::from(uncompressed) << 1;
        while size >= 0x80 {
            bytes.push(size as u8 | 0x80);
            size >>= 7;
        }
        bytes.push(size as u8);
        bytes.extend([0x15, 8, 0x2c, 0x15, 2, 0x15, 0, 0x11, 0, 0, 1, 2, 3, 4]);
        bytes
    }

    #[test]
    fn a_page_claims_no_more_than_its_codec_can_give() {
        let lie = Err("a page of 4 bytes claims to become 2000000000".to_owned());
        let pages = [page(100), page(2_000_000_000)].concat();
        for codec in [Compression::SNAPPY, Compression::LZ4_RAW] {
            assert_eq!(check(&pages, codec), lie);
            assert_eq!(check(&page(1000).repeat(3), codec), Ok(()));
            // Damage is for the library.
            assert_eq!(check(&pages[..5], codec), Ok(()));
        }
        assert_eq!(check(&pages, Compression::UNCOMPRESSED), Ok(()));
    }
}
