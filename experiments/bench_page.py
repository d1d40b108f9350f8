"""The page that talks: is its picture that of Python, how large is it, how long does it draw.

Claim: a page's pictures have at least 40 dB to those of `draw_codes`, which are not rounded to
bytes; an avatar of 25,000 Gaussians with a minute of speech takes at most 15 MB. Chromium draws
with its software GL: its times are those of a CPU, not of any GPU.

    python -m experiments.bench_page --speech SPEECH AVATAR... [--out FOLDER]

writes `results/bench_page.json`. Each avatar's page lies in a temporary folder and is deleted.
"""

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from egs_jax.avatar.avatar import Avatar
from egs_jax.avatar.draw import draw_codes, load_drive, motion_codes
from egs_jax.avatar.page import write_page
from egs_jax.media.clock import FPS
from egs_jax.runtime.arguments import Parser
from egs_jax.runtime.environment import usable_cores
from experiments._browser import browser, open_page, picture
from experiments._common import RESULTS, record
from experiments._runs import run_main

PICTURES = 5
"""Frames that are compared, evenly spread over the speech."""
# Reading a pixel waits until all is drawn. [ms of `draw`, of `move` and `draw`, of a whole sort]
_TIMES = """async ([seconds, width, height, rounds]) => {
    const { player, motion } = talk, { gl } = player.renderer, pixel = new Uint8Array(4);
    const moment = motion.at(seconds);
    talk.isApart = true;
    Object.assign(talk.canvas, { width, height });
    const timed = async (act) => {
        await act();
        const began = performance.now();
        for (let i = 0; i < rounds; i++) {
            await act();
            gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, pixel);
        }
        return (performance.now() - began) / rounds;
    };
    const sort = () => new Promise((resolve) => {
        player.waiting.push(resolve);
        player.sort(moment.codes, player.seen);
    });
    const times = [await timed(() => player.draw()), await timed(() => player.show(moment))];
    times.push(await timed(sort));
    Object.assign(talk, { isApart: false, stale: true });
    return times;
}"""


def measured(avatar: Avatar, speech: Path, found: Any, rounds: int) -> dict:
    """Measure one avatar's page in an open browser."""
    drive = load_drive(speech, avatar)
    width, height = avatar.scene.width, avatar.scene.height
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "talk.html"
        write_page(avatar, speech, path)
        megabytes, began = path.stat().st_size / 1e6, time.perf_counter()
        tab = open_page(found, path.as_uri())
        opened = time.perf_counter() - began
        got, rounded = [], []
        for frame in np.linspace(0, drive.num_frames - 1, PICTURES).round().astype(int).tolist():
            one = drive.frames(frame, frame + 1)
            drawn = draw_codes(avatar, motion_codes(avatar, one), one).rgb[0]
            want = np.clip(np.asarray(drawn), 0, 1)
            shown = picture(tab, frame / FPS, width, height)[..., :3] / 255
            got.append(_psnr(shown, want))
            rounded.append(_psnr(np.rint(want * 255) / 255, want))
        draw, show, sort = tab.evaluate(_TIMES, [drive.num_frames / FPS / 2, width, height, rounds])
        tab.close()
    return dict(
        gaussians=avatar.num_gaussians, codes=avatar.baked.ranges.shape[1], width=width,
        sound_s=round(drive.num_frames / FPS, 2), megabytes=round(megabytes, 2),
        psnr_least=round(min(got), 2), psnr_rounded_least=round(min(rounded), 2),
        open_s=round(opened, 2), draw_ms=round(draw, 1), show_ms=round(show, 1),
        sort_ms=round(sort, 1), browser=found.version, cores=usable_cores(),
    )  # fmt: skip


def _psnr(got: np.ndarray, want: np.ndarray) -> float:
    return float(-10 * np.log10(np.square(got - want).mean()))


def main(argv: list[str] | None = None) -> Path:
    """Run the benchmark; returns the file written."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("avatars", type=Path, nargs="+", metavar="AVATAR")
    parser.add_argument("--speech", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=10, help="of each time (10)")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FOLDER")
    arguments = parser.parse_args(argv)
    cases = []
    with browser() as found:
        for path in arguments.avatars:
            case = measured(Avatar.load(path), arguments.speech, found, arguments.rounds)
            cases.append({"avatar": path.stem} | case)
            print(json.dumps(cases[-1]), flush=True)
    return record("bench_page", cases, arguments.out)


if __name__ == "__main__":
    run_main(main)
