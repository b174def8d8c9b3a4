//! A switch in userspace: for faults that no bridge of the kernel makes, drawn by a seed, and the recorder of every frame.
//!
//! ```text
//!   machine ─ TAP ─> recorded ─> way (from, to): cut, lost, late, slow, corrupted, twice ─> TAP ─ machine
//! ```
//!
//! A frame is stamped and recorded when the thread of its port takes it, which may be some milliseconds after it was sent.
//! It goes where its receiver was last heard, or to all. Every way from one port to another draws from a generator of
//! its own, seeded by the seed of the switch and the names of both ports: what a fault does to the n-th frame of a way is
//! decided by the seed alone. When frames come is the business of real processes and differs from run to run.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crypto::hash::sha256;
use crypto::rng::{Rng as _, SeededRng};
use tun::{Configuration, Device, Layer};

use super::fabric::{Net, Port};
use super::netns::Netns;
use crate::outcome::{Context, Result};

/// How frames fare on the way from one port to another. The default is a good cable.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Way {
    pub cut: bool,
    /// Only datagrams (UDP over IPv4) are cut off, as by a firewall that knows of TCP alone.
    pub cut_datagrams: bool,
    /// Shares of frames, 0 to 1. Only IP is corrupted: of ARP a real link loses what its checksum finds.
    pub lost: f64,
    pub doubled: f64,
    pub corrupted: f64,
    /// Every frame comes so much later, and each by its own part of `jitter` more: frames overtake each other.
    pub delay: Duration,
    pub jitter: Duration,
    /// Octets in a second; what would wait longer than `QUEUE` is lost.
    pub rate: Option<u64>,
}

/// What a slow way keeps, as time.
const QUEUE: Duration = Duration::from_millis(100);

/// How often threads look whether they are to end.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The largest frame: an MTU of 1,500 with room to spare.
const FRAME_MAX: usize = 4_096;
const ETHERNET_LEN: usize = 14;

/// Numbers of ports in a recording begin here, far above those of devices.
const VIA: u32 = 1 << 16;

/// What was done to frames, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    pub passed: u64,
    pub cut: u64,
    pub lost: u64,
    pub doubled: u64,
    pub corrupted: u64,
    pub late: u64,
    /// By a way that was too slow.
    pub full: u64,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Damage { passed, cut, lost, doubled, corrupted, late, full } = self;
        write!(
            f,
            "{passed} frames passed, {late} of them late, {doubled} twice, {corrupted} corrupted; {cut} cut off, {lost} \
             lost, {full} by slowness"
        )
    }
}

/// The switch, until it is dropped.
#[derive(Debug)]
pub struct Switch {
    core: Arc<Core>,
    threads: Vec<JoinHandle<()>>,
}

struct Core {
    seed: u64,
    ending: AtomicBool,
    table: Mutex<Table>,
    late: Mutex<BinaryHeap<Reverse<Late>>>,
    /// Something was put into `late`.
    sooner: Condvar,
    order: AtomicU64,
    recorder: Mutex<Option<Recorder>>,
}

#[derive(Default)]
struct Table {
    plugs: Vec<Plug>,
    /// Behind which port an Ethernet address was last heard, by network.
    places: BTreeMap<(Net, [u8; 6]), usize>,
    ways: HashMap<(usize, usize), Channel>,
    damage: Damage,
}

#[derive(Clone)]
struct Plug {
    port: Port,
    device: Arc<Device>,
}

/// A way with what it has drawn so far.
struct Channel {
    way: Way,
    rng: SeededRng,
    /// When what waits on a slow way has left it.
    free: Instant,
}

/// A frame that leaves later.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Late {
    at: Instant,
    order: u64,
    to: usize,
    frame: Vec<u8>,
}

impl Switch {
    pub fn start(seed: u64) -> Result<Switch> {
        let core = Arc::new(Core {
            seed,
            ending: AtomicBool::new(false),
            table: Mutex::default(),
            late: Mutex::default(),
            sooner: Condvar::new(),
            order: AtomicU64::new(0),
            recorder: Mutex::default(),
        });
        let clock = core.clone();
        let thread = std::thread::Builder::new().name("switch-late".into()).spawn(move || clock.send_late());
        Ok(Switch { core, threads: vec![thread.context("thread")?] })
    }

    /// Gives a machine a device that is plugged in here.
    pub fn connect(&mut self, port: &Port, machine: &Netns, device: &str) -> Result {
        let name = device.to_owned();
        let made = machine.within(move || {
            let mut wanted = Configuration::default();
            wanted.tun_name(&name).layer(Layer::L2).up();
            tun::create(&wanted)
        })?;
        let made = Arc::new(made.context(format!("TAP device {device} of {}", port.machine))?);
        let plug = Plug { port: port.clone(), device: made.clone() };
        let from = {
            let mut table = self.core.table();
            table.plugs.push(plug);
            table.plugs.len() - 1
        };
        let core = self.core.clone();
        let thread = std::thread::Builder::new().name(format!("switch-{from}"));
        self.threads.push(thread.spawn(move || core.listen(from, &made)).context("thread")?);
        Ok(())
    }

