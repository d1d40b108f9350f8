"""Efficient spatial-audio attention (ESAA): agents carry tokens to all Gaussians (7 of 12).

Before: `triplane` and `tokens`; after: `decoders`.

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
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from egs_jax.model.kan import Block, Linear
from kernels._checks import require, typechecked

AgentChoice = Literal["first", "strided", "pooled"]
Mixing = Literal["esaa", "cross"]


@typechecked
def select_agents(
    features: Float[Array, "N D"],
    count: int,
    choice: AgentChoice = "strided",
    alive: Bool[Array, " N"] | None = None,
    agent_index: Int[Array, " A"] | None = None,
) -> Float[Array, "A D"]:
    """Choose the features that become agents; dead Gaussians are never among them.

    "first" takes the first `count` live Gaussians in storage order (the original's code: an
    arbitrary patch of the mesh); "strided" takes equally spaced ones over all live Gaussians;
    "pooled" takes means over `count` equal runs of live Gaussians (on a GPU a sum in any order).
    With fewer live Gaussians than agents some are taken more than once.

    Args:
      features: `f_v`.
      count: Agents wanted; no more than N are made.
      choice: "first", "strided" or "pooled".
      alive: Which Gaussians are in use; None: all.
      agent_index: Gaussians chosen by the caller (say by `farthest_points`); wins over `choice`.

    Returns:
      Features of the agents.

    Raises:
      ValueError: if `choice` is unknown or `count` is not positive.
    """
    require(choice in ("first", "strided", "pooled"), f"agents: unknown choice {choice!r}")
    require(count > 0, f"agents_count: expected a positive number, got {count}; raise it")
    if agent_index is not None:
        return _take_rows(features, agent_index)
    size = features.shape[0]
    count = min(count, size)
    alive = jnp.ones(size, bool) if alive is None else alive
    through = jnp.cumsum(alive.astype(jnp.int32))  # live Gaussians up to and including each
    total = jnp.maximum(through[-1], 1)
    if choice == "pooled":
        # The product stays under 2^31 for up to 2^31 / count Gaussians.
        segment = jnp.where(alive, (through - 1) * count // total, count)
        sums = jax.ops.segment_sum(features, segment, num_segments=count + 1)[:count]
        members = jax.ops.segment_sum(jnp.ones(size), segment, num_segments=count + 1)[:count]
        # A run is empty only if agents outnumber live Gaussians: it repeats the run before it.
        filled = jax.lax.cummax(jnp.where(members > 0, jnp.arange(count), 0))
        return _take_rows(sums / jnp.maximum(members, 1.0)[:, None], filled)
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
def farthest_points(
    means: Float[Array, "N 3"], count: int, alive: Bool[Array, " N"] | None = None
) -> Int[Array, " A"]:
    """Choose Gaussians spread evenly in space, whatever their storage order (farthest first).

    Args:
      means: Centers.
      count: How many; no more than N are chosen.
      alive: Which Gaussians are in use; None: all. With fewer of these than `count` some repeat.

    Returns:
      Indices; the first is the one farthest from the centroid.
    """
    count = min(count, means.shape[0])
    alive = jnp.ones(means.shape[0], bool) if alive is None else alive
    points = jnp.where(alive[:, None], means, 0.0)
    centroid = points.sum(axis=0) / jnp.maximum(alive.sum(), 1)

    def square_distance(center):
        return jnp.where(alive, ((points - center[None, :]) ** 2).sum(axis=1), -1.0)

    def step(distance, _):
        index = jnp.argmax(distance)
        return jnp.minimum(distance, square_distance(points[index])), index

    first = jnp.argmax(square_distance(centroid))
    _, rest = jax.lax.scan(step, square_distance(points[first]), length=count - 1)
    return jnp.concatenate([first[None], rest]).astype(jnp.int32)


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
def shares(
    static: Float[Array, "N A"] | None, dynamic: Float[Array, "B A T"]
) -> Float[Array, "B N T"]:
    """Return P G, how much each Gaussian listens to each token; rows sum to one.

    Args:
      static: P; None: the identity, every Gaussian is its own agent.
      dynamic: G.
    """
    if static is None:
        return dynamic
    frames, agents, count = dynamic.shape
    # One product for all frames: [N, A] x [A, B * T].
    weights = static @ dynamic.transpose(1, 0, 2).reshape(agents, frames * count)
    return weights.reshape(-1, frames, count).transpose(1, 0, 2)


@typechecked
def mix(
    static: Float[Array, "N A"] | None,
    dynamic: Float[Array, "B A T"],
    tokens: Float[Array, "B T D"],
) -> Float[Array, "B N D"]:
    """Return (P G) V, a convex combination of the frame's tokens for each Gaussian."""
    return jnp.einsum("bnt,btd->bnd", shares(static, dynamic), tokens)


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

    `__call__` trains; `prepare` and `apply_frames` split it into what an avatar keeps and what each
    frame costs.

    Attributes:
      d_model: Size of features and tokens.
      mixing: "esaa", or "cross": every Gaussian its own agent, whatever the next two say.
      agents_count: Agents.
      agents: How agents are chosen (`select_agents`); the code's is "first".
      agent_network: "linear" (the code's) or "mlp" (the paper's figure) from chosen features to
        agents.
      heads: Sets the temperature sqrt(d_model / heads) only.
      ffn_dim: Hidden size of the feed-forward network.
      norm_epsilon: Added to the variance in both normalisations. The code's 1e-12 vanishes in
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

    def setup(self):
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
    def agent_tokens(
        self,
        features: Float[Array, "N D"],
        alive: Bool[Array, " N"] | None = None,
        agent_index: Int[Array, " A"] | None = None,
    ) -> Float[Array, "A D"]:
        """Return the agents made from `f_v`; arguments as `select_agents`."""
        return self.agent(
            select_agents(features, self.agents_count, self.agents, alive, agent_index)
        )

    @typechecked
    def prepare(
        self,
        features: Float[Array, "N D"],
        alive: Bool[Array, " N"] | None = None,
        agent_index: Int[Array, " A"] | None = None,
    ) -> tuple[Float[Array, "A D"], Float[Array, "N A"] | None]:
        """Return what no frame changes: agents A and the static mix P (None: the identity)."""
        if self.mixing == "cross":
            return self.agent(features), None
        agents = self.agent_tokens(features, alive, agent_index)
        return agents, static_mix(features, agents, self.temperature)

    @typechecked
    def apply_frames(
        self,
        features: Float[Array, "N D"],
        agents: Float[Array, "A D"],
        static: Float[Array, "N A"] | None,
        tokens: Float[Array, "B T D"],
        bias: Float[Array, " T"] | None = None,
        *,
        deterministic: bool = True,
    ) -> Float[Array, "B N D"]:
        """Return x2 for each frame from what `prepare` gave; dropout takes the rng "dropout"."""
        dynamic = dynamic_mix(agents, tokens, self.temperature, bias)

        def drop(values: Array) -> Array:
            if deterministic or not self.dropout:
                return values
            return drop_out(self.make_rng("dropout"), values, self.dropout)

        attended = drop(mix(static, dynamic, tokens))
        x1 = self.norm1(features[None] + self.gain * attended)
        hidden = drop(nn.relu(self.ffn_in(x1)))
        return self.norm2(x1 + drop(self.ffn_out(hidden)))

    @typechecked
    def __call__(
        self,
        features: Float[Array, "N D"],
        tokens: Float[Array, "B T D"],
        bias: Float[Array, " T"] | None = None,
        alive: Bool[Array, " N"] | None = None,
        agent_index: Int[Array, " A"] | None = None,
        *,
        deterministic: bool = True,
    ) -> Float[Array, "B N D"]:
        """Return x2 [B, N, D]: each Gaussian's feature under each frame's tokens."""
        agents, static = self.prepare(features, alive, agent_index)
        return self.apply_frames(
            features, agents, static, tokens, bias, deterministic=deterministic
        )
