"""Spares Triton's interpreter, in which the kernels run here, work that it would do for nothing."""

import importlib.util


def skip_overflow_checks():
    """Switch off what the interpreter would report in debug mode only.

    It would do every sum and product of integers a second time, in 64 bits.
    """
    from triton.runtime import interpreter

    interpreter.interpreter_builder.options = interpreter.InterpreterOptions(
        sanitize_overflow=False
    )


def prepare_once_a_launch():
    """Have the interpreter prepare `triton.language` once a launch and module.

    It does so at every call of a device function, where nothing is left to do: half of its time.
    """
    from triton.runtime import interpreter

    prepare, done = interpreter._patch_lang, set()

    def prepare_new(function):
        module = id(function.__globals__)
        if module in done:
            return interpreter._LangPatchScope()
        scope = prepare(function)
        restore = scope.restore  # called at the end of a launch

        def restore_all():
            restore()
            done.clear()

        scope.restore = restore_all
        done.add(module)
        return scope

    interpreter._patch_lang = prepare_new


if importlib.util.find_spec("triton"):
    skip_overflow_checks()
    prepare_once_a_launch()
