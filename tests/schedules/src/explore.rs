//! Plays a scenario in many schedules, or in one again.
//!
//! `LITESTREAM_SEED` says where the dice begin, `LITESTREAM_SCHEDULES` how many schedules there are of each kind. A failure
//! prints its schedule; in `LITESTREAM_REPLAY`, beside the test's name, that schedule alone is played.

use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler, Scheduler};
use shuttle::{Config, MaxSteps, Runner};
use std::sync::Arc;

/// Schedules of each kind, unless a person says otherwise.
const SCHEDULES: usize = 5_000;

/// Steps after which a schedule is one that never ends; a usual one has a few hundred.
const STEPS: usize = 20_000;

/// Schedules by priorities: in how many places a thread is left that could go on, and one. Their long runs of one thread find
/// what a fair mixture never does.
const DEPTHS: [usize; 2] = [3, 5];

fn variable<T: std::str::FromStr>(name: &str, otherwise: T) -> T {
    std::env::var(name).ok().map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}?")))
}

/// 0 up to `n - 1`; part of the schedule.
pub(crate) fn below(n: u64) -> u64 {
    thread_rng().gen_range(0..n)
}

/// Plays the scenario on a thread that may begin others. It must hold whatever they do, and all of them must end.
pub fn explore(scenario: impl Fn() + Send + Sync + 'static) {
    let scenario = Arc::new(scenario);
    if let Ok(schedule) = std::env::var("LITESTREAM_REPLAY") {
        return play("One schedule", ReplayScheduler::new_from_encoded(&schedule), &scenario);
    }
    let (seed, count) = (variable("LITESTREAM_SEED", 1), variable("LITESTREAM_SCHEDULES", SCHEDULES));
    play(&format!("By dice from seed {seed}"), RandomScheduler::new_from_seed(seed, count), &scenario);
    for depth in DEPTHS {
        let kind = format!("By priorities of depth {depth} from seed {seed}");
        play(&kind, PctScheduler::new_from_seed(seed, depth, count), &scenario);
    }
}

fn play(kind: &str, scheduler: impl Scheduler + 'static, scenario: &Arc<impl Fn() + Send + Sync + 'static>) {
    // Shown where the test fails, before shuttle's own words.
    eprintln!("{kind}. What is printed as the failing schedule is played again by LITESTREAM_REPLAY.");
    let mut config = Config::new();
    config.silence_warnings = true; // of orders of memory that are not explored
    config.max_steps = MaxSteps::FailAfter(STEPS);
    let scenario = Arc::clone(scenario);
    Runner::new(scheduler, config).run(move || scenario());
}
