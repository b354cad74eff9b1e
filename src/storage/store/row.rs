//! How a row looks inside sled: the tree's number before the key, a checksum over both behind the value.

use super::Tree;

const CRC_BYTES: usize = 4;

/// The key as sled sees it.
pub(super) fn stored_key(tree: Tree, key: &[u8]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(1 + key.len());
    stored.push(tree.0);
    stored.extend_from_slice(key);
    stored
}

/// The value as sled sees it.
pub(super) fn stored_value(stored_key: &[u8], mut value: Vec<u8>) -> Vec<u8> {
    let crc = crc(stored_key, &value);
    value.extend_from_slice(&crc.to_le_bytes());
    value
}

/// The value in what sled returned, or what is wrong with it.
pub(super) fn value_of<'a>(stored_key: &[u8], stored: &'a [u8]) -> Result<&'a [u8], String> {
    let Some((value, found)) = stored.split_last_chunk::<CRC_BYTES>() else {
        return Err(format!("a row of {} bytes is too short for its checksum", stored.len()));
    };
    let (found, expected) = (u32::from_le_bytes(*found), crc(stored_key, value));
    if found != expected {
        return Err(format!("row {stored_key:02x?} has checksum {found:08x}, its bytes give {expected:08x}"));
    }
    Ok(value)
}

fn crc(stored_key: &[u8], value: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&(stored_key.len() as u32).to_le_bytes());
    hasher.update(stored_key);
    hasher.update(value);
    hasher.finalize()
}
