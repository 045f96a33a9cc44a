//! The flags of `vastai create instance`, from one text.

use super::super::section::Section;
use super::env;
use super::options::Given;
use super::place::{Located, Place};
use super::words::{self, Word};

/// Flags with a value.
const VALUED: [&str; 19] = [
    "--template_hash",
    "--user",
    "--disk",
    "--image",
    "--login",
    "--label",
    "--onstart",
    "--onstart-cmd",
    "--entrypoint",
    "--jupyter-dir",
    "--extra",
    "--env",
    "--bid_price",
    "--create-volume",
    "--link-volume",
    "--volume-size",
    "--mount-path",
    "--volume-label",
    "--args",
];
const SWITCHES: [&str; 8] = [
    "--ssh",
    "--jupyter",
    "--direct",
    "--jupyter-lab",
    "--lang-utf8",
    "--python-utf8",
    "--force",
    "--cancel-unavail",
];

pub(super) fn parse(g: &Section, located: &Located) -> Option<Given> {
    let words = match words::split(located.text) {
        Ok(words) => words,
        Err(words::Open(at)) => {
            let (line, column) = located.place(at);
            let what = "launch_args has an open quote";
            g.reader
                .mistake(line, column, what, "a quote that closes it");
            return None;
        }
    };
    let mut parser = Parser {
        g,
        located,
        given: Given::default(),
    };
    let mut words = words.into_iter().peekable();
    while let Some(word) = words.next() {
        let place = parser.located.place(word.start);
        let (name, inline) = match word.text.split_once('=') {
            Some((name, _)) if name.starts_with("--") => {
                (name.to_owned(), Some(word.behind(name.len() + 1)))
            }
            _ => (word.text.clone(), None),
        };
        match flag_named(&name) {
            Flag::Named("--args") if inline.is_none() => {
                let rest = words.by_ref().map(|word| word.text);
                parser.given.args = Some(rest.collect());
                parser.given.placed("args", place);
            }
            Flag::Named(flag) if SWITCHES.contains(&flag) => {
                if inline.is_some() {
                    parser.mistake(place, format!("{flag} with a value"), "no value");
                }
                parser.switch(flag);
            }
            Flag::Named(flag) => {
                let value = inline.or_else(|| words.next_if(|word| !looks_like_a_flag(&word.text)));
                match value {
                    Some(value) => parser.value(flag, place, &value),
                    None => parser.mistake(place, format!("{flag} without a value"), "a value"),
                }
            }
            Flag::Ambiguous => {
                let what = format!("{name} may mean several flags");
                parser.mistake(place, what, "the whole flag");
            }
            Flag::Unknown => parser.unknown(place, &name),
        }
    }
    Some(parser.given)
}

/// A word out of place may be a variable with a secret value.
fn without_value(word: &str) -> &str {
    word.split_once('=').map_or(word, |(name, _)| name)
}

enum Flag {
    Named(&'static str),
    Ambiguous,
    Unknown,
}

/// A flag, or a beginning of one that begins no other.
fn flag_named(name: &str) -> Flag {
    let mut all = VALUED.into_iter().chain(SWITCHES);
    if let Some(flag) = all.clone().find(|flag| *flag == name) {
        return Flag::Named(flag);
    }
    if !name.starts_with("--") || name == "--" {
        return Flag::Unknown;
    }
    match (
        all.find(|flag| flag.starts_with(name)),
        all.find(|flag| flag.starts_with(name)),
    ) {
        (Some(flag), None) => Flag::Named(flag),
        (Some(_), Some(_)) => Flag::Ambiguous,
        (None, _) => Flag::Unknown,
    }
}

/// A word with a blank in it is a value whatever it begins with; so is a negative number.
fn looks_like_a_flag(word: &str) -> bool {
    let dash = word.starts_with('-') && word.len() > 1;
    let flag_with_value = word
        .split_once('=')
        .is_some_and(|(name, _)| matches!(flag_named(name), Flag::Named(_)));
    dash && (flag_with_value || (!word.contains(' ') && word.parse::<f64>().is_err()))
}

struct Parser<'p, 'n, 'a> {
    g: &'p Section<'n, 'a>,
    located: &'p Located<'p>,
    given: Given,
}

