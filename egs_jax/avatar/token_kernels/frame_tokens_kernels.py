"""Triton kernels of `frame_tokens`: one makes the tokens, one how much the agents listen to each.

The networks are small and deep, so that a frame takes as long as its longest chain of layers, each
waiting for the one before, and as fetching its instructions, most of which run once. Hence a
program makes one token: W + 2 of them work on a frame at once, all tokens end in the same piece of
code, and weights are asked for layers ahead. The longest chain is that of the window's own entry,
whose program also makes the lips' token. Fitted lips wait for no token, being told from the sound
itself: they have a program of their own, so that the longest chain is shorter by a token.

Past the convolutions a program has a single row. Its products are sums in float32 of weights that
go straight to registers: quicker than tensor cores, which take 16 rows, and operands by way of
shared memory. Operands of the products of several rows are rounded to TF32, as XLA's are on a GPU
by default; to split them into parts would take three times the instructions.

All weights lie in one vector, in the order of `frame_tokens.sizes`; offsets are compile-time
numbers, but for those of the layers that tokens share. Where a block of weights is larger than a
matrix, its last rows are what comes next in memory, and multiplied by zeros: masks would take
longer. So one weight that is not finite may spoil any token.
"""

import triton
import triton.language as tl

from egs_jax.speech import lips

STEPS = tl.constexpr(16)  # rows of an entry of the window
LEAK = tl.constexpr(0.02)
SOUND = tl.constexpr(32)  # numbers that a token is made of
EYE = tl.constexpr(32)
POSE = tl.constexpr(12)
LIPS = tl.constexpr(2)
WIDEST = tl.constexpr(32)
UNIT = tl.constexpr(32)  # divides the places of the tokens' weights; they are loaded by 16 bytes
ROWS = tl.constexpr(lips.READ_ROWS)  # that fitted lips are told from
REACH = tl.constexpr(lips.REACH)
KNOTS = tl.constexpr(lips.KNOTS)
LOW, HIGH = tl.constexpr(lips.QUIET[0]), tl.constexpr(lips.QUIET[1])
LEAST = tl.constexpr(1e-14)  # step between knots
HALF_PI = tl.constexpr(1.5707963267948966)


@triton.jit
def _dot(a, b, total):
    return tl.dot(a, b, total, input_precision="tf32")


@triton.jit
def _silu(x):
    return x / (1.0 + tl.exp(-x))


@triton.jit
def _leaky(x):
    return tl.where(x >= 0.0, x, LEAK * x)


@triton.jit
def _matrix(weights, FAN_IN: tl.constexpr, OUT: tl.constexpr):
    i, o = tl.arange(0, FAN_IN)[:, None], tl.arange(0, OUT)[None, :]
    return tl.load(weights + i * OUT + o)


@triton.jit
def _vector(weights, OUT: tl.constexpr):
    return tl.load(weights + tl.arange(0, OUT))


@triton.jit
def _layer(weights, FAN_IN: tl.constexpr, OUT: tl.constexpr, SKIP: tl.constexpr,
           BLOCK: tl.constexpr):  # fmt: skip
    """BLOCK rows from row SKIP of a [FAN_IN, OUT] matrix, and the bias behind it."""
    return _matrix(weights + SKIP * OUT, BLOCK, OUT), _vector(weights + FAN_IN * OUT, OUT)


@triton.jit
def _linear(x, layer):
    """A linear layer of x [FAN_IN]."""
    return tl.sum(x[:, None] * layer[0], axis=0) + layer[1]


@triton.jit
def _convolve(x, layer):
    """A step of a convolution per row of x: three taps side by side, and zeros."""
    total = tl.zeros([x.shape[0], layer[0].shape[1]], tl.float32) + layer[1][None, :]
    return _leaky(_dot(x, layer[0], total))


@triton.jit
def _taylor(weights, fan_in, BLOCK: tl.constexpr, OUT: tl.constexpr):
    """BLOCK rows of each of a folded Taylor layer's [fan_in, OUT] matrices, and its bias."""
    size = fan_in * OUT
    return (
        _matrix(weights, BLOCK, OUT), _matrix(weights + size, BLOCK, OUT),
        _matrix(weights + 2 * size, BLOCK, OUT), _vector(weights + 3 * size, OUT),
    )  # fmt: skip


@triton.jit
def _kan(x, layer):
    """A folded Taylor layer of x [BLOCK]."""
    x = x[:, None]
    return tl.sum(_silu(x) * layer[0] + x * layer[1] + x * x * layer[2], axis=0) + layer[3]


