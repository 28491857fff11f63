//! What groups have used, summed over scrapes: a snapshot has living processes alone, and a counter must not fall when one
//! of them ends.
//!
//! Each scrape adds to a process' group what the process has used since the scrape before. A process that is older than
//! the exporter counts from the first scrape on, so that counters begin at 0 with the exporter, as Prometheus expects
//! after a restart; one that started later counts whole. What a process uses between its last scrape and its end is lost.
//!
//! The state is bounded: the counts of living processes, which the broker's policy limits, and at most as many groups
//! as are allowed, with one for the rest.

use std::collections::{BTreeMap, HashMap};

use super::COUNTERS;
use super::live_totals::{LiveTotals, Process};
use super::rules::OTHER;

/// Counters of a process or a group, in the order of [`COUNTERS`]; `None` for unknown ones.
pub(super) type Counts = [Option<u64>; COUNTERS.len()];

/// All groups.
#[derive(Debug, Default)]
pub(super) struct Totals {
    groups: BTreeMap<String, Group>,
    /// The counters of each living process in the last scrape, by its pid and the time it started.
    last: HashMap<(u32, u64), Counts>,
    /// The start of the youngest process of all scrapes; `None` before the first.
    latest_start: Option<u64>,
    scrapes: u64,
}

/// A group.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// What its processes have used since the first scrape.
    pub(super) used: Counts,
    /// Its processes in the last scrape.
    pub(super) live: LiveTotals,
    /// The last scrape in which it had any.
    last_scrape: u64,
}

impl Totals {
    /// Adds all processes of a snapshot, each with the name of its group. Beyond `max_groups`, the group is `other`.
    pub(super) fn update<'t>(
        &'t mut self,
        processes: &[(String, Process<'_>)],
        max_groups: usize,
    ) -> impl Iterator<Item = (&'t str, &'t Group)> + use<'t> {
        self.scrapes += 1;
        self.admit(processes, max_groups);
        for group in self.groups.values_mut() {
            group.live = LiveTotals::default();
        }
        let mut last = HashMap::with_capacity(processes.len());
        for (name, process) in processes {
            let counts = COUNTERS.map(|counter| (counter.value)(process));
            let key = (process.pid, process.stat.start_ticks);
            let before = self.last.get(&key);
            let name = if self.groups.contains_key(name) { name } else { OTHER };
            let group = self.groups.entry(name.to_owned()).or_default();
            group.last_scrape = self.scrapes;
            group.live.add(process);
            let new = self.latest_start.is_some_and(|latest| process.stat.start_ticks > latest);
            for (at, used) in group.used.iter_mut().enumerate() {
                let Some(count) = counts[at] else { continue };
                // Neither known nor new: an earlier scrape missed it, and one before that may have counted it.
                let since = before.and_then(|before| before[at]).unwrap_or(if new { 0 } else { count });
                *used = Some(used.unwrap_or(0).saturating_add(count.saturating_sub(since)));
            }
            let before = before.copied().unwrap_or_default();
            last.insert(key, std::array::from_fn(|at| counts[at].or(before[at])));
        }
        self.last = last;
        let latest = processes.iter().map(|(_, process)| process.stat.start_ticks).max();
        self.latest_start = self.latest_start.max(latest);
        self.groups.iter().map(|(name, group)| (name.as_str(), group))
    }

