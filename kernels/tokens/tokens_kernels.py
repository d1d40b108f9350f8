"""Triton kernel of `frame_tokens`: a program makes a frame's tokens and how agents weigh them.

The networks are small and deep: two dozen products of at most 64 rows, each waiting for the one
before. As operations of their own each takes a launch; here they follow one another in one program.
What a convolution reads of other rows goes through memory that only this program uses.

All weights lie in one vector, in the order of `frame_tokens.sizes`; offsets are compile-time
numbers. Operands of products are rounded to TF32, as XLA's are on a GPU by default; to split them
into parts would take three times the instructions.
"""

import triton
import triton.language as tl

ROWS = tl.constexpr(16)  # of every block but the first convolutions': tensor cores take no fewer
STEPS = tl.constexpr(16)  # rows of an entry of the window
LEAK = tl.constexpr(0.02)
EYE = tl.constexpr(32)
POSE = tl.constexpr(12)


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
def _matrix(weights, AT: tl.constexpr, FAN_IN: tl.constexpr, OUT: tl.constexpr,
            BLOCK: tl.constexpr, WIDE: tl.constexpr):  # fmt: skip
    """A [FAN_IN, OUT] matrix, filled up with zeros to [BLOCK, WIDE]."""
    i, o = tl.arange(0, BLOCK)[:, None], tl.arange(0, WIDE)[None, :]
    return tl.load(weights + AT + i * OUT + o, mask=(i < FAN_IN) & (o < OUT), other=0.0)


@triton.jit
def _vector(weights, AT: tl.constexpr, OUT: tl.constexpr, WIDE: tl.constexpr):
    o = tl.arange(0, WIDE)
    return tl.load(weights + AT + o, mask=o < OUT, other=0.0)[None, :]


@triton.jit
def _linear(x, weights, AT: tl.constexpr, FAN_IN: tl.constexpr, OUT: tl.constexpr,
            WIDE: tl.constexpr):  # fmt: skip
    """Apply a linear layer to x [ROWS, at least FAN_IN], which is zero beyond FAN_IN."""
    matrix = _matrix(weights, AT, FAN_IN, OUT, x.shape[1], WIDE)
    total = tl.zeros([x.shape[0], WIDE], tl.float32)
    total += _vector(weights, AT + FAN_IN * OUT, OUT, WIDE)
    return _dot(x, matrix, total)


@triton.jit
def _kan(x, weights, AT: tl.constexpr, FAN_IN: tl.constexpr, OUT: tl.constexpr):
    """A folded Taylor layer of x [ROWS, at least FAN_IN], which is zero beyond FAN_IN."""
    SIZE: tl.constexpr = FAN_IN * OUT
    total = tl.zeros([x.shape[0], OUT], tl.float32) + _vector(weights, AT + 3 * SIZE, OUT, OUT)
    total = _dot(_silu(x), _matrix(weights, AT, FAN_IN, OUT, x.shape[1], OUT), total)
    total = _dot(x, _matrix(weights, AT + SIZE, FAN_IN, OUT, x.shape[1], OUT), total)
    return _dot(x * x, _matrix(weights, AT + 2 * SIZE, FAN_IN, OUT, x.shape[1], OUT), total)


@triton.jit
def _token(x, weights, AT: tl.constexpr, FAN_IN: tl.constexpr, D: tl.constexpr):
    """Two folded Taylor layers by way of D units, and a normalisation."""
    FIRST: tl.constexpr = 3 * FAN_IN * D + D
    SECOND: tl.constexpr = 3 * D * D + D
    x = _kan(_kan(x, weights, AT, FAN_IN, D), weights, AT + FIRST, D, D)
    x = x - (tl.sum(x, axis=1) / D)[:, None]
    x = x * tl.rsqrt(tl.sum(x * x, axis=1) / D + 1e-6)[:, None]
    scale = _vector(weights, AT + FIRST + SECOND, D, D)
    return x * scale + _vector(weights, AT + FIRST + SECOND + D, D, D)


