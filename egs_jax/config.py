"""Every setting of a run, as frozen nested dataclasses.

A `Config` is static: jitted functions take `config.program`, which configs have in common that
differ in the seed or in where a run lies, and the seed as an argument beside it. Presets are
schedules and sizes; the architecture is a field of its own.
The text under a field is its help on the command line (`config_text` reads and writes them).
"""

import dataclasses
import functools
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from egs_jax.runtime.errors import InputError

Stage = Literal["static", "deform"]
Body = Literal["person", "head"]
HEARD_FRAMES = 64
"""Frames a step whose lips are read from the sound alone."""
FITTED_WINDOW = 5
"""Frames of the audio window that fitted lips are read from (`speech.lips`)."""
EXTENT = 1.0
"""Size of the scene in world units, by which thresholds and learning rates are measured. A
constant: the head spans about +-0.8, whatever the spread of the cameras (a still head has none)."""


def _need(claim: bool, name: str, got: Any, expected: str) -> None:
    """Raise `InputError` unless `claim` holds."""
    if not claim:
        raise InputError(f"{name}: got {got}, expected {expected}")


def _need_numbers(section: str, config: Any, least: dict[str, int]) -> None:
    """Refuse numbers under their `least` (0 where it says nothing), NaN and infinity."""
    for item in dataclasses.fields(config):
        value, low = getattr(config, item.name), least.get(item.name, 0)
        numbers = value if isinstance(value, tuple) else (value,)
        if value is None or isinstance(value, str):
            continue
        good = all(low <= number and math.isfinite(number) for number in numbers)
        _need(good, f"{section}.{item.name}", value, f"at least {low} and finite")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Networks. Fields left at None follow `architecture` (see `resolved`)."""

    architecture: Literal["paper", "parity"] = "paper"
    """paper: hash tri-plane and KANs everywhere; parity: what the original code computes."""
    body: Body | None = None
    """What is drawn: the whole person, or (parity) the head, over the clip's own body."""
    encoder: Literal["hash", "dense"] | None = None
    """Spatial encoder: three 2-D hash grids, or dense multi-resolution planes."""
    decoder: Literal["taylor", "mlp"] | None = None
    """Per-Gaussian heads: a Taylor KAN, or a plain MLP (in `parity` the original's)."""
    token_kan: Literal["taylor", "mlp"] = "taylor"
    """Encoders of the condition tokens: Taylor KANs, or plain MLPs."""
    attention: Literal["esaa", "cross"] = "esaa"
    """How tokens reach a Gaussian: through a few agents, or all of them directly (dearer)."""
    agents: Literal["strided", "first"] | None = None
    """Gaussians whose features become agents: spread over the cloud, or the first ones stored."""
    ppe: Literal["temporal", "token", "off"] | None = None
    """Periodic positional encoding: on the window's time index, one row per token type, or none."""
    window_frames: int = 8
    """Video frames whose sound a frame hears."""
    ppe_period: int = 25
    """Period of the positional encoding, in frames."""
    lips: Literal["learned", "fitted"] | None = None
    """What tells the lips' opening and width from the sound: a layer that is trained with the rest
    (parity has neither), or a ridge regression on the training frames (`speech.lips`), which stays
    as it was fitted."""
    d_model: int = 64
    """Width of features, tokens and agents."""
    agents_count: int = 200
    """Agent tokens (capped by the number of live Gaussians)."""
    heads: int | None = None
    """Sets the attention temperature sqrt(d_model / heads); the original code's 16 sharpen it."""
    width: int = 128
    """Hidden width of the per-Gaussian heads and of the feed-forward layer."""
    dropout: float = 0.1
    """Dropout in the deformation network while training."""
    hash_levels: int = 12
    """Levels of each 2-D hash grid."""
    hash_base: int = 64
    """Coarsest grid resolution."""
    hash_top: int = 512
    """Finest grid resolution per unit of `bound`."""
    hash_table: int = 2**14
    """Entries of each level's table."""
    bound: float | None = None
    """Half side of the spatial encoder's cube [world units]: of a head 1.25, of a person 1.5."""
    sh_degree: int = 3
    """Highest spherical-harmonics degree."""
    elongation: float = 4.0
    """Longest axis of a person's Gaussians at most, as a multiple of the middle one: longer ones
    are needles from where the clip never looked. Heads have no limit."""

    def __post_init__(self) -> None:
        """Refuse values no network can be built from."""
        _need(0 <= self.sh_degree <= 3, "model.sh_degree", self.sh_degree, "0, 1, 2 or 3")
        _need(0 <= self.dropout < 1, "model.dropout", self.dropout, "in [0, 1)")
        parity = self.architecture == "parity"
        what = "learned: the original code has no token of the lips"
        _need(not parity or self.lips != "fitted", "model.lips", self.lips, what)
        if not parity and self.lips != "learned":
            count = self.window_frames
            what = f"at least {FITTED_WINDOW}, or model.lips learned: fitted ones hear as many"
            _need(count >= FITTED_WINDOW, "model.window_frames", count, what)
        least = 1 if self.body == "person" else 0
        if self.bound is not None:
            _need(least < self.bound < math.inf, "model.bound", self.bound, f"more than {least}")
        sizes = ("ppe_period", "d_model", "agents_count", "heads", "width", "hash_levels")
        least = dict.fromkeys((*sizes, "hash_base", "hash_table"), 1)
        least |= {"window_frames": 2, "hash_top": self.hash_base, "elongation": 1}
        _need_numbers("model", self, least)

    @property
    def fits_lips(self) -> bool:
        """True if lips are told by a regression, fitted before the training."""
        return self.resolved.lips == "fitted"

    @property
    def is_person(self) -> bool:
        """True if the whole person is drawn, not the head alone."""
        return self.resolved.body == "person"

    @property
    def resolved(self) -> "ModelConfig":
        """This config with every None replaced by what `architecture` says."""
        parity = self.architecture == "parity"
        body = self.body or ("head" if parity else "person")
        defaults = {
            "body": body,
            "bound": 1.5 if body == "person" else 1.25,
            "encoder": "dense" if parity else "hash",
            "decoder": "mlp" if parity else "taylor",
            "agents": "first" if parity else "strided",
            "ppe": "token" if parity else "temporal",
            "heads": 16 if parity else 1,
            "lips": "learned" if parity else "fitted",
        }
        chosen = {k: v for k, v in defaults.items() if getattr(self, k) is None}
        return dataclasses.replace(self, **chosen)


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How long and how much at a time."""

    static_steps: int = 7_999
    """Steps of the static stage."""
    deform_steps: int = 10_000
    """Steps of the deformation stage."""
    static_batch: int = 1
    """Frames per step in the static stage."""
    batch: int = 8
    """Frames per step in the deformation stage."""
    sh_interval: int = 1_000
    """Steps after which the active spherical-harmonics degree rises by one."""
    silence_share: float = 0.1
    """Share of deformation samples that pair a frame at rest with digital silence."""
    blink_share: float = 0.15
    """Share of deformation samples drawn from the frames whose eyes are shut or half shut."""
    lips_truth: float = 0.5
    """Share of the true lips in what the lips' token says in training, where lips are fitted; the
    rest is what the sound of other frames would have told. At one half the mouth that is learned
    moves as far as the token says, for any error of what is told."""
    log_every: int = 20
    """Steps between logged lines."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    keep_checkpoints: int = 2
    """Checkpoints kept on disk."""

    def __post_init__(self) -> None:
        """Refuse schedules that cannot run."""
        names = ("static_batch", "batch", "sh_interval", "log_every", "checkpoint_every")
        _need_numbers("schedule", self, dict.fromkeys((*names, "keep_checkpoints"), 1))
        for name in ("silence_share", "blink_share"):
            value = getattr(self, name)
            _need(0 <= value < 1, f"schedule.{name}", value, "in [0,1)")
        _need(0 <= self.lips_truth <= 1, "schedule.lips_truth", self.lips_truth, "in [0,1]")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Adam's learning rates (start -> end, log-linear over `decay_steps`, per stage)."""

    means: tuple[float, float] = (1.6e-4, 1.6e-6)
    """Centers; times the scene extent."""
    networks: tuple[float, float] = (1e-4, 1e-5)
    """Everything in the networks but the planes; times the scene extent."""
    planes: tuple[float, float] = (1.6e-3, 1.6e-4)
    """Tri-plane tables; times the scene extent."""
    sh0: float = 2.5e-3
    """Constant color."""
    shN: float = 1.25e-4
    """View-dependent color."""
    logit_opacities: float = 0.05
    """Opacity."""
    log_scales: float = 0.005
    """Scale."""
    quats: float = 0.001
    """Rotation."""
    decay_steps: int = 20_000
    """Steps over which the decaying rates reach their end."""
    warmup_steps: int = 500
    """Steps of the deformation stage over which the rates of planes and networks rise."""
    rate_scale: float = 1.0
    """Multiplies every rate (short schedules learn faster)."""
    cooldown: float = 0.2
    """Share of the deformation stage, at its end, in which every rate falls linearly to nothing."""

    def __post_init__(self) -> None:
        """Refuse rates that would spoil the parameters."""
        _need_numbers("optim", self, {"decay_steps": 1})
        _need(0 <= self.cooldown <= 1, "optim.cooldown", self.cooldown, "in [0,1]")
        _need(self.rate_scale > 0, "optim.rate_scale", self.rate_scale, "more than 0")
        for name in ("means", "networks", "planes"):
            value = getattr(self, name)
            _need(min(value) > 0, f"optim.{name}", value, "more than 0: it decays by factors")


