//! The stage `cuts`: power cuts on a real file system.
//!
//! A victim writes to ext4 in a file behind a loop device. `EXT4_IOC_SHUTDOWN` stops that file system
//! between two writes to the device, as a power cut would: with flag 2 what its journal had not
//! committed is gone, with flag 1 the journal is committed first, and names arrive without their
//! data. The victim is killed, the file system mounted again, and what is there is judged: everything
//! acknowledged or shown as durable before the cut began, and a prefix of the rest. What the victim still
//! says while it lives on without its disk binds nobody ([`Ledger::cut_begins`](super::ledger::Ledger::cut_begins)).

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use super::ledger::{Counts, End, pause_ms};
use super::random::Random;
use super::stage::{Context, Figure, Outcome, Scene, Stop};
use super::victims::Victims;

pub(crate) const NEEDS: &str = "root, loop devices, mkfs.ext4 and perl";

/// Cuts of one directory.
const CUTS_OF_ONE: u64 = 20;
/// Then `cairn check` looks at what was left.
const CHECK_EVERY: u64 = 5;
const IMAGE_BYTES: u64 = 256 << 20;

/// Cuts the power of the mount point `$ARGV[0]` with the flag `$ARGV[1]`, once its input ends. Perl, because
/// an ioctl of one's own choice is `unsafe` in Rust, and Debian has no system without Perl.
const SHUTDOWN: &str = r#"open(F, "<", $ARGV[0]) or die "$!"; $| = 1; print "ready\n"; <STDIN>;
    ioctl(F, 0x8004587d, pack("L", $ARGV[1])) or die "$!";"#;

/// The file system, unmounted when dropped; its loop device goes with the mount. The image stays: after
/// a failure it is the evidence.
struct Disk {
    image: PathBuf,
    mount: PathBuf,
}

