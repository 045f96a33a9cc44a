//! Pictures of our runs: load, capacity by state, waiting and dollars over time.

use std::path::Path;

use anyhow::{Context, Result};
use tidegate::picture;

use super::planners::Kind;
use super::play::Played;

/// Beside the document: world and load for a name.
pub fn name_of(world: &str, load: &str) -> Option<String> {
    let world = match world {
        "one kind" => "",
        "one kind, request by request" => "-requests",
        "several kinds, failures and bids" => "-market",
        _ => return None,
    };
    Some(format!("scaling-{load}{world}.svg"))
}

/// Of the first seed of ours in each world and load; of a fortnight its last week.
pub fn draw(played: &[Played], document: &Path) -> Result<()> {
    let folder = document.parent().unwrap_or(Path::new("."));
    let ours = played
        .iter()
        .filter(|played| played.seed == 1 && played.planned.kind == Kind::Ours);
    for played in ours {
        let Some(name) = name_of(&played.world, &played.load.name) else {
            continue;
        };
        let from = played.load.count_from.as_secs_f64();
        let series = &played.run.series;
        let begin = series.partition_point(|point| point.at_s < from);
        let title = format!("{}: {}", played.load.name, played.world);
        let svg = picture::svg(&title, &series[begin..], 10.0)
            .map_err(|error| anyhow::anyhow!("{error}"))?;
        let path = folder.join(name);
        std::fs::write(&path, svg).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
