//! Versions of the worker protocol: which one two sides speak, or by name why none.
//!
//! What changed with each is told at the head of `worker.proto`.

use std::fmt;

/// The versions that this release speaks.
pub const SPOKEN: Versions = Versions { oldest: 0, newest: 1 };
/// Since this version a worker can be told to drain, and to go on.
pub const DRAINS_SINCE: u32 = 1;

/// All versions from one to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// The first.
    pub oldest: u32,
    /// The last.
    pub newest: u32,
}

/// Two sides have no version in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it speaks the worker protocol in version {theirs}, and this side in version {ours}")]
pub struct NoCommonVersion {
    /// The other side's.
    pub theirs: Versions,
    /// This side's.
    pub ours: Versions,
}

impl Versions {
    /// The newest version that both sides speak.
    ///
    /// # Errors
    /// [`NoCommonVersion`].
    pub fn common(self, theirs: Self) -> Result<u32, NoCommonVersion> {
        let newest = self.newest.min(theirs.newest);
        if newest >= self.oldest.max(theirs.oldest) {
            Ok(newest)
        } else {
            Err(NoCommonVersion { theirs, ours: self })
        }
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.oldest == self.newest {
            true => write!(f, "{}", self.newest),
            false => write!(f, "{} to {}", self.oldest, self.newest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn from(oldest: u32, newest: u32) -> Versions {
        Versions { oldest, newest }
    }

    #[test]
    fn the_newest_common_version_is_spoken() {
        let node = from(1, 3);
        assert_eq!(node.common(from(0, 1)), Ok(1));
        assert_eq!(node.common(from(2, 9)), Ok(3));
        assert_eq!(node.common(from(2, 2)), Ok(2));
    }

    #[test]
    fn without_one_both_ranges_are_named() {
        let refused = from(1, 3).common(from(4, 6)).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "it speaks the worker protocol in version 4 to 6, and this side in version 1 to 3"
        );
        assert!(from(1, 3).common(from(0, 0)).is_err());
    }
}
