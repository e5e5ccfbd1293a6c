//! `cargo xtask accept`: the acceptance runs against the real binary, one line of figures each.
//!
//! Three parts, each under both profiles:
//! 1. every file of a directory of validation files, on an empty database;
//! 2. the same, with the server killed (SIGKILL) and started again in the middle;
//! 3. files that `cairn generate` makes, with a compaction and a restart in the middle; then
//!    `cairn check`; then everything deleted and compacted, and the directory measured.
//!
//! It ends at the first thing that is not as it should be, and says which command showed it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::server::Server;

/// After everything is deleted and compacted, a directory is smaller than this.
const EMPTY_BYTES_MAX: u64 = 4 << 20;

/// What to run.
pub(crate) struct Plan {
    /// Validation files, if part 1 and 2 are wanted.
    pub(crate) files: Option<PathBuf>,
    /// How many generated files.
    pub(crate) generated: u64,
    /// Lines of each.
    pub(crate) lines: u64,
    /// How often the server is killed in part 2.
    pub(crate) kills: u32,
    /// The server's durability.
    pub(crate) durability: String,
    /// The first seed.
    pub(crate) seed: u64,
    /// Where databases and generated files go.
    pub(crate) scratch: PathBuf,
}

type Result<T> = std::result::Result<T, String>;

const PROFILES: [&str; 2] = ["default", "series"];
const KINDS: [&str; 4] = ["put", "put-delete", "put-delete-scan", "concurrency"];

fn flags<'a>(plan: &'a Plan, profile: &'a str) -> [&'a str; 4] {
    ["--profile", profile, "--durability", &plan.durability]
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap_or("a path that is not UTF-8")
}

fn output(binary: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new(binary).args(arguments).output().map_err(|e| e.to_string())?;
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(out);
    }
    Err(format!("cairn {}: {}\n{out}{}", arguments.join(" "), output.status, String::from_utf8_lossy(&output.stderr)))
}

fn connections(file: &Path) -> &'static str {
    if text(file).contains("concurrency") { "64" } else { "1" }
}

fn validate(binary: &Path, file: &Path, url: &str) -> Result<Child> {
    Command::new(binary)
        .args(["validate", text(file), "--url", url, "--connections", connections(file), "--retry", "30s"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| e.to_string())
}

/// Waits for a validation; its last line, and the peak in flight.
fn verdict(child: Child, file: &Path) -> Result<String> {
    let output = child.wait_with_output().map_err(|e| e.to_string())?;
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    let last = out.lines().last().unwrap_or_default();
    if !output.status.success() || !last.ends_with(" passed, 0 failed") {
        return Err(format!("cairn validate {}: {}\n{out}{err}", file.display(), output.status));
    }
    let peak = out.lines().chain(err.lines()).find(|line| line.starts_with("peak in flight")).unwrap_or("peak unknown");
    Ok(format!("{last}; {peak}"))
}

fn counts(binary: &Path, url: &str) -> Result<String> {
    let stats = output(binary, &["stats", url])?;
    let count = |name: &str| {
        let line = stats.lines().find(|line| line.trim_start().starts_with(name));
        line.and_then(|line| line.split_ascii_whitespace().nth(1)).unwrap_or("?").to_owned()
    };
    Ok(format!("{} flushes, {} compactions", count("flushes_count"), count("compactions_count")))
}

fn directory_bytes(dir: &Path) -> Result<u64> {
    let entries = fs::read_dir(dir).map_err(|e| e.to_string())?;
    Ok(entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|meta| meta.len()).sum())
}

/// Runs the plan.
pub(crate) fn run(binary: &Path, plan: &Plan) -> Result<()> {
    fs::create_dir_all(&plan.scratch).map_err(|e| format!("{}: {e}", plan.scratch.display()))?;
    println!("durability {}, databases in {}", plan.durability, plan.scratch.display());
    if let Some(files) = &plan.files {
        let mut list: Vec<PathBuf> = fs::read_dir(files)
            .map_err(|e| format!("{}: {e}", files.display()))?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
            .collect();
        list.sort();
        for profile in PROFILES {
            for file in &list {
                series_file(binary, plan, profile, file)?;
            }
        }
    }
    for profile in PROFILES {
        for n in 0..plan.generated {
            generated_file(binary, plan, profile, n)?;
        }
    }
    Ok(())
}