    /// How frames fare from now on, and at once, on all of these ways.
    pub fn set(&self, ways: &[(Port, Port, Way)]) -> Result {
        let mut table = self.core.table();
        for (from, to, way) in ways {
            let (from, to) = (table.place(from)?, table.place(to)?);
            self.core.channel(&mut table, from, to).way = *way;
        }
        Ok(())
    }

    /// Every way is a good cable again.
    pub fn heal(&self) {
        self.core.table().ways.values_mut().for_each(|channel| channel.way = Way::default());
    }

    pub fn damage(&self) -> Damage {
        self.core.table().damage
    }

    /// Records every frame that comes in, its first `octets`.
    pub fn record(&self, file: &Path, octets: usize) -> Result {
        let recorder = Recorder::create(file, octets).context(file.display())?;
        *lock(&self.core.recorder) = Some(recorder);
        Ok(())
    }

    /// Ends the recording; `None` when there is none.
    pub fn recorded(&self) -> Result<Option<PathBuf>> {
        let recorder = lock(&self.core.recorder).take();
        recorder.map(|recorder| recorder.finish().context("recording")).transpose()
    }

    /// The ports by the numbers that the recording has for them.
    pub fn ports(&self) -> BTreeMap<u32, Port> {
        let table = self.core.table();
        (VIA..).zip(table.plugs.iter().map(|plug| plug.port.clone())).collect()
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.core.ending.store(true, Ordering::Relaxed);
        self.core.sooner.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Core {
    fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }

    fn ends(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }

    fn listen(&self, from: usize, device: &Device) {
        let mut frame = vec![0; FRAME_MAX];
        while !self.ends() {
            match device.recv_timeout(&mut frame, LOOK_AGAIN) {
                Ok(len) if len >= ETHERNET_LEN => self.pass(from, &frame[..len]),
                Err(error)
                    if !matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::Interrupted) =>
                {
                    // The device is down, or its machine is about to go.
                    std::thread::sleep(LOOK_AGAIN);
                }
                Ok(_) | Err(_) => {}
            }
        }
    }

    fn pass(&self, from: usize, frame: &[u8]) {
        if let Some(recorder) = &mut *lock(&self.recorder) {
            recorder.write(VIA + from as u32, frame);
        }
        let mut now = Vec::new();
        let mut later = Vec::new();
        {
            let mut table = self.table();
            for to in table.receivers(from, frame) {
                let Channel { way, rng, free } = self.channel(&mut table, from, to);
                let way = Way { cut: way.cut || way.cut_datagrams && is_datagram(frame), ..*way };
                let fate = Fate::draw(&way, rng, free, frame.len(), Instant::now());
                fate.count(&mut table.damage);
                let device = table.plugs[to].device.clone();
                for at in fate.comes {
                    let mut frame = frame.to_vec();
                    if let Some((octet, bit)) = fate.flip.filter(|_| is_ip(&frame)) {
                        frame[octet] ^= bit;
                    }
                    match at {
                        None => now.push((device.clone(), frame)),
                        Some(at) => {
                            let order = self.order.fetch_add(1, Ordering::Relaxed);
                            later.push(Reverse(Late { at, order, to, frame }));
                        }
                    }
                }
            }
        }
        for (device, frame) in now {
            // A device that takes nothing is down: so is the cable.
            let _ = device.send(&frame);
        }
        if !later.is_empty() {
            lock(&self.late).extend(later);
            self.sooner.notify_one();
        }
    }

    fn send_late(&self) {
        let mut late = lock(&self.late);
        while !self.ends() {
            let now = Instant::now();
            let wait = match late.peek() {
                Some(Reverse(first)) if first.at <= now => {
                    if let Some(Reverse(Late { to, frame, .. })) = late.pop() {
                        let device = self.table().plugs[to].device.clone();
                        let _ = device.send(&frame);
                    }
                    continue;
                }
                Some(Reverse(first)) => (first.at - now).min(LOOK_AGAIN),
                None => LOOK_AGAIN,
            };
            late = self.sooner.wait_timeout(late, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn channel<'a>(&self, table: &'a mut Table, from: usize, to: usize) -> &'a mut Channel {
        let Table { plugs, ways, .. } = table;
        ways.entry((from, to)).or_insert_with(|| {
            let names = format!("{} {}", plugs[from].port, plugs[to].port);
            let rng = SeededRng::from_seed(sha256(&[&self.seed.to_be_bytes(), names.as_bytes()]));
            Channel { way: Way::default(), rng, free: Instant::now() }
        })
    }
}

impl Table {
    fn place(&self, port: &Port) -> Result<usize> {
        self.plugs.iter().position(|plug| plug.port == *port).context(format!("{port} is not plugged in"))
    }

