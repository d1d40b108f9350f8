"""Spares Triton's interpreter, in which the kernels run here, work that it repeats or wastes."""

import functools
import importlib.util
import math


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


def remember_shapes():
    """Let Triton's interpreter wrap a shape once for all tensors that have it."""
    from triton.language import core

    unshaped = core.base_value.__init__

    @functools.cache
    def wrapped(*sizes):
        return core.tuple([core.constexpr(size) for size in sizes])

    @functools.cache
    def count(*sizes):
        return core.constexpr(math.prod(sizes))

    def build(self, handle, type):
        unshaped(self)
        sizes = type.shape.values if type.is_block() else ()
        self.handle, self.type, self.dtype = handle, type, type.scalar
        self.numel, self.shape = count(*sizes), wrapped(*sizes)

    core.tensor.__init__ = build


def pass_operands_that_agree():
    """Let Triton's interpreter leave operands as they are that have one type and one shape.

    It finds as much out by questions that take most of an operation's time.
    """
    from triton.language import core
    from triton.language.semantic import TritonSemantic

    agree, broadcast = (
        TritonSemantic.binary_op_type_checking_impl,
        TritonSemantic.broadcast_impl_value,
    )
    plain = {core.float32, core.int32, core.int64, core.uint32, core.int1}

    def same_shape(a, b):
        if not a.is_block() or not b.is_block():
            return a.is_block() == b.is_block()
        return a.shape.values == b.shape.values

    def broadcast_others(self, lhs, rhs):
        return (lhs, rhs) if same_shape(lhs.type, rhs.type) else broadcast(self, lhs, rhs)

    def agree_others(self, lhs, rhs, *arguments, **options):
        if isinstance(lhs, core.tensor) and isinstance(rhs, core.tensor):
            scalar = lhs.dtype
            if scalar == rhs.dtype and scalar in plain and same_shape(lhs.type, rhs.type):
                return lhs, rhs
        return agree(self, lhs, rhs, *arguments, **options)

    TritonSemantic.broadcast_impl_value = broadcast_others
    TritonSemantic.binary_op_type_checking_impl = agree_others


if importlib.util.find_spec("triton"):
    patch_once_a_launch()
    leave_out_silent_checks()
    remember_types()
    remember_shapes()
    pass_operands_that_agree()
