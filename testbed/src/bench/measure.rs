//! Processor time, read from /proc before and after.
//!
//! Three numbers, since each lies in its own way: the process (user and system time, with threads that have ended), its
//! threads (to the nanosecond, without those that ended), and the machine (all that was busy; softirq work for the
//! gateway may be billed to whoever was interrupted). A result deserves trust if all go the same way.

use std::fs;
use std::time::Instant;

use serde::Serialize;

use crate::outcome::{Context, Result};

/// The kernel's unit in /proc on all machines (USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;

/// What something cost.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figures {
    pub wall_s: f64,
    /// What was carried, as its receiver counts: payload octets.
    pub bytes: u64,
    /// User and system time of the process.
    pub process_cpu_s: f64,
    /// The same from its threads' own accounts; 0 where the kernel keeps none.
    pub threads_cpu_s: f64,
    /// What all processors of the machine were busy with, the process included.
    pub machine_cpu_s: f64,
    /// Share of the machine's time that the hypervisor took away, 0 to 1.
    pub steal_share: f64,
}

impl Figures {
    /// Processor seconds of the process per gigabyte (10^9 octets).
    pub fn cpu_s_per_gb(&self) -> f64 {
        self.process_cpu_s / self.gigabytes()
    }

    /// Processor seconds of the whole machine per gigabyte: client, gateway, server and kernel.
    pub fn machine_cpu_s_per_gb(&self) -> f64 {
        self.machine_cpu_s / self.gigabytes()
    }

    pub fn gbit_per_s(&self) -> f64 {
        self.gigabytes() * 8.0 / self.wall_s
    }

    fn gigabytes(&self) -> f64 {
        self.bytes as f64 / 1e9
    }
}

/// Runs something that makes the process `pid` work, and gives what that cost. `run` returns the octets carried.
pub fn measure(pid: u32, run: impl FnOnce() -> Result<u64>) -> Result<Figures> {
    measure_all(&[pid], run)
}

/// As `measure`, for processes that do something together.
pub fn measure_all(pids: &[u32], run: impl FnOnce() -> Result<u64>) -> Result<Figures> {
    let before = Reading::take(pids)?;
    let bytes = run()?;
    let after = Reading::take(pids)?;
    Ok(after.since(&before, bytes))
}

#[derive(Clone, Copy, Debug)]
struct Reading {
    at: Instant,
    process_ticks: u64,
    threads_ns: u64,
    machine: Machine,
}

/// The first line of /proc/stat, in ticks of all processors together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Machine {
    busy: u64,
    idle: u64,
    steal: u64,
}

impl Reading {
    fn take(pids: &[u32]) -> Result<Reading> {
        let (mut ticks, mut ns) = (0, 0);
        for &pid in pids {
            let stat = read(&format!("/proc/{pid}/stat"))?;
            ticks += process_ticks(&stat).context(format!("process {pid}: no times in its stat"))?;
            ns += threads_ns(pid);
        }
        let machine = Machine::parse(&read("/proc/stat")?).context("no times in /proc/stat")?;
        Ok(Reading { at: Instant::now(), process_ticks: ticks, threads_ns: ns, machine })
    }

    fn since(&self, before: &Reading, bytes: u64) -> Figures {
        let ticks = |now: u64, then: u64| now.saturating_sub(then) as f64 / TICKS_PER_SECOND;
        let busy = ticks(self.machine.busy, before.machine.busy);
        let idle = ticks(self.machine.idle, before.machine.idle);
        let steal = ticks(self.machine.steal, before.machine.steal);
        Figures {
            wall_s: (self.at - before.at).as_secs_f64(),
            bytes,
            process_cpu_s: ticks(self.process_ticks, before.process_ticks),
            threads_cpu_s: self.threads_ns.saturating_sub(before.threads_ns) as f64 / 1e9,
            machine_cpu_s: busy,
            steal_share: if steal > 0.0 { steal / (busy + idle + steal) } else { 0.0 },
        }
    }
}

impl Machine {
    fn parse(stat: &str) -> Option<Machine> {
        let line = stat.lines().next()?.strip_prefix("cpu ")?;
        let times: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        // user nice system idle iowait irq softirq steal; what guests used is in user and nice already.
        let [user, nice, system, idle, iowait, irq, softirq, steal] = *times.first_chunk()?;
        Some(Machine { busy: user + nice + system + irq + softirq, idle: idle + iowait, steal })
    }
}

/// User and system time of a process with all its threads, past ones too. The name before it may hold anything.
fn process_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(11);
    let (user, system) = (fields.next()?.parse::<u64>().ok()?, fields.next()?.parse::<u64>().ok()?);
    Some(user + system)
}

/// The sum over the living threads of the time on a processor.
fn threads_ns(pid: u32) -> u64 {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    let times = threads.flatten().filter_map(|thread| {
        let schedstat = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        schedstat.split_whitespace().next()?.parse::<u64>().ok()
    });
    times.sum()
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).context(path)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};
    use std::time::Duration;

    use super::*;

    struct Ended(Child);

    impl Drop for Ended {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// Measures a script until it has had a fifth of a second of processor time, or for `limit`.
    fn figures_of(script: &str, limit: Duration) -> Figures {
        let child = Ended(Command::new("sh").args(["-c", script]).spawn().unwrap());
        let run = || {
            let started = Instant::now();
            while threads_ns(child.0.id()) < 200_000_000 && started.elapsed() < limit {
                std::thread::sleep(Duration::from_millis(10));
            }
            Ok(2_000_000_000)
        };
        measure(child.0.id(), run).unwrap()
    }

    #[test]
    fn a_busy_process_costs_and_an_idle_one_does_not() {
        let busy = figures_of("while :; do :; done", Duration::from_secs(120));
        assert!(busy.process_cpu_s > 0.1 && busy.process_cpu_s < busy.wall_s + 0.05, "{busy:?}");
        assert!((busy.threads_cpu_s - busy.process_cpu_s).abs() < 0.05, "{busy:?}");
        assert!(busy.machine_cpu_s > busy.process_cpu_s / 2.0, "{busy:?}");
        assert_eq!(busy.cpu_s_per_gb(), busy.process_cpu_s / 2.0);
        let idle = figures_of("exec sleep 5", Duration::from_millis(300));
        assert!(idle.process_cpu_s < 0.05, "{idle:?}");
    }

    #[test]
    fn a_process_that_is_gone_is_an_error() {
        let mut child = Command::new("true").spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        assert!(measure(pid, || Ok(1)).is_err());
    }

    #[test]
    fn times_are_where_the_kernel_puts_them() {
        let stat = "42 (a ) b) S 1 42 42 0 -1 4194560 1 2 3 4 150 50 7 8 20 0 1 0 9\n";
        assert_eq!(process_ticks(stat), Some(200));
        assert_eq!(process_ticks("42 (a) S 1 42"), None);
        let machine = "cpu  100 20 30 400 50 6 7 8 90 10\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(Machine::parse(machine), Some(Machine { busy: 163, idle: 450, steal: 8 }));
        assert_eq!(Machine::parse("cpu  1 2 3\n"), None);
    }
}
