//! Explores a model and says what was found.
//!
//! Breadth first: so the depth is that of the whole space, and a run that breaks a property is a shortest one.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::Hash;
use std::num::NonZeroUsize;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use stateright::{Checker, Expectation, HasDiscoveries, Model};

use super::variants::Wrong;

/// All states of one model within its bounds.
#[derive(Clone, Debug)]
pub struct Explored {
    pub name: &'static str,
    pub bounds: String,
    pub states: usize,
    pub transitions: usize,
    pub depth: usize,
    pub took: Duration,
    pub properties: Vec<Judged>,
}

/// One property.
#[derive(Clone, Debug)]
pub struct Judged {
    pub name: &'static str,
    pub holds: bool,
    /// It must hold in every state; otherwise one example is enough.
    pub always: bool,
}

/// What a wrong variant leads to.
#[derive(Clone, Debug)]
pub struct Failed {
    pub instead: &'static str,
    pub breaks: &'static str,
    /// A shortest run that breaks it; none is a fault of the model.
    pub run: Option<Vec<String>>,
}

pub fn explore<M>(name: &'static str, bounds: String, model: M) -> Explored
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + PartialEq,
{
    let start = Instant::now();
    let threads = available_parallelism().map_or(1, NonZeroUsize::get);
    let checker = model.checker().threads(threads).spawn_bfs().join();
    let found = checker.discoveries();
    let judge = |property: stateright::Property<M>| {
        let always = property.expectation == Expectation::Always;
        Judged { name: property.name, holds: found.contains_key(property.name) != always, always }
    };
    Explored {
        name,
        bounds,
        states: checker.unique_state_count(),
        transitions: checker.state_count(),
        depth: checker.max_depth(),
        took: start.elapsed(),
        properties: checker.model().properties().into_iter().map(judge).collect(),
    }
}

pub fn shortest<M>(wrong: &Wrong, model: M) -> Failed
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + PartialEq + fmt::Display,
{
    let until = HasDiscoveries::AnyOf(BTreeSet::from([wrong.breaks]));
    // One thread: with more, the first run found need not be a shortest one.
    let checker = model.checker().finish_when(until).spawn_bfs().join();
    let run = checker
        .discovery(wrong.breaks)
        .map(|path| path.into_actions().iter().map(M::Action::to_string).collect());
    Failed { instead: wrong.instead, breaks: wrong.breaks, run }
}

impl Explored {
    pub fn holds(&self) -> bool {
        self.properties.iter().all(|property| property.holds)
    }
}

impl fmt::Display for Explored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Explored { name, bounds, states, transitions, depth, .. } = self;
        let seconds = self.took.as_secs_f64();
        writeln!(f, "{name}: {bounds}")?;
        writeln!(f, "  {states} states, {transitions} transitions, depth {depth}, {seconds:.1} s")?;
        for property in &self.properties {
            let verdict = match (property.always, property.holds) {
                (true, true) => "always",
                (true, false) => "FAILS",
                (false, true) => "reached",
                (false, false) => "NEVER REACHED",
            };
            writeln!(f, "  {verdict:<9} {}", property.name)?;
        }
        Ok(())
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.run {
            Some(run) => {
                writeln!(f, "{}\n  breaks    {}, in {} steps:", self.instead, self.breaks, run.len())?;
                run.iter().try_for_each(|step| writeln!(f, "            {step}"))
            }
            None => writeln!(f, "{}\n  NOTHING FAILS", self.instead),
        }
    }
}
