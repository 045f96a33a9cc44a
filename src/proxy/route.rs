//! What a method and path ask for.

use http::Method;

use crate::domain::Api;

/// Before an installation's name.
const ALIVE: &str = "/tidegate/alive/";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route<'a> {
    /// A generation; `endpoint` where the path names one.
    Generation { api: Api, endpoint: Option<&'a str> },
    /// The list of models; of one endpoint where the path names it.
    Models { endpoint: Option<&'a str> },
    /// The gateway itself is up.
    Health,
    /// A rented machine asks whether the gateway of this installation lives.
    Alive {
        installation: &'a str,
        /// Which, where it names itself.
        worker: Option<&'a str>,
    },
    WrongMethod {
        api: Option<Api>,
        allow: &'static str,
    },
    /// Not the gateway's own: perhaps a route of the endpoint's workers. `endpoint` where the path names one.
    Other {
        endpoint: Option<&'a str>,
        path: &'a str,
    },
}

/// `known` tells whether a path segment is an endpoint's name.
pub(super) fn classify<'a>(
    method: &Method,
    path: &'a str,
    known: impl Fn(&str) -> bool,
) -> Route<'a> {
    if let Some(target) = target(path) {
        return with_method(method, target, None);
    }
    if let Some(asked) = path.strip_prefix(ALIVE) {
        let (installation, worker) = match asked.split_once('/') {
            Some((installation, worker)) => (installation, Some(worker)),
            None => (asked, None),
        };
        let worker = worker.filter(|worker| !worker.is_empty());
        return match method {
            &Method::GET => Route::Alive {
                installation,
                worker,
            },
            _ => Route::WrongMethod {
                api: None,
                allow: "GET",
            },
        };
    }
    let rest = path.strip_prefix('/').unwrap_or(path);
    let (first, tail) = match rest.split_once('/') {
        Some((first, _)) => (first, &rest[first.len()..]),
        None => (rest, "/"),
    };
    match target(tail) {
        // A bare word is an endpoint only if it is one; `/typo` is an unknown route.
        Some(target) if tail != "/" || known(first) => with_method(method, target, Some(first)),
        _ if known(first) => Route::Other {
            endpoint: Some(first),
            path: tail,
        },
        _ => Route::Other {
            endpoint: None,
            path,
        },
    }
}

enum Target {
    Api(Api),
    Models,
    Health,
}

fn target(path: &str) -> Option<Target> {
    Some(match path {
        "/" => Target::Api(Api::TgiRoot),
        "/generate" => Target::Api(Api::Generate),
        "/generate_stream" => Target::Api(Api::GenerateStream),
        "/v1/completions" => Target::Api(Api::Completions),
        "/v1/chat/completions" => Target::Api(Api::ChatCompletions),
        "/v1/models" => Target::Models,
        "/health" => Target::Health,
        _ => return None,
    })
}

fn with_method<'a>(method: &Method, target: Target, endpoint: Option<&'a str>) -> Route<'a> {
    match (target, method) {
        (Target::Api(api), &Method::POST) => Route::Generation { api, endpoint },
        (Target::Api(api), _) => Route::WrongMethod {
            api: Some(api),
            allow: "POST",
        },
        (Target::Models, &Method::GET) => Route::Models { endpoint },
        (Target::Health, &Method::GET) => Route::Health,
        (Target::Models | Target::Health, _) => Route::WrongMethod {
            api: None,
            allow: "GET",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: &str, path: &str, expect: Route<'_>) {
        let method = method.parse().expect("a method");
        assert_eq!(
            classify(&method, path, |name| name == "llama"),
            expect,
            "{path}"
        );
    }

    fn other<'a>(endpoint: Option<&'a str>, path: &'a str) -> Route<'a> {
        Route::Other { endpoint, path }
    }

    fn generation(api: Api, endpoint: Option<&str>) -> Route<'_> {
        Route::Generation { api, endpoint }
    }

    #[test]
    fn routes_stand_alone_or_behind_an_endpoint() {
        check("POST", "/generate", generation(Api::Generate, None));
        check("POST", "/", generation(Api::TgiRoot, None));
        check("POST", "/llama", generation(Api::TgiRoot, Some("llama")));
        check("POST", "/llama/", generation(Api::TgiRoot, Some("llama")));
        check(
            "POST",
            "/llama/v1/chat/completions",
            generation(Api::ChatCompletions, Some("llama")),
        );
        check(
            "GET",
            "/llama/v1/models",
            Route::Models {
                endpoint: Some("llama"),
            },
        );
    }

    #[test]
    fn an_unknown_endpoint_before_a_known_route_is_told_by_name_and_a_bare_word_is_no_route() {
        check(
            "POST",
            "/typo/generate",
            generation(Api::Generate, Some("typo")),
        );
        check("POST", "/typo", other(None, "/typo"));
        check("GET", "/v1", other(None, "/v1"));
    }

    #[test]
    fn what_is_not_the_gateways_own_may_be_the_workers() {
        check(
            "POST",
            "/llama/generate/more",
            other(Some("llama"), "/generate/more"),
        );
        check("GET", "/llama/ws", other(Some("llama"), "/ws"));
        check("POST", "/tokenize", other(None, "/tokenize"));
    }

    #[test]
    fn rented_machines_ask_for_the_gateway_of_their_installation() {
        let alive = |worker| Route::Alive {
            installation: "mine",
            worker,
        };
        check("GET", "/tidegate/alive/mine", alive(None));
        check("GET", "/tidegate/alive/mine/", alive(None));
        check("GET", "/tidegate/alive/mine/g-1", alive(Some("g-1")));
        let wrong = Route::WrongMethod {
            api: None,
            allow: "GET",
        };
        check("POST", "/tidegate/alive/mine", wrong);
    }

    #[test]
    fn a_wrong_method_is_answered_with_the_right_one() {
        check(
            "GET",
            "/generate",
            Route::WrongMethod {
                api: Some(Api::Generate),
                allow: "POST",
            },
        );
        check(
            "POST",
            "/v1/models",
            Route::WrongMethod {
                api: None,
                allow: "GET",
            },
        );
    }
}
