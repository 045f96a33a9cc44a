//! Predicted work of a request, learned from what earlier requests really made.
//!
//! How much of the tokens asked for is produced, and how long answers get, is learned for each client, route
//! and size of what is asked. A client that was seen seldom is believed to be like the route, a route like
//! the endpoint.

mod lengths;
mod memory;
mod node;
#[cfg(test)]
mod tests;

use crate::domain::{
    LENGTH_BINS, Outlook, PredictedCost, PredictionRow, PredictionView, RequestShape, Tokens,
    length_bin_start,
};
use lengths::{Longer, memoryless};
use memory::Memory;
use node::{Mean, Node};

/// Share of the requested tokens that is produced, before anything was seen.
const PRIOR_OUTPUT_RATIO: f64 = 0.35;
/// Output tokens of a request without a limit, before anything was seen.
const PRIOR_OUTPUT_UNLIMITED: f64 = 256.0;
/// Bytes of English text a token, before anything was seen.
const PRIOR_BYTES_PER_TOKEN: f64 = 3.8;
/// A node counts half when it has seen so many requests; its parent has the rest.
const SHRINKAGE: f64 = 20.0;
/// An answer longer than any before is expected to grow by this part of itself.
const TAIL: f64 = 0.5;
/// Output that is reserved in a worker's KV cache: so many of a hundred answers need no more.
const RESERVED_SHARE: f64 = 0.8;

/// Room for answers that get longer than predicted: four of five stay below this many times the mean if their lengths are
/// spread exponentially. A cache that runs over costs more than one that is not quite full.
const KV_HEADROOM: f64 = 1.6;

/// What is believed of one endpoint's requests.
#[derive(Clone, Debug)]
pub struct CostModel {
    limited: Node,
    unlimited: Node,
    memory: Memory,
    /// Of predictions just before their request taught: mean of |actual - predicted| / predicted, and sums.
    error: Mean,
    predicted_sum: Mean,
    actual_sum: Mean,
}

impl Default for CostModel {
    fn default() -> Self {
        Self {
            limited: Node::prior(PRIOR_OUTPUT_RATIO, PRIOR_BYTES_PER_TOKEN),
            unlimited: Node::prior(PRIOR_OUTPUT_UNLIMITED, PRIOR_BYTES_PER_TOKEN),
            memory: Memory::default(),
            error: Mean::unseen(),
            predicted_sum: Mean::unseen(),
            actual_sum: Mean::unseen(),
        }
    }
}

impl CostModel {
    pub fn predict(&self, shape: &RequestShape, kappa: f64) -> PredictedCost {
        let belief = self.belief(shape);
        let output = belief.output_tokens();
        let prompt = shape.prompt_bytes as f64 / belief.bytes_per_token().max(0.5);
        let longer = belief.longer(output);
        PredictedCost {
            output_reserved: belief.reserved(&longer, output),
            outlook: Outlook::new(|bin| belief.left_after(longer[bin], length_bin_start(bin))),
            ..cost(prompt, output, kappa)
        }
    }

    /// Learns from a finished request. `prompt_tokens` is `None` where the engine did not say.
    pub fn learn(&mut self, shape: &RequestShape, prompt_tokens: Option<f64>, output_tokens: f64) {
        if !output_tokens.is_finite() || output_tokens < 0.0 {
            return;
        }
        let predicted = self.belief(shape).output_tokens();
        self.error
            .observe((output_tokens - predicted).abs() / predicted);
        self.predicted_sum.observe(predicted);
        self.actual_sum.observe(output_tokens);
        let use_of = |max: u32| (output_tokens / f64::from(max.max(1))).min(1.0);
        let output_use = shape.max_new_tokens.map_or(output_tokens, use_of);
        let bytes_per_token = prompt_tokens
            .filter(|tokens| *tokens >= 1.0)
            .map(|tokens| (shape.prompt_bytes as f64 / tokens).clamp(0.5, 20.0));
        let root = if shape.max_new_tokens.is_some() {
            &mut self.limited
        } else {
            &mut self.unlimited
        };
        for node in [root].into_iter().chain(self.memory.nodes_for(shape)) {
            node.observe(output_use, output_tokens, bytes_per_token);
        }
    }

