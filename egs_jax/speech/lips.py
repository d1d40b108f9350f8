"""Lips told from sound in closed form: a ridge regression, fitted on a clip's training frames.

Before: `features`; after: `data`, which fits one, and `model`, which reads with it.

A frame's `READ_ROWS` rows of features around its time, joined, times a matrix, plus a bias, tell K
numbers of its lips (`Dataset.lip_shapes`). Such a sum moves less than the lips do, since what sound
does not tell is averaged out; so the numbers are then brought to the distribution that the lips
have: the q-th quantile of what was told is read as the q-th quantile of what was true. What was
told is always of frames that the regression was not fitted on (whole blocks of time left out in
turn), for the frames that it was fitted on it tells too well. How hard the matrix is held back is
chosen by the same blocks, and so is how far another matrix, fitted on other people's clips, is what
it is held back to (`prior`). Where all rows of a frame are near those of silence, lips rest: people
pause with any mouth, so that a regression tells nothing there.

Letters: N frames, R `READ_ROWS`, F audio features, K numbers, Q `KNOTS`, D numbers of a frame's
sound by principal axes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from egs_jax.config import FITTED_WINDOW
from egs_jax.media.clock import FPS
from egs_jax.speech.layout import ENTRY_ROWS
from kernels.checks import require, typechecked

REACH = FITTED_WINDOW // 2
"""Entries of a window before and after a frame's own whose rows are read too."""
READ_ROWS = ENTRY_ROWS + 4 * REACH
"""Rows that a frame is read from, symmetric about its time: 0.48 s."""
KNOTS = 21
"""Quantiles by which what is told is brought to what is true."""
AXES = 96
"""Principal axes of the features that are kept: as good as all 384, in a sixteenth of the time."""
BLOCK = 2 * FPS
"""Frames that are left out together, so that no frame is told by its neighbors."""
RIDGES = (0.1, 0.3, 1.0, 3.0)
"""Ridges that are tried, in mean eigenvalues of the sound's covariance."""
PRIOR_SHARES = (0.0, 0.5, 1.0)
"""Shares of the prior that are tried."""
CUT_AT_ONCE = 512
"""Frames whose windows are cut at once."""
QUIET = (0.25, 0.5)
"""Distance of a frame's farthest row from silence, in `spread`: below the first lips rest, above
the second they are told. (Rows of silence are up to 0.19 from their mean, those of speech 1.3.)"""


class LipsReader(NamedTuple):
    """What lips are read with; arrays of NumPy or JAX."""

    kernel: Float[Array | np.ndarray, "RF K"]
    bias: Float[Array | np.ndarray, " K"]
    told: Float[Array | np.ndarray, "Q K"]
    """Quantiles of what the sum tells, rising."""
    true: Float[Array | np.ndarray, "Q K"]
    """The same of the lips."""
    rest: Float[Array | np.ndarray, " K"]
    """Lips at rest."""
    hush: Float[Array | np.ndarray, " F"]
    """Mean row of digital silence."""
    spread: Float[Array | np.ndarray, ""]
    """Root of the summed variances of all features, over the training frames."""


class FittedLips(NamedTuple):
    """A reader, and what it would have told of the frames that it was fitted on."""

    reader: LipsReader
    told: Float[np.ndarray, "N K"]
    """Each by a reader that was fitted without the frame's block."""
    ridge: Float[np.ndarray, " K"]
    """The chosen ones of `RIDGES`."""
    prior_share: Float[np.ndarray, " K"]
    """The chosen ones of `PRIOR_SHARES`."""


def read_rows(windows: Float[Any, "B W 16 F"]) -> Float[Any, "B R F"]:
    """Cut the rows that a frame is read from out of its window (`frame_windows.feature_windows`).

    Raises:
      ValueError: if the window is shorter than `FITTED_WINDOW`.
    """
    count = windows.shape[1]
    own = count // 2
    require(
        count >= FITTED_WINDOW and windows.shape[2] == ENTRY_ROWS,
        f"windows: expected at least {FITTED_WINDOW} entries of {ENTRY_ROWS} rows, got "
        f"{list(windows.shape)}; set model.window_frames to {FITTED_WINDOW} or more",
    )
    half = READ_ROWS // 2
    xp = jnp if isinstance(windows, jax.Array) else np
    parts = windows[:, own - REACH, :half], windows[:, own + REACH, ENTRY_ROWS - half :]
    return xp.concatenate(parts, axis=1)