    /// Who gets the frame; learns where its sender is.
    fn receivers(&mut self, from: usize, frame: &[u8]) -> Vec<usize> {
        let net = self.plugs[from].port.net;
        let address = |at: usize| <[u8; 6]>::try_from(&frame[at..at + 6]).unwrap_or_default();
        let (to, by) = (address(0), address(6));
        self.places.insert((net, by), from);
        let is_group = to[0] & 1 == 1;
        match self.places.get(&(net, to)).filter(|_| !is_group) {
            Some(&to) => (to != from).then_some(to).into_iter().collect(),
            None => {
                let others = self.plugs.iter().enumerate().filter(|(_, plug)| plug.port.net == net);
                others.map(|(to, _)| to).filter(|&to| to != from).collect()
            }
        }
    }
}

fn is_ip(frame: &[u8]) -> bool {
    matches!(frame[12..ETHERNET_LEN], [0x08, 0x00] | [0x86, 0xdd])
}

fn is_datagram(frame: &[u8]) -> bool {
    frame[12..ETHERNET_LEN] == [0x08, 0x00] && frame.get(ETHERNET_LEN + 9) == Some(&17)
}

/// What becomes of a frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Fate {
    cut: bool,
    lost: bool,
    full: bool,
    /// Once for each time that it comes: when; `None`, at once.
    comes: Vec<Option<Instant>>,
    /// This octet with this bit flipped.
    flip: Option<(usize, u8)>,
}

impl Fate {
    fn draw(way: &Way, rng: &mut SeededRng, free: &mut Instant, len: usize, now: Instant) -> Fate {
        // Always as many draws, so that the n-th frame of a way has the same ones whatever became of those before.
        let mut share = || (rng.u64() >> 11) as f64 / (1u64 << 53) as f64;
        let [lost, doubled, corrupted, place, first, second] = std::array::from_fn(|_| share());
        if way.cut || lost < way.lost {
            return Fate { cut: way.cut, lost: !way.cut, ..Fate::default() };
        }
        let mut leaves = now;
        if let Some(rate) = way.rate {
            leaves = now.max(*free);
            if leaves - now > QUEUE {
                return Fate { full: true, ..Fate::default() };
            }
            leaves += Duration::from_secs_f64(len as f64 / rate.max(1) as f64);
            *free = leaves;
        }
        let comes = |share: f64| {
            let at = leaves + way.delay + way.jitter.mul_f64(share);
            (at > now).then_some(at)
        };
        let mut all = vec![comes(first)];
        if doubled < way.doubled {
            all.push(comes(second));
        }
        let bits = (len - ETHERNET_LEN) * 8;
        let bit = (place * bits as f64) as usize;
        let flip =
            (corrupted < way.corrupted && bits > 0).then_some((ETHERNET_LEN + bit / 8, 1 << (bit % 8)));
        Fate { comes: all, flip, ..Fate::default() }
    }

    fn count(&self, damage: &mut Damage) {
        damage.cut += u64::from(self.cut);
        damage.lost += u64::from(self.lost);
        damage.full += u64::from(self.full);
        damage.passed += u64::from(!self.comes.is_empty());
        damage.doubled += u64::from(self.comes.len() > 1);
        damage.corrupted += u64::from(self.flip.is_some());
        damage.late += u64::from(self.comes.iter().any(Option::is_some));
    }
}

/// A file as tcpdump writes it of several devices (LINKTYPE_LINUX_SLL2).
struct Recorder {
    file: BufWriter<File>,
    path: PathBuf,
    octets: usize,
    failed: Option<io::Error>,
}

const LINK_SLL2: u32 = 276;
const SLL2_LEN: usize = 20;

impl Recorder {
    fn create(path: &Path, octets: usize) -> io::Result<Recorder> {
        let mut file = BufWriter::new(File::create(path)?);
        for word in [0xa1b2_c3d4u32, 2 | (4 << 16), 0, 0, 1 << 18, LINK_SLL2] {
            file.write_all(&word.to_le_bytes())?;
        }
        Ok(Recorder { file, path: path.to_owned(), octets, failed: None })
    }

    fn write(&mut self, via: u32, frame: &[u8]) {
        let packet = &frame[ETHERNET_LEN..];
        let kept = &packet[..packet.len().min(self.octets)];
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let [length, captured] = [packet.len(), kept.len()].map(|len| (SLL2_LEN + len) as u32);
        let mut head = Vec::with_capacity(16 + SLL2_LEN);
        for word in [at.as_secs() as u32, at.subsec_micros(), captured, length] {
            head.extend(word.to_le_bytes());
        }
        // Protocol, nothing, device; Ethernet, from another host, its address.
        head.extend(&frame[12..14]);
        head.extend([0, 0]);
        head.extend(via.to_be_bytes());
        head.extend([0, 1, 3, 6]);
        head.extend(&frame[6..12]);
        head.extend([0, 0]);
        let written = self.file.write_all(&head).and_then(|()| self.file.write_all(kept));
        if let Err(error) = written {
            self.failed.get_or_insert(error);
        }
    }