    fn belief<'a>(&'a self, shape: &RequestShape) -> Belief<'a> {
        let root = if shape.max_new_tokens.is_some() {
            &self.limited
        } else {
            &self.unlimited
        };
        Belief {
            max: shape.max_new_tokens.map(|max| f64::from(max.max(1))),
            root,
            nodes: self.memory.of(shape),
        }
    }

    /// For operators: the routes, and of the clients those that were seen last.
    pub fn view(&self, clients_max: usize) -> PredictionView {
        let rows = self.memory.rows(clients_max);
        PredictionView {
            relative_error: self.error.seen().then_some(self.error.value),
            actual_to_predicted: self
                .predicted_sum
                .seen()
                .then(|| self.actual_sum.value / self.predicted_sum.value.max(1.0)),
            bytes_per_token: self.limited.bytes_per_token.value,
            clients_remembered: self.memory.clients(),
            rows: rows
                .into_iter()
                .map(|(client, route, node)| PredictionRow {
                    client,
                    api: route.api,
                    max_tokens_up_to: route.size.map(|size| 1u64 << size),
                    requests: node.requests,
                    output_ratio: route.size.is_some().then_some(node.output_use.value),
                    output_tokens: node.lengths.mean(),
                    bytes_per_token: node.bytes_per_token.value,
                })
                .collect(),
        }
    }
}

/// What speaks of a request: the endpoint, the route and the client, each more particular than the last.
struct Belief<'a> {
    max: Option<f64>,
    root: &'a Node,
    nodes: [Option<&'a Node>; 2],
}

impl Belief<'_> {
    fn output_tokens(&self) -> f64 {
        let value = self.blend(|node| node.output_use);
        match self.max {
            Some(max) => (value * max).clamp(1.0, max),
            None => value.max(1.0),
        }
    }

    fn bytes_per_token(&self) -> f64 {
        self.blend(|node| node.bytes_per_token)
    }

    fn blend(&self, of: impl Fn(&Node) -> Mean) -> f64 {
        let root = of(self.root).value;
        let nodes = self.nodes.iter().flatten();
        nodes
            .filter(|node| of(node).seen())
            .fold(root, |above, node| {
                above + node.weight() * (of(node).value - above)
            })
    }

    /// For each bin, of the answers that reach it; `mean` stands for what no node has seen. The endpoint's
    /// lengths are not asked: they are those of requests of other sizes.
    fn longer(&self, mean: f64) -> [Longer; LENGTH_BINS] {
        let mut longer = memoryless(mean);
        for node in self.nodes.iter().flatten() {
            let weight = node.weight();
            for (above, own) in longer.iter_mut().zip(node.lengths.reaching()) {
                above.share += weight * (own.share - above.share);
                above.tokens += weight * (own.tokens - above.tokens);
            }
        }
        longer
    }

    /// Expected after `produced` tokens. Answers have heavy tails: who has got far gets farther.
    fn left_after(&self, longer: Longer, produced: f64) -> f64 {
        let left = if longer.share > 1e-6 {
            longer.tokens / longer.share - produced
        } else {
            produced * TAIL
        };
        self.max.map_or(left, |max| left.min(max - produced))
    }

    fn reserved(&self, longer: &[Longer; LENGTH_BINS], mean: f64) -> f64 {
        let enough = longer
            .iter()
            .skip(1)
            .position(|of| of.share <= 1.0 - RESERVED_SHARE)
            .map_or(mean, |before| length_bin_start(before + 1));
        enough.min(self.max.unwrap_or(f64::MAX)).max(1.0)
    }
}

/// What is left of a request when its answer has `produced` tokens and goes on elsewhere: there all of it
/// is prompt.
pub fn rest(predicted: &PredictedCost, produced: u32, kappa: f64) -> PredictedCost {
    let done = f64::from(produced);
    let left = predicted
        .outlook
        .left_after(u64::from(produced))
        .unwrap_or((predicted.output_tokens - done).max(1.0));
    PredictedCost {
        output_reserved: (predicted.output_reserved - done).max(left),
        outlook: predicted.outlook.after(u64::from(produced)),
        ..cost(predicted.prompt_tokens + done, left, kappa)
    }
}

/// Output-equivalent cost of known or believed token counts.
pub fn cost(prompt_tokens: f64, output_tokens: f64, kappa: f64) -> PredictedCost {
    PredictedCost {
        prompt_tokens,
        output_tokens,
        total: Tokens(output_tokens + prompt_tokens / kappa),
        output_reserved: KV_HEADROOM * output_tokens,
        outlook: Outlook::default(),
    }
}
