"""Find and open one archive on the Python package index that pip is configured to use.

Reads the simple repository interface, HTML (PEP 503) or JSON (PEP 691). Honours pip's
`index-url`, `extra-index-url`, `no-index` and `cert`, from its environment variables and its
configuration files. Nothing is installed. Used by `assets` alone.
"""

import functools
import html.parser
import json
import os
import re
import ssl
import subprocess
import sys
import urllib.parse
import urllib.request
from http.client import HTTPResponse
from pathlib import Path

DEFAULT_INDEX = "https://pypi.org/simple"
TIMEOUT_SECONDS = 30.0
_ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"


def find_archive(package: str, archive: str) -> str:
    """Return the URL of the file `archive` of `package` on the first index that lists it.

    Args:
      package: Project name, in any spelling.
      archive: Exact file name of the wheel or source archive.

    Raises:
      OSError: if no configured index can be reached or none lists the file.
    """
    project = re.sub(r"[-_.]+", "-", package).lower()
    reasons = []
    for index in index_urls():
        page = f"{index.rstrip('/')}/{project}/"
        try:
            links = _read_links(page)
        except (OSError, ValueError) as why:
            reasons.append(f"{page}: {why}")
            continue
        if archive in links:
            return links[archive]
        reasons.append(f"{page} does not list {archive}")
    raise OSError("; ".join(reasons) or "pip is configured with no-index")


def index_urls() -> list[str]:
    """Return the index URLs of pip's configuration, main index first, else pypi.org."""
    settings = _pip_settings()
    if settings.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        return []
    extra = settings.get("extra-index-url", "").split()
    return [settings.get("index-url", DEFAULT_INDEX), *extra]


def open_url(url: str) -> HTTPResponse:
    """Open an http(s) or file URL for reading, with pip's certificate bundle if one is set.

    Raises:
      OSError: if it cannot be opened.
    """
    if url.startswith("file:"):
        path = Path(urllib.request.url2pathname(urllib.parse.urlsplit(url).path))
        if path.is_dir():  # pip reads a folder URL the same way
            url = (path / "index.html").as_uri()
    context = None
    if url.startswith("https:"):
        context = ssl.create_default_context(cafile=_pip_settings().get("cert"))
    request = urllib.request.Request(url, headers={"Accept": _ACCEPT} if url[-1] == "/" else {})
    return urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS, context=context)


def _read_links(page: str) -> dict[str, str]:
    """Map file name -> absolute URL for one project page."""
    with open_url(page) as response:
        body = response.read()
        base = response.geturl()
        kind = response.headers.get("Content-Type", "")
    if "json" in kind:
        rows = {row["filename"]: row["url"] for row in json.loads(body)["files"]}
    else:
        parser = _Anchors()
        parser.feed(body.decode("utf-8", "replace"))
        rows = {}
        for link in parser.links:
            name = urllib.parse.unquote(urllib.parse.urlsplit(link).path.rsplit("/", 1)[-1])
            rows[name] = link
    return {
        name: urllib.parse.urldefrag(urllib.parse.urljoin(base, link)).url
        for name, link in rows.items()
    }


class _Anchors(html.parser.HTMLParser):
    """Collects the targets of all links of a page."""

    def __init__(self):
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the target of an anchor."""
        if tag == "a":
            self.links += [value for key, value in attrs if key == "href" and value]


@functools.cache
def _pip_config_list(config_file: str | None) -> str:
    """Return what pip prints of its configuration files; asking takes half a second."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""  # an environment without pip: only the variables speak


def _pip_settings() -> dict[str, str]:
    """Return pip's settings; [download] overrides [global], variables override both."""
    listed = _pip_config_list(os.environ.get("PIP_CONFIG_FILE"))
    found: dict[str, str] = {}
    for scope in ("global", "download"):
        for key, value in re.findall(rf"^{scope}\.([\w-]+)='(.*)'$", listed, re.MULTILINE):
            found[key] = value
    for key in ("index-url", "extra-index-url", "no-index", "cert"):
        if value := os.environ.get("PIP_" + key.upper().replace("-", "_")):
            found[key] = value
    return found