fn fresh(plan: &Plan, name: &str) -> Result<PathBuf> {
    let dir = plan.scratch.join(name);
    match fs::remove_dir_all(&dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(format!("{}: {e}", dir.display())),
        _ => Ok(dir),
    }
}

/// Parts 1 and 2.
fn series_file(binary: &Path, plan: &Plan, profile: &str, file: &Path) -> Result<()> {
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let dir = fresh(plan, "series")?;
    let server = Server::start(binary, &dir, "127.0.0.1:0", &flags(plan, profile))?;
    let began = Instant::now();
    let told = verdict(validate(binary, file, server.url())?, file)?;
    let took = began.elapsed();
    let counts = counts(binary, server.url())?;
    println!("{profile:8} {name:20} {told}; {counts}; {:.1} s", took.as_secs_f64());
    server.stop()?;

    let dir = fresh(plan, "series")?;
    let mut server = Server::start(binary, &dir, "127.0.0.1:0", &flags(plan, profile))?;
    let address = server.address();
    let running = validate(binary, file, server.url())?;
    for _ in 0..plan.kills {
        sleep(took / (plan.kills + 1));
        server.kill()?;
        server = Server::start(binary, &dir, &address, &flags(plan, profile))?;
    }
    let told = verdict(running, file)?;
    println!("{profile:8} {name:20} {told}; killed and restarted {} times", plan.kills);
    server.stop()?;
    output(binary, &["check", text(&dir)]).map(drop)
}

/// Part 3.
fn generated_file(binary: &Path, plan: &Plan, profile: &str, n: u64) -> Result<()> {
    let kind = KINDS.get(usize::try_from(n % 4).unwrap_or_default()).copied().unwrap_or("put");
    let seed = plan.seed + n;
    let file = plan.scratch.join(format!("{kind}-{seed}.txt"));
    let (seed_text, lines) = (seed.to_string(), plan.lines.to_string());
    output(binary, &["generate", kind, "--seed", &seed_text, "--lines", &lines, "--out", text(&file)])?;

    let dir = fresh(plan, "generated")?;
    let server = Server::start(binary, &dir, "127.0.0.1:0", &flags(plan, profile))?;
    let address = server.address();
    let began = Instant::now();
    let mut running = validate(binary, &file, server.url())?;
    // In the middle, by time: a flush and a compaction of all, then a clean restart.
    sleep(Duration::from_secs(2));
    output(binary, &["compact", server.url()])?;
    let mut restarted = running.try_wait().map_err(|e| e.to_string())?.is_none();
    server.stop()?;
    let server = Server::start(binary, &dir, &address, &flags(plan, profile))?;
    sleep(Duration::from_millis(200));
    restarted &= running.try_wait().map_err(|e| e.to_string())?.is_none();
    let told = verdict(running, &file)?;
    let took = began.elapsed();
    let middle = if restarted { "compacted and restarted midway" } else { "over before the restart" };
    let counts = counts(binary, server.url())?;

    let url = server.url().to_owned();
    server.stop()?;
    let sound = output(binary, &["check", text(&dir)])?;
    let server = Server::start(binary, &dir, &address, &flags(plan, profile))?;
    let keys = output(binary, &["scan", "--keys", "--url", &url])?;
    let deletes: String = keys.lines().map(|key| format!("DELETE {key}\n")).collect();
    let script = plan.scratch.join("deletes.txt");
    fs::write(&script, deletes).map_err(|e| e.to_string())?;
    verdict(validate(binary, &script, &url)?, &script)?;
    output(binary, &["compact", &url])?;
    server.stop()?;
    let bytes = directory_bytes(&dir)?;
    println!(
        "{profile:8} {kind:16} seed {seed:<4} {told}; {middle}; {counts}; {:.1} s; {}; emptied: {bytes} bytes",
        took.as_secs_f64(),
        sound.lines().last().unwrap_or_default()
    );
    if bytes >= EMPTY_BYTES_MAX {
        return Err(format!("{} holds {bytes} bytes after everything was deleted and compacted", dir.display()));
    }
    fs::remove_file(&file).map_err(|e| e.to_string())
}