impl Parser<'_, '_, '_> {
    fn mistake(&self, (line, column): Place, what: String, expected: &str) {
        self.g.reader.mistake(line, column, what, expected);
    }

    fn unknown(&self, place: Place, name: &str) {
        let (what, expected) = if name.starts_with('-') {
            let all: Vec<&str> = VALUED.into_iter().chain(SWITCHES).collect();
            let expected = match super::super::wording::nearest(name, &all) {
                Some(near) => format!("a flag of `vastai create instance` (did you mean {near}?)"),
                None => format!("one of {}", all.join(" ")),
            };
            (format!("unknown flag {name}"), expected)
        } else {
            let expected = "flags only: the offer is found by search_params".to_owned();
            (
                format!("{:?} belongs to no flag", without_value(name)),
                expected,
            )
        };
        self.mistake(place, what, &expected);
    }

    fn switch(&mut self, flag: &str) {
        let given = &mut self.given;
        let switch = match flag {
            "--ssh" => &mut given.ssh,
            "--jupyter" => &mut given.jupyter,
            "--direct" => &mut given.direct,
            "--jupyter-lab" => &mut given.jupyter_lab,
            "--lang-utf8" => &mut given.lang_utf8,
            "--python-utf8" => &mut given.python_utf8,
            "--force" => &mut given.force,
            _ => &mut given.cancel_unavail,
        };
        *switch = true;
    }

    fn value(&mut self, flag: &'static str, place: Place, word: &Word) {
        self.given
            .placed(flag.trim_start_matches('-'), self.located.place(word.start));
        let text = Some(word.text.clone());
        match flag {
            "--template_hash" => self.given.template_hash = self.filled(word),
            "--user" => self.given.user = self.filled(word),
            "--image" => self.given.image = self.filled(word),
            "--login" => self.given.login = self.filled(word),
            "--label" => self.given.label = text,
            // Scripts and arguments run on the machine: ${NAME} in them is the machine's.
            "--onstart" => self.given.onstart_file = text,
            "--onstart-cmd" => self.given.onstart = text,
            "--entrypoint" => self.given.entrypoint = text,
            "--jupyter-dir" => self.given.jupyter_dir = text,
            "--extra" => self.given.extra = text,
            "--env" => self.env(word),
            "--disk" => self.given.disk = self.number(flag, word),
            "--bid_price" => self.given.bid_price = self.number(flag, word),
            "--create-volume" => self.given.create_volume = self.number(flag, word),
            "--link-volume" => self.given.link_volume = self.number(flag, word),
            "--volume-size" => self.given.volume_size = self.number(flag, word),
            "--mount-path" => self.given.mount_path = text,
            "--volume-label" => self.given.volume_label = text,
            // `--args=word` and all that follows would be two ways to say it.
            _ => self.mistake(place, format!("{flag} with ="), "--args WORD..."),
        }
    }

    fn env(&mut self, word: &Word) {
        let parsed = env::parse(word);
        for (at, what) in parsed.dropped {
            let (line, column) = self.located.place(at);
            let what = format!("{what}: Vast's command line drops it");
            self.g.reader.warn(line, column, what);
        }
        self.given.env.clear();
        for (name, value) in parsed.entries {
            if let Some(value) = self.g.reader.fill_in(self.located.node, &value) {
                self.given.env.insert(name, value);
            }
        }
    }

    fn filled(&self, word: &Word) -> Option<String> {
        self.g.reader.fill_in(self.located.node, &word.text)
    }

    fn number<T: std::str::FromStr>(&self, flag: &str, word: &Word) -> Option<T> {
        let number = word.text.trim().parse().ok();
        if number.is_none() {
            let place = self.located.place(word.start);
            self.mistake(place, format!("{flag} is {:?}", word.text), "a number");
        }
        number
    }
}
