"""Programs that a process finds as an earlier one left them, without tracing them again.

JAX keeps machine code from run to run (`environment.keep_programs`), but to find it a function is
traced and lowered anew in every process: seconds of Python for one of thousands of operations, on a
CPU half of the time until the first frame. `Kept` keeps what tracing gave as well, exported as
StableHLO, under a name that says all that tracing depends on: the function, its static argument,
shapes and types, JAX's settings and versions, and every line of this code.
"""

import functools
import hashlib
import logging
import threading
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import jax
from jax import export

from egs_jax.runtime.files import atomically

LOGGER = logging.getLogger("egs_jax")
GROWTH = 4
"""Where many things go through a program at once there is one for 1, 4, 16 ... of them."""
SUFFIX = "-program"
"""End of the names of these files, which lie beside JAX's own."""
_DIGEST = hashlib.sha256().digest_size
_kept: dict[str, Path] = {}
"""Where the programs lie: the folder, or nothing where none are kept."""


def padded_count(count: int) -> int:
    """Return how many things the program for `count` of them takes."""
    size = 1
    while size < count:
        size *= GROWTH
    return size


def padded_counts(most: int) -> list[int]:
    """Return how many things the programs for up to `most` of them take."""
    return sorted({padded_count(count) for count in range(1, most + 1)})


def keep_in(folder: Path) -> None:
    """Keep programs in a folder from now on, and take those that are there."""
    _kept["folder"] = folder


class Kept:
    """A jitted function of (static, *arguments), kept as the module says; results are arrays."""

    def __init__(
        self, function: Callable[..., Any], result: Callable[..., Any], *,
        donated: int | None = None, on_cpu: dict[str, Any] | None = None,
    ):  # fmt: skip
        """Wrap a function of this package.

        Args:
          function: At module level; the repr of `static` tells it from all others.
          result: Makes what the function returns of its leaves, in their order.
          donated: Place, from 0 for `static`, of an array whose memory the results may take.
          on_cpu: XLA's options for it on a CPU.
        """
        self._function, self._result, self._donated = function, result, donated
        self._on_cpu = on_cpu
        self._programs: dict[Hashable, jax.stages.Wrapped] = {}
        self._lock = threading.Lock()

    @functools.cached_property
    def jitted(self) -> jax.stages.Wrapped:
        """The same as JAX alone would have it."""
        return jax.jit(
            self._function, static_argnums=0, donate_argnums=self._donated,
            compiler_options=self._options(),
        )  # fmt: skip

    def __call__(self, static: Hashable, *arguments: Any) -> Any:
        """Compute; the first call with new shapes finds or makes the program.

        On a CPU it is exported even where none is kept: JAX would round here and there otherwise.
        """
        folder = _kept.get("folder")
        if folder is None and jax.default_backend() != "cpu":
            return self.jitted(static, *arguments)
        leaves, tree = jax.tree.flatten(arguments)
        key = (folder, static, tree, tuple(map(_kind, leaves)), _settings())
        if key not in self._programs:
            with self._lock:  # of several threads one makes it
                if key not in self._programs:
                    self._programs[key] = self._program(folder, static, arguments)
        return self._result(*self._programs[key](*leaves))

    def _program(self, folder: Path | None, static: Hashable, arguments: tuple[Any, ...]) -> Any:
        """Return the program of flat arguments: read, or exported and written."""
        leaves, tree = jax.tree.flatten(arguments)
        donated = () if self._donated is None else self._places(arguments)

        def flat(*leaves: Any) -> tuple[Any, ...]:
            found = self._function(static, *jax.tree.unflatten(tree, leaves))
            return tuple(jax.tree.leaves(found))

        function = self._function
        described = "\n".join([
            function.__module__, function.__qualname__, repr(static), str(tree), repr(donated),
            *map(repr, map(_kind, leaves)), repr(_settings()), _code_digest(),
        ])  # fmt: skip
        name = hashlib.sha256(described.encode()).hexdigest()
        path = folder and folder / f"{function.__name__.strip('_')}-{name}{SUFFIX}"
        exported = path and _read(path)
        if exported is None:
            try:
                exported = export.export(jax.jit(flat, donate_argnums=donated))(*leaves)
            except Exception as error:  # JAX exports what it can promise to understand later
                if path:
                    told = _first_line(error)
                    LOGGER.warning("%s: not kept, every start is slower (%s)", path, told)
                return jax.jit(flat, donate_argnums=donated, compiler_options=self._options())
            if path:
                _write(path, exported)
        return jax.jit(exported.call, donate_argnums=donated, compiler_options=self._options())

    def _options(self) -> dict[str, Any] | None:
        return self._on_cpu if jax.default_backend() == "cpu" else None

    def _places(self, arguments: tuple[Any, ...]) -> tuple[int, ...]:
        """Return the places of the donated argument's leaves among all."""
        before, donated = arguments[: self._donated - 1], arguments[self._donated - 1]
        first = len(jax.tree.leaves(before))
        return tuple(range(first, first + len(jax.tree.leaves(donated))))


def _kind(leaf: Any) -> tuple[Any, ...]:
    """Return what a program knows of an array."""
    return leaf.shape, leaf.dtype.name, getattr(leaf, "weak_type", False)


def _settings() -> tuple[Any, ...]:
    """Return JAX's settings that tracing depends on."""
    config: Any = jax.config
    names = ("jax_enable_x64", "jax_default_matmul_precision", "jax_numpy_dtype_promotion")
    return jax.default_backend(), *(getattr(config, name) for name in names)


@functools.cache
def _code_digest() -> str:
    """Return a digest of all code that tracing runs: this project's, and versions of the rest."""
    import jaxlib.version
    from flax import version as flax_version

    digest = hashlib.sha256()
    versions = (jax.__version__, jaxlib.version.__version__, flax_version.__version__)
    digest.update(repr(versions).encode())
    package = Path(__file__).parents[1]
    for folder in (package, package.parent / "kernels"):
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.relative_to(package.parent).as_posix().encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


def _read(path: Path) -> export.Exported | None:
    """Return the program of a file; None if there is none, or not the one that was written."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    body = data[_DIGEST:]
    if hashlib.sha256(body).digest() != data[:_DIGEST]:  # it will be written anew
        return None
    return export.deserialize(bytearray(body))


def _write(path: Path, exported: export.Exported) -> None:
    """Write a program, all of it or nothing; one that cannot be written is said and used."""
    body = bytes(exported.serialize())
    try:
        with atomically(path) as part:
            part.write_bytes(hashlib.sha256(body).digest() + body)
    except OSError as error:
        LOGGER.warning("%s: not kept, the next start is slower (%s)", path, error.strerror)
