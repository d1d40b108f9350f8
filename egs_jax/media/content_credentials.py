"""C2PA manifests: signed words in a film of what made it, which sites show and viewers check.

Only where somebody asks for it, by the certificate and the key to sign with, in the environment
under the names that c2patool gives them. Needs the library c2pa-python (`pip install
'egs-jax[c2pa]'`). Before: whoever makes a film; after: `video_writer`.
"""

import errno
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np

from egs_jax.runtime.errors import InputError
from egs_jax.runtime.files import make_beside

CERTIFICATE, KEY = "C2PA_SIGN_CERT", "C2PA_PRIVATE_KEY"
"""Variables with the chain of certificates and the private key, as PEM; of ES256."""
TYPES = {"mp4": "video/mp4", "mov": "video/quicktime"}
"""Containers that have a place for a manifest, and what they are called there."""


@dataclass(frozen=True)
class Credentials:
    """What a film is signed with."""

    certificate: str
    key: str
    manifest: str
    """What is signed, as JSON."""


def credentials(manifest: Mapping[str, Any]) -> Credentials | None:
    """Return what films are to be signed with; None: nobody asks for that.

    Raises:
      InputError: if they cannot be signed with what is given.
    """
    given = {name: os.environ.get(name) for name in (CERTIFICATE, KEY)}
    if not any(given.values()):
        return None
    certificate, key = given.values()
    if not certificate or not key:
        missing = CERTIFICATE if not certificate else KEY
        raise InputError(f"{missing}: is not set; C2PA manifests need {CERTIFICATE} and {KEY}")
    found = Credentials(certificate, key, json.dumps(manifest))
    _, picture = cv2.imencode(".png", np.zeros((1, 1), np.uint8))
    try:
        _sign(found, "image/png", io.BytesIO(picture.tobytes()), io.BytesIO())
    except ImportError:
        raise InputError(
            f"{CERTIFICATE}: is set, but c2pa-python is not installed; pip install c2pa-python, or "
            "unset it for films without a C2PA manifest"
        ) from None
    except Exception as error:  # the library's own, without a common parent
        raise InputError(f"{CERTIFICATE}, {KEY}: cannot sign with these ({error})") from None
    return found


def sign(path: Path, container: str, signed_with: Credentials) -> None:
    """Put a manifest into a finished film; it is whole at every moment.

    Raises:
      OSError: if it cannot be written or signed.
    """
    part = make_beside(path)
    try:
        with path.open("rb") as film, part.open("w+b") as made:
            _sign(signed_with, TYPES[container], film, made)
        os.replace(part, path)
    except OSError:
        raise
    except Exception as error:  # the library's own, without a common parent
        raise OSError(errno.EIO, f"cannot sign the film ({error})", str(path)) from None
    finally:
        part.unlink(missing_ok=True)


def _sign(signed_with: Credentials, kind: str, film: BinaryIO, made: BinaryIO) -> None:
    import c2pa  # noqa: PLC0415

    certificate, key = signed_with.certificate.encode(), signed_with.key.encode()
    told = c2pa.C2paSignerInfo(alg=b"es256", sign_cert=certificate, private_key=key, ta_url=None)
    with c2pa.Signer.from_info(told) as signer, c2pa.Builder(signed_with.manifest) as builder:
        builder.sign(signer, kind, film, made)