@triton.jit
def _token(x, weights, fan_in, D: tl.constexpr):
    """Two folded Taylor layers by way of D units, and a normalization: [D].

    x [BLOCK] is zero beyond fan_in. All weights are asked for before any is needed.
    """
    second = weights + 3 * fan_in * D + D
    norm = second + 3 * D * D + D
    first, second = _taylor(weights, fan_in, x.shape[0], D), _taylor(second, D, D, D)
    scale, bias = _vector(norm, D), _vector(norm + D, D)
    x = _kan(_kan(x, first), second)
    x = x - tl.sum(x) / D
    return x * tl.rsqrt(tl.sum(x * x) / D + 1e-6) * scale + bias


@triton.jit
def _first_convolution(sound, step, weights, F: tl.constexpr, OUT: tl.constexpr,
                       BLOCK: tl.constexpr):  # fmt: skip
    """Steps [rows] of a convolution of STEPS rows of F features; zeros for steps under zero.

    What a step reads lies side by side in memory, as do its weights.
    """
    k, out = tl.arange(0, BLOCK), tl.arange(0, OUT)[None, :]
    begin = (2 * step - 1) * F
    total = tl.zeros([step.shape[0], OUT], tl.float32)
    total += _vector(weights + 3 * F * OUT, OUT)[None, :]
    for first in tl.range(0, 3 * F, BLOCK, num_stages=5):
        at = begin[:, None] + (first + k)[None, :]
        seen = (step >= 0)[:, None] & (at >= 0) & (first + k < 3 * F)[None, :]
        x = tl.load(sound + at, mask=seen, other=0.0)
        row = (first + k)[:, None]
        matrix = tl.load(weights + row * OUT + out, mask=(row < 3 * F) & (out < OUT), other=0.0)
        total = _dot(x, matrix, total)
    return tl.where((step >= 0)[:, None], _leaky(total), 0.0)


