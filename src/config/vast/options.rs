//! What was given, as flags or as a map, made into one set of launch options by the rules of Vast's command line.

use std::collections::BTreeMap;

use super::super::section::Section;
use super::place::Place;
use crate::domain::{LaunchOptions, RunType, SCRIPT_BYTES_MAX, VolumeMount};

const DISK_GB_DEFAULT: f64 = 10.0;
const DISK_GB_MIN: f64 = 8.0;
const BID_USD_PER_HOUR: std::ops::RangeInclusive<f64> = 0.001..=128.0;
const IMAGE_CHARS_MAX: usize = 1_024;
const ENV_BYTES_MAX: usize = 32_768;

#[derive(Default)]
pub(super) struct Given {
    pub(super) image: Option<String>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) bid_price: Option<f64>,
    pub(super) disk: Option<f64>,
    pub(super) label: Option<String>,
    pub(super) extra: Option<String>,
    pub(super) onstart: Option<String>,
    pub(super) onstart_file: Option<String>,
    pub(super) entrypoint: Option<String>,
    pub(super) login: Option<String>,
    pub(super) template_hash: Option<String>,
    pub(super) user: Option<String>,
    pub(super) args: Option<Vec<String>>,
    pub(super) ssh: bool,
    pub(super) jupyter: bool,
    pub(super) direct: bool,
    pub(super) jupyter_lab: bool,
    pub(super) jupyter_dir: Option<String>,
    pub(super) lang_utf8: bool,
    pub(super) python_utf8: bool,
    pub(super) force: bool,
    pub(super) cancel_unavail: bool,
    pub(super) create_volume: Option<u64>,
    pub(super) link_volume: Option<u64>,
    pub(super) volume_size: Option<u64>,
    pub(super) mount_path: Option<String>,
    pub(super) volume_label: Option<String>,
    places: BTreeMap<String, Place>,
}

impl Given {
    pub(super) fn placed(&mut self, key: &str, place: Place) {
        self.places.insert(key.replace('_', "-"), place);
    }

    /// For what is not there or not readable: that is one mistake, and no image a second one.
    pub(super) fn nothing() -> Self {
        Self {
            image: Some(String::new()),
            ..Self::default()
        }
    }

    /// `whole` is where all of it stands, for what is missing.
    pub(super) fn launch(self, g: &Section, whole: Place) -> LaunchOptions {
        let rules = Rules { g, whole };
        rules.required(&self);
        rules.sizes(&self);
        let template = self.template_hash.is_some();
        let run_type = if template {
            None
        } else {
            Some(rules.run_type(&self))
        };
        let env = rules.env(&self, run_type);
        let volume = rules.volume(&self);
        let onstart = rules.onstart(&self);
        // An empty --args chooses how to run, and is not sent.
        let sent = |args: &Vec<String>| template || !args.concat().is_empty() || args.len() > 1;
        let launch = LaunchOptions {
            image: self.image,
            env,
            bid_price: self.bid_price,
            disk_gb: self.disk.unwrap_or(DISK_GB_DEFAULT),
            extra: self.extra,
            onstart,
            image_login: self.login,
            python_utf8: self.python_utf8,
            lang_utf8: self.lang_utf8,
            jupyter_lab: self.jupyter_lab,
            jupyter_dir: self.jupyter_dir,
            force: self.force,
            cancel_unavail: self.cancel_unavail,
            template_hash: self.template_hash,
            user: self.user,
            run_type,
            args: self.args.filter(sent),
            volume,
        };
        if launch.script_bytes() > SCRIPT_BYTES_MAX {
            let what = format!("onstart and args take {} bytes", launch.script_bytes());
            let expected = format!("at most {SCRIPT_BYTES_MAX}: fetch the script from somewhere");
            g.reader.mistake(whole.0, whole.1, what, expected);
        }
        launch
    }
}

struct Rules<'r, 'n, 'a> {
    g: &'r Section<'n, 'a>,
    whole: Place,
}

