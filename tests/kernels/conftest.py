"""Makes the oracle beside the tests importable (pytest's importlib mode adds no paths)."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
