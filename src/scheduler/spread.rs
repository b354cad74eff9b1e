//! Where a job stands among its like: a number that is its own, on every node and for good.
//!
//! Jitter, and `H` and `~` in a cron line, put jobs apart that would else all start at once. What they
//! draw depends on the job's names and on nothing else, so that it is the same before and after a
//! failover, and when the job is deleted and created again.

/// A job's own number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spread(u64);

impl Spread {
    /// That of the job with these names.
    #[must_use]
    pub fn of(namespace: &str, name: &str) -> Self {
        // FNV-1a, written out, for due instants must not change with a release of the standard library.
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for byte in namespace.bytes().chain([b'/']).chain(name.bytes()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        Self(hash)
    }

    /// The number as it is.
    #[must_use]
    pub const fn seed(self) -> u64 {
        self.0
    }

    /// One of the numbers below `size`, another one for each `salt`; 0 if `size` is 0.
    pub(super) fn below(self, salt: u32, size: u32) -> u32 {
        // below `size`
        (mix(mix(self.0) ^ u64::from(salt)) % u64::from(size.max(1))) as u32
    }
}

/// One step of SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators",
/// 2014): a bijection whose output bits each depend on all input bits. It is spelled out here,
/// for the standard library's hash may change with a release, and due instants must not.
pub(super) const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_splitmix64_as_published() {
        // the first outputs of the reference generator for seed 0 (prng.di.unimi.it/splitmix64.c)
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf);
        assert_eq!(mix(0x9e37_79b9_7f4a_7c15), 0x6e78_9e6a_a1b9_65f4);
    }

    #[test]
    fn the_number_of_a_job_is_fnv_1a_of_its_names() {
        // FNV-1a, 64 bits, of "a/b"; worked out in Python by the definition
        assert_eq!(Spread::of("a", "b").seed(), 0xe620_c319_0468_cf61);
        assert_ne!(Spread::of("a", "b"), Spread::of("b", "a"));
    }

    #[test]
    fn what_is_drawn_fills_the_range_evenly() {
        let mut counts = [0_u32; 60];
        for job in 0..60_000 {
            counts[Spread::of("default", &format!("job-{job}")).below(1, 60) as usize] += 1;
        }
        // 1 000 each, give or take five standard deviations
        assert!(counts.iter().all(|count| (842..=1_158).contains(count)), "{counts:?}");
    }
}