@triton.jit
def _convolve(source, entries, weights, AT: tl.constexpr, BEFORE: tl.constexpr, C: tl.constexpr,
              BLOCK: tl.constexpr, OUT: tl.constexpr, COUNT: tl.constexpr):  # fmt: skip
    """Convolve entries of BEFORE rows with C channels by a width of 3 and a stride of 2.

    `source` points to rows of C numbers, entry by entry; beyond `entries` they count as zeros. At
    AT of the weights lies the kernel [3, C, OUT], then the bias. The result has COUNT rows.
    """
    AFTER: tl.constexpr = BEFORE // 2
    row = tl.arange(0, COUNT)
    entry, step = row // AFTER, row % AFTER
    total = tl.zeros([COUNT, OUT], tl.float32) + _vector(weights, AT + 3 * C * OUT, OUT, OUT)
    out = tl.arange(0, OUT)[None, :]
    for tap in tl.static_range(3):
        before = 2 * step - 1 + tap
        seen = (entry < entries) & (before >= 0) & (before < BEFORE)
        base = (entry * BEFORE + before) * C
        for first in tl.range(0, C, BLOCK, num_stages=3):
            channel = first + tl.arange(0, BLOCK)
            x = tl.load(
                source + base[:, None] + channel[None, :],
                mask=seen[:, None] & (channel < C)[None, :], other=0.0,
            )  # fmt: skip
            matrix = tl.load(
                weights + AT + (tap * C + channel)[:, None] * OUT + out,
                mask=(channel < C)[:, None] & (out < OUT), other=0.0,
            )  # fmt: skip
            total = _dot(x, matrix, total)
    return _leaky(total)


@triton.jit
def _keep(x, scratch):
    """Store rows where all threads of the program find them."""
    row, column = tl.arange(0, x.shape[0])[:, None], tl.arange(0, x.shape[1])[None, :]
    tl.debug_barrier()  # what was there has been read
    tl.store(scratch + row * x.shape[1] + column, x)
    tl.debug_barrier()


