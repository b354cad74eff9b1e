//! What has happened in a world, so that one that saw too little proves nothing.

macro_rules! figures {
    ($($(#[$told:meta])* $name:ident),* $(,)?) => {
        /// Counts of one world.
        #[derive(Clone, Copy, Debug, Default)]
        pub(crate) struct Figures {
            $($(#[$told])* pub(crate) $name: u64),*
        }

        impl Figures {
            /// By name, in the order of the fields.
            pub(crate) fn list(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name)),*]
            }
        }
    };
}

figures! {
    leader_changes,
    entries,
    /// Due instants with a verdict.
    decided,
    effects,
    repeated_effects,
    lost_attempts,
    breaker_opens,
    breakers_across_a_change,
    snapshots_installed,
    acknowledged,
    /// Runs and records that came of others that ended.
    made,
    /// Leaders that began while a join waited for more.
    joins_across_a_change,
    /// Runs that were made into one for each of several workers.
    spread,
    /// Leaders that began while the parts of such a run were under way.
    spread_across_a_change,
    /// Entries after which limits kept something from starting.
    kept_by_limits,
    /// Operations of which a client was told that nobody knows.
    unknown,
    kills,
    leader_kills,
    leader_with_minority,
    leader_with_majority,
    clock_steps,
    /// Clocks that ran fast or slow by more than all clocks do.
    clock_drifts,
    pauses,
    leader_pauses,
    /// Leaders that were stopped, and went on when another had taken over.
    leaders_woken_deposed,
    worker_pauses,
    members_added,
    members_removed,
    /// Of these, leaders.
    leaders_removed,
    /// Of these, machines that were down.
    dead_removed,
    /// Removed nodes that asked to be let in again, and were refused.
    returns_refused,
    /// Leaders killed after a start was applied and before its order left.
    kills_before_order,
    /// Workers and leaders killed while a target had begun or ended and its report was not in the log.
    kills_before_report,
    /// New leaders killed before all had applied that they lead.
    kills_in_takeover,
    /// Leaders and workers killed while a breaker was half open and a probe under way.
    kills_in_probe,
}
