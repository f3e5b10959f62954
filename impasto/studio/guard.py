"""An ASGI middleware in front of Gradio: sessions, each of which can reach only its own files, and limits.

Gradio serves its cache to anyone who knows a path, and accepts any uploaded file as anyone's input. Here uploads lie in
the folder of their session. Every path in a request must be a file of its session or a public file of the studio; other
paths return 404.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

from starlette.datastructures import MutableHeaders, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from impasto import files
from impasto.errors import BusyError, RefusedError
from impasto.studio import inspection, names
from impasto.studio.jobs import SPARE, Session, Sessions

HEADER = "x-impasto-session"
KEY = "impasto.session"  # of the token in the ASGI scope
BODY = 4_000_000  # the most bytes of a request without files
FORM = 10_000  # the most bytes of a form around its files, and of the login
SECONDS, QUIET = 300.0, 20.0  # for a request's body, and for its next part
LONGEST = 1000  # characters of a path; Gradio answers 500 to those that no file can have
FILE = "/gradio_api/file="
OPEN = re.compile(r"/(|config|theme\.css|favicon\.ico|manifest\.json|login|assets/.*|static/.*|svelte/.*)/?")
API = re.compile(
    r"/gradio_api/(info|startup-events|upload|heartbeat/[^/]+|queue/(join|data)|call/[^/]+(/[^/]+)?|run/[^/]+|reset|"
    r"cancel|login_check|app_id|file=.*)/?"
)
UPLOAD = re.compile(r"/gradio_api/upload/?")
FOLLOWED = re.compile(r"/gradio_api/(heartbeat/|queue/data|call/).*")  # streams, open while somebody watches
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' blob: data:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
SANDBOXED = "default-src 'none'; style-src 'unsafe-inline'; sandbox"  # a file opened as a page runs nothing


class Guard:
    """The middleware.

    Args:
        app: Gradio's application.
        sessions: the known sessions.
        public: files that every session may fetch.
        most_bytes, most_pixels: the limits of an upload.
        login: whether the studio has a password.
    """

    def __init__(
        self, app: ASGIApp, sessions: Sessions, public: set[str], *, most_bytes: int, most_pixels: int, login: bool
    ) -> None:
        self.app, self.sessions, self.public = app, sessions, public
        self.most_bytes, self.most_pixels, self.login = most_bytes, most_pixels, login
        self.attempts = Attempts()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        request = Request(scope, receive)
        cookie = f"impasto-session-{(scope.get('server') or ('', 0))[1]}"  # all ports of a host share their cookies
        given = request.headers.get(HEADER) or request.cookies.get(cookie, "")
        known = self.sessions.valid(given)
        token = given if known else self.sessions.new_token()
        scope[KEY] = token

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                message.setdefault("headers", [])
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                if scope["path"].startswith(FILE):
                    headers["content-security-policy"] = SANDBOXED
                if not known and _same_origin(request):
                    response = Response()
                    response.set_cookie(cookie, token, path="/", httponly=True, samesite="lax")
                    headers.append("set-cookie", response.headers["set-cookie"])
            await send(message)

        try:
            await self._serve(request, answer, token)
        except HTTPException as refusal:
            if UPLOAD.fullmatch(scope["path"]):  # the page shows the text of the answer
                response: Response = PlainTextResponse(refusal.detail, refusal.status_code, refusal.headers)
            else:
                content = {"detail": refusal.detail, "error": refusal.detail}
                response = JSONResponse(content, refusal.status_code, refusal.headers)
            await response(scope, receive, answer)
        except ClientDisconnect:
            pass

    async def _serve(self, request: Request, send: Send, token: str) -> None:
        scope, path = request.scope, request.scope["path"]
        entry = path == "/" and scope["method"] in ("GET", "HEAD")  # a link on another page may lead here
        if not entry and not _same_origin(request):
            raise HTTPException(403, "a request from another page")
        if scope["method"] not in ("GET", "HEAD", "POST"):
            raise HTTPException(405, "not allowed")
        short = len(path) <= LONGEST and all(len(os.fsencode(part)) <= 255 for part in path.split("/"))
        if not short or (not OPEN.fullmatch(path) and not API.fullmatch(path)):
            raise HTTPException(404, "not found")
        if path.rstrip("/") == "/login" and scope["method"] == "POST":
            await self._log_in(request, send)
            return
        if API.fullmatch(path) and self.login and not await self._logged_in(scope):
            raise HTTPException(401, "not logged in")
        session = self.sessions.find(token)
        if path.startswith(FILE):
            asked = path.removeprefix(FILE)
            if asked not in self.public and not (session is not None and session.owns(asked)):
                raise HTTPException(404, "not found")
            await self.app(scope, request.receive, send)
        elif scope["method"] != "POST":
            followed = session is not None and FOLLOWED.fullmatch(path)
            with session.watched() if session is not None and followed else nullcontext():
                await self.app(scope, request.receive, send)
        elif UPLOAD.fullmatch(path):
            await self._upload(request, send, token)
        else:
            await self._post(request, send, session)

    async def _logged_in(self, scope: Scope) -> bool:
        """Ask Gradio, which knows its own cookies."""
        asked = "/gradio_api/login_check"
        changed = {**scope, "method": "GET", "path": asked, "raw_path": asked.encode(), "query_string": b""}
        return await self._status(changed, _replayed(b"", None)) == 200

    async def _status(self, scope: Scope, receive: Receive) -> int:
        status = 500

        async def look(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]

        await self.app(scope, receive, look)
        return status

    async def _log_in(self, request: Request, send: Send) -> None:
        """Forward a login; the wait after a wrong password grows with the number of attempts from an address."""
        body = await _body(request, FORM)
        address = _network(request.client.host if request.client else "")
        wait = self.attempts.begin(address)
        if wait > 0:
            raise HTTPException(
                429, f"too many attempts: try again in {wait:.0f} seconds", {"retry-after": f"{wait:.0f}"}
            )
        status = 0

        async def look(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if status != 200:
                    await asyncio.sleep(0.3)
            await send(message)

        await self.app(request.scope, _replayed(body, request.receive), look)
        if status == 200:
            self.attempts.forget(address)

    async def _upload(self, request: Request, send: Send, token: str) -> None:
        """Inspect the files of a form, move them into the session's folder, and answer as Gradio does."""
        refusal = HTTPException(413, f"the file is larger than {self.most_bytes / 1e6:.3g} MB")
        if int(request.headers.get("content-length") or 0) > self.most_bytes + FORM:
            raise refusal
        if shutil.disk_usage(self.sessions.root).free < SPARE:
            raise HTTPException(507, "the studio's disk is nearly full")
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await asyncio.wait_for(request.receive(), QUIET)
            taken += len(message.get("body", b""))
            if taken > self.most_bytes + FORM:
                raise refusal
            return message

        incoming = self.sessions.root / "incoming" / secrets.token_hex(8)
        paths: list[tuple[Path, str]] = []
        try:
            incoming.mkdir(mode=0o700)
            limits: Any = {"max_files": names.FILES, "max_fields": names.FILES, "max_part_size": FORM}
            async with asyncio.timeout(SECONDS), Request(request.scope, counted).form(**limits) as form:
                for number, file in enumerate(form.getlist("files")):
                    if isinstance(file, UploadFile):
                        paths.append((incoming / f"{number}", _plain(file.filename or "")))
                        await asyncio.to_thread(_copy, file.file, paths[-1][0])
            if not paths:
                raise RefusedError("no file was sent")
            suffixes = await inspection.inspect([path for path, _ in paths], most_pixels=self.most_pixels)
            session = self.sessions.get(token)
            stored = []
            for (path, name), suffix in zip(paths, suffixes, strict=True):
                stored.append(session.new_folder() / f"{name}{suffix}")
                path.rename(stored[-1])
            await asyncio.to_thread(session.make_room)
        except TimeoutError:
            raise HTTPException(408, "the upload took too long") from None
        except (RefusedError, MultiPartException) as error:
            raise HTTPException(400, str(error)) from None
        except UnicodeError:  # some encodings that a form may state raise more than UnicodeDecodeError
            raise HTTPException(400, "the form cannot be read; send it as UTF-8") from None
        except OSError as error:
            raise HTTPException(507, f"the file cannot be stored: {error.strerror}") from None
        except BusyError as error:
            raise HTTPException(503, str(error)) from None
        finally:
            shutil.rmtree(incoming, ignore_errors=True)
        await JSONResponse([str(path) for path in stored])(request.scope, request.receive, send)

    async def _post(self, request: Request, send: Send, session: Session | None) -> None:
        """Forward the request if every file in it is the session's own or public."""
        body = await _body(request, BODY)
        try:
            asked = list(_paths(json.loads(body or b"null")))
        except RefusedError as error:
            raise HTTPException(400, str(error)) from None
        except (ValueError, RecursionError):
            raise HTTPException(400, "the request is not JSON") from None
        for path in asked:
            if path not in self.public and not (session is not None and session.owns(path)):
                raise HTTPException(404, "no such file in this session")
            if path not in self.public:
                with suppress(OSError):  # removed meanwhile
                    os.utime(Path(path).parent)  # the files used last are removed last
        await self.app(request.scope, _replayed(body, request.receive), send)


