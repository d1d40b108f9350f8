"""One pretrained network run by the LiteRT interpreter on the CPU: arrays in, arrays out.

Used by `landmarks` and `segmentation`. A wrong file is an `InputError`, never a crash further on.
"""

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from egs_jax.runtime.errors import InputError


class Network:
    """A loaded network with one float32 input."""

    def __init__(
        self, content: bytes, *, label: str, input_shape: tuple[int, ...], threads: int = 2
    ):
        """Load a network.

        Args:
          content: Bytes of the TensorFlow Lite file.
          label: What error messages call it: the file, and what it should be.
          input_shape: Expected input shape, with the batch axis.
          threads: CPU threads.

        Raises:
          InputError: if `content` is no network, or one with another input.
        """
        try:
            self._interpreter = Interpreter(model_content=content, num_threads=threads)
            self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as why:
            reason = " ".join(str(why).split())
            raise InputError(f"{label}: cannot be loaded ({reason}); give the right file") from why
        inputs = self._interpreter.get_input_details()
        found = [(tuple(map(int, row["shape"])), np.dtype(row["dtype"]).name) for row in inputs]
        if found != [(input_shape, "float32")]:
            raise InputError(
                f"{label}: takes {found}, expected one float32 input {input_shape}; "
                "give the right file"
            )
        self._input = inputs[0]["index"]
        details = self._interpreter.get_output_details()
        self._outputs = {row["name"].split(":")[0]: row["index"] for row in details}
        self.output_shapes = {
            row["name"].split(":")[0]: tuple(map(int, row["shape"])) for row in details
        }
        """Output name -> shape."""

    def __call__(self, array: np.ndarray) -> dict[str, np.ndarray]:
        """Run the network on one input without its batch axis; return its outputs by name."""
        self._interpreter.set_tensor(self._input, array[None].astype(np.float32))
        self._interpreter.invoke()
        return {name: self._interpreter.get_tensor(at) for name, at in self._outputs.items()}
