"""Seconds from a closed dataset folder to all training frames on the device.

Claim: four minutes at 512 px (6,000 frames) take a host with one GPU under 20 s.

    python -m experiments.bench_decode DATASET [DATASET ...] [--repeats 3] [--tiny] [--out FOLDER]

writes `results/bench_decode.json`; what the clip of the claim would take is told from its pixels.
`--tiny` reads once and writes nowhere but to --out (for tests).
"""

import statistics
import time
from pathlib import Path

import jax

from egs_jax.data.dataset import Dataset
from egs_jax.runtime.arguments import Parser
from egs_jax.training.frames_on_device import DeviceDataset
from experiments._common import record
from experiments._runs import parsed, run_main

NAME = "bench_decode"
CLAIMED_PIXELS = 6_000 * 512 * 512


def main(argv: list[str] | None = None) -> Path:
    """Run the benchmark; returns the file written."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("datasets", type=Path, nargs="+", metavar="DATASET")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parsed(parser, argv, figures=False)
    jax.block_until_ready(jax.device_put(0.0))  # the device is there
    cases = [measure(d, 1 if arguments.tiny else arguments.repeats) for d in arguments.datasets]
    return record(NAME, cases, arguments.out)


def measure(folder: Path, repeats: int) -> dict:
    """Open and copy a dataset several times."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        dataset = Dataset.open(folder)
        jax.block_until_ready(DeviceDataset(dataset, fits_lips=False).footage)
        seconds.append(time.perf_counter() - began)
    start, stop = dataset.splits["train"]
    pixels = (stop - start) * dataset.width * dataset.height
    case = {
        "video": Path(dataset.meta["source"]["name"]).stem,
        "frames": stop - start,
        "width": dataset.width,
        "seconds": [round(value, 3) for value in seconds],
        "claimed_clip_s": round(statistics.median(seconds) * CLAIMED_PIXELS / pixels, 1),
    }
    print(case, flush=True)
    return case


if __name__ == "__main__":
    run_main(main)
