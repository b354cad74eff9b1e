//! The bytes of a file: a head, then records, each with its place in the output and a checksum.
//!
//! | bytes | of a record |
//! |---|---|
//! | 4 | length of the payload |
//! | 1 | kind |
//! | 8 | offset in the output |
//! | 8 | milliseconds since the epoch |
//! | 4 | CRC-32 of all other bytes |
//! | … | payload: data, or of a gap its length and its reason |
//!
//! Numbers are little-endian. A file that is whole ends with a record of the kind [`END`].

use super::{Loss, PIECE_BYTES, Part, Piece, Stream};
use crate::state::time::Timestamp;

/// What a file begins with: what it is, and in which form.
pub(super) const HEAD: &[u8; 8] = b"chrnout1";
/// Bytes of a record before its payload.
pub(super) const RECORD_HEAD_BYTES: usize = 25;
/// Where the checksum is in them.
const SUM_AT: usize = 21;

const BOTH: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const BODY: u8 = 3;
const GAP: u8 = 16;
const END: u8 = 32;

/// What stands at a place of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// A record, and how long it is in the file.
    Record(Record, usize),
    /// The bytes end before the record does.
    Incomplete,
    /// No record of this form.
    Damaged,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Record {
    Piece(Piece),
    End,
}

/// Appends data or a gap. Data is at most [`PIECE_BYTES`] long.
pub(super) fn write(piece: &Piece, out: &mut Vec<u8>) {
    match &piece.part {
        Part::Data(stream, bytes) => {
            let kind = match stream {
                Stream::Both => BOTH,
                Stream::Stdout => STDOUT,
                Stream::Stderr => STDERR,
                Stream::Body => BODY,
            };
            record(kind, piece.offset, piece.at, bytes, out);
        }
        Part::Gap(bytes, loss) => {
            let mut payload = bytes.to_le_bytes().to_vec();
            payload.push(match loss {
                Loss::Limit => 1,
                Loss::Disk => 2,
                Loss::Torn => 3,
            });
            record(GAP, piece.offset, piece.at, &payload, out);
        }
    }
}

/// Appends the mark of a whole file.
pub(super) fn write_end(offset: u64, at: Timestamp, out: &mut Vec<u8>) {
    record(END, offset, at, &[], out);
}

fn record(kind: u8, offset: u64, at: Timestamp, payload: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_le_bytes());
    out.push(kind);
    out.extend_from_slice(&offset.to_le_bytes());
    out.extend_from_slice(&at.millis().to_le_bytes());
    let sum = checksum(&out[start..], payload);
    out.extend_from_slice(&sum.to_le_bytes());
    out.extend_from_slice(payload);
}

fn checksum(head: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(payload);
    hasher.finalize()
}

/// Reads the record at the start of `bytes`.
pub(super) fn parse(bytes: &[u8]) -> Parsed {
    let Some((head, rest)) = bytes.split_at_checked(RECORD_HEAD_BYTES) else { return Parsed::Incomplete };
    let length = usize::try_from(u32::from_le_bytes(array(&head[0..4]))).unwrap_or(usize::MAX);
    if length > PIECE_BYTES {
        return Parsed::Damaged;
    }
    let Some(payload) = rest.get(..length) else { return Parsed::Incomplete };
    if checksum(&head[..SUM_AT], payload) != u32::from_le_bytes(array(&head[SUM_AT..])) {
        return Parsed::Damaged;
    }
    let offset = u64::from_le_bytes(array(&head[5..13]));
    let at = Timestamp::from_millis(i64::from_le_bytes(array(&head[13..21])));
    let part = match head[4] {
        BOTH => Part::Data(Stream::Both, payload.to_vec()),
        STDOUT => Part::Data(Stream::Stdout, payload.to_vec()),
        STDERR => Part::Data(Stream::Stderr, payload.to_vec()),
        BODY => Part::Data(Stream::Body, payload.to_vec()),
        GAP => match gap(payload) {
            Some(part) => part,
            None => return Parsed::Damaged,
        },
        END => return Parsed::Record(Record::End, RECORD_HEAD_BYTES + length),
        _ => return Parsed::Damaged,
    };
    Parsed::Record(Record::Piece(Piece { offset, at, part }), RECORD_HEAD_BYTES + length)
}

fn gap(payload: &[u8]) -> Option<Part> {
    let (bytes, loss) = payload.split_at_checked(8)?;
    let loss = match loss {
        [1] => Loss::Limit,
        [2] => Loss::Disk,
        [3] => Loss::Torn,
        _ => return None,
    };
    Some(Part::Gap(u64::from_le_bytes(array(bytes)), loss))
}

/// The first bytes as an array; the caller has so many.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[..N]);
    array
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_piece() -> impl Strategy<Value = Piece> {
        let stream =
            prop_oneof![Just(Stream::Both), Just(Stream::Stdout), Just(Stream::Stderr), Just(Stream::Body)];
        let loss = prop_oneof![Just(Loss::Limit), Just(Loss::Disk), Just(Loss::Torn)];
        let part = prop_oneof![
            (stream, proptest::collection::vec(any::<u8>(), 0..300))
                .prop_map(|(stream, bytes)| Part::Data(stream, bytes)),
            (any::<u64>(), loss).prop_map(|(bytes, loss)| Part::Gap(bytes, loss)),
        ];
        (any::<u64>(), 0..4_102_444_800_000i64, part).prop_map(|(offset, at, part)| Piece {
            offset,
            at: Timestamp::from_millis(at),
            part,
        })
    }

    proptest! {
        #[test]
        fn a_record_is_read_as_it_was_written_and_a_part_of_it_is_incomplete(piece in any_piece(), cut: prop::sample::Index) {
            let mut bytes = Vec::new();
            write(&piece, &mut bytes);
            prop_assert_eq!(parse(&bytes[..cut.index(bytes.len())]), Parsed::Incomplete);
            let length = bytes.len();
            prop_assert_eq!(parse(&bytes), Parsed::Record(Record::Piece(piece), length));
        }

        #[test]
        fn a_flipped_bit_is_noticed(piece in any_piece(), at: prop::sample::Index, bit in 0u8..8) {
            let mut bytes = Vec::new();
            write(&piece, &mut bytes);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert_ne!(parse(&bytes), Parsed::Record(Record::Piece(piece), bytes.len()));
        }

        #[test]
        fn whatever_the_bytes_are_reading_them_ends(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }
    }

    #[test]
    fn the_form_on_disk_is_pinned() {
        let mut bytes = HEAD.to_vec();
        let at = Timestamp::from_millis(1_774_746_000_000);
        write(&Piece { offset: 5, at, part: Part::Data(Stream::Stderr, b"hi\n".to_vec()) }, &mut bytes);
        write(&Piece { offset: 8, at, part: Part::Gap(7, Loss::Limit) }, &mut bytes);
        write_end(15, at, &mut bytes);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            concat!(
                "6368726e6f7574310300000002050000000000000080da1a379d0100009b47c2d168690a090000001008000000000000",
                "0080da1a379d01000089a1246e07000000000000000100000000200f0000000000000080da1a379d010000bf5f6142",
            )
        );
    }
}
