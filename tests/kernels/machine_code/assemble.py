"""Compiles Triton kernels for an H100 (sm_90) without a GPU and reads their machine code."""

import re
import subprocess
import tempfile

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

POINTERS = dict(float32="*fp32", bfloat16="*bf16", int32="*i32", int8="*i8")
INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(.*);")


def assemble(kernel, pointers, constants, num_warps, max_registers=None):
    """SASS text, resource line and bytes of shared memory of a kernel.

    Args:
      kernel: A `@triton.jit` function.
      pointers: Type of each array, by name.
      constants: Compile-time numbers, by name.
      num_warps: Warps per program.
      max_registers: Most registers a thread may have.
    """
    names = [parameter.name for parameter in kernel.params]
    source = ASTSource(
        kernel, signature={n: pointers.get(n, "constexpr") for n in names},
        constexprs={(names.index(n),): value for n, value in constants.items()},
        attrs={(names.index(n),): [["tt.divisibility", 16]] for n in pointers},
    )  # fmt: skip
    options = dict(num_warps=num_warps, num_stages=1, maxnreg=max_registers)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()

        def read(tool, flag):
            command = [tool.path, flag, file.name]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout

        return (
            read(triton.knobs.nvidia.nvdisasm, "-c"),
            read(triton.knobs.nvidia.cuobjdump, "-res-usage"),
            compiled.metadata.shared,
        )


def instructions(sass):
    """All instructions, and of those that jump, by their place, where to."""
    lines, labels = [], {}
    for line in sass.splitlines():
        label = re.match(r"\s*(\.L_x_\d+):", line)
        if label:
            labels[label[1]] = len(lines)
        instruction = INSTRUCTION.search(line)
        if instruction:
            lines.append(instruction[1])
    jumps = {
        i: labels[match[1]]
        for i, line in enumerate(lines)
        if (match := re.search(r"BRA.*`\((\.L_x_\d+)\)", line))
    }
    return lines, jumps


def resources(usage):
    """Registers and spilt bytes by the resource line."""
    spilt = [int(re.search(rf"{kind}:(\d+)", usage)[1]) for kind in ("LOCAL", "STACK")]
    return dict(registers=int(re.search(r"REG:(\d+)", usage)[1]), spilt=sum(spilt))


def count(pattern, lines):
    """Count the instructions that have it."""
    return sum(bool(re.search(pattern, text)) for text in lines)
