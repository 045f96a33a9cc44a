//! Which route a request passes through by, and what it is expected to cost.

use crate::domain::{PassCost, PassRoute, PassageSettings, PathPattern, PredictedCost, Tokens};

/// Why a request does not pass.
#[derive(Debug, PartialEq, Eq)]
pub enum NoPassage {
    UnknownRoute,
    /// The path has routes, but for these methods only.
    OtherMethods(Vec<String>),
    /// The path climbs: where it leads is for the worker to say, so no list can allow it.
    Climbs,
}

/// What passes where everything may: a prompt's worth of work, and nothing is done twice.
pub fn anything() -> PassRoute {
    PassRoute {
        path: PathPattern::Prefix("/".into()),
        methods: Vec::new(),
        cost: DEFAULT_COST,
        websocket: true,
        repeatable: false,
    }
}

/// One output token and what a prompt of the body's size costs.
pub const DEFAULT_COST: PassCost = PassCost {
    tokens: Tokens(1.0),
    per_kib: 50.0,
    field: None,
};

/// The endpoint's own routes come first, then those that each of its engines has.
pub fn find_passage(
    method: &str,
    path: &str,
    settings: &PassageSettings,
    builtin: &[&[PassRoute]],
) -> Result<PassRoute, NoPassage> {
    if climbs(path) {
        return Err(NoPassage::Climbs);
    }
    let mut allowed = Vec::new();
    let builtin = if settings.builtin { builtin } else { &[] };
    let of_engines = builtin.split_first().map_or(&[][..], |(first, _)| first);
    let of_engines = of_engines
        .iter()
        .filter(|route| builtin.iter().all(|engine| engine.contains(route)));
    for route in settings.routes.iter().chain(of_engines) {
        if !route.path.matches(path) {
            continue;
        }
        if takes(route, method) {
            return Ok(route.clone());
        }
        allowed.extend(route.methods.iter().cloned());
    }
    if settings.all {
        return Ok(anything());
    }
    if allowed.is_empty() {
        return Err(NoPassage::UnknownRoute);
    }
    allowed.sort();
    allowed.dedup();
    Err(NoPassage::OtherMethods(allowed))
}

/// Who may GET may ask for the header alone.
fn takes(route: &PassRoute, method: &str) -> bool {
    let method = if method == "HEAD" { "GET" } else { method };
    route.methods.is_empty() || route.methods.iter().any(|allowed| allowed == method)
}

/// Has a segment `.` or `..`, however it is written.
fn climbs(path: &str) -> bool {
    let path = path.to_ascii_lowercase().replace("%2e", ".");
    path.replace("%2f", "/")
        .replace("%5c", "/")
        .split(['/', '\\'])
        .any(|segment| segment == "." || segment == "..")
}

/// `bytes` are those of the field the rule names, else of the body.
pub fn passage_cost(cost: &PassCost, bytes: usize) -> PredictedCost {
    let total = cost.tokens.0 + cost.per_kib * bytes as f64 / 1_024.0;
    PredictedCost {
        prompt_tokens: 0.0,
        output_tokens: total,
        total: Tokens(total),
        ..PredictedCost::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(path: &str, methods: &[&str]) -> PassRoute {
        PassRoute {
            path: PathPattern::from(path.to_owned()),
            methods: methods.iter().map(|method| (*method).to_owned()).collect(),
            ..anything()
        }
    }

    fn check(method: &str, path: &str, expect: Result<&str, NoPassage>) {
        let settings = PassageSettings {
            routes: vec![
                route("/prompt", &["GET", "POST"]),
                route("/history/*", &["GET"]),
            ],
            builtin: true,
            ..PassageSettings::default()
        };
        let (one, other) = (
            [route("/info", &["GET"]), route("/tokenize", &["POST"])],
            [route("/tokenize", &["POST"])],
        );
        let found = find_passage(method, path, &settings, &[&one, &other]);
        let found = found.map(|route| route.path.to_string());
        assert_eq!(found, expect.map(str::to_owned), "{method} {path}");
    }

    #[test]
    fn listed_routes_and_those_that_every_engine_has_pass() {
        check("POST", "/prompt", Ok("/prompt"));
        check("HEAD", "/prompt", Ok("/prompt"));
        check("GET", "/history/1/2", Ok("/history/*"));
        check("POST", "/tokenize", Ok("/tokenize"));
        check("GET", "/info", Err(NoPassage::UnknownRoute));
        check("GET", "/prompt/", Err(NoPassage::UnknownRoute));
        let methods = vec!["GET".to_owned(), "POST".to_owned()];
        check("PUT", "/prompt", Err(NoPassage::OtherMethods(methods)));
    }

    #[test]
    fn no_path_climbs_out_of_what_is_listed() {
        for path in [
            "/history/../admin",
            "/history/%2e%2E/admin",
            "/history/.%2e%2fadmin",
            "/history/..%5cadmin",
            "/history/./x",
        ] {
            check("GET", path, Err(NoPassage::Climbs));
        }
        check("GET", "/history/a..b", Ok("/history/*"));
    }

    #[test]
    fn switches_take_the_built_in_routes_away_and_let_everything_through() {
        let mut settings = PassageSettings::default();
        let engine = [route("/info", &["GET"])];
        let find = |settings: &PassageSettings| find_passage("GET", "/info", settings, &[&engine]);
        assert_eq!(find(&settings), Err(NoPassage::UnknownRoute));
        settings.all = true;
        assert_eq!(find(&settings), Ok(anything()));
        settings.builtin = true;
        assert_eq!(find(&settings), Ok(engine[0].clone()));
    }

    #[test]
    fn cost_grows_with_what_is_counted() {
        let cost = PassCost {
            tokens: Tokens(2.0),
            per_kib: 50.0,
            field: None,
        };
        assert_eq!(passage_cost(&cost, 2_048).total, Tokens(102.0));
    }
}
