//! What must hold at the end of a soak.

use std::{collections::HashSet, path::PathBuf, time::Duration};

use crate::{journal, plan::Plan, soak::most_repeated};

/// What was seen of the fleet at a moment.
#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) at: Duration,
    pub(crate) green: usize,
    pub(crate) red: usize,
    pub(crate) memory: Vec<u64>,
}

#[derive(Debug)]
pub(crate) struct Report {
    plan: Plan,
    folder: PathBuf,
    processes: usize,
    pub(crate) fired: u64,
    /// The number of the event that kills its process.
    pub(crate) poison: Option<u64>,
    pub(crate) kills: u64,
    pub(crate) starts: u32,
    /// Calls that were answered, and that were not.
    pub(crate) calls: (u64, u64),
    pub(crate) letters: Vec<(u64, String)>,
    pub(crate) samples: Vec<Sample>,
}

/// How long after a change of the world health may still tell of the old one.
const SLACK: Duration = Duration::from_secs(10);

impl Report {
    pub(crate) fn new(plan: Plan, folder: PathBuf, processes: usize) -> Self {
        Self {
            plan,
            folder,
            processes,
            fired: 0,
            poison: None,
            kills: 0,
            starts: 0,
            calls: (0, 0),
            letters: Vec::new(),
            samples: Vec::new(),
        }
    }

    fn handled(&self) -> Vec<std::collections::HashMap<u64, u64>> {
        (0..self.processes)
            .map(|child| journal::count(&journal::handled(&self.folder, child)))
            .collect()
    }

    /// How many events are neither handled nor dead letters.
    pub(crate) fn missing(&self, letters: &[(u64, String)]) -> u64 {
        let handled: HashSet<u64> =
            self.handled().into_iter().flat_map(|counts| counts.into_keys()).collect();
        let dead: HashSet<u64> = letters.iter().map(|(number, _)| *number).collect();
        (0..self.fired).filter(|number| !handled.contains(number) && !dead.contains(number)).count()
            as u64
    }

    /// Prints everything; returns whether it is as it should be.
    pub(crate) fn print(&self) -> bool {
        let handled = self.handled();
        let runs: u64 = handled.iter().flat_map(|counts| counts.values()).sum();
        let different: HashSet<u64> =
            handled.iter().flat_map(|counts| counts.keys().copied()).collect();
        let repeated = runs.saturating_sub(different.len() as u64);
        let lost = self.missing(&self.letters);
        let begun: u64 = (0..self.processes)
            .flat_map(|child| journal::count(&journal::begun(&self.folder, child)))
            .map(|(_, times)| times)
            .sum();
        println!("fired {}, handled {}, handler runs {begun}", self.fired, different.len());
        println!("killed {} times, started {} times", self.kills, self.starts);
        println!("calls answered {}, without an answer {}", self.calls.0, self.calls.1);
        let mut good = true;
        let mut check = |holds: bool, what: String| {
            println!("{} {what}", if holds { "ok    " } else { "FAILED" });
            good &= holds;
        };
        check(lost == 0, format!("lost: {lost}"));
        check(repeated <= most_repeated(self.kills + 6), format!("handled again: {repeated}"));
        let dead: Vec<u64> = self.letters.iter().map(|(number, _)| *number).collect();
        check(
            dead == Vec::from_iter(self.poison),
            format!("dead letters, beside {:?}: {:?}", self.poison, self.letters),
        );
        let shares: Vec<usize> = handled.iter().map(|counts| counts.len()).collect();
        let (least, most) = (shares.iter().min().copied(), shares.iter().max().copied());
        let even = least.zip(most).is_some_and(|(least, most)| least * 100 >= most * 90);
        check(even || !self.plan.is_judged(), format!("shares: {shares:?}"));
        self.check_memory(&mut check);
        self.check_health(&mut check);
        good
    }

    /// The highest at the end against the highest when all processes were last started and are warm.
    fn check_memory(&self, check: &mut impl FnMut(bool, String)) {
        let peak = |from: f64, to: f64| {
            let within = |sample: &&Sample| {
                let at = sample.at.as_secs_f64() / self.plan.length.as_secs_f64();
                at >= from && at < to
            };
            let samples = self.samples.iter().filter(within);
            samples.flat_map(|sample| sample.memory.iter().copied()).max().unwrap_or(0)
        };
        let (early, late) = (peak(0.75, 0.85), peak(0.9, 1.0));
        check(
            late <= early + early / 10 || !self.plan.is_judged(),
            format!("memory: {early} KiB, then {late} KiB"),
        );
    }

    /// Red in the outage, but for its first seconds; green outside, but for the first seconds after.
    fn check_health(&self, check: &mut impl FnMut(bool, String)) {
        let end = self.plan.outage + self.plan.outage_length;
        let (mut green_inside, mut inside, mut red_outside, mut outside) = (0, 0, 0, 0);
        for sample in &self.samples {
            if sample.at >= self.plan.outage + SLACK && sample.at < end {
                inside += 1;
                green_inside += usize::from(sample.red == 0);
            } else if sample.at < self.plan.outage || sample.at >= end + 4 * SLACK {
                outside += 1;
                red_outside += usize::from(sample.red > 0);
            }
        }
        check(
            green_inside * 20 <= inside,
            format!("green while the dependency was away: {green_inside} of {inside} looks"),
        );
        check(
            red_outside * 20 <= outside,
            format!("red while it was there: {red_outside} of {outside} looks"),
        );
        let seen = self.samples.iter().map(|sample| sample.green).max().unwrap_or(0);
        check(seen == self.processes, format!("healthy at once: {seen} of {}", self.processes));
    }
}
