//! What an instance wrote, as its customer may read it: by a link that needs no key.

use std::path::PathBuf;

use super::chance::stream;
use super::world::World;

/// The name of an instance's log; nobody can guess it.
pub fn token(world: &World, instance: u64) -> String {
    let mut rng = stream(world.settings.seed, "logs", instance);
    let random: String = (0..24).map(|_| rng.alphanumeric()).collect();
    format!("{instance}-{random}")
}

/// The file behind such a name.
pub fn path(world: &World, name: &str) -> Option<PathBuf> {
    let name = name.strip_suffix(".log")?;
    let instance = name.split('-').next()?.parse().ok()?;
    let known = world.instances.contains_key(&instance) && token(world, instance) == name;
    known.then(|| world.processes.log_path(instance))
}

/// The last lines of a file; nothing where there is none yet.
pub fn tail(path: &PathBuf, lines: usize) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    let mut end = all[all.len().saturating_sub(lines)..].join("\n");
    end.push('\n');
    end
}
