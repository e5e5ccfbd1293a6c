//! The machine a result was measured on, in one line.

use std::path::Path;

use cairn_env::Env;

/// Processor, cores, memory and kernel, as far as the system tells.
pub fn machine(env: &Env) -> String {
    let cpuinfo = read(env, "/proc/cpuinfo");
    let model = field(&cpuinfo, "model name").unwrap_or("unknown processor");
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let meminfo = read(env, "/proc/meminfo");
    let memory_kib = field(&meminfo, "MemTotal").and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
    let kernel = read(env, "/proc/sys/kernel/osrelease");
    let memory_gib = memory_kib.unwrap_or(0) as f64 / f64::from(1 << 20);
    format!("{model}, {cores} cores, {memory_gib:.1} GiB, Linux {}", kernel.trim())
}

/// The value of `name : value`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim())
}

/// The beginning of a file of the kernel's; those say that they are empty.
fn read(env: &Env, path: &str) -> String {
    let mut bytes = vec![0; 256 << 10];
    let read = env.open(Path::new(path)).and_then(|file| file.read_at(&mut bytes, 0));
    bytes.truncate(read.unwrap_or(0));
    String::from_utf8_lossy(&bytes).into_owned()
}
