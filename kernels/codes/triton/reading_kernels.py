"""Triton kernel of `read_codes`: activations undone, numbers weighed and summed to a code, limited.

A program has one code of a frame and reads its row of the reader; that every program of a frame
undoes the same activations takes less time than another launch. The 14 numbers of a Gaussian are
four blocks of four columns: means; scales and opacity; quaternion; color.
"""

import triton
import triton.language as tl

from kernels.codes.types import FORM as FORM_NUMBERS
from kernels.codes.types import REACH as MOST_BEYOND

FORM = tl.constexpr(FORM_NUMBERS)
REACH = tl.constexpr(MOST_BEYOND)
FLOAT = tl.constexpr(tl.pointer_type(tl.float32))


@triton.jit
def _weighed(x, mean, weights, reader, place, is_own):
    """What numbers, which lie at a place of the form, add to the code; 0 where there are none."""
    middle = tl.load(mean + place, mask=is_own, other=0.0)
    weight = tl.load(weights + place, mask=is_own, other=0.0)
    share = tl.load(reader + place, mask=is_own, other=0.0)
    return (x - middle) * weight * share


@triton.jit
def _limited(code, low, high):
    """As `limited` in plain JAX."""
    middle, half = (low + high) / 2, (high - low) / 2
    beyond = (code - middle) / half
    size = tl.abs(beyond)
    tanh = 1 - 2 / (tl.exp(2 * (size - 1) / REACH) + 1)
    most = (1 + REACH * tanh) * half
    return tl.where(size <= 1, code, tl.where(beyond < 0, -most, most) + middle)


@triton.jit
def reading_kernel(
    means, quats, scales, opacities, sh, mean, weights, reader, ranges, codes,
    S: tl.constexpr, CODES: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """A code of a frame, by ROWS Gaussians at a time.

    Args (pointers, float32):
      means, quats, scales, opacities, sh: [B, S, 3 | 4 | 3 | 1 | 3], activated.
      mean, weights: [S, 14].
      reader: [CODES, 14 S].
      ranges: [2, CODES].
      codes: [B, CODES] out.
    """
    frame, code = tl.program_id(0) // CODES, tl.program_id(0) % CODES
    reader += code * (S * FORM)
    # Backwards: a thread has one number of a block. Else it would load neighbors of some arrays at
    # once, and all the others would be exchanged between threads.
    number = 3 - tl.arange(0, 4)[None, :]
    of_three = number < 3
    begin = tl.where(of_three, scales.to(tl.int64) + 4 * number, opacities.to(tl.int64))
    length = tl.where(of_three, 3, 1)
    total = tl.zeros([ROWS, 4], tl.float32)
    for first in tl.range(0, S, ROWS):
        row = first + tl.arange(0, ROWS)[:, None]
        at, form, exists = frame * S + row, row * FORM, row < S
        own = exists & of_three
        x = tl.load(means + at * 3 + number, mask=own, other=0.0)
        total += _weighed(x, mean, weights, reader, form + number, own)
        x = tl.load(quats + at * 4 + number, mask=exists, other=0.0)
        total += _weighed(x, mean, weights, reader, form + 6 + number, exists)
        x = tl.load(sh + at * 3 + number, mask=own, other=0.0)
        total += _weighed(x, mean, weights, reader, form + 11 + number, own)
        place = (begin + (at * length).to(tl.int64) * 4).to(FLOAT)
        x = tl.load(place, mask=exists, other=0.5)
        x = tl.log(tl.where(of_three, x, x / (1 - x)))
        place = form + tl.where(of_three, 3 + number, 10)
        total += _weighed(x, mean, weights, reader, place, exists)
    low, high = tl.load(ranges + code), tl.load(ranges + CODES + code)
    tl.store(codes + frame * CODES + code, _limited(tl.sum(total), low, high))
