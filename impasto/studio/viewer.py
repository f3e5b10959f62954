"""The picture with its progress, shared by all tabs: live while it is painted, then before and after."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr

from impasto import bundled
from impasto.errors import ImpastoError, lack_of_memory, spell
from impasto.studio.guard import KEY
from impasto.studio.jobs import Job, Session, Sessions, Work
from impasto.studio.pool import Pool


@dataclass(frozen=True)
class Studio:
    """What the tabs share.

    Attributes:
        sessions: the known sessions.
        quick, slow: the queues for work of a second and for work of minutes.
        thumbnails: a small picture for each bundled style.
        models: the owner's networks of pix2pix, with the kind of their pairs, by name.
    """

    sessions: Sessions
    quick: Pool
    slow: Pool
    thumbnails: Mapping[str, Path]
    models: Mapping[str, tuple[Path, str]] = field(default_factory=dict)

    def session(self, request: gr.Request) -> Session:
        """The session of a request that stores something; it is created if needed.

        Raises:
            BusyError: there are too many sessions.
        """
        return self.sessions.get(_token(request))

    def known(self, request: gr.Request) -> Session | None:
        """The session of a request, if it has stored something."""
        return self.sessions.find(_token(request))


def _token(request: gr.Request) -> str:
    """The token that the guard has verified."""
    assert request.request is not None
    token: str = request.request.scope[KEY]
    return token


@dataclass(frozen=True)
class Stage:
    """The components of the picture and its progress."""

    kind: str
    empty: gr.HTML
    live: gr.Image
    pair: gr.ImageSlider | gr.Video
    status: gr.HTML
    stop: gr.Button
    save: gr.DownloadButton
    results: gr.Gallery

    @property
    def outputs(self) -> list[Any]:
        return [self.empty, self.live, self.pair, self.status, self.stop, self.save, self.results]

    def begin(self, studio: Studio, session: Session, work: Work[Any], *, quick: bool = False) -> Iterator[list[Any]]:
        """Submit work and show it."""
        with spoken():
            job = (studio.quick if quick else studio.slow).submit(Job(session, self.kind, work))
        yield from self.show(studio, job)

    def show(self, studio: Studio, job: Job) -> Iterator[list[Any]]:
        """Yield the components' values on each change of a job, until it is over."""
        end: Any = None
        for _ in job.follow():
            ahead = studio.slow.ahead(job) + studio.quick.ahead(job) if job.state == "waiting" else 0
            result, frame, before = job.result, job.frame, end
            if isinstance(self.pair, gr.ImageSlider):
                end = result.pair if result is not None else None
            else:
                end = result.file if result is not None else frame.clip if frame is not None and not job.over else None
            yield self._look(job, ahead, end, new=end != before)
        if job.error is not None:
            raise gr.Error(complaint(job.error), print_exception=False)

    def again(self, studio: Studio, session: Session | None) -> Iterator[list[Any]]:
        """What a reopened page shows: the running job, or the last result."""
        job = session.jobs.get(self.kind) if session is not None else None
        if job is None:
            yield [gr.skip()] * len(self.outputs)
        elif job.error is None:
            yield from self.show(studio, job)

    def _look(self, job: Job, ahead: int, end: Any, *, new: bool) -> list[Any]:
        """The values; ``end`` is the pair or the film, ``new`` whether it is not shown yet."""
        result = job.result
        # Without them, show one picture: a sheet, or the preview of a running job.
        single = result.file if result is not None else None if job.over else job.preview
        return [
            gr.update(visible=end is None and single is None),
            gr.update(visible=False) if end or single is None else gr.update(value=single, visible=True),
            gr.update(visible=False) if not end else gr.update(value=end, visible=True) if new else gr.update(),
            status(job, ahead),
            gr.update(interactive=not job.over),
            gr.update(value=result.file, interactive=True) if result is not None else gr.update(),
            gallery(job.session) if job.over else gr.update(),
        ]


