//! One target under libFuzzer, which owns the program's `main`: `FUZZ_TARGET=requests fuzz CORPUS -max_total_time=600`.
//! With `FUZZ_SEEDS=FOLDER` it writes the target's seeds there and ends.
#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use loadtest::fuzz::{TARGETS, Target, target};

static CHOSEN: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    target(&name).unwrap_or_else(|| {
        let names = TARGETS.map(|target| target.name).join(", ");
        eprintln!("FUZZ_TARGET must be one of {names}");
        std::process::exit(2)
    })
});

libfuzzer_sys::fuzz_target!(
    init: {
        if let Some(folder) = std::env::var_os("FUZZ_SEEDS") {
            write_seeds(Path::new(&folder));
        }
    },
    |input: &[u8]| (CHOSEN.check)(input)
);

fn write_seeds(folder: &Path) -> ! {
    let written = (0..)
        .zip((CHOSEN.seeds)())
        .try_for_each(|(nth, seed)| std::fs::write(folder.join(format!("seed-{nth}")), seed));
    if let Err(error) = written {
        eprintln!("{}: {error}", folder.display());
        std::process::exit(1)
    }
    std::process::exit(0)
}
