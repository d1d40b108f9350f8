"""Makes the oracle beside the tests importable (pytest's importlib mode adds no paths).

Triton kernels run in Triton's interpreter here: it must be chosen before Triton is imported.
"""

import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
os.environ["TRITON_INTERPRET"] = "1"
