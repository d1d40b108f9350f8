"""Compiles the Triton kernels for sm_90 without a GPU and prints what the machine code costs.

Run on its own, without TRITON_INTERPRET: `python rasterize.py` prints one JSON object, by
kernel: registers, bytes spilt, barriers and instructions per list entry in the loop that blends.
"""

import json

from assemble import assemble, instructions, resources

from kernels.rasterize.triton import (
    binning_kernels,
    blend_adjoint_kernels,
    blend_kernels,
    list_kernels,
    projection_adjoint_kernels,
    projection_kernels,
)

# 50,000 Gaussians, 512 x 512 pixels, one frame, colours per pixel behind.
SIZES = dict(N=50_000, WIDTH=512, HEIGHT=512, COLUMNS=32)
LISTS = dict(TILES=1024, CAPACITY=265_536)
RUNS = dict(RUNS=2061, SIZE=256)
CHUNKS = dict(CHUNKS=1563, CHUNK=32)
BLEND = SIZES | LISTS | dict(
    FRAMES=8, COLORS=3, STRIDE=12, BACKGROUND=2, LOG_MIN=-7.994, ALPHA_MAX=0.99, MEDIAN=0, ASM=True
)  # fmt: skip
FORWARD = BLEND | dict(STOP=1e-4, BYTES=0, IN_PLACE=0, AHEAD=0)
BACKWARD = BLEND | dict(LOG_MAX=-0.0145, LEFT_GRADIENT=0)
PROJECT = SIZES | dict(
    MEANS=0, QUATS=0, SCALES=0, OPACITIES=0, COLORS=0, OFFSETS=0, ALIVE=0, CHUNKS=1563, FRAMES=1,
    CHANNELS=3, DEGREE=3, USED=48, LENGTH=48, NEAR=0.2, EPS=0.3, ALPHA_MIN=0.0039, ANTIALIAS=0,
    BLOCK=32, ASM=True,
)  # fmt: skip
PROJECT_FORWARD = PROJECT | dict(STRIDE=12, LEVEL_MIN=-11.09)
PROJECT_BACK = PROJECT | dict(ROW=9, DEPTH=0, CAMERA_GRADIENT=0, OFFSET_GRADIENT=0)
MEDIAN_BACK = BACKWARD | dict(MEDIAN=1, DEPTH_GRADIENT=1)
project_backward = projection_adjoint_kernels.project_backward_kernel
KERNELS = {
    "project": (projection_kernels.project_kernel, PROJECT_FORWARD),
    "project_8": (projection_kernels.project_kernel, PROJECT_FORWARD | dict(FRAMES=8)),
    "project_back": (project_backward, PROJECT_BACK),
    "project_back_8": (project_backward, PROJECT_BACK | dict(FRAMES=8)),
    "project_antialias": (projection_kernels.project_kernel, PROJECT_FORWARD | dict(ANTIALIAS=1)),
    "project_back_antialias": (project_backward, PROJECT_BACK | dict(ANTIALIAS=1)),
    "scan": (binning_kernels.scan_kernel, SIZES | LISTS | CHUNKS | dict(BITS=16, BLOCK=1024)),
    "emit": (binning_kernels.emit_kernel, SIZES | LISTS | CHUNKS | dict(ASM=True)),
    "bounds": (list_kernels.bounds_kernel, LISTS | RUNS | dict(BLOCK=1024)),
    "gather": (list_kernels.gather_kernel, SIZES | LISTS | dict(BLOCKS=2075, BLOCK=128, ASM=True)),
    "sort": (list_kernels.sort_kernel, LISTS | RUNS),
    "deal": (list_kernels.deal_kernel, SIZES | LISTS | RUNS),
    "forward": (blend_kernels.forward_kernel, FORWARD),
    "forward_bytes": (blend_kernels.forward_kernel, FORWARD | dict(BYTES=1)),
    "forward_alone": (
        blend_kernels.forward_kernel,
        FORWARD | dict(BYTES=1, IN_PLACE=1, AHEAD=1, FRAMES=1),
    ),
    "forward_median": (blend_kernels.forward_kernel, FORWARD | dict(MEDIAN=1)),
    "backward": (blend_adjoint_kernels.backward_kernel, BACKWARD | dict(DEPTH_GRADIENT=0)),
    "backward_depth": (blend_adjoint_kernels.backward_kernel, BACKWARD | dict(DEPTH_GRADIENT=1)),
    "backward_median": (blend_adjoint_kernels.backward_kernel, MEDIAN_BACK),
    "reduce": (
        blend_adjoint_kernels.reduce_kernel,
        dict(TOTAL=50_000, N=50_000, CAPACITY=265_536, ROW=9, AT_ONCE=3, BLOCK=8),
    ),
}
INTEGERS = (
    "tiles", "bases", "cuts", "totals", "zeros", "tile_counts", "same_counts", "instances",
    "entries", "runs", "run_counts", "orders", "heads", "counts", "row_heads", "row_counts",
    "bounds", "ids", "rows", "lengths", "stops", "turns", "radii",
)  # fmt: skip
POINTERS = dict.fromkeys(INTEGERS, "*i32") | dict(keys="*u32", alive="*i1")


def compile_kernel(name):
    """SASS text and resource line of a kernel."""
    kernel, constants = KERNELS[name]
    names = [parameter.name for parameter in kernel.params]
    constants = {n: value for n, value in constants.items() if n in names}
    counted = name in ("project", "project_8", "project_antialias", "scan")
    integers = POINTERS | (dict(sums="*i32") if counted else {})
    if name in ("forward_bytes", "forward_alone"):
        integers |= dict.fromkeys(("background", "rgb", "left"), "*u8")
    pointers = {n: integers.get(n, "*fp32") for n in names if n not in constants}
    return assemble(kernel, pointers, constants, dict(scan=8, bounds=8, deal=4).get(name, 1))[:2]


def blend_loop(sass):
    """Instructions of the loop that holds the exponential; none if there is none.

    Without what a branch inside it skips, which is rare: a pixel stops.
    """
    lines, jumps = instructions(sass)
    for last, first in jumps.items():
        loop = range(first, last + 1)
        if any("MUFU.EX2" in lines[i] for i in loop) and first < last:
            skipped = [range(i + 1, jumps[i]) for i in loop if i < jumps.get(i, 0) <= last]
            return [lines[i] for i in loop if not any(i in some for some in skipped)]
    return []


def measure(name):
    """Cost of a kernel's machine code."""
    sass, usage = compile_kernel(name)
    loop = blend_loop(sass)
    entries = sum("MUFU.EX2" in text for text in loop) // 2  # two pixels per lane
    return resources(usage) | dict(
        barriers_in_loop=sum("BAR." in text for text in loop),
        instructions_per_entry=len(loop) / entries if entries else None,
    )


if __name__ == "__main__":
    print(json.dumps({name: measure(name) for name in KERNELS}))
