"""Efficient spatial-audio attention (ESAA): agents carry tokens to all Gaussians.

Before: `triplane` and `tokens`; after: `decoders`. Here are agents, mixes and parameters; `forward`
applies them, with the parts of `kernels.deform`.

Letters: `f_v` [N, D] features of Gaussians (queries), S [B, T, D] tokens of B frames (keys and
values), A [A, D] agents, tau = sqrt(D / heads). There are no projections of queries, keys or values
and no head is split off: as in the original's code, `heads` only sets the temperature. Then

    P = softmax_agents(f_v A^T / tau) [N, A],   G = softmax_tokens(A S^T / tau + bias) [B, A, T],
    out = P (G S).

Computed here as (P G) S, which is the same and needs A * T instead of A * D products a Gaussian and
frame. A and P do not depend on the frame: training computes them once a batch, inference once an
avatar.

Full cross-attention ("cross"), which ESAA stands for, is the same with every Gaussian its own
agent: A = N and P the identity, so G alone [B, N, T] mixes the tokens. Its parameters are the same
ones; it takes N * D products a token more.
"""

import math
from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from egs_jax.model.kan import Block, Linear
from kernels.checks import require, typechecked

AgentChoice = Literal["first", "strided"]
Mixing = Literal["esaa", "cross"]
DROPOUTS = 3
"""Places where the layer drops out: after attention, inside the FFN and after it."""


@typechecked
def select_agents(
    features: Float[Array, "N D"],
    count: int,
    choice: AgentChoice = "strided",
    alive: Bool[Array, " N"] | None = None,
) -> Float[Array, "A D"]:
    """Choose the features that become agents; dead Gaussians are never among them.

    "first" takes the first `count` live Gaussians in storage order (the original's code: an
    arbitrary patch of the mesh); "strided" takes equally spaced ones over all live Gaussians. With
    fewer live Gaussians than agents some are taken more than once.

    Args:
      features: `f_v`.
      count: Agents wanted; no more than N are made.
      choice: "first" or "strided".
      alive: Which Gaussians are in use; None: all.

    Returns:
      Features of the agents.

    Raises:
      ValueError: if `choice` is unknown or `count` is not positive.
    """
    require(choice in ("first", "strided"), f"agents: unknown choice {choice!r}")
    require(count > 0, f"agents_count: expected a positive number, got {count}; raise it")
    size = features.shape[0]
    count = min(count, size)
    alive = jnp.ones(size, bool) if alive is None else alive
    through = jnp.cumsum(alive.astype(jnp.int32))  # live Gaussians up to and including each
    total = jnp.maximum(through[-1], 1)
    steps = jnp.arange(count)
    rank = steps % total if choice == "first" else steps * total // count
    return _take_rows(features, jnp.minimum(jnp.searchsorted(through, rank + 1), size - 1))


def _take_rows(features: Float[Array, "N D"], index: Int[Array, " A"]) -> Float[Array, "A D"]:
    """Return `features[index]`, with a reverse pass that sums in a fixed order on any device.

    The reverse pass of a gather adds rows up as they come, which on a GPU is any order, and with
    more agents than live Gaussians rows do repeat. So each row is gathered once, by the first agent
    that wants it, and a product with zeros and ones hands it to the others.
    """
    first = jnp.argmax(index[:, None] == index[None, :], axis=1)
    agents = jnp.arange(index.shape[0])
    # What an earlier agent gathers lies beyond the end, a place of its own each: zeros.
    once = jnp.where(first == agents, index, features.shape[0] + agents)
    rows = features.at[once].get(mode="fill", fill_value=0, unique_indices=True)
    return jnp.matmul(jax.nn.one_hot(first, index.shape[0]), rows, precision="highest")


@typechecked
def static_mix(
    features: Float[Array, "N D"], agents: Float[Array, "A D"], temperature: float
) -> Float[Array, "N A"]:
    """Return P, how much each Gaussian listens to each agent, in every frame; rows sum to one."""
    return jax.nn.softmax(features @ agents.T / temperature, axis=-1)


@typechecked
def dynamic_mix(
    agents: Float[Array, "A D"],
    tokens: Float[Array, "B T D"],
    temperature: float,
    bias: Float[Array, " T"] | None = None,
) -> Float[Array, "B A T"]:
    """Return G: how much each agent listens to each token of each frame; rows sum to one.

    Args:
      agents: Agents.
      tokens: Tokens of each frame.
      temperature: Divisor of the products.
      bias: Added to the scores of each token, after the division (`tokens.period_bias`); None:
        nothing.
    """
    scores = jnp.einsum("ad,btd->bat", agents, tokens) / temperature
    if bias is not None:
        scores = scores + bias[None, None, :]
    return jax.nn.softmax(scores, axis=-1)


