"""The words that a picture is synthetic: a mark in it, and what files with such pictures say."""

import functools
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from egs_jax.avatar.look import Look
from egs_jax.runtime.provenance import commit

LABEL = "AI-generated"
"""What the mark says."""
SHARE = 24
"""A picture is so many times as high as the mark's letters,"""
LEAST = 9
"""which are at least so high [pixels], where there is room for them."""
DIGITAL_SOURCE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's word for pictures that a trained model made."""
_SHADE = 0.45  # of what lies below the mark

Picture = UInt8[np.ndarray, "H Wd 3"]
Opacity = UInt8[np.ndarray, "H Wd"]


def labeled(look: Look, rgb: Picture, alpha: Opacity) -> tuple[Picture, Opacity]:
    """Return a frame and its opacity, marked as synthetic if its look says so."""
    if not look.label:
        return rgb, alpha
    letters, shade = _mark(*alpha.shape)
    rows, columns = letters.shape
    through = (1 - letters) * (1 - shade)
    opacity, place = alpha.copy(), np.s_[alpha.shape[0] - rows :, :columns]
    opacity[place] = np.rint(255 - (255.0 - alpha[place]) * through)
    return marked(rgb), opacity


def marked(rgb: Picture) -> Picture:
    """Return a picture with the mark in its lower left corner: white letters on a shade."""
    height, width = rgb.shape[:2]
    letters, shade = _mark(height, width)
    rows, columns = letters.shape
    corner = rgb[height - rows :, :columns].astype(np.float32)
    below = corner * (1 - shade[..., None]) * (1 - letters[..., None])
    made = rgb.copy()
    made[height - rows :, :columns] = np.rint(below + 255 * letters[..., None])
    return made


def synthetic() -> str:
    """Return what a file says of its pictures: that they are synthetic, and what made them."""
    name, _ = commit()
    made_by = f"egs-jax {_version()}" + (f", commit {name}" if name else "")
    return f"Synthetic: an avatar drawn by {made_by}. DigitalSourceType: {DIGITAL_SOURCE}"


def manifest(title: str) -> dict[str, Any]:
    """Return the same as a C2PA manifest, of a file with this name."""
    created = {"action": "c2pa.created", "digitalSourceType": DIGITAL_SOURCE}
    return {
        "title": title,
        "claim_generator_info": [{"name": "egs-jax", "version": _version()}],
        "assertions": [{"label": "c2pa.actions", "data": {"actions": [created]}}],
    }


def _version() -> str:
    try:
        return version("egs-jax")
    except PackageNotFoundError:
        return "of no release"


@functools.lru_cache(maxsize=8)
def _mark(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return how white a mark's pixels are, and how dark what is below them becomes, in [0,1]."""
    face, letters = cv2.FONT_HERSHEY_SIMPLEX, max(height / SHARE, LEAST)
    scale = letters / 22  # in which capitals of this face are about so high
    (wide, high), _ = cv2.getTextSize(LABEL, face, scale, 1)
    fit = min(1.0, width / (wide + 2 * letters))
    scale, letters = scale * fit, letters * fit
    line = max(1, round(letters / 8))
    (wide, high), _ = cv2.getTextSize(LABEL, face, scale, line)
    margin = round(letters / 2)
    rows, columns = min(high + 2 * margin, height), min(wide + 2 * margin, width)
    drawn = np.zeros((rows, columns), np.uint8)
    cv2.putText(drawn, LABEL, (margin, rows - margin), face, scale, 255, line, cv2.LINE_AA)
    return drawn.astype(np.float32) / 255, np.full((rows, columns), _SHADE, np.float32)