def dropzone(label: str, name: str, invitation: str, height: int = 190) -> gr.Image:
    """An input for a picture; its value is the path."""
    return as_path(gr.Image(
        type="filepath", image_mode=None, label=label, elem_id=name, placeholder=invitation, height=height,
        sources=["upload", "clipboard"], buttons=[],
    ))  # fmt: skip


def style_choice(studio: Studio, prefix: str = "") -> tuple[gr.Gallery, gr.Textbox, gr.Image]:
    """The bundled styles to click, the name of the chosen one, and a painting to drop.

    The name is kept in the browser, not in a `gr.State`, so that the server can forget pages. ``prefix`` begins the
    names of the elements.
    """
    thumbnails = [(str(studio.thumbnails[name]), shipped.title) for name, shipped in bundled.STYLES.items()]
    styles = gr.Gallery(
        thumbnails, label="Styles", show_label=False, columns=4, height="auto", object_fit="cover",
        allow_preview=False, interactive=False, elem_id=f"{prefix}styles", elem_classes="styles", buttons=[],
    )  # fmt: skip
    chosen = gr.Textbox(visible="hidden", label="Style", elem_id=f"{prefix}chosen")
    with gr.Accordion("Or any painting", open=False, elem_id=f"{prefix}own"):
        return styles, chosen, dropzone("Painting", f"{prefix}painting", "Drop a painting to use as style", 160)


def as_path(picture: gr.Image) -> gr.Image:
    """Make the component's value the path of the upload; Gradio would decode the picture.

    Do not update the component with `gr.update`: Gradio would replace it by a new one, without this change.
    """
    picture.preprocess = lambda payload: payload and payload.path  # type: ignore
    return picture


def brush(**settings: Any) -> gr.ImageEditor:
    """An editor whose value is the paths of its layers, or of the whole drawing; Gradio would decode them all.

    Like that of `as_path`, it must not be updated. To hide it, hide the column around it.
    """
    editor = gr.ImageEditor(type="filepath", sources=(), transforms=(), layers=False, buttons=[], **settings)

    def paths(payload: Any) -> dict[str, list[Path]]:
        layers, whole = (payload.layers, [payload.composite]) if payload is not None else ([], [])
        return {
            "layers": [Path(each.path) for each in layers or [] if each and each.path],
            "composite": [Path(each.path) for each in whole if each and each.path],
        }

    editor.preprocess = paths  # type: ignore[method-assign, assignment]
    return editor


def waited(pool: Pool, job: Job) -> Iterator[Job]:
    """Run a job that has no stage; yields while it waits and runs, and raises its error."""
    yield from pool.submit(job).follow(0.1)
    if job.error is not None:
        raise job.error


def stage(kind: str, waiting: str, *, film: bool = False) -> Stage:
    """Build the components in the current column; the result is a picture, or a ``film``."""
    with gr.Row(elem_classes="actions"):  # above the picture, so that the buttons do not move when it appears
        shown = gr.HTML("", elem_id=f"{kind}-status", elem_classes="status")
        stop = gr.Button("Stop", interactive=False, elem_id=f"{kind}-stop", size="sm")
        save = gr.DownloadButton(
            "Save film" if film else "Save PNG", interactive=False, elem_id=f"{kind}-save", size="sm"
        )
    with gr.Column(elem_classes="stage"):
        empty = gr.HTML(f'<div class="empty"><p>{waiting}</p></div>')
        live = gr.Image(
            visible=False, interactive=False, show_label=False, label="The picture", buttons=["fullscreen"],
            elem_id=f"{kind}-live", elem_classes="picture", alt_text="the picture so far",
        )  # fmt: skip
        at: dict[str, Any] = {"visible": False, "interactive": False, "show_label": False, "elem_classes": "picture"}
        pair: gr.ImageSlider | gr.Video
        if film:
            pair = gr.Video(label="The film", elem_id=f"{kind}-film", autoplay=True, loop=True, buttons=[], **at)
        else:
            pair = gr.ImageSlider(
                label="Before and after", max_height=720, elem_id=f"{kind}-pair", buttons=["fullscreen"], **at
            )
    results = gr.Gallery(
        label="Painted in this session", columns=6, height="auto", object_fit="cover", interactive=False,
        elem_id=f"{kind}-results", elem_classes="results", visible=False, buttons=[],
    )  # fmt: skip
    return Stage(kind, empty, live, pair, shown, stop, save, results)


