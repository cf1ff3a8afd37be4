"""Protection of the local page against other machines and other sites."""

from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Everything that the page loads comes from this server. `blob:` and `data:` are pictures that the
# page makes itself.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cache-control": "no-store",
}
READING = ("GET", "HEAD")


class Guard:
    """Middleware that refuses requests of other sites, and forbids the page to load from elsewhere.

    - `Host` must be a loopback name with our port. Another site whose name resolves to this machine
      (DNS rebinding) sends its own name.
    - A request that is not a reading must have our own `Origin`. A browser always sends it, so a
      page of another site cannot post.

    Args:
        app: application behind the guard.
        hosts: accepted values of `Host`, from `allowed_hosts`.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self._app = app
        self._hosts = frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        # Websockets have no use here; without a handler, the server closes them.
        if scope["type"] != "http":
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refusal = self._refusal(scope["method"], Headers(scope=scope))
        app = self._app if refusal is None else PlainTextResponse(*refusal)
        await app(scope, receive, send_guarded)

    def _refusal(self, method: str, headers: Headers) -> tuple[str, int] | None:
        """Text and status for a request that is refused, else None."""
        hosts = headers.getlist("host")
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return f"this page is only at http://{min(self._hosts)}/", 421
        if method not in READING and headers.get("origin") != f"http://{hosts[0].lower()}":
            return "only the page itself may send this", 403
        return None


def allowed_hosts(port: int) -> frozenset[str]:
    """Values of the header `Host` that name this machine.

    >>> sorted(allowed_hosts(8000))
    ['127.0.0.1:8000', '[::1]:8000', 'localhost:8000']
    """
    names = ("127.0.0.1", "localhost", "[::1]")
    # Browsers leave out the standard port.
    return frozenset(name if port == 80 else f"{name}:{port}" for name in names)
