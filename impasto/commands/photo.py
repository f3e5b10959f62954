"""The command that changes the light of a photograph."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from impasto.commands.options import Device, Out, Quiet
from impasto.recipes import Photo


@dataclass
class PhotoCommand:
    """Give the photograph CONTENT the light of the photograph STYLE, without a painted look (Luan2017).

    Matching regions are found automatically, or given by two masks of flat colours.
    """

    content: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CONTENT")]
    """The photograph to change."""
    style: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="STYLE")]
    """The photograph to take the light from."""
    out: Out
    """The picture to write; it has CONTENT's size and all of its detail."""
    settings: Annotated[Photo, tyro.conf.arg(name="")]
    content_mask: Path | None = None
    """A mask of CONTENT's regions in flat colours."""
    style_mask: Path | None = None
    """A mask of STYLE's regions; the same colour means the same region."""
    save_masks: bool = False
    """Save the regions as OUT-content-mask.png and OUT-style-mask.png, to view or edit them."""
    resume: Path | None = None
    """Continue from the OUT.resume of an interrupted run; repeat the same command with this option."""
    device: Device = "auto"
    quiet: Quiet = False

    def run(self) -> None:
        from impasto.runs import photo as run_photo, terminal

        with terminal.saying(self.out):
            run_photo.change_light(
                self.content, self.style, self.out, self.settings, content_mask=self.content_mask,
                style_mask=self.style_mask, keep_masks=self.save_masks, resume=self.resume, device=self.device,
                quiet=self.quiet,
            )  # fmt: skip
