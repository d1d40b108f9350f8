"""The system's Chromium, steered by Playwright, drawing with its software GL."""

import base64
import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import UInt8

from egs_jax.runtime.errors import InputError

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
# No sandbox: as root, in containers, it does not start otherwise, and all it opens is ours.
_OPTIONS = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox")
_PICTURE = """async ([seconds, width, height]) => {
    const pixels = await talk.picture(seconds, width, height);
    let text = "";
    for (const value of pixels) text += String.fromCharCode(value);
    return btoa(text);
}"""


@contextlib.contextmanager
def browser(*options: str, is_mute: bool = True) -> Iterator[Any]:
    """Give a browser of Playwright's, which is closed at the end.

    Args:
      options: More of Chromium's command line.
      is_mute: Whether its tabs are mute; otherwise they can hear each other, and you them.

    Raises:
      InputError: if Playwright or the browser is not installed.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise InputError("the page needs a browser and Playwright: run `make browser`") from None
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        raise InputError("the page needs the system's Chromium: run `make browser`")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(
            executable_path=program, args=[*_OPTIONS, *options],
            ignore_default_args=[] if is_mute else ["--mute-audio"],
        )  # fmt: skip
        try:
            yield found
        finally:
            found.close()


def open_page(found: Any, address: str, **options: Any) -> Any:
    """Open a page of `avatar.page` in a tab of its own and wait until it can speak."""
    tab = found.new_page(**options)
    tab.goto(address)
    tab.wait_for_selector("#play:not([disabled])")
    return tab


def picture(tab: Any, seconds: float, width: int, height: int) -> UInt8[np.ndarray, "H Wd 4"]:
    """Return what a page shows at a moment of its speech: r, g, b, alpha, premultiplied."""
    data = base64.b64decode(tab.evaluate(_PICTURE, [seconds, width, height]))
    return np.frombuffer(data, np.uint8).reshape(height, width, 4)
