"""Refuses requests from elsewhere: by names that are not this machine's, from other sites, and without the token."""

import html
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from streamlit import config
from streamlit.web.server.server_util import allowlisted_origins
from streamlit.web.server.starlette.starlette_websocket import is_host_allowed

from specs import RunError
from ui.server.token import Token

HEALTH = "/_stcore/health"
"""Says that the server lives, and nothing else; whoever waits for it has no token."""

_LONGEST_FORM = 4096
_UNKEPT = {"Cache-Control": "no-store", "Referrer-Policy": "same-origin"}
"""Neither a cache nor another site sees the address; without any referrer, the form would be sent as from nowhere."""


class OwnPages:
    """Lets in what a page of this server asks, under a name of this machine.

    A name that somebody else's DNS server points to this machine is refused, and so is a page of another site. What
    is let in cannot be framed by another site.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403, or hand the request on."""
        if scope["type"] not in {"http", "websocket"}:
            await self.app(scope, receive, send)
            return
        asked = HTTPConnection(scope)
        host, origin = asked.headers.get("host"), asked.headers.get("origin")
        refusal = _refused_host(host) or _refused_origin(host, origin)
        if refusal:
            await _refuse(PlainTextResponse(f"{refusal}\n", 403), scope, receive, send)
        elif scope["type"] == "websocket":
            await self.app(_without_origin(scope), receive, send)
        else:
            await self.app(scope, receive, _unframed(send))


class WithToken:
    """Lets in who has the token: from the link or a form once, then from a cookie."""

    def __init__(self, app: ASGIApp, token: Token) -> None:
        self.app = app
        self.token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on, keep the token that it brings, or ask for one."""
        if scope["type"] not in {"http", "websocket"} or scope["path"].endswith(HEALTH):
            await self.app(scope, receive, send)
            return
        asked = HTTPConnection(scope)
        given = asked.query_params.get("token") if scope["type"] == "http" else None
        knows = self.token.is_kept_in(asked.cookies.get(self.token.cookie_name, ""))
        if given is None and not knows and scope["type"] == "http":
            given = await _typed(Request(scope, receive))
        if given is not None and self.token.is_given_by(given):
            await self._keep(scope)(scope, receive, send)
        elif knows:
            await self.app(_without_token(scope), receive, send)
        else:
            await _refuse(_question(asked, given), scope, receive, send)

    def _keep(self, scope: Scope) -> Response:
        """Return an answer that leads to the same address without the token, and leaves the cookie."""
        query = _without_token(scope)["query_string"].decode("latin-1")
        # Two slashes, or one and a backslash, would lead to another host.
        path = "/" + scope["raw_path"].decode("latin-1").lstrip("/\\")
        answer = RedirectResponse(path + (f"?{query}" if query else ""), 303, _UNKEPT)
        secure = scope["scheme"] in {"https", "wss"}
        answer.set_cookie(self.token.cookie_name, self.token.cookie_value, httponly=True, samesite="lax", secure=secure)
        return answer


def _refused_host(host: str | None) -> RunError | None:
    if is_host_allowed(host):
        return None
    rule = f"must be one of {', '.join(config.get_option('server.allowedHosts'))}"
    return RunError("Host", rule, host or "none", "If it is yours, start with --server.allowedHosts and its name")


def _refused_origin(host: str | None, origin: str | None) -> RunError | None:
    if origin is None or urlsplit(origin).netloc == host or origin in allowlisted_origins():
        return None
    way_out = "If it is yours, start with --server.corsAllowedOrigins and its address"
    return RunError("Origin", "must be this server's own pages", origin, way_out)


def _without_origin(scope: Scope) -> Scope:
    """Return a request whose origin was judged: for one it does not know, Streamlit asks outside for our address."""
    headers = [(name, value) for name, value in scope["headers"] if name != b"origin"]
    return {**scope, "headers": headers}


def _without_token(scope: Scope) -> Scope:
    pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    kept = [(name, value) for name, value in pairs if name != "token"]
    return scope if len(kept) == len(pairs) else {**scope, "query_string": urlencode(kept).encode()}


def _unframed(send: Send) -> Send:
    """Return a sender whose pages only this server may show in a frame."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).append("Content-Security-Policy", "frame-ancestors 'self'")
        await send(message)

    return sending


async def _refuse(answer: Response, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        # Before it was accepted, so that the server answers 403.
        await receive()
        await send({"type": "websocket.close", "code": 1008})
    else:
        await answer(scope, receive, send)


async def _typed(request: Request) -> str | None:
    """Return the token of the form, or None if the request is not the form."""
    if request.method != "POST" or "urlencoded" not in request.headers.get("content-type", ""):
        return None
    form = b""
    async for part in request.stream():
        form += part
        if len(form) > _LONGEST_FORM:
            return ""
    return parse_qs(form.decode("latin-1")).get("token", [""])[0]


def _question(asked: HTTPConnection, given: str | None) -> Response:
    """Return what somebody without the token gets: a form in a browser, otherwise a sentence."""
    rule = "token: must be the one in the link that LoRAFit printed when it started"
    sentence = f"{rule}." if given is None else f"{rule}, got another one."
    if "text/html" not in asked.headers.get("accept", ""):
        return PlainTextResponse(f"{sentence}\n", 401, _UNKEPT)
    return HTMLResponse(_PAGE.replace("SENTENCE", html.escape(sentence)), 401, _UNKEPT)


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>LoRAFit</title>
<style>
:root {
  color-scheme: light dark;
  --page: #FDFDFC; --text: #111318; --border: #6F7078; --button: #3D4FB5; --on: #FFFFFF
}
@media (prefers-color-scheme: dark) {
  :root { --page: #15161B; --text: #E9E9ED; --border: #8C8F9B; --button: #97A3F5; --on: #111318 }
}
body { background: var(--page); color: var(--text); font: 15px/1.6 "Source Sans", system-ui, sans-serif; margin: 0 }
main { max-width: 28rem; margin: 15vh auto 0; padding: 0 1.5rem }
h1 { font-size: 1.7rem }
label { display: block; font-weight: 600; margin-top: 1.5rem }
input, button { box-sizing: border-box; width: 100%; padding: .6rem .8rem; font: inherit; border-radius: 6px }
input { border: 1px solid var(--border); background: var(--page); color: var(--text) }
button { border: 0; background: var(--button); color: var(--on); font-weight: 600; margin-top: .75rem; cursor: pointer }
</style>
</head>
<body>
<main>
<h1>LoRAFit</h1>
<p role="status">SENTENCE</p>
<p>Several people can reach this server, so it lets in who has that link. Open the link, or type the token.</p>
<form method="post">
<label for="token">Token</label>
<input id="token" name="token" type="password" autocomplete="off" required autofocus>
<button>Open LoRAFit</button>
</form>
</main>
</body>
</html>
"""
