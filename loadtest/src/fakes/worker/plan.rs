//! What one request asks to go wrong: a fault, or several that each strike once, whichever worker the request reaches.
//!
//! `die-mid-stream=5` strikes at every attempt. `die-mid-stream=5#a, hang=3#b` strikes the first attempt with the one, the
//! second with the other and leaves the third alone: a name behind `#` is used up, for all workers that share a folder
//! of used-up names (`--once-dir`).

use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;
use std::str::FromStr;

use super::fault::Fault;

const NAME_CHARS_MAX: usize = 64;

/// `length:40` in the `user` field: the text ends after 40 tokens, which only the engine knows beforehand.
pub fn length_of_user(user: &str) -> Option<Result<u32, String>> {
    let text = user.strip_prefix("length:")?;
    let length = text.parse().ok().filter(|length| *length > 0);
    Some(length.ok_or_else(|| format!("{text:?} is no length of an answer")))
}

#[derive(Clone, Debug, PartialEq)]
pub struct FaultPlan(Vec<Planned>);

#[derive(Clone, Debug, PartialEq)]
struct Planned {
    fault: Fault,
    /// It strikes once under this name.
    name: Option<String>,
}

impl FaultPlan {
    /// The faults that a `user` field asks for; other users are left alone.
    pub fn of_user(user: &str) -> Option<Result<Self, String>> {
        user.strip_prefix("fault:").map(str::parse)
    }

    /// The first fault that is not used up, which it then is.
    pub fn take(&self, once_dir: Option<&Path>) -> Result<Option<Fault>, String> {
        for planned in &self.0 {
            let strikes = match &planned.name {
                None => true,
                Some(name) => use_up(name, once_dir)?,
            };
            if strikes {
                return Ok(Some(planned.fault));
            }
        }
        Ok(None)
    }
}

/// Whether nobody used up the name before.
fn use_up(name: &str, once_dir: Option<&Path>) -> Result<bool, String> {
    let folder = once_dir.ok_or("a fault with a name needs a worker with --once-dir")?;
    match File::create_new(folder.join(name)) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(format!("{name}: {error}")),
    }
}

impl FromStr for FaultPlan {
    /// What is wrong with the text.
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split(',')
            .map(str::parse)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl FromStr for Planned {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (fault, name) = match text.split_once('#') {
            Some((fault, name)) => (fault, Some(checked(name.trim())?)),
            None => (text, None),
        };
        let fault = fault.parse()?;
        Ok(Self { fault, name })
    }
}

/// A name becomes a file's: nothing that leads elsewhere.
fn checked(name: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || name.len() > NAME_CHARS_MAX || !name.chars().all(plain) {
        return Err(format!("{name:?} is no name for a fault"));
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_without_faults_is_left_alone() {
        assert_eq!(FaultPlan::of_user("alice"), None);
        let plan = FaultPlan::of_user("fault:reset=1").unwrap().unwrap();
        assert_eq!(plan.take(None), Ok(Some(Fault::Reset(Some(1)))));
    }

    #[test]
    fn a_user_may_say_how_long_the_answer_is() {
        assert_eq!(length_of_user("alice"), None);
        assert_eq!(length_of_user("length:40"), Some(Ok(40)));
        assert!(length_of_user("length:0").is_some_and(|length| length.is_err()));
    }

    #[test]
    fn named_faults_strike_once_each_and_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let plan: FaultPlan = "hang=3#a, reset=1#b".parse().unwrap();
        let take = || plan.take(Some(folder.path())).unwrap();
        let struck = [take(), take(), take()];
        let wanted = [
            Some(Fault::Hang(Some(3))),
            Some(Fault::Reset(Some(1))),
            None,
        ];
        assert_eq!(struck, wanted);
    }

    #[test]
    fn a_name_that_is_a_path_or_has_no_folder_is_refused() {
        for wrong in ["hang#", "hang#../x", "hang#a/b", "hang#.", "hang#a#b"] {
            assert!(wrong.parse::<FaultPlan>().is_err(), "{wrong:?} was taken");
        }
        let plan: FaultPlan = "hang#a".parse().unwrap();
        assert!(plan.take(None).is_err());
    }
}
