//! Routes that pass through.

use super::*;

#[test]
fn routes_say_what_passes_and_at_what_cost() {
    let more = "routes:\n  - {path: /prompt, methods: [GET, POST], cost: 400}\n  - {path: /view/*, websocket: true}\n  \
                - {path: /embed, cost: {per_kib: 20, field: inputs}, repeatable: true}\nall_routes: true\n";
    let config = parse_both("", &format!("{more}{GOOD}")).expect("right");
    let passage = &config.endpoints[0].passage;
    assert!(passage.builtin && passage.all);
    let routes = &passage.routes;
    assert_eq!(routes[0].methods, ["GET", "POST"]);
    assert_eq!(
        (routes[0].cost.tokens.0, routes[0].cost.per_kib),
        (400.0, 0.0)
    );
    assert!(routes[1].websocket && routes[1].path.matches("/view/x"));
    assert_eq!(routes[2].cost.field.as_deref(), Some("inputs"));
    assert!(routes[2].repeatable && !routes[0].repeatable);
}

#[test]
fn routes_that_cannot_be_meant_are_mistakes() {
    let more = "routes:\n  - {path: prompt}\n  - {path: /generate}\n  - {methods: [FETCH], path: /a*b}\n  - {path: /x, cost: -1}\n";
    check_endpoint(
        more,
        &[
            "e.yaml:2:12: path is \"prompt\"",
            "e.yaml:3:12: path \"/generate\" is answered by the gateway itself",
            "e.yaml:4:16: a method is \"FETCH\"",
            "e.yaml:4:30: path is \"/a*b\"",
            "e.yaml:5:22: cost is -1, which is out of range",
        ],
    );
}
