//! What each engine has besides generations, as far as clients are meant to use it. Routes that show other
//! clients' prompts or change the engine (`/slots`, `/metrics`, `/sleep`, ...) are not here.

use std::sync::LazyLock;

use crate::domain::{EngineKind, PassCost, PassRoute, PathPattern, Tokens};

/// An answer from memory.
const LOOKUP: f64 = 1.0;
/// Work on text without the model, a KiB.
const TOKENIZING: f64 = 1.0;
/// A prompt's work without any output, a KiB: 256 tokens at the usual kappa of 5.
const READING: f64 = 50.0;

static TGI: LazyLock<Vec<PassRoute>> = LazyLock::new(|| {
    vec![
        get("/info"),
        tokenizing("/tokenize"),
        tokenizing("/chat_tokenize"),
    ]
});

static VLLM: LazyLock<Vec<PassRoute>> = LazyLock::new(|| {
    let mut routes = vec![
        get("/version"),
        tokenizing("/tokenize"),
        tokenizing("/detokenize"),
        reading("/v1/embeddings", Some("input")),
    ];
    routes.extend(
        [
            "/pooling",
            "/classify",
            "/score",
            "/v1/score",
            "/rerank",
            "/v1/rerank",
            "/v2/rerank",
        ]
        .map(|path| reading(path, None)),
    );
    routes
});

static LLAMACPP: LazyLock<Vec<PassRoute>> = LazyLock::new(|| {
    let mut routes = vec![
        get("/props"),
        tokenizing("/tokenize"),
        tokenizing("/detokenize"),
        tokenizing("/apply-template"),
        reading("/v1/embeddings", Some("input")),
    ];
    routes.extend(
        [
            "/embedding",
            "/embeddings",
            "/rerank",
            "/reranking",
            "/v1/rerank",
            "/v1/reranking",
        ]
        .map(|path| reading(path, None)),
    );
    routes
});

static FAKE: LazyLock<Vec<PassRoute>> = LazyLock::new(|| {
    vec![
        get("/info"),
        tokenizing("/tokenize"),
        reading("/v1/embeddings", Some("input")),
        PassRoute {
            websocket: true,
            ..get("/ws")
        },
    ]
});

/// Routes of workers of this kind that pass through unless the endpoint says otherwise.
pub fn builtin_routes(engine: EngineKind) -> &'static [PassRoute] {
    match engine {
        EngineKind::Tgi => &TGI,
        EngineKind::Vllm => &VLLM,
        EngineKind::LlamaCpp => &LLAMACPP,
        EngineKind::Fake => &FAKE,
    }
}

fn get(path: &str) -> PassRoute {
    route("GET", path, 0.0, None)
}

fn tokenizing(path: &str) -> PassRoute {
    route("POST", path, TOKENIZING, None)
}

fn reading(path: &str, field: Option<&str>) -> PassRoute {
    route("POST", path, READING, field)
}

/// All of these only compute: doing one twice changes nothing.
fn route(method: &str, path: &str, per_kib: f64, field: Option<&str>) -> PassRoute {
    PassRoute {
        path: PathPattern::Exact(path.to_owned()),
        methods: vec![method.to_owned()],
        cost: PassCost {
            tokens: Tokens(LOOKUP),
            per_kib,
            field: field.map(str::to_owned),
        },
        websocket: false,
        repeatable: true,
    }
}