@typechecked
def drop_out(
    key: Key[Array, ""], values: Float[Array, "*shape"], share: float
) -> Float[Array, "*shape"]:
    """Replace about a `share` of the numbers by zero and scale up the rest: the mean stays.

    A byte decides about a number, so the share is rounded to 1/256: a step of training draws a
    hundred million of these decisions, and random words are what costs.
    """
    dropped = min(round(256 * share), 255)
    words = jax.random.bits(key, (-(-values.size // 4),), jnp.uint32)
    fates = jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(-1)[: values.size]
    kept = fates.reshape(values.shape) >= dropped
    return jnp.where(kept, values * (256 / (256 - dropped)), 0.0)


class SpatialAudioAttention(nn.Module):
    """One attention layer: x1 = LN(f_v + gain * attention), x2 = LN(x1 + FFN(x1)).

    The module has its parameters, agents and dropout; `forward` computes x2 with the former laid
    out for `kernels.deform`.

    Attributes:
      d_model: Size of features and tokens.
      mixing: "esaa", or "cross": every Gaussian its own agent, whatever the next two say.
      agents_count: Agents.
      agents: How agents are chosen (`select_agents`); the code's is "first".
      agent_network: "linear" (the code's) or "mlp" (the paper's figure) from chosen features to
        agents.
      heads: Sets the temperature sqrt(d_model / heads) only.
      ffn_dim: Hidden size of the feed-forward network.
      norm_epsilon: Added to the variance in both normalizations. The code's 1e-12 vanishes in
        float32 and leaves the gradient of a constant feature unbounded; 1e-6 changes no live
        feature noticeably.
      gain: Weight of what is attended. A convex combination of a dozen tokens varies little from
        frame to frame beside f_v: at the original's 1 the mouth needs three times the steps to
        follow the sound that it needs at 4 (measured on real speech).
      dropout: Share dropped after attention, inside the FFN and after it while training.
    """

    d_model: int = 64
    mixing: Mixing = "esaa"
    agents_count: int = 200
    agents: AgentChoice = "strided"
    agent_network: Literal["linear", "mlp"] = "mlp"
    heads: int = 16
    ffn_dim: int = 128
    norm_epsilon: float = 1e-6
    gain: float = 1.0
    dropout: float = 0.0

    @property
    def temperature(self) -> float:
        """Divisor of the scores, sqrt(d_model / heads): 2 for 64 and 16."""
        return math.sqrt(self.d_model / self.heads)

    def setup(self) -> None:
        """Make the layers."""
        if self.agent_network == "mlp":
            self.agent = Block(self.d_model, self.d_model, network="mlp")
        else:
            self.agent = Linear(self.d_model)
        self.ffn_in = Linear(self.ffn_dim)
        self.ffn_out = Linear(self.d_model)
        self.norm1 = nn.LayerNorm(epsilon=self.norm_epsilon, use_fast_variance=False)
        self.norm2 = nn.LayerNorm(epsilon=self.norm_epsilon, use_fast_variance=False)

    @typechecked
    def prepare(
        self, features: Float[Array, "N D"], alive: Bool[Array, " N"] | None = None
    ) -> tuple[Float[Array, "A D"], Float[Array, "N A"] | None]:
        """Return what no frame changes: agents A and the static mix P (None: the identity)."""
        if self.mixing == "cross":
            return self.agent(features), None
        agents = self.agent(select_agents(features, self.agents_count, self.agents, alive))
        return agents, static_mix(features, agents, self.temperature)

    def dropouts(self) -> Callable[[Array], Array]:
        """Return a function that drops out, with another key at every call; takes "dropout"."""
        if not self.dropout:
            return lambda values: values
        keys = iter([self.make_rng("dropout") for _ in range(DROPOUTS)])
        return lambda values: drop_out(next(keys), values, self.dropout)

    @typechecked
    def __call__(self, features: Float[Array, "N D"]) -> Float[Array, "N D"]:
        """Apply all layers but attention itself: `init` needs no more to make the parameters."""
        x = self.norm1(features + 0 * self.agent(features))
        return self.norm2(x + self.ffn_out(nn.relu(self.ffn_in(x))))
