"""Who may ask a server, and what its pages may do.

A token that nobody can guess is the first part of every address, so that files and sockets have it
wherever a page names them without more. A server of this machine answers only to names of this
machine, against pages elsewhere that have their own name point here; a socket is opened only by
programs, which name no origin, and by the server's own pages.

Before: a request; after: `site`.
"""

import hmac
import ipaddress
import secrets
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Middleware

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' blob: data:; media-src 'self' blob:; worker-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Referrer-Policy": "no-referrer",  # which has the token
    "X-Content-Type-Options": "nosniff",
}
"""Of every answer."""


def new_token() -> str:
    """Return a token of 128 bits."""
    return secrets.token_urlsafe(16)


def is_loopback(host: str) -> bool:
    """Tell whether a name or an address means this machine and nothing else."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_from_here(request: web.Request, *, local: bool) -> bool:
    """Tell whether a request names this server, and comes of its own pages or of a program.

    Args:
      request: Any.
      local: Whether the server listens to this machine only.
    """
    named = request.headers.get("Host", "")
    if local and not is_loopback(_host(f"http://{named}") or ""):
        return False
    origin = request.headers.get("Origin")
    if origin is None:
        return True
    return origin.lower() in {f"{scheme}://{named.lower()}" for scheme in ("http", "https")}


def refusal(status: int) -> web.Response:
    """Return an answer that says no, and nothing of what there is."""
    words = b"no: open the whole address that the server printed when it started"
    return web.Response(status=status, body=words, content_type="text/plain")


def gate(token: str, *, local: bool) -> Middleware:
    """Return the middleware that lets nobody pass who may not.

    Whoever lacks the token gets the answer of a file that is not there.
    """

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.path.split("/")[1] if "/" in request.path else ""
        has_token = hmac.compare_digest(given.encode(), token.encode())
        if not has_token:
            answer: web.StreamResponse = refusal(404)
        elif not is_from_here(request, local=local):
            answer = refusal(403)
        else:
            try:
                answer = await handler(request)
            except web.HTTPException as error:
                answer = error
        if not answer.prepared:
            answer.headers.update(HEADERS)
        return answer

    return check


def _host(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None
