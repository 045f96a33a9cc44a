//! `--env`: docker's options for variables, ports, host name, volumes and networks in one text.

use super::words::Word;

/// What the text says, in order, and what Vast's command line would drop without a word.
#[derive(Debug, Default)]
pub(super) struct ParsedEnv {
    /// Names and values; `-p 3000:3000` and the like are names with the value 1.
    pub(super) entries: Vec<(String, String)>,
    /// Where in the text the options were split from, and what is dropped.
    pub(super) dropped: Vec<(usize, String)>,
}

pub(super) fn parse(word: &Word) -> ParsedEnv {
    let mut parsed = ParsedEnv::default();
    let mut option: Option<&str> = None;
    for (at, part) in parts(&word.text) {
        match option.take() {
            None => option = begin(&mut parsed, word.place(at), part),
            Some(option) => {
                if let Err(why) = entry(&mut parsed, option, part) {
                    let what = format!("{option} {}{why}", without_value(part));
                    parsed.dropped.push((word.place(at), what));
                }
            }
        }
    }
    parsed
}

fn begin<'t>(parsed: &mut ParsedEnv, at: usize, part: &'t str) -> Option<&'t str> {
    let known = ["-e", "-p", "-h", "-v", "-n"].contains(&part);
    if !known && !part.trim().is_empty() {
        let what = format!("{} is none of -e -p -h -v -n", without_value(part));
        parsed.dropped.push((at, what));
    }
    known.then_some(part)
}

/// Values may be secrets.
fn without_value(part: &str) -> &str {
    part.split_once('=').map_or(part, |(name, _)| name)
}

fn entry(parsed: &mut ParsedEnv, option: &str, part: &str) -> Result<(), &'static str> {
    let only = |allowed: fn(char) -> bool, what| match part.chars().all(allowed) {
        true => Ok((format!("{option} {part}"), "1".to_owned())),
        false => Err(what),
    };
    let entry = match option {
        "-p" => only(
            |c| c.is_ascii_digit() || ":tcp/ud".contains(c),
            " is no port mapping",
        )?,
        "-v" => only(
            |c| c.is_ascii_alphanumeric() || ":./_".contains(c),
            " is no volume mapping",
        )?,
        "-n" => only(
            |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-',
            " is no network's name",
        )?,
        "-e" => {
            let (name, value) = part.split_once('=').ok_or(" has no value")?;
            (name.to_owned(), value.trim_matches(['\'', '"']).to_owned())
        }
        option => (option.to_owned(), part.to_owned()),
    };
    parsed.entries.push(entry);
    Ok(())
}

/// Split at each blank outside quotes, which stay; two blanks make an empty part.
fn parts(text: &str) -> Vec<(usize, &str)> {
    let (mut single, mut double) = (false, false);
    let mut parts = Vec::new();
    let mut start = 0;
    for (at, c) in text.char_indices() {
        match c {
            ' ' if !single && !double => {
                parts.push((start, &text[start..at]));
                start = at + 1;
            }
            '\'' => single = !single,
            '"' => double = !double,
            _ => {}
        }
    }
    parts.push((start, &text[start..]));
    parts
}

#[cfg(test)]
mod tests {
    use super::super::words;
    use super::*;

    fn check(text: &str, entries: &[(&str, &str)], dropped: &[&str]) {
        let quoted = shlex::try_quote(text).expect("no NUL");
        let word = words::split(&quoted).expect("closed").remove(0);
        let parsed = parse(&word);
        let found: Vec<(&str, &str)> = parsed
            .entries
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(found, entries, "{text}");
        let found: Vec<&str> = parsed
            .dropped
            .iter()
            .map(|(_, what)| what.as_str())
            .collect();
        assert_eq!(found, dropped, "{text}");
    }

    #[test]
    fn options_become_entries_as_the_command_line_makes_them() {
        check(
            "-e MODEL_ARGS=\"--model-id m --quantize gptq\" -e T=k -p 3000:3000",
            &[
                ("MODEL_ARGS", "--model-id m --quantize gptq"),
                ("T", "k"),
                ("-p 3000:3000", "1"),
            ],
            &[],
        );
        check(
            "-e A=b=c -p 70000:70000/udp -h host1 -v /a:/b -n net-1",
            &[
                ("A", "b=c"),
                ("-p 70000:70000/udp", "1"),
                ("-h", "host1"),
                ("-v /a:/b", "1"),
                ("-n net-1", "1"),
            ],
            &[],
        );
    }

    #[test]
    fn what_the_command_line_drops_is_dropped_and_named_without_its_value() {
        check(
            "-e B -p 80-90:80 --shm-size=16g -e  C=d",
            &[],
            &[
                "-e B has no value",
                "-p 80-90:80 is no port mapping",
                "--shm-size is none of -e -p -h -v -n",
                "-e  has no value",
                "C is none of -e -p -h -v -n",
            ],
        );
    }
}
