//! How fast a modelled GPU is: the iteration time of a continuous-batching engine and constants for a few machines.

/// Prompt tokens an engine works through in one iteration.
pub const PREFILL_CHUNK: u32 = 2048;

/// Constants of `T = a + c*b + k*KV/1000 + P/prefill` and the engine's two limits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SpeedLaw {
    /// Milliseconds of every iteration.
    pub a_ms: f64,
    /// Milliseconds for each sequence that emits a token.
    pub c_ms: f64,
    /// Milliseconds for each 1000 tokens held in the KV cache.
    pub k_ms: f64,
    /// Prompt tokens per second.
    pub prefill_tps: f64,
    /// Tokens the KV cache holds.
    pub kv_tokens: u64,
    /// Most sequences at once.
    pub max_batch: usize,
}

/// What one iteration works on.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct IterationLoad {
    pub emitting: u32,
    pub kv_tokens: u64,
    pub prefill_tokens: u32,
}

impl SpeedLaw {
    /// An 8B model in BF16: `a` from 58.7 tokens/s of one stream (Qwen3-8B under vLLM, llmfit PR 1046), `c` and `k` from
    /// the card's arithmetic and 70% of its memory bandwidth.
    pub const RTX4090: Self = Self {
        a_ms: 17.0,
        c_ms: 0.16,
        k_ms: 0.19,
        prefill_tps: 6_000.0,
        kv_tokens: 31_000,
        max_batch: 256,
    };
    /// The 80 GB card with Llama-3-8B; scaled from 75 tokens/s of one stream on the 40 GB card, where eight streams reach
    /// 6.6 times as much (vLLM 0.23).
    pub const A100: Self = Self {
        a_ms: 10.3,
        c_ms: 0.10,
        k_ms: 0.092,
        prefill_tps: 9_700.0,
        kv_tokens: 400_000,
        max_batch: 256,
    };
    /// The SXM card with Llama-3-8B, by its memory bandwidth at 77%.
    pub const H100: Self = Self {
        a_ms: 6.2,
        c_ms: 0.06,
        k_ms: 0.056,
        prefill_tps: 25_000.0,
        kv_tokens: 400_000,
        max_batch: 256,
    };
    /// Not a real machine: quick and with room for everybody, for tests.
    pub const TINY: Self = Self {
        a_ms: 1.0,
        c_ms: 0.01,
        k_ms: 0.001,
        prefill_tps: 200_000.0,
        kv_tokens: 8_000_000,
        max_batch: 16_384,
    };

    /// Seconds of one iteration.
    pub fn iteration_s(&self, load: IterationLoad) -> f64 {
        let ms = self.a_ms
            + self.c_ms * f64::from(load.emitting)
            + self.k_ms * load.kv_tokens as f64 / 1000.0;
        ms / 1000.0 + f64::from(load.prefill_tokens) / self.prefill_tps
    }

    /// The first constant that no machine can have, in words.
    pub fn check(&self) -> Result<(), String> {
        for (name, value) in [("a", self.a_ms), ("c", self.c_ms), ("k", self.k_ms)] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(format!(
                    "{name} must be a time of at least 0 ms, not {value}"
                ));
            }
        }
        if !(self.prefill_tps.is_finite() && self.prefill_tps > 0.0) {
            return Err(format!(
                "prefill speed must be above 0, not {}",
                self.prefill_tps
            ));
        }
        if self.kv_tokens == 0 || self.max_batch == 0 {
            return Err("KV cache and batch must have room for something".to_owned());
        }
        Ok(())
    }
}