@triton.jit
def _sound_rows(
    windows, weights, scratch, AT: tl.constexpr, W: tl.constexpr, F: tl.constexpr,
    WINDOW_ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """What the audio network makes of each entry of a window, [ROWS, 32]."""
    CONV1: tl.constexpr = AT + 3 * F * 32 + 32
    CONV2: tl.constexpr = CONV1 + 3 * 32 * 32 + 32
    CONV3: tl.constexpr = CONV2 + 3 * 32 * 64 + 64
    HIDDEN: tl.constexpr = CONV3 + 3 * 64 * 64 + 64
    OUT: tl.constexpr = HIDDEN + 64 * 64 + 64
    x = _convolve(windows, W, weights, AT, STEPS, F, CHANNELS, 32, WINDOW_ROWS)
    _keep(x, scratch)
    x = _convolve(scratch, W, weights, CONV1, STEPS // 2, 32, 32, 32, WINDOW_ROWS // 2)
    _keep(x, scratch)
    x = _convolve(scratch, W, weights, CONV2, STEPS // 4, 32, 32, 64, WINDOW_ROWS // 4)
    _keep(x, scratch)
    x = _convolve(scratch, W, weights, CONV3, STEPS // 8, 64, 64, 64, ROWS)
    x = _leaky(_linear(x, weights, HIDDEN, 64, 64, 64))
    return _linear(x, weights, OUT, 64, 32, 32)


@triton.jit
def _repeated(values):
    """A vector as each of ROWS rows."""
    return tl.zeros([ROWS, values.shape[0]], tl.float32) + values[None, :]


@triton.jit
def _eye_code(eye, RATE: tl.constexpr):
    """Pairs of sine and cosine of a blink, [EYE]."""
    k = tl.arange(0, EYE)
    phase = eye * tl.exp((k // 2).to(tl.float32) * RATE)
    return tl.where(k % 2 == 0, tl.sin(phase), tl.cos(phase))


@triton.jit
def _pose_vector(viewmat, DISTANCE: tl.constexpr):
    """Camera-to-world rotation, row by row, and scaled translation; then zeros: [16]."""
    k = tl.arange(0, 16)
    place = tl.where(k < 9, k % 3 * 4 + k // 3, (k - 9) * 4 + 3)
    pose = tl.load(viewmat + place, mask=k < POSE, other=0.0)
    return tl.where(k < 9, pose, pose / DISTANCE)


@triton.jit
def _weigh(
    all_tokens, agents, mix, T: tl.constexpr, D: tl.constexpr, AGENTS: tl.constexpr,
    AGENT_BLOCK: tl.constexpr, TEMPERATURE: tl.constexpr,
):  # fmt: skip
    """Store how much each agent listens to each of T tokens."""
    token, feature = tl.arange(0, ROWS)[None, :], tl.arange(0, D)[None, :]
    for first in range(0, AGENTS, AGENT_BLOCK):
        agent = first + tl.arange(0, AGENT_BLOCK)[:, None]
        exists = agent < AGENTS
        some = tl.load(agents + agent * D + feature, mask=exists & (feature >= 0), other=0.0)
        score = tl.zeros([AGENT_BLOCK, ROWS], tl.float32)
        score = _dot(some, tl.trans(all_tokens), score) / TEMPERATURE
        score = tl.where(token < T, score, float("-inf"))
        score = tl.exp(score - tl.max(score, axis=1)[:, None])
        score = score / tl.sum(score, axis=1)[:, None]
        tl.store(mix + agent * T + token, score, mask=exists & (token < T))


@triton.jit
def tokens_kernel(
    windows, eyes, viewmats, agents, weights, tokens, mix, scratch,
    W: tl.constexpr, F: tl.constexpr, D: tl.constexpr, AGENTS: tl.constexpr,
    WINDOW_ROWS: tl.constexpr, CHANNELS: tl.constexpr, AGENT_BLOCK: tl.constexpr,
    DISTANCE: tl.constexpr, TEMPERATURE: tl.constexpr, EYE_RATE: tl.constexpr,
):  # fmt: skip
    """Tokens of a frame, in the order sound (W), eye, pose, null, lips, and the agents' weights.

    Args (pointers, float32):
      windows: [B, W, 16, F].
      eyes: [B].
      viewmats: [B, 4, 4].
      agents: [AGENTS, D].
      weights: all weights and constants, as `frame_tokens.sizes` says.
      tokens: [B, W + 4, D] out.
      mix: [B, AGENTS, W + 4] out.
      scratch: [B, WINDOW_ROWS, 32], read and written.
    """
    frame = tl.program_id(0)
    LATER: tl.constexpr = 3 * D * D + 4 * D  # a token's second layer, norm and first bias
    CONVOLUTIONS: tl.constexpr = 3 * (F * 32 + 32 * 32 + 32 * 64 + 64 * 64) + 2 * 32 + 2 * 64
    SOUND: tl.constexpr = CONVOLUTIONS + 64 * 64 + 64 + 64 * 32 + 32
    EYES: tl.constexpr = SOUND + 3 * 32 * D + LATER
    POSES: tl.constexpr = EYES + 3 * EYE * D + LATER
    READ: tl.constexpr = POSES + 3 * POSE * D + LATER
    LIPS: tl.constexpr = READ + D * 2 + 2
    NULL: tl.constexpr = LIPS + 3 * 2 * D + LATER
    windows += frame.to(tl.int64) * (W * STEPS * F)
    scratch += frame * (WINDOW_ROWS * 32)
    x = _sound_rows(windows, weights, scratch, 0, W, F, WINDOW_ROWS, CHANNELS)
    sound = _token(x, weights, SOUND, 32, D)
    row, feature = tl.arange(0, ROWS)[:, None], tl.arange(0, D)[None, :]
    own = tl.sum(tl.where(row == W // 2, sound, 0.0), axis=0)
    x = _linear(_repeated(own), weights, READ, D, 2, 16)
    lips = _token(x, weights, LIPS, 2, D)
    code = _eye_code(tl.load(eyes + frame), EYE_RATE)
    eye = _token(_repeated(code), weights, EYES, EYE, D)
    x = _repeated(_pose_vector(viewmats + frame * 16, DISTANCE))
    pose = _token(x, weights, POSES, POSE, D)

    all_tokens = tl.where(row < W, sound, eye)
    all_tokens = tl.where(row == W + 1, pose, all_tokens)
    all_tokens = tl.where(row == W + 2, _vector(weights, NULL, D, D), all_tokens)
    all_tokens = tl.where(row == W + 3, lips, all_tokens)
    exists = (row < W + 4) & (feature >= 0)
    all_tokens += tl.load(weights + NULL + D + row * D + feature, mask=exists, other=0.0)
    all_tokens = tl.where(exists, all_tokens, 0.0)
    tl.store(tokens + frame * ((W + 4) * D) + row * D + feature, all_tokens, mask=exists)
    _weigh(
        all_tokens, agents, mix + frame * (AGENTS * (W + 4)), W + 4, D, AGENTS, AGENT_BLOCK,
        TEMPERATURE,
    )  # fmt: skip