    /// An error when something is missing, for then nothing is proved.
    fn finish(mut self) -> io::Result<PathBuf> {
        self.file.flush()?;
        match self.failed {
            Some(error) => Err(error),
            None => Ok(self.path),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").field("seed", &self.seed).field("damage", &self.table().damage).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: usize = 114;

    fn fates(way: Way, seed: u64, count: usize) -> Vec<Fate> {
        let (mut rng, now) = (SeededRng::new(seed), Instant::now());
        let mut free = now;
        (0..count).map(|_| Fate::draw(&way, &mut rng, &mut free, LEN, now)).collect()
    }

    fn damage(fates: &[Fate]) -> Damage {
        let mut damage = Damage::default();
        fates.iter().for_each(|fate| fate.count(&mut damage));
        damage
    }

    #[test]
    fn a_good_cable_passes_everything_at_once() {
        let all = fates(Way::default(), 1, 1_000);
        assert!(all.iter().all(|fate| *fate == Fate { comes: vec![None], ..Fate::default() }));
        assert_eq!(damage(&all), Damage { passed: 1_000, ..Damage::default() });
    }

    #[test]
    fn faults_come_as_often_as_was_said() {
        let way = Way { lost: 0.2, doubled: 0.1, corrupted: 0.05, ..Way::default() };
        let all = fates(way, 7, 20_000);
        let Damage { passed, lost, doubled, corrupted, .. } = damage(&all);
        assert!(lost.abs_diff(4_000) < 300, "{lost}");
        assert_eq!(passed + lost, 20_000);
        assert!(doubled.abs_diff(1_600) < 200 && corrupted.abs_diff(800) < 150, "{doubled} {corrupted}");
        for (octet, bit) in all.iter().filter_map(|fate| fate.flip) {
            assert!((ETHERNET_LEN..LEN).contains(&octet) && bit.is_power_of_two());
        }
        let cut = fates(Way { cut: true, ..way }, 7, 100);
        assert_eq!(damage(&cut), Damage { cut: 100, ..Damage::default() });
    }

    #[test]
    fn the_seed_decides() {
        let way = Way { lost: 0.3, corrupted: 0.3, doubled: 0.3, ..Way::default() };
        assert_eq!(fates(way, 3, 500), fates(way, 3, 500));
        assert_ne!(fates(way, 3, 500), fates(way, 4, 500));
        // A fault that comes later does not change the draws of the other.
        let lost = |way: Way| fates(way, 3, 500).iter().map(|fate| fate.lost).collect::<Vec<_>>();
        assert_eq!(lost(way), lost(Way { doubled: 0.0, ..way }));
    }

    #[test]
    fn late_frames_overtake_each_other_within_the_jitter() {
        let (delay, jitter) = (Duration::from_millis(20), Duration::from_millis(10));
        let (mut rng, now) = (SeededRng::new(1), Instant::now());
        let mut free = now;
        let way = Way { delay, jitter, ..Way::default() };
        let at: Vec<Duration> = (0..200)
            .map(|_| Fate::draw(&way, &mut rng, &mut free, LEN, now).comes[0].unwrap() - now)
            .collect();
        assert!(at.iter().all(|at| (delay..=delay + jitter).contains(at)));
        assert!(at.windows(2).any(|pair| pair[0] > pair[1]));
    }

    #[test]
    fn a_slow_way_keeps_some_and_loses_the_rest() {
        // 114 octets each 10 ms: ten fit the queue, and the one before them.
        let all = fates(Way { rate: Some(11_400), ..Way::default() }, 1, 50);
        let Damage { passed, full, late, .. } = damage(&all);
        assert_eq!((passed, full, late), (11, 39, 11));
    }

    #[test]
    fn a_recording_is_read_by_the_checkers() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("wire.pcap");
        let mut recorder = Recorder::create(&file, 192).unwrap();
        let mut frame = vec![2; ETHERNET_LEN];
        frame[12..14].copy_from_slice(&[8, 0]);
        frame.extend([0x45; 400]);
        recorder.write(VIA + 3, &frame);
        assert_eq!(recorder.finish().unwrap(), file);
        let mut seen = Vec::new();
        crate::checkers::pcap::for_each_frame(&file, |frame| {
            seen.push((frame.via, frame.ip.len(), frame.whole));
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, [(VIA + 3, 192, false)]);
    }
}
