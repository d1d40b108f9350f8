"""What launches ask of jax-triton and jaxlib."""

from types import SimpleNamespace

from kernels import launch


def test_kernels_go_to_jaxlib_without_tritons_own_text():
    made = []
    lib = SimpleNamespace(TritonKernel=lambda *parts: made.append(parts), TritonKernelCall=7)
    short = launch._short_kernels(lib)
    short.TritonKernel("name", 4, 1, 0, ".version 8.5", "module { tt.func public @name() }", 90)
    assert made == [("name", 4, 1, 0, ".version 8.5", "", 90)]
    assert short.TritonKernelCall == 7


def test_without_a_gpu_there_is_nothing_to_shorten():
    assert launch._short_kernels(None) is None
