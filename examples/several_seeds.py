"""The same training with several seeds: what of a figure is the method, and what is luck.

    python examples/several_seeds.py data/me --preset fast --seeds 0 1 2 --out runs/seeds

Needs a dataset (`egs-jax preprocess`). Takes a training and its evaluation for each seed: half an
hour on two cores with `tiny`; what was stopped goes on, what is done is not trained again. Writes a
run folder with a report for each, and seeds.json.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np

import egs_jax as egs

FIGURES = {
    "psnr_person": "PSNR of the person, dB",
    "psnr_head": "PSNR of the head, dB",
    "lpips_person": "LPIPS of the person",
    "lmd": "landmark distance, px",
    "mouth_r": "mouth, correlation",
}


def smallest(config):
    """Return the same training in a few small steps, to see that it works."""
    change = dataclasses.replace
    return change(
        config,
        size=48,
        schedule=change(config.schedule, static_steps=20, deform_steps=20, sh_interval=9),
        optim=change(config.optim, warmup_steps=0),
        densify=change(config.densify, capacity=500, points=300),
        loss=change(config.loss, perceptual=0.0),
    )


def main(argv=None):
    """Train and evaluate with every seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="a dataset folder")
    parser.add_argument("--preset", default="tiny", help="tiny, fast, sharp or paper (tiny)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(0 1 2)")
    parser.add_argument("--out", type=Path, default=Path("runs/seeds"), help="(runs/seeds)")
    parser.add_argument("--tiny", action="store_true", help="a few steps at 48 pixels")
    args = parser.parse_args(argv)
    dataset = egs.Dataset.open(args.data)
    found = {}
    for seed in args.seeds:
        config = egs.preset(args.preset, data_dir=str(args.data.resolve()), seed=seed)
        run_dir = args.out / f"{args.preset}-{seed}"
        egs.fit(smallest(config) if args.tiny else config, dataset, run_dir=run_dir)
        found[seed] = egs.evaluate(run_dir)
    (args.out / "seeds.json").write_text(json.dumps(found, indent=2), encoding="utf-8")
    print(f"{len(found)} seeds, mean and standard deviation:")
    for name, words in FIGURES.items():
        values = np.array([each[name] for each in found.values() if each[name] is not None])
        spread = f"{values.mean():.3f} ± {values.std(ddof=1):.3f}" if len(values) > 1 else "-"
        print(f"{words:>24}: {spread}")


if __name__ == "__main__":
    main()