    /// Admits new groups. First come those whose oldest process started first: daemons come before what they
    /// run, and the order is the same after a restart of the exporter. Known groups
    /// stay. At the limit, new ones replace groups without processes, those that have been empty longest first.
    fn admit(&mut self, processes: &[(String, Process<'_>)], max_groups: usize) {
        let mut new: HashMap<&str, u64> = HashMap::new();
        for (name, process) in processes.iter().filter(|(name, _)| name != OTHER) {
            match self.groups.get_mut(name) {
                // So that it is not removed for a new one.
                Some(group) => group.last_scrape = self.scrapes,
                None => {
                    let start = process.stat.start_ticks;
                    new.entry(name).and_modify(|oldest| *oldest = start.min(*oldest)).or_insert(start);
                }
            }
        }
        if new.is_empty() {
            return;
        }
        let mut new: Vec<(u64, &str)> = new.into_iter().map(|(name, start)| (start, name)).collect();
        new.sort_unstable();
        let named = self.groups.iter().filter(|(name, _)| *name != OTHER);
        let mut remaining = max_groups.saturating_sub(named.clone().count());
        let empty = named.filter(|(_, group)| group.last_scrape < self.scrapes);
        let mut empty: Vec<(u64, String)> =
            empty.map(|(name, group)| (group.last_scrape, name.clone())).collect();
        empty.sort_unstable();
        let mut empty = empty.into_iter();
        for (_, name) in new {
            match remaining.checked_sub(1) {
                Some(left) => remaining = left,
                None => match empty.next() {
                    Some((_, oldest)) => drop(self.groups.remove(&oldest)),
                    None => return,
                },
            }
            self.groups.insert(name.to_owned(), Group::default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::ProcessStat;

    /// A process that started at `start` and has used `ticks` in user mode.
    fn process(group: &str, pid: u32, start: u64, ticks: u64) -> (String, Process<'static>) {
        let line: &[u8] = b"1 (a) S 0 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 0 0";
        let stat = ProcessStat::parse(line).unwrap();
        let stat = ProcessStat { start_ticks: start, user_ticks: ticks, ..stat };
        (group.to_owned(), Process { pid, ..Process::new(pid, stat) })
    }

    /// Each group's time in user mode.
    fn update(totals: &mut Totals, processes: &[(String, Process<'_>)]) -> Vec<(String, u64)> {
        capped(totals, processes, 100)
    }

    fn capped(
        totals: &mut Totals,
        processes: &[(String, Process<'_>)],
        max_groups: usize,
    ) -> Vec<(String, u64)> {
        let groups = totals.update(processes, max_groups);
        groups.map(|(name, group)| (name.to_owned(), group.used[0].unwrap())).collect()
    }

    fn is(groups: &[(&str, u64)]) -> Vec<(String, u64)> {
        groups.iter().map(|(name, used)| ((*name).to_owned(), *used)).collect()
    }

    #[test]
    fn a_groups_counters_begin_at_zero_and_do_not_fall_when_a_process_ends() {
        let mut totals = Totals::default();
        let start = [process("a", 1, 10, 500), process("a", 2, 20, 300)];
        assert_eq!(update(&mut totals, &start), is(&[("a", 0)]));
        assert_eq!(
            update(&mut totals, &[process("a", 1, 10, 510), process("a", 2, 20, 307)]),
            is(&[("a", 17)])
        );
        assert_eq!(update(&mut totals, &[process("a", 1, 10, 511)]), is(&[("a", 18)]));
        assert_eq!(
            update(&mut totals, &[]),
            is(&[("a", 18)]),
            "a group without processes keeps what it used"
        );
    }

    #[test]
    fn a_process_that_started_later_is_counted_whole_and_once() {
        let mut totals = Totals::default();
        update(&mut totals, &[process("a", 1, 10, 500)]);
        assert_eq!(update(&mut totals, &[process("a", 1, 10, 500), process("a", 2, 30, 4)]), is(&[("a", 4)]));
        assert_eq!(update(&mut totals, &[process("a", 1, 10, 500), process("a", 2, 30, 4)]), is(&[("a", 4)]));
    }

    #[test]
    fn a_pid_that_was_reused_is_another_process() {
        let mut totals = Totals::default();
        update(&mut totals, &[process("a", 1, 10, 500)]);
        assert_eq!(update(&mut totals, &[process("a", 1, 40, 3)]), is(&[("a", 3)]));
    }

    #[test]
    fn a_process_that_was_missed_once_is_not_counted_twice() {
        let mut totals = Totals::default();
        update(&mut totals, &[process("a", 1, 10, 500)]);
        update(&mut totals, &[process("a", 1, 10, 500), process("a", 2, 30, 100)]);
        update(&mut totals, &[process("a", 1, 10, 500)]);
        let groups = update(&mut totals, &[process("a", 1, 10, 500), process("a", 2, 30, 140)]);
        assert_eq!(groups, is(&[("a", 100)]));
    }

    #[test]
    fn a_process_that_changes_its_name_leaves_its_counts_in_its_old_group() {
        let mut totals = Totals::default();
        update(&mut totals, &[process("sh", 1, 10, 0)]);
        update(&mut totals, &[process("sh", 1, 10, 5)]);
        assert_eq!(update(&mut totals, &[process("java", 1, 10, 8)]), is(&[("java", 3), ("sh", 5)]));
    }

    #[test]
    fn a_count_that_was_unknown_for_a_while_continues_from_its_last_value() {
        let switches = |count| {
            let (name, process) = process("a", 1, 10, 0);
            (name, Process { voluntary_switches: count, ..process })
        };
        let at = COUNTERS.iter().position(|counter| counter.labels == [b"voluntary"]).unwrap();
        let mut totals = Totals::default();
        let mut used = |count| totals.update(&[switches(count)], 9).next().unwrap().1.used[at];
        assert_eq!(used(None), None, "absent rather than zero");
        assert_eq!(used(Some(50)), Some(0));
        assert_eq!(used(None), Some(0));
        assert_eq!(used(Some(57)), Some(7));
    }

    #[test]
    fn beyond_the_limit_the_groups_that_started_last_are_others() {
        let start = [
            process("b", 3, 30, 0),
            process("new", 9, 90, 0),
            process("a", 4, 40, 0),
            process("b", 8, 80, 0),
            process("c", 5, 40, 0),
        ];
        let mut totals = Totals::default();
        assert_eq!(capped(&mut totals, &start, 2), is(&[("a", 0), ("b", 0), ("other", 0)]));
        // Known groups stay, however old a new one claims to be.
        let later =
            [process("b", 3, 30, 1), process("a", 4, 40, 2), process("0", 6, 1, 0), process("z", 7, 99, 9)];
        assert_eq!(capped(&mut totals, &later, 2), is(&[("a", 2), ("b", 1), ("other", 9)]));
        assert_eq!(capped(&mut Totals::default(), &start, 0), is(&[("other", 0)]));
    }

    #[test]
    fn a_new_group_replaces_the_one_that_was_empty_longest() {
        let mut totals = Totals::default();
        capped(&mut totals, &[process("a", 1, 10, 0), process("b", 2, 20, 0)], 2);
        capped(&mut totals, &[process("a", 1, 10, 0)], 2);
        capped(&mut totals, &[], 2);
        let groups = capped(&mut totals, &[process("c", 3, 30, 5)], 2);
        assert_eq!(groups, is(&[("a", 0), ("c", 5)]));
        let groups = capped(&mut totals, &[process("c", 3, 30, 6), process("b", 4, 40, 1)], 2);
        assert_eq!(groups, is(&[("b", 1), ("c", 6)]));
    }

    #[test]
    fn the_state_is_bounded_by_the_living_processes_and_the_limit_of_groups() {
        let mut totals = Totals::default();
        for round in 0..50u64 {
            let processes: Vec<_> = (0..40u32)
                .map(|at| process(&format!("{round}-{at}"), at, round * 100 + u64::from(at), 1))
                .collect();
            capped(&mut totals, &processes, 10);
            assert!(totals.last.len() == 40 && totals.groups.len() <= 11, "{}", totals.groups.len());
        }
        let (other, used) = capped(&mut totals, &[], 10).pop().unwrap();
        assert_eq!((other.as_str(), used), ("other", 49 * 30));
    }
}
