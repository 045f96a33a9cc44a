//! CPU time of a process, from the kernel's books.

use std::time::Duration;

use anyhow::{Context, Result};

/// The unit of /proc/PID/stat: 1/100 s on every usual Linux (`getconf CLK_TCK`).
const TICK: Duration = Duration::from_millis(10);

/// User and system time of all threads of a process, ended ones included.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let stat = read_stat(pid)?;
    let field = |index: usize| stat.get(index)?.parse::<u32>().ok();
    let ticks = field(11).zip(field(12)).map(|(user, system)| user + system);
    Ok(TICK * ticks.with_context(|| format!("/proc/{pid}/stat is not as expected"))?)
}

/// The processes whose parent is this one.
pub fn children_of(parent: u32) -> Result<Vec<u32>> {
    let processes = std::fs::read_dir("/proc")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let parent = parent.to_string();
    Ok(processes
        // Some end while this looks at them.
        .filter(|&pid| read_stat(pid).is_ok_and(|stat| stat.get(1) == Some(&parent)))
        .collect())
}

/// The fields behind the program's name, which may itself hold blanks and brackets; the state is the first.
fn read_stat(pid: u32) -> Result<Vec<String>> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    Ok(fields(&text))
}

fn fields(stat: &str) -> Vec<String> {
    let behind_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    behind_name.split_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_blanks_and_brackets_shifts_no_field() {
        let stat = "17 (a) b (c) S 4 17 17 0 -1 4194560 1 0 0 0 250 50 0 0 20 0";
        let got = fields(stat);
        assert_eq!((got[0].as_str(), got[1].as_str()), ("S", "4"));
        assert_eq!((got[11].as_str(), got[12].as_str()), ("250", "50"));
    }

    #[test]
    fn this_process_uses_cpu_and_its_use_only_grows() {
        let pid = std::process::id();
        let before = cpu_time(pid).unwrap();
        let mut sum = 0_u64;
        while cpu_time(pid).unwrap() == before {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(cpu_time(pid).unwrap() > before);
    }

    #[test]
    fn a_child_is_found_by_its_parent() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let found = children_of(std::process::id()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found.contains(&child.id()));
    }
}