@triton.jit
def _sound_vector(sound, weights, F: tl.constexpr, BLOCK: tl.constexpr):
    """Apply the audio network to an entry of the window, [32].

    A step reads steps -1, 0, 1 from twice its own. So that these lie side by side in registers,
    row 16 u + 4 v + t of the first convolution is what tap t of the second reads for what tap v of
    the third reads for its step u: [32, 32] is read as [8, 128]. Some steps come twice, and fourth
    taps are zeros; a block of a tensor core has rows for that. Of the fourth convolution's only
    step the first tap lies outside.
    """
    CONV1: tl.constexpr = 3 * F * 32 + 32
    CONV2: tl.constexpr = CONV1 + 3 * 32 * 32 + 32
    CONV3: tl.constexpr = CONV2 + 3 * 32 * 64 + 64
    HIDDEN: tl.constexpr = CONV3 + 3 * 64 * 64 + 64
    OUT: tl.constexpr = HIDDEN + 64 * 64 + 64
    row, second = tl.arange(0, 32), tl.arange(0, 8)
    step = 2 * (row // 16) - 1 + row // 4 % 4  # of the second convolution
    exists = (row % 4 < 3) & (row // 4 % 4 < 3) & (step >= 0)
    step = 2 * step - 1 + row % 4
    step = tl.where(exists & (step < STEPS // 2), step, -1)
    x = _first_convolution(sound, step, weights, F, 32, BLOCK)
    # All weights of the later layers are asked for before any is needed.
    conv1 = _layer(weights + CONV1, 96, 32, 0, 128)
    conv2 = _layer(weights + CONV2, 96, 64, 0, 128)
    conv3 = _layer(weights + CONV3, 192, 64, 64, 128)
    hidden = _layer(weights + HIDDEN, 64, 64, 0, 64)
    out = _layer(weights + OUT, 64, 32, 0, 64)
    x = _convolve(tl.reshape(x, [8, 128]), conv1)
    exists = (second % 4 < 3) & (second > 0)
    x = tl.where(exists[:, None], x, 0.0)
    x = _convolve(tl.reshape(x, [2, 128]), conv2)
    x = _leaky(_linear(tl.reshape(x, [128]), conv3))
    return _linear(_leaky(_linear(x, hidden)), out)


@triton.jit
def _eye_code(eye, RATE: tl.constexpr):
    """Pairs of sine and cosine of a blink, [EYE]."""
    k = tl.arange(0, EYE)
    phase = eye * tl.exp((k // 2).to(tl.float32) * RATE)
    return tl.sin(phase + (k % 2).to(tl.float32) * HALF_PI)


@triton.jit
def _pose_vector(viewmat, DISTANCE: tl.constexpr):
    """Camera-to-world rotation, row by row, and scaled translation; then zeros: [WIDEST]."""
    k = tl.arange(0, WIDEST)
    place = tl.where(k < 9, k % 3 * 4 + k // 3, (k - 9) * 4 + 3)
    pose = tl.load(viewmat + place, mask=k < POSE, other=0.0)
    return tl.where(k < 9, pose, pose / DISTANCE)


@triton.jit
def _lips_vector(token, weights, D: tl.constexpr):
    """Read the lips from the sound's own token; then zeros: [WIDEST]."""
    i, o = tl.arange(0, D)[:, None], tl.arange(0, WIDEST)[None, :]
    matrix = tl.load(weights + i * LIPS + o, mask=(o < LIPS) & (i < D), other=0.0)
    bias = tl.load(weights + D * LIPS + o, mask=o < LIPS, other=0.0)
    return tl.sum(token[:, None] * matrix + tl.where(i == 0, bias, 0.0), axis=0)


@triton.jit
def _share(x):
    """Clip to [0, 1]; what is not a number stays so."""
    return tl.clamp(x, 0.0, 1.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _told_vector(window, weights, W: tl.constexpr, F: tl.constexpr, BLOCK: tl.constexpr):
    """Tell the lips by the rows around a frame, as `speech.lips.read` does; then zeros: [WIDEST].

    The sums nearly cancel: nothing of them is rounded to less than float32.
    """
    HUSH: tl.constexpr = LIPS * ROWS * F
    TOLD: tl.constexpr = HUSH + F
    TRUE: tl.constexpr = TOLD + KNOTS * LIPS
    BIAS: tl.constexpr = TRUE + KNOTS * LIPS
    row, k = tl.arange(0, 32)[:, None], tl.arange(0, BLOCK)[None, :]
    # Half of the rows begin an entry of the window, the others end one.
    late = (W // 2 + REACH + 1) * STEPS - ROWS
    place = tl.where(row < ROWS // 2, (W // 2 - REACH) * STEPS, late) + row
    opening = tl.zeros([32, BLOCK], tl.float32)
    width, away = opening, opening
    for first in tl.range(0, F, BLOCK):
        feature = first + k
        exists = (row < ROWS) & (feature < F)
        x = tl.load(window + place * F + feature, mask=exists, other=0.0)
        at = weights + row * F + feature
        opening += x * tl.load(at, mask=exists, other=0.0)
        width += x * tl.load(at + ROWS * F, mask=exists, other=0.0)
        x = x - tl.load(weights + HUSH + feature, mask=exists, other=0.0)
        away += x * x
    lip = tl.arange(0, WIDEST)
    told = tl.where(lip == 0, tl.sum(opening), tl.where(lip == 1, tl.sum(width), 0.0))
    told += tl.load(weights + BIAS + lip, mask=lip < LIPS, other=0.0)
    # All steps that lie below, and a share of the one that it is on.
    knot = tl.arange(0, 32)[:, None]
    exists = (knot < KNOTS - 1) & (lip < LIPS)[None, :]
    knot = weights + TOLD + knot * LIPS + lip[None, :]
    begin = tl.load(knot, mask=exists, other=0.0)
    step = tl.load(knot + LIPS, mask=exists, other=1.0) - begin
    told = _share((told[None, :] - begin) / tl.maximum(step, LEAST))
    knot += TRUE - TOLD
    step = tl.load(knot + LIPS, mask=exists, other=0.0) - tl.load(knot, mask=exists, other=0.0)
    told = tl.sum(told * step, axis=0)
    told += tl.load(weights + TRUE + lip, mask=lip < LIPS, other=0.0)
    rest = tl.load(weights + BIAS + LIPS + lip, mask=lip < LIPS, other=0.0)
    away = tl.max(tl.sqrt(tl.sum(away, axis=1))) / tl.load(weights + BIAS + 2 * LIPS)
    return told + _share((away - HIGH) / (LOW - HIGH)) * (rest - told)


@triton.jit
def tokens_kernel(
    windows, eyes, viewmats, weights, tokens,
    W: tl.constexpr, F: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr,
    DISTANCE: tl.constexpr, EYE_RATE: tl.constexpr, FITTED: tl.constexpr,
):  # fmt: skip
    """A token of a frame; of W + 2 programs the sound's own entry also makes that of the lips.

    FITTED lips have another program.

    Args (pointers, float32):
      windows: [B, W, 16, F].
      eyes: [B].
      viewmats: [B, 4, 4].
      weights: all weights and constants, as `frame_tokens.sizes` says.
      tokens: [B, W + 4, D] out: sound (W), eye, pose, null, lips.
    """
    LATER: tl.constexpr = 3 * D * D + 4 * D  # a token's second layer, norm and first bias
    CONVOLUTIONS: tl.constexpr = 3 * (F * 32 + 32 * 32 + 32 * 64 + 64 * 64) + 2 * 32 + 2 * 64
    AT_SOUND: tl.constexpr = CONVOLUTIONS + 64 * 64 + 64 + 64 * 32 + 32
    AT_EYE: tl.constexpr = AT_SOUND + 3 * SOUND * D + LATER
    AT_POSE: tl.constexpr = AT_EYE + 3 * EYE * D + LATER
    AT_LIPS: tl.constexpr = AT_POSE + 3 * POSE * D + LATER
    NULL: tl.constexpr = AT_LIPS + 3 * LIPS * D + LATER
    CODES: tl.constexpr = NULL + D
    READ: tl.constexpr = CODES + (W + 4) * D
    PROGRAMS: tl.constexpr = W + 3 if FITTED else W + 2
    frame, place = tl.program_id(0) // PROGRAMS, tl.program_id(0) % PROGRAMS
    tokens += frame * ((W + 4) * D)
    feature = tl.arange(0, D)
    if place < W:
        windows += (frame * W + place).to(tl.int64) * (STEPS * F)
        x = _sound_vector(windows, weights, F, BLOCK)
        fan_in, at = SOUND, AT_SOUND // UNIT
    elif place == W:
        x = _eye_code(tl.load(eyes + frame), EYE_RATE)
        fan_in, at = EYE, AT_EYE // UNIT
    elif FITTED and place == W + 2:
        windows += frame.to(tl.int64) * (W * STEPS * F)
        x = _told_vector(windows, weights + READ, W, F, BLOCK)
        fan_in, at, place = LIPS, AT_LIPS // UNIT, W + 3
    else:
        x = _pose_vector(viewmats + frame * 16, DISTANCE)
        fan_in, at = POSE, AT_POSE // UNIT
        null = _vector(weights + NULL, D) + _vector(weights + CODES + (W + 2) * D, D)
        tl.store(tokens + (W + 2) * D + feature, null)
    # One piece of code for all: fetching it takes longer than running it.
    turns = 1 if FITTED else 1 + (place == W // 2).to(tl.int32)
    for _ in range(turns):
        token = _token(x, weights + at * UNIT, fan_in, D)
        code = _vector(weights + CODES + place * D, D)
        tl.store(tokens + place * D + feature, token + code)
        if not FITTED and place == W // 2:
            x = _lips_vector(token, weights + READ, D)
            fan_in, at, place = LIPS, AT_LIPS // UNIT, W + 3


@triton.jit
def mix_kernel(
    tokens, agents, mix,
    T: tl.constexpr, D: tl.constexpr, AGENTS: tl.constexpr, TOKENS: tl.constexpr,
    BLOCK: tl.constexpr, TEMPERATURE: tl.constexpr,
):  # fmt: skip
    """How much each of BLOCK agents listens to each token of a frame.

    Args (pointers, float32):
      tokens: [B, T, D].
      agents: [AGENTS, D].
      mix: [B, AGENTS, T] out.
    """
    BLOCKS: tl.constexpr = (AGENTS + BLOCK - 1) // BLOCK
    frame, first = tl.program_id(0) // BLOCKS, tl.program_id(0) % BLOCKS * BLOCK
    agent, token = first + tl.arange(0, BLOCK)[:, None], tl.arange(0, TOKENS)[None, :]
    feature = tl.arange(0, D)
    exists = agent < AGENTS
    some = tl.load(agents + agent * D + feature[None, :], mask=exists, other=0.0)
    theirs = tl.load(
        tokens + frame * (T * D) + token * D + feature[:, None], mask=token < T, other=0.0
    )
    score = _dot(some, theirs, tl.zeros([BLOCK, TOKENS], tl.float32)) / TEMPERATURE
    score = tl.where(token < T, score, float("-inf"))
    score = tl.exp(score - tl.max(score, axis=1)[:, None])
    score = score / tl.sum(score, axis=1)[:, None]
    at = (frame * AGENTS + agent) * T + token
    tl.store(mix + at, score, mask=exists & (token < T))
