"""Makes the oracle beside the tests importable (pytest's importlib mode adds no paths).

Triton kernels run in Triton's interpreter here: it must be chosen before Triton is imported.
"""

import functools
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


def leave_out_silent_checks():
    """Let Triton's interpreter compute no overflow that it would tell of in debug mode only.

    It does every sum and product of integers a second time, in 64 bits, to say nothing.
    """
    from triton.language.semantic import TritonSemantic
    from triton.runtime import interpreter

    assert not interpreter.interpreter_builder.options.debug
    TritonSemantic.binary_op_sanitize_overflow_impl = lambda *_: None


def remember_types():
    """Let Triton's interpreter look up the types of numbers that it would make anew every time.

    The same element and shape are the same type, and that has one type in numpy.
    """
    from triton.language import core
    from triton.runtime import interpreter

    in_numpy, build = interpreter._get_np_dtype, core.block_type.__init__
    numbers_in_numpy, built = functools.cache(in_numpy), {}

    def in_numpy_once(kind):
        return in_numpy(kind) if kind.scalar.is_ptr() else numbers_in_numpy(kind.scalar)

    def build_once(self, element_ty, shape):
        if element_ty.is_ptr():
            return build(self, element_ty, shape)
        key = element_ty, tuple(map(core._unwrap_if_constexpr, shape))
        if key not in built:
            build(self, element_ty, shape)
            built[key] = self.__dict__.copy()
        self.__dict__.update(built[key])

    interpreter._get_np_dtype = in_numpy_once
    core.block_type.__init__ = build_once


if importlib.util.find_spec("triton"):
    patch_once_a_launch()
    leave_out_silent_checks()
    remember_types()
