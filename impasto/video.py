"""Films: frames in, frames out (PyAV)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from torch import Tensor

from impasto import images


class VideoError(ValueError):
    """A film that cannot be made; one line that says why and what helps."""


@contextmanager
def writer(path: Path, height: int, width: int, *, fps: int) -> Iterator[Callable[[Tensor], None]]:
    """An H.264 film being written; gives the function that adds a frame.

    Frames are (1, 3, H, W) sRGB in [0, 1], of any size: each is brought to ``height`` x ``width``, less one where
    these are odd, which the format does not allow. The film appears under its name when it is whole; leaving early
    keeps the frames that there are.

    Raises:
        VideoError: PyAV is not installed, the ending is not .mp4, or the folder is missing.
    """
    try:
        import av
    except ImportError:
        raise VideoError(f"{path}: films need PyAV: pip install 'impasto[video]'") from None
    if path.suffix.lower() != ".mp4":
        raise VideoError(f"{path}: films are written as .mp4")
    if not path.parent.is_dir():
        raise VideoError(f"{path}: the folder {path.parent} does not exist; create it first")
    height, width = max(2, height // 2 * 2), max(2, width // 2 * 2)
    with images.atomic(path) as part:
        container = av.open(str(part), "w")
        stream = container.add_stream("libx264", rate=fps, options={"crf": "18", "preset": "medium"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"

        def add(image: Tensor) -> None:
            frame = images.to_pil(images.resize(image, height, width))
            for packet in stream.encode(av.VideoFrame.from_ndarray(np.asarray(frame), format="rgb24")):
                container.mux(packet)

        try:
            yield add
        finally:
            for packet in stream.encode():
                container.mux(packet)
            container.close()