def cut_rows(
    windows: Callable[[Int[np.ndarray, " B"], int], Float[np.ndarray, "B W 16 F"]],
    frames: Int[np.ndarray, " N"],
) -> Float[np.ndarray, "N R F"]:
    """Cut the rows that `frames` are read from, a few at a time: their windows are three times it.

    Args:
      windows: Returns the windows of frames, of as many entries as it is told.
      frames: Of a clip, at least one.
    """
    parts = np.array_split(frames, -(-len(frames) // CUT_AT_ONCE))
    return np.concatenate([read_rows(windows(part, FITTED_WINDOW)) for part in parts])


@typechecked
def read(
    reader: LipsReader, rows: Float[Array | np.ndarray, "B R F"]
) -> Float[Array | np.ndarray, "B K"]:
    """Tell the lips of frames, in the units of the shapes that the reader was fitted on."""
    xp = jnp if isinstance(rows, jax.Array) else np
    flat, exact = rows.reshape(rows.shape[0], -1), {}
    if xp is jnp:  # a GPU would round to 10 bits, of sums that nearly cancel
        exact = {"precision": jax.lax.Precision.HIGHEST}
    told = xp.matmul(flat, reader.kernel, **exact) + reader.bias[None]
    return _calibrated(reader, xp, told, rows)


def _calibrated(reader: LipsReader, xp: Any, told: Any, rows: Any) -> Any:
    """Bring what a sum tells to the distribution of the lips, and lips in silence to rest."""
    columns = zip(told.T, reader.told.T, reader.true.T, strict=True)
    told = xp.stack([xp.interp(*column) for column in columns], axis=1)
    away = xp.sqrt(xp.square(rows - reader.hush[None, None]).sum(axis=2)).max(axis=1)
    low, high = QUIET
    quiet = xp.clip((high - away / reader.spread) / (high - low), 0, 1)[:, None]
    return told + quiet * (reader.rest[None] - told)


@typechecked
def fit_lips(
    rows: Float[np.ndarray, "N R F"],
    shapes: Float[np.ndarray, "N K"],
    silence: Float[np.ndarray, "S F"],
    rest: Float[np.ndarray, " K"],
    prior: Float[np.ndarray, "RF K"] | None = None,
) -> FittedLips:
    """Fit a reader.

    Args:
      rows: What training frames are read from, in order of time.
      shapes: Their lips; each number has mean 0 and standard deviation 1.
      silence: Rows of digital silence.
      rest: Lips at rest.
      prior: Kernel of a reader of other people (`fit_prior`); None: there is none.

    Raises:
      ValueError: if there are fewer than three frames.
    """
    require(len(rows) >= 3, f"rows: expected at least 3 frames, got {len(rows)}; film longer")
    axes = _principal_axes(rows)
    known = np.zeros(shapes.shape) if prior is None else rows.reshape(len(rows), -1) @ prior
    ridge, wanted = _Ridge(_along(axes, rows)), shapes.astype(np.float64)
    best: list[tuple[float, float, float, np.ndarray]] = []
    shares = PRIOR_SHARES if prior is not None else (0.0,)
    tries = [(size, share) for size in RIDGES for share in shares]
    tolds = [ridge.left_out(wanted - share * known, size) + share * known
             for size, share in tries]  # fmt: skip
    for k in range(shapes.shape[1]):
        errors = [np.mean(np.square(told[:, k] - shapes[:, k])) for told in tolds]
        place = int(np.argmin(errors))
        best.append((*tries[place], errors[place], tolds[place][:, k]))
    sizes, chosen = (np.array([each[i] for each in best]) for i in (0, 1))
    kernel, bias = ridge.solve(wanted - chosen * known, sizes)
    kernel = np.einsum("fd,rdk->rfk", axes, kernel.reshape(READ_ROWS, -1, len(sizes)))
    kernel = kernel.reshape(-1, len(sizes)) + (0.0 if prior is None else chosen * prior)
    told = np.stack([each[3] for each in best], axis=1)
    quantiles = np.linspace(0, 1, KNOTS)
    knots = np.quantile(told, quantiles, axis=0) + 1e-5 * np.arange(KNOTS)[:, None]
    reader = LipsReader(*map(np.float32, (
        kernel, bias, knots, np.quantile(shapes, quantiles, axis=0), rest,
        silence.mean(axis=0), np.sqrt(_frames(rows).var(axis=0).sum()),
    )))  # fmt: skip
    return FittedLips(reader, np.float32(_calibrated(reader, np, told, rows)), sizes, chosen)


@typechecked
def fit_prior(
    clips: list[tuple[Float[np.ndarray, "_ R F"], Float[np.ndarray, "_ K"]]], ridge: float = 1.0
) -> Float[np.ndarray, "RF K"]:
    """Fit one kernel on the frames of several clips, each about its own mean.

    Args:
      clips: Rows and lips of the frames of each, as in `fit_lips`.
      ridge: See `RIDGES`.
    """
    axes = _principal_axes(np.concatenate([rows for rows, _ in clips]))
    center = lambda values: values - values.mean(axis=0)
    sound = np.concatenate([center(_along(axes, rows)) for rows, _ in clips])
    lips = np.concatenate([center(shapes) for _, shapes in clips])
    kernel, _ = _Ridge(sound).solve(lips, np.full(lips.shape[1], ridge))
    kernel = np.einsum("fd,rdk->rfk", axes, kernel.reshape(READ_ROWS, -1, lips.shape[1]))
    return np.float32(kernel.reshape(-1, lips.shape[1]))


class _Ridge:
    """Ridge regressions on one set of inputs, all by one decomposition."""

    def __init__(self, inputs: Float[np.ndarray, "N D"]):
        """Decompose."""
        self.mean = inputs.mean(axis=0)
        self.inputs = inputs - self.mean
        # The smaller of both products has all that the singular vectors are made of.
        wide = self.inputs.shape[0] <= self.inputs.shape[1]
        gram = self.inputs @ self.inputs.T if wide else self.inputs.T @ self.inputs
        values, vectors = np.linalg.eigh(gram)
        kept = values > 1e-10 * values[-1]
        self.values, vectors = values[kept], vectors[:, kept]
        self.left = vectors if wide else self.inputs @ (vectors / np.sqrt(self.values))

    def _held(self, size: Any) -> Any:
        return size * self.values.sum() / len(self.inputs)

    def solve(
        self, wanted: Float[np.ndarray, "N K"], sizes: Float[np.ndarray, " K"]
    ) -> tuple[Float[np.ndarray, "D K"], Float[np.ndarray, " K"]]:
        """Return kernel and bias, each column by its own ridge."""
        mean = wanted.mean(axis=0)
        inside = self.left.T @ (wanted - mean)
        inside = inside / (self.values[:, None] + self._held(sizes)[None])
        kernel = self.inputs.T @ (self.left @ inside)
        return kernel, mean - self.mean @ kernel

    def left_out(self, wanted: Float[np.ndarray, "N K"], size: float) -> Float[np.ndarray, "N K"]:
        """Tell each frame as if its block had not been fitted on.

        Residuals of a fit without a block are (I - H_bb)^-1 times those with it, where H is the
        matrix from what is wanted to what is fitted (Cook and Weisberg 1982, Sec. 2.2).
        """
        count = len(wanted)
        shrunk = self.left * (self.values / (self.values + self._held(size)))
        residual = wanted - wanted.mean(axis=0) - shrunk @ (self.left.T @ wanted)
        told = np.empty_like(wanted)
        blocks = np.linspace(0, count, max(3, round(count / BLOCK)) + 1).astype(int)
        for first, stop in zip(blocks[:-1], blocks[1:], strict=True):
            part = slice(first, stop)
            hat = shrunk[part] @ self.left[part].T + 1 / count
            told[part] = wanted[part] - np.linalg.solve(np.eye(stop - first) - hat, residual[part])
        return told


def _principal_axes(rows: Float[np.ndarray, "N R F"]) -> Float[np.ndarray, "F D"]:
    """Return the axes along which the features vary most, one a column."""
    covariance = np.cov(_frames(rows), rowvar=False)
    return np.linalg.eigh(np.atleast_2d(covariance))[1][:, -AXES:]


def _frames(rows: Float[np.ndarray, "N R F"]) -> Float[np.ndarray, "N F"]:
    """Return the row at each frame's own time; neighbors have the others."""
    return rows[:, READ_ROWS // 2].astype(np.float64)


def _along(axes: Float[np.ndarray, "F D"], rows: Float[np.ndarray, "N R F"]) -> np.ndarray:
    """Return rows by their places along axes, [N, R D]."""
    return (rows.reshape(-1, len(axes)) @ np.float32(axes)).reshape(len(rows), -1).astype(float)
