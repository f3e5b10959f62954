"""An ASGI middleware with sessions, each of which can reach only its own files.

Gradio serves its cache to anyone who knows a path, and accepts any uploaded file as anyone's input. Here every path in
a request must be a file that the session uploaded or was given; all others return 404.
"""

from __future__ import annotations

import json
import re
import secrets
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from impasto.errors import RefusedError
from impasto.studio.jobs import COOKIE, Session, Sessions

HEADER = "x-impasto-session"
BODY = 4_000_000  # the most bytes of a request without files
FILE = "/gradio_api/file="
ROUTES = re.compile(
    r"/(|config|theme\.css|favicon\.ico|manifest\.json|login|logout|assets/.*|static/.*|svelte/.*|"
    r"gradio_api/(info|startup-events|upload|upload_progress|heartbeat/.*|queue/.*|call/.*|run/.*|reset|cancel|"
    r"login_check|user|token|app_id|file=.*))/?"
)
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' blob: data:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
TOKEN = re.compile(r"[\w-]{16,64}")
MARKUP = re.compile(rb"<(!doctype|html|script|svg|iframe|\?php)[\s>!]", re.IGNORECASE)


def inspect(path: Path, *, most_pixels: int) -> None:
    """Check that an uploaded file is a picture and nothing else.

    Raises:
        RefusedError: it is not a picture, too large, or also a page, a script, a PDF or an archive.
    """
    import PIL.Image

    data = path.read_bytes()
    try:
        with PIL.Image.open(path) as picture:
            width, height = picture.size
    except PIL.Image.DecompressionBombError:
        raise RefusedError(f"{path.name}: the picture has more than {most_pixels // 1_000_000} megapixels") from None
    except Exception:
        raise RefusedError(f"{path.name}: not a picture; upload a PNG, JPEG, WebP or TIFF") from None
    if width * height > most_pixels:
        raise RefusedError(f"{path.name}: {width} x {height} is more than {most_pixels // 1_000_000} megapixels")
    if MARKUP.search(data) or data[:1024].find(b"%PDF-") >= 0 or zipfile.is_zipfile(path):
        raise RefusedError(f"{path.name}: the file contains more than a picture; save it again as PNG")


class Guard:
    """The middleware.

    Args:
        app: Gradio's application.
        sessions: the known sessions.
        public: files that every session may fetch.
        most_bytes, most_pixels: the limits of an upload.
    """

    def __init__(
        self, app: ASGIApp, sessions: Sessions, public: set[str], *, most_bytes: int, most_pixels: int
    ) -> None:
        self.app, self.sessions, self.public = app, sessions, public
        self.most_bytes, self.most_pixels = most_bytes, most_pixels

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        request = Request(scope)
        path, (token, new) = scope["path"], _token(request)
        if new:  # so that the application sees the session in this request
            scope = {**scope, "headers": [*scope["headers"]]}
            cookies = {**request.cookies, COOKIE: token}
            MutableHeaders(scope=scope)["cookie"] = "; ".join(f"{name}={value}" for name, value in cookies.items())

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                message.setdefault("headers", [])
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                if new:
                    response = Response()
                    response.set_cookie(COOKIE, token, path="/", httponly=True, samesite="strict")
                    headers.append("set-cookie", response.headers["set-cookie"])
            await send(message)

        session = self.sessions.get(token)
        if not ROUTES.fullmatch(path):
            await _refusal(404, "not found")(scope, receive, answer)
        elif path.startswith(FILE):
            asked = path.removeprefix(FILE)
            if asked in session.files or asked in self.public:
                await self.app(scope, receive, answer)
            else:
                await _refusal(404, "not found")(scope, receive, answer)
        elif path.rstrip("/").endswith("/upload"):
            await self._upload(scope, receive, answer, session, int(request.headers.get("content-length") or 0))
        elif scope["method"] == "POST" and not path.startswith("/login"):
            await self._post(scope, receive, answer, session)
        else:
            await self.app(scope, receive, answer)

    async def _upload(self, scope: Scope, receive: Receive, send: Send, session: Session, length: int) -> None:
        """Let Gradio store the files, inspect them, and only then send its answer."""
        if length > self.most_bytes + 10_000:  # 10 kB for the form around the file
            await _refusal(413, f"the file is larger than {self.most_bytes / 1e6:.0f} MB")(scope, receive, send)
            return
        start: Message = {}
        body = b""
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self.most_bytes + 10_000:
                raise RefusedError(f"the file is larger than {self.most_bytes / 1e6:.0f} MB")
            return message

        async def kept(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start":
                start = message
            else:
                body += message.get("body", b"")

        try:
            await self.app(scope, counted, kept)
            paths = json.loads(body) if start.get("status") == 200 else []
            try:
                for path in paths:
                    inspect(Path(path), most_pixels=self.most_pixels)
            except RefusedError:
                for path in paths:
                    Path(path).unlink(missing_ok=True)
                raise
        except RefusedError as error:
            await _refusal(400, str(error))(scope, receive, send)
            return
        session.files.update(paths)
        await send(start)
        await send({"type": "http.response.body", "body": body})

    async def _post(self, scope: Scope, receive: Receive, send: Send, session: Session) -> None:
        """Forward the request if every file in it is the session's own or public."""
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > BODY:
                await _refusal(413, "the request is too large")(scope, receive, send)
                return
        try:
            content = json.loads(body or b"null")
        except ValueError:
            await _refusal(400, "the request is not JSON")(scope, receive, send)
            return
        if any(path not in session.files and path not in self.public for path in _paths(content)):
            await _refusal(404, "no such file in this session")(scope, receive, send)
            return
        sent = False

        async def again() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, again, send)


def _token(request: Request) -> tuple[str, bool]:
    """The session token of a request, and whether its cookie must still be set."""
    given, known = request.headers.get(HEADER, ""), request.cookies.get(COOKIE, "")
    if TOKEN.fullmatch(given):
        return given, True
    return (known, False) if TOKEN.fullmatch(known) else (secrets.token_urlsafe(24), True)


def _paths(value: Any) -> Iterator[str]:
    """Every path in a request that Gradio would read as a file."""
    if isinstance(value, dict):
        if isinstance(value.get("path"), str):
            yield value["path"]
        for each in value.values():
            yield from _paths(each)
    elif isinstance(value, list):
        for each in value:
            yield from _paths(each)


def _refusal(status: int, why: str) -> Response:
    return JSONResponse({"detail": why, "error": why}, status)
