"""Contact sheets."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from impasto.sheets import GAP, PAPER, blocks, sheet


def plain(value: float, height: int = 40, width: int = 30) -> Tensor:
    return torch.full((1, 3, height, width), value)


PANELS = [("one", plain(0.0)), ("two", plain(0.2)), ("three", plain(0.4))]
LINE = 19  # 1.6 times the smallest font, 12 pixels


def test_a_row() -> None:
    picture = sheet(PANELS)
    assert picture.dtype == torch.float32
    assert picture.shape == (1, 3, 8 + 40 + LINE + 8, 8 + 3 * (30 + 8))
    assert 0 <= float(picture.min()) <= float(picture.max()) <= 1
    for index, value in enumerate((0.0, 0.2, 0.4)):  # each is complete and in its place
        x = GAP + index * (30 + GAP)
        torch.testing.assert_close(picture[..., 8:48, x : x + 30], plain(value), rtol=0, atol=1 / 255)


def test_a_grid() -> None:
    picture = sheet(PANELS, columns=2)
    assert picture.shape == (1, 3, 8 + 2 * (40 + LINE + 8), 8 + 2 * (30 + 8))
    torch.testing.assert_close(picture[..., 75:115, 8:38], plain(0.4), rtol=0, atol=1 / 255)  # the third, below
    paper = torch.tensor(PAPER).view(1, 3, 1, 1) / 255
    assert torch.equal(picture[..., 75:115, 46:76], paper.expand(1, 3, 40, 30))  # nothing to the right
    assert sheet(PANELS, columns=9).shape == sheet(PANELS).shape


def test_labels_are_drawn_below_their_pictures() -> None:
    one, other = sheet(PANELS), sheet([("uno", PANELS[0][1]), *PANELS[1:]])
    difference = (one - other).abs().sum((0, 1))
    assert difference[48:67, 8:38].any()
    assert not difference[:48].any()
    assert not difference[:, 46:].any()


def test_the_title_is_a_line_above() -> None:
    with_title = sheet(PANELS, title="A study")
    assert with_title.shape[-2] == sheet(PANELS).shape[-2] + LINE
    assert not torch.equal(with_title[..., : 8 + LINE, :], sheet(PANELS, title="B study")[..., : 8 + LINE, :])
    assert torch.equal(with_title[..., 8 + LINE :, :], sheet(PANELS)[..., 8:, :])


def test_pictures_are_fitted_to_the_first_s_height() -> None:
    picture = sheet([("first", plain(0.0)), ("wide", plain(0.2, 20, 40)), ("narrow", plain(0.4, 80, 20))])
    assert picture.shape[-1] == 8 + 3 * (80 + 8)  # 20 x 40 becomes 40 x 80, the widest; 80 x 20 becomes 40 x 10
    torch.testing.assert_close(picture[..., 8:48, 96:176], plain(0.2, 40, 80), rtol=0, atol=1 / 255)
    torch.testing.assert_close(picture[..., 8:48, 219:229], plain(0.4, 40, 10), rtol=0, atol=1 / 255)  # in the middle


def test_blocks_for_a_terminal(tmp_path: Path) -> None:
    picture = Image.new("RGB", (2, 2), (255, 0, 0))
    picture.putpixel((0, 1), (0, 0, 9))
    picture.putpixel((1, 1), (0, 0, 9))
    picture.save(tmp_path / "a.png")
    cell = "\x1b[38;2;255;0;0;48;2;0;0;9m▀"
    assert blocks(tmp_path / "a.png", columns=2) == f"{cell}{cell}\x1b[0m"
