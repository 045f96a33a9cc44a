//! Keys of Vast that endpoints name, from files that may have mistakes: whoever ends what costs must reach every account.

use super::{Env, Files};
use crate::domain::Secret;

const SETTING: &str = "api_key_env";
/// Words of endpoints that rent there.
const OF_VAST: [&str; 4] = ["vast", "search_params", "launch_args", SETTING];

#[derive(Debug, Default, PartialEq)]
pub struct AccountKeys {
    pub found: Vec<Secret>,
    /// Variables that are named and not set.
    pub missing: Vec<String>,
    /// Something looks as if it were rented at Vast.
    pub vast: bool,
}

/// What the lines of endpoint files name, whether or not they make a configuration.
pub fn account_keys(files: &Files, env: Env) -> AccountKeys {
    let mut keys = AccountKeys::default();
    let texts = files.endpoints.iter().map(|file| file.text.as_str());
    let mut names: Vec<&str> = texts.flat_map(str::lines).filter_map(name_in).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        match env(name).map(|key| key.trim().to_owned()) {
            Some(key) if !key.is_empty() && key.chars().all(|c| c.is_ascii_graphic()) => {
                keys.found.push(Secret::new(key));
            }
            _ => keys.missing.push(format!("${name}")),
        }
    }
    let mut lines = files.endpoints.iter().flat_map(|file| file.text.lines());
    keys.vast = lines.any(|line| {
        let setting = line.split('#').next().unwrap_or_default();
        OF_VAST.iter().any(|word| setting.contains(word))
    });
    keys
}

/// The variable that a line names.
fn name_in(line: &str) -> Option<&str> {
    let (before, after) = line.split_once(SETTING)?;
    let value = after.trim_start_matches(['"', '\'']).trim_start();
    let value = value.strip_prefix(':')?.trim_start();
    let value = value.trim_start_matches(['"', '\'']);
    let end = value.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let name = &value[..end.unwrap_or(value.len())];
    (!before.contains('#') && !name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::super::SourceFile;
    use super::*;

    #[test]
    fn keys_are_found_in_files_that_are_no_configuration() {
        let text = "model: [\n  api_key_env: FIRST # ours\n  {api_key_env: \"SECOND\", x: 1}\n# api_key_env: OLD\napi_key_env: UNSET";
        let files = Files {
            server: SourceFile {
                name: "tidegate.yaml".into(),
                text: String::new(),
            },
            endpoints: vec![SourceFile {
                name: "chat.yaml".into(),
                text: text.into(),
            }],
            unreadable: Vec::new(),
        };
        let env = |name: &str| match name {
            "FIRST" => Some("one".to_owned()),
            "SECOND" => Some(" two\n".to_owned()),
            _ => None,
        };
        let keys = account_keys(&files, &env);
        assert_eq!(keys.found, [Secret::new("one"), Secret::new("two")]);
        assert_eq!(keys.missing, ["$UNSET"]);
        assert!(keys.vast);
        let local = Files {
            endpoints: vec![SourceFile {
                name: "chat.yaml".into(),
                text: "endpoint_name: [ # no vast".into(),
            }],
            ..files
        };
        assert_eq!(account_keys(&local, &env), AccountKeys::default());
    }
}