impl Rules<'_, '_, '_> {
    fn mistake(&self, given: &Given, key: &str, what: &str, expected: &str) {
        let place = given.places.get(&key.replace('_', "-"));
        let (line, column) = *place.unwrap_or(&self.whole);
        self.g.reader.mistake(line, column, what, expected);
    }

    fn required(&self, given: &Given) {
        if given.image.is_none() && given.template_hash.is_none() {
            let expected = "an image, or the hash of a template";
            self.mistake(given, "", "nothing says what to launch", expected);
        }
        if let (Some(_), Some((line, column))) = (&given.label, given.places.get("label")) {
            let what = "the label is not used: machines carry Tidegate's own";
            self.g.reader.warn(*line, *column, what);
        }
    }

    fn sizes(&self, given: &Given) {
        if given
            .disk
            .is_some_and(|disk| !(DISK_GB_MIN..1e6).contains(&disk))
        {
            let expected = format!("at least {DISK_GB_MIN} GB");
            self.mistake(
                given,
                "disk",
                "the disk is too small, or no size",
                &expected,
            );
        }
        if given
            .bid_price
            .is_some_and(|bid| !BID_USD_PER_HOUR.contains(&bid))
        {
            let expected = "dollars an hour from 0.001 to 128";
            self.mistake(given, "bid_price", "the bid is out of range", expected);
        }
        let image = given.image.as_deref().unwrap_or_default();
        if image.chars().count() > IMAGE_CHARS_MAX {
            let expected = format!("at most {IMAGE_CHARS_MAX} characters");
            self.mistake(given, "image", "the image's name is too long", &expected);
        }
        let env = given
            .env
            .iter()
            .map(|(name, value)| name.len() + value.len());
        if env.sum::<usize>() > ENV_BYTES_MAX {
            let expected = format!("at most {ENV_BYTES_MAX} bytes");
            self.mistake(given, "env", "the environment is too large", &expected);
        }
    }

    /// A bare `--direct` changes nothing; the folder or the lab of jupyter mean jupyter.
    fn run_type(&self, given: &Given) -> RunType {
        let jupyter = given.jupyter || given.jupyter_lab || given.jupyter_dir.is_some();
        match (jupyter, given.ssh, given.direct) {
            (true, _, _) if given.args.is_some() => {
                let expected = "onstart instead of args";
                self.mistake(given, "args", "jupyter and args together", expected);
                RunType::Args
            }
            (true, _, true) => RunType::JupyterDirect,
            (true, _, false) => RunType::JupyterProxy,
            (false, true, true) => RunType::SshDirect,
            (false, true, false) => RunType::SshProxy,
            (false, false, _) if given.args.is_some() => RunType::Args,
            (false, false, _) => RunType::Ssh,
        }
    }

    /// The portal of Vast's images is not told of jupyter where there is none.
    fn env(&self, given: &Given, run_type: Option<RunType>) -> BTreeMap<String, String> {
        let mut env = given.env.clone();
        let jupyter = matches!(
            run_type,
            Some(RunType::JupyterDirect | RunType::JupyterProxy)
        );
        if let Some(portal) = env.get_mut("PORTAL_CONFIG").filter(|_| !jupyter) {
            let parts = portal.split('|');
            let others: Vec<&str> = parts
                .filter(|part| !part.to_lowercase().contains("jupyter"))
                .collect();
            if others.is_empty() {
                let expected = "one entry at least that is not";
                self.mistake(given, "env", "PORTAL_CONFIG is for jupyter only", expected);
            }
            *portal = others.join("|");
        }
        env
    }

    fn onstart(&self, given: &Given) -> Option<String> {
        let Some(path) = &given.onstart_file else {
            return given.onstart.clone().or_else(|| given.entrypoint.clone());
        };
        match std::fs::read_to_string(path) {
            Ok(script) => Some(script),
            Err(error) => {
                let what = format!("the onstart script cannot be read: {error}");
                self.mistake(given, "onstart", &what, "a file of this machine");
                None
            }
        }
    }

    fn volume(&self, given: &Given) -> Option<VolumeMount> {
        let refuse = |key, what| self.mistake(given, key, what, "create_volume or link_volume");
        if given.volume_size.is_some() && given.create_volume.is_none() {
            refuse("volume-size", "the size of a volume that is not created");
        }
        let Some(id) = given.create_volume.or(given.link_volume) else {
            if given.mount_path.is_some() || given.volume_label.is_some() {
                refuse("mount-path", "a volume's settings without a volume");
            }
            return None;
        };
        let Some(mount_path) = given.mount_path.clone().filter(|path| !path.is_empty()) else {
            self.mistake(given, "", "a volume without mount_path", "a path");
            return None;
        };
        if given.create_volume.is_some() {
            // Each rental would leave one behind that costs on.
            let what = "a new volume for each rental, which nothing would delete or count";
            self.mistake(
                given,
                "create-volume",
                what,
                "link_volume with a volume that exists",
            );
        }
        Some(VolumeMount {
            mount_path,
            id,
            create: given.create_volume.is_some(),
            name: given.volume_label.clone(),
            size_gb: given.volume_size,
        })
    }
}