class Attempts:
    """Counts failed logins by address: five are free, then each costs twice the wait of the last."""

    FREE, FIRST, MOST, KNOWN = 5, 30.0, 900.0, 10_000

    def __init__(self) -> None:
        self.known: dict[str, tuple[int, float]] = {}  # address -> attempts, and when the next one is allowed

    def begin(self, address: str) -> float:
        """Seconds that an address must wait; 0: an attempt begins, which counts as failed until `forget`."""
        count, until = self.known.pop(address, (0, 0.0))
        now = time.monotonic()
        if now < until:
            self.known[address] = count, until
            return until - now
        wait = 0.0 if count + 1 < self.FREE else min(self.MOST, self.FIRST * 2.0 ** (count + 1 - self.FREE))
        self.known[address] = count + 1, now + wait
        if len(self.known) > self.KNOWN:
            del self.known[next(iter(self.known))]
        return 0.0

    def forget(self, address: str) -> None:
        self.known.pop(address, None)


def _network(address: str) -> str:
    """The address; of IPv6 the /64, of which one client has all."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return ""
    return str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else address


def _same_origin(request: Request) -> bool:
    """Whether a request comes from the studio's own page, or from no page; other ports are other origins."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = request.headers.get("origin")
    try:
        return origin is None or urlsplit(origin).netloc == request.headers.get("host")
    except ValueError:  # no address, such as http://[
        return False