fn command(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output().map_err(|e| format!("{program}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap_or("a path that is not UTF-8")
}

impl Disk {
    /// Makes and mounts it. An error means that this machine cannot.
    fn make(scratch: &Path) -> Result<Disk, String> {
        let disk = Disk { image: scratch.join("disk.img"), mount: scratch.join("mount") };
        fs::create_dir_all(&disk.mount).map_err(|e| format!("{}: {e}", disk.mount.display()))?;
        let image = File::create(&disk.image).and_then(|file| file.set_len(IMAGE_BYTES));
        image.map_err(|e| format!("{}: {e}", disk.image.display()))?;
        command("mkfs.ext4", &["-q", "-F", text(&disk.image)])?;
        disk.mount()?;
        Ok(disk)
    }

    fn mount(&self) -> Result<(), String> {
        command("mount", &["-t", "ext4", "-o", "loop", text(&self.image), text(&self.mount)])
    }

    /// Makes ready to cut the power, so that between the word and the cut there is next to no time.
    fn arm(&self, flag: u64) -> Result<Cutter, String> {
        let failed = |e| format!("perl: {e}");
        let mut child = Command::new("perl")
            .args(["-e", SHUTDOWN, text(&self.mount), &flag.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let mut ready = [0; 6];
        let said = child.stdout.as_mut().map(|out| out.read_exact(&mut ready));
        match said {
            Some(Ok(())) => Ok(Cutter(child)),
            _ => Err(Cutter(child).cut().err().unwrap_or_else(|| "perl said nothing".to_owned())),
        }
    }

    fn unmount(&self) -> Result<(), String> {
        let mut result = Ok(());
        // A process that was killed lets go of its files a little later.
        for _ in 0..100 {
            result = command("umount", &[text(&self.mount)]);
            if result.is_ok() {
                break;
            }
            sleep(Duration::from_millis(20));
        }
        result
    }
}

/// What cuts the power on a word.
struct Cutter(Child);

impl Cutter {
    fn cut(mut self) -> Result<(), String> {
        drop(self.0.stdin.take());
        let output = self.0.wait_with_output().map_err(|e| format!("perl: {e}"))?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("perl, cutting: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.unmount().is_err() {
            let _ = command("umount", &["-l", text(&self.mount)]);
        }
    }
}

/// Unmounts what a run that was interrupted left mounted.
pub(crate) fn release(scratch: &Path) {
    let mount = scratch.join("mount");
    if mount.is_dir() {
        // Fails where nothing is mounted, as it should be.
        let _ = command("umount", &[text(&mount)]);
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, Default)]
struct Cuts {
    cuts: u64,
    with_journal: u64,
    while_opening: u64,
    checks: u64,
    counts: Counts,
}

/// Cuts until the time is over, and at least `least` times.
pub(crate) fn run(context: &Context<'_>, stop: &Stop, least: u64) -> Outcome {
    let disk = match Disk::make(context.scratch) {
        Ok(disk) => disk,
        Err(e) => return Outcome::Skipped(format!("no file system of one's own to cut: {e}")),
    };
    if let Err(e) = disk.arm(2).and_then(Cutter::cut).and_then(|()| disk.unmount()).and_then(|()| disk.mount()) {
        return Outcome::Skipped(format!("no EXT4_IOC_SHUTDOWN: {e}"));
    }
    let mut cuts = Cuts::default();
    for round in 0.. {
        if cuts.cuts >= least && stop.is_over() {
            break;
        }
        // Below directories that do not exist either: their names are in the first cut too.
        let dir = disk.mount.join(format!("round{round}")).join("db");
        let seed = Random::of(&[context.seed, 7, round]).next() >> 16;
        // Mixed first: it has most to go wrong.
        let victims = Victims::new(context, seed, dir, [round, round + 1], End::Machine);
        let mut directory = Directory { context, disk: &disk, victims };
        let done = directory.run(stop, least, &mut cuts);
        cuts.counts.add(&directory.victims.ledger.counts);
        if let Err(e) = done {
            let what = format!("round {round}, {}: {e}", directory.victims);
            return Outcome::Failed { figures: figures(&cuts), what, replay: None };
        }
    }
    Outcome::Passed(figures(&cuts))
}

fn figures(cuts: &Cuts) -> Vec<Figure> {
    vec![
        Figure::new("power cuts", cuts.cuts),
        Figure::new("of them with the journal committed", cuts.with_journal),
        Figure::new("of them before the opening was done", cuts.while_opening),
        Figure::new("writes acknowledged", cuts.counts.acknowledged),
        Figure::new("acknowledged writes checked", cuts.counts.checked),
        Figure::new("buffered writes gone, as they may", cuts.counts.gone_with_machine),
        Figure::new("writers who lost what was said after the cut had begun", cuts.counts.late_and_gone),
        Figure::new("reads noted", cuts.counts.reads),
        Figure::new("checks of all files", cuts.checks),
    ]
}

/// One directory.
struct Directory<'a> {
    context: &'a Context<'a>,
    disk: &'a Disk,
    victims: Victims<'a>,
}

impl Directory<'_> {
    fn run(&mut self, stop: &Stop, least: u64, cuts: &mut Cuts) -> Result<(), String> {
        let mut random = Random::of(&[self.victims.seed, 8]);
        for life in 1..=CUTS_OF_ONE {
            if cuts.cuts >= least && stop.is_over() {
                break;
            }
            let flag = 1 + cuts.cuts % 2;
            let scene = Scene(format!("cut {life} with flag {flag}"));
            let before = self.victims.ledger.counts.recoveries;
            self.live_and_be_cut(&mut random, flag).map_err(scene.at())?;
            cuts.cuts += 1;
            cuts.with_journal += flag % 2;
            cuts.while_opening += u64::from(self.victims.ledger.counts.recoveries == before);
            if life % CHECK_EVERY == 0 && self.victims.ledger.counts.recoveries > 0 {
                self.context.check(&self.victims.dir).map_err(scene.at())?;
                cuts.checks += 1;
            }
        }
        self.victims.look()?;
        let above = self.victims.dir.parent().unwrap_or(&self.victims.dir);
        fs::remove_dir_all(above).map_err(|e| format!("{}: {e}", above.display()))
    }

    fn live_and_be_cut(&mut self, random: &mut Random, flag: u64) -> Result<(), String> {
        self.victims.ledger.forget_errors();
        let mut victim = self.victims.start()?;
        if random.chance(4) {
            victim.run_for(&mut self.victims.ledger, Duration::from_millis(pause_ms(random, 30)))?;
        } else {
            victim.until_found(&mut self.victims.ledger)?;
            victim.run_for(&mut self.victims.ledger, Duration::from_millis(pause_ms(random, 300)))?;
        }
        if let Some(error) = self.victims.ledger.last_error() {
            return Err(format!("an error before the cut: {error}"));
        }
        let cutter = self.disk.arm(flag)?;
        victim.run_for(&mut self.victims.ledger, Duration::ZERO)?;
        self.victims.ledger.cut_begins();
        cutter.cut()?;
        // The process learns of it in the middle of whatever it is doing, and must not panic.
        victim.run_for(&mut self.victims.ledger, Duration::from_millis(pause_ms(random, 10)))?;
        victim.kill_or_bury(&mut self.victims.ledger)?;
        self.disk.unmount()?;
        self.disk.mount()
    }
}