def connect(page: gr.Blocks, studio: Studio, shown: Stage) -> None:
    """Connect the Stop button, and the loading of a reopened page."""

    def stop(request: gr.Request) -> None:
        session = studio.known(request)
        for kind, job in list(session.jobs.items()) if session is not None else ():
            if kind.partition("-")[0] == shown.kind:
                job.stop()

    def again(request: gr.Request) -> Iterator[list[Any]]:
        yield from shown.again(studio, studio.known(request))

    shown.stop.click(stop, queue=False, show_progress="hidden", api_visibility="private")
    page.load(again, outputs=shown.outputs, concurrency_limit=None, show_progress="hidden", api_visibility="private")


def gallery(session: Session) -> Any:
    shown = [str(result.pair[1] if result.pair else result.still or result.file) for result in session.results]
    return gr.update(value=shown, visible=len(shown) > 1)


@contextmanager
def spoken() -> Iterator[None]:
    """Show errors of the body on the page."""
    try:
        yield
    except gr.Error:
        raise
    except Exception as error:
        raise gr.Error(complaint(error), print_exception=False) from None


def complaint(error: Exception) -> str:
    """The error as one line of HTML."""
    if isinstance(error, ImpastoError):
        # Show only file names, not the studio's folders; escape them, as Gradio renders HTML.
        words = (word.rsplit("/", 1)[-1] if word.startswith("/") else word for word in spell(str(error)).split())
        return html.escape(" ".join(words))
    if lack_of_memory(error):
        return "not enough memory: try a smaller size"
    if isinstance(error, OSError):
        return f"a file cannot be read or written: {html.escape(error.strerror or type(error).__name__)}"
    return f"unexpected error: {type(error).__name__}"


def status(job: Job, ahead: int) -> str:
    """The state of a job and the curve of its loss, as HTML."""
    frame = job.frame
    if job.state == "waiting":
        text = f"waiting: {ahead} before this one" if ahead else "waiting"
    elif job.state == "stopped" and job.result is not None and frame is not None:
        text = f"stopped at {frame.done} of {frame.total}" + (f": {job.reason}" if job.reason else "")
    elif job.over:
        text = job.state
    elif frame is None:
        text = "starting"
    else:
        text = " · ".join(filter(None, [frame.note, f"{frame.done} of {frame.total}" if frame.total > 1 else ""]))
    share = frame.done / max(1, frame.total) if frame is not None and not job.over else float(job.over)
    bar = f'<div class="bar"><i style="width:{100 * share:.1f}%"></i></div>' if not job.over else ""
    return f'<div role="status" data-state="{job.state}"><span>{html.escape(text)}</span>{bar}{curve(job.losses)}</div>'


def curve(losses: Sequence[float]) -> str:
    """The loss as a small SVG curve on a logarithmic scale."""
    logs = [math.log(loss) for loss in losses if loss > 0]
    if len(logs) < 3:
        return ""
    logs = logs[:: max(1, len(logs) // 200)]
    low, span = min(logs), (max(logs) - min(logs)) or 1
    points = " ".join(
        f"{300 * i / (len(logs) - 1):.1f},{2 + 36 * (1 - (v - low) / span):.1f}" for i, v in enumerate(logs)
    )
    return (
        f'<svg viewBox="0 0 300 40" preserveAspectRatio="none" role="img" aria-label="loss, from {losses[0]:.3g} to '
        f'{losses[-1]:.3g}"><polyline points="{points}"/></svg><small>loss {losses[-1]:.4g}</small>'
    )
