"""Makes the oracle beside the tests importable (pytest's importlib mode adds no paths).

Triton kernels run in Triton's interpreter here: it must be chosen before Triton is imported.
"""

import importlib.util
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
os.environ["TRITON_INTERPRET"] = "1"


def patch_once_a_launch():
    """Let Triton's interpreter prepare `triton.language` once a launch and module.

    It does so at every call of a device function, where nothing is left to do: three quarters of
    its time.
    """
    from triton.runtime import interpreter

    patch, done = interpreter._patch_lang, set()

    def patch_new(function):
        module = id(function.__globals__)
        if module in done:
            return interpreter._LangPatchScope()
        scope = patch(function)
        restore = scope.restore  # called at the end of a launch

        def restore_all():
            restore()
            done.clear()

        scope.restore = restore_all
        done.add(module)
        return scope

    interpreter._patch_lang = patch_new


if importlib.util.find_spec("triton"):
    patch_once_a_launch()