async def _body(request: Request, most: int) -> bytes:
    """The body of a request; HTTPException if it is too large or too slow."""
    body = bytearray()
    try:
        async with asyncio.timeout(SECONDS):
            parts = request.stream()
            while part := await asyncio.wait_for(anext(parts, b""), QUIET):
                body += part
                if len(body) > most:
                    raise HTTPException(413, "the request is too large")
    except TimeoutError:
        raise HTTPException(408, "the request took too long") from None
    return bytes(body)


def _replayed(body: bytes, receive: Receive | None) -> Receive:
    """A receive function for a body that was already read, and for what follows it."""
    sent = False

    async def again() -> Message:
        nonlocal sent
        if sent:
            return {"type": "http.disconnect"} if receive is None else await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _paths(content: Any) -> Iterator[str]:
    """Every path in a request that Gradio would read as a file.

    Raises:
        RefusedError: there are too many, the JSON is nested too deeply, or a file is given by anything but its path.
    """
    pending, count = [(content, 0)], 0
    while pending:
        value, depth = pending.pop()
        if depth > names.DEPTH:
            raise RefusedError("the request is nested too deeply")
        if isinstance(value, dict):
            path, url = value.get("path"), value.get("url")
            if url and not (isinstance(path, str) and isinstance(url, str) and unquote(url).endswith(f"{FILE}{path}")):
                raise RefusedError("a file is named by its path, not by a url")
            if path is not None:
                count += 1
                if not isinstance(path, str) or count > names.FILES:
                    raise RefusedError(f"at most {names.FILES} files may be named, as text")
                yield path
            pending += [(each, depth + 1) for each in value.values()]
        elif isinstance(value, list):
            pending += [(each, depth + 1) for each in value]


def _copy(source: BinaryIO, path: Path) -> None:
    with path.open("wb") as target:
        shutil.copyfileobj(source, target)


def _plain(name: str) -> str:
    """The stem of a file name, short and without special characters."""
    plain = re.sub(r"[^\w-]+", "-", Path(name.replace("\\", "/")).stem).strip("-")
    return files.shortened(plain, 120) or "picture"