@dataclass(frozen=True, kw_only=True)
class DensifyConfig:
    """Density control of the static stage (the original's thresholds but where it says so)."""

    capacity: int = 50_000
    """Slots for Gaussians; arrays have this length and never grow."""
    points: int = 30_000
    """Gaussians at the start (at most what the dataset's initial cloud holds)."""
    start: int = 1_000
    """Gaussians grow, by clones and splits for their gradient, after more steps than this."""
    stop: int = 7_000
    """The cloud changes after fewer steps than this, and in the static stage alone."""
    every: int = 100
    """Steps between changes, from the first after more than the lesser of start and prune_from."""
    grad_threshold: float | None = None
    """Mean screen-space gradient (pixels times half the image size) above which one grows. None:
    the original code's 0.001 in `parity`, else 0.0004 (with 0.001 few grow before the large ones
    are split, and the slots go to halves that are large too)."""
    clone_scale: float = 0.01
    """Clone below, split above this scale, as a share of the extent."""
    prune_from: int = 500
    """Faint Gaussians are removed after more steps than this."""
    prune_opacity: float = 0.005
    """Remove below this opacity."""
    prune_large_from: int = 3_000
    """Gaussians too large on screen or in the world are removed, or split (split_large), after more
    steps than this."""
    prune_radius: float = 20.0
    """Remove above this screen radius, pixels at 512 (scaled with the image)."""
    prune_scale: float = 0.1
    """Remove above this scale, as a share of the extent."""
    split_large: bool = True
    """Split those too large on screen or in the world instead; never in `parity`."""

    def __post_init__(self) -> None:
        """Refuse clouds that do not fit their slots."""
        _need_numbers("densify", self, {"capacity": 1, "every": 1})
        _need(
            1 <= self.points <= self.capacity,
            "densify.points", self.points, f"1 to densify.capacity ({self.capacity})",
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the training loss."""

    l1: float = 0.8
    """Absolute error."""
    dssim: float = 0.2
    """1 - SSIM."""
    perceptual: float = 0.15
    """VGG-16 feature distance; 0 leaves the network out."""
    lips: float = 0.4
    """Absolute error over the lips rectangle."""
    hearing: float = 0.1
    """Squared error of the lips' shape read from the sound alone, in standard deviations (not in
    `parity`, which has no such reading)."""
    hearing_noise: float = 1.0
    """Noise added there to the sound's features, in standard deviations, against overfitting."""
    eyes: float = 0.2
    """Absolute error over the rectangle around both eyes."""
    mask: float = 0.4
    """Absolute error of the rendered alpha against the mask of person or head."""
    roughness: float = 0.01
    """Squared differences of neighboring weights between head and body."""
    perceptual_size: int = 224
    """Side of what the perceptual loss looks at, pixels."""
    perceptual_every: int = 1
    """Steps between perceptual terms (its weight is multiplied to make up)."""

    def __post_init__(self) -> None:
        """Refuse weights that are no weights, and images too small for the perceptual network."""
        _need_numbers("loss", self, {"perceptual_size": 32, "perceptual_every": 1})


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run."""

    preset: str = "paper"
    """The preset this config started from."""
    data_dir: str = ""
    """Dataset folder, made by `preprocess`."""
    seed: int = 0
    """Every random number comes from (seed, step)."""
    size: int | None = None
    """Side of the training images in pixels; None: the dataset's own."""
    rasterizer: Literal["xla", "triton"] | None = None
    """Rasterizer; None picks the best one that runs here."""
    frames_on: Literal["device", "host"] | None = None
    """Where the training frames lie; None: on a GPU or TPU if half of its memory holds them."""
    devices: int = 1
    """Devices that share the frames of each step, those of all hosts together; a step has as many
    frames as the schedule says, or the next multiple of this."""
    parallel: Literal["shard_map", "pmap"] = "shard_map"
    """How they share them: pmap is the older way, with the same result."""
    model: ModelConfig = field(default_factory=ModelConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    densify: DensifyConfig = field(default_factory=DensifyConfig)
    loss: LossConfig = field(default_factory=LossConfig)

    def __post_init__(self) -> None:
        """Refuse sizes that no network of the pipeline can see anything in."""
        _need(0 <= self.seed < 2**32, "seed", self.seed, "0 to 4294967295")
        _need(
            self.devices >= 1 and HEARD_FRAMES % self.devices == 0,
            "devices", self.devices, f"a number that divides {HEARD_FRAMES}",
        )  # fmt: skip
        _need(self.size is None or 32 <= self.size <= 4096, "size", self.size, "32 to 4096")

    @property
    def total_steps(self) -> int:
        """Steps of both stages."""
        return self.schedule.static_steps + self.schedule.deform_steps

    @property
    def hears(self) -> bool:
        """True if lips are read from the sound alone, as a task of its own (`loss.hearing`)."""
        return self.loss.hearing > 0 and self.model.architecture != "parity"

    @property
    def grad_threshold(self) -> float:
        """Gradient above which a Gaussian grows (`densify.grad_threshold`)."""
        if self.densify.grad_threshold is not None:
            return self.densify.grad_threshold
        return 0.001 if self.model.architecture == "parity" else 0.0004

    @property
    def splits_large(self) -> bool:
        """True if Gaussians too large are split, not removed (`densify.split_large`)."""
        return self.densify.split_large and self.model.architecture != "parity"

    @functools.cached_property
    def program(self) -> "Config":
        """This config without what no compiled program depends on: equal ones never retrace."""
        return dataclasses.replace(
            self, preset="paper", data_dir="", seed=0, frames_on=None, parallel="shard_map"
        )

    @functools.cached_property
    def drawing(self) -> "Config":
        """This config without what no program that draws depends on: networks and rasterizer stay.

        Equal ones of several avatars share their programs.
        """
        training = ModelConfig()
        model = dataclasses.replace(
            self.model.resolved, dropout=training.dropout, elongation=training.elongation
        )
        return Config(model=model, rasterizer=self.rasterizer)

    def sh_degree(self, step: Any) -> Any:
        """Return the degree of spherical harmonics of `step`, a number or an array.

        Harmonics above it are zero in that step; it may be beyond the highest that there is.
        """
        return step // self.schedule.sh_interval

    def has_perceptual(self, step: int) -> bool:
        """Return whether the loss of `step` has its perceptual term."""
        return self.loss.perceptual > 0 and step % self.loss.perceptual_every == 0

    def stage(self, step: int) -> Stage:
        """Return the stage that `step` belongs to."""
        return "static" if step < self.schedule.static_steps else "deform"

    def frames(self, stage: Stage) -> int:
        """Return the frames of a step: the schedule's, rounded up to as many on every device."""
        schedule = self.schedule
        frames = schedule.static_batch if stage == "static" else schedule.batch
        return -(-frames // self.devices) * self.devices
