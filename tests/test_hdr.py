"""HDR and wide gamuts to sRGB, against the values of the standards."""

import pytest
import torch
from torch import Tensor

from impasto import hdr


def pixel(red: float, green: float, blue: float) -> Tensor:
    return torch.tensor([red, green, blue]).view(1, 3, 1, 1)


def shown(values: tuple[float, float, float], transfer: int, primaries: int) -> list[float]:
    return (hdr.to_srgb(pixel(*values), transfer, primaries) * 255).flatten().tolist()


def test_light_of_the_transfer_functions() -> None:
    # ITU-R BT.2408, table 1: 203 cd/m2 are 75 % of HLG and 58 % of PQ; BT.2100: a full signal is 1000 and 10000 cd/m2.
    assert hdr.hlg(pixel(0.75, 0.75, 0.75)).mean() * hdr.WHITE == pytest.approx(203, rel=0.01)
    assert hdr.hlg(pixel(1, 1, 1)).mean() * hdr.WHITE == pytest.approx(1000, rel=0.001)
    assert hdr.pq(pixel(0.5807, 0.5807, 0.5807)).mean() * hdr.WHITE == pytest.approx(203, rel=0.01)
    assert hdr.pq(pixel(1, 1, 1)).mean() * hdr.WHITE == pytest.approx(10000, rel=0.001)


@pytest.mark.parametrize(("white", "transfer"), [(0.75, hdr.HLG), (0.5807, hdr.PQ)])
def test_white_is_white_and_highlights_keep_some_room(white: float, transfer: int) -> None:
    values = shown((white, white, white), transfer, hdr.BT2020)
    assert min(values) > 240 and max(values) - min(values) < 0.2
    assert min(values) < min(shown((white + 0.1,) * 3, transfer, hdr.BT2020)) <= 255
    assert shown((0, 0, 0), transfer, hdr.BT2020) == pytest.approx([0, 0, 0], abs=0.1)


def test_colours_keep_their_hue() -> None:
    red = torch.tensor([[0.6274, 0.0691, 0.0164]]).view(1, 3, 1, 1) * 0.7  # BT.709's red in BT.2020, BT.2087
    scene = (red / 2 / (red / 2).sum() ** 0.17) * 0.3
    code = torch.where(scene <= 1 / 12, (3 * scene).sqrt(), 0.17883277 * (12 * scene - 0.28466892).log() + 0.55991073)
    values = shown(tuple(code.flatten().tolist()), hdr.HLG, hdr.BT2020)
    assert values[0] > 150 and max(values[1:]) < 25
    assert shown(tuple(code.flatten().tolist()), hdr.HLG, 2) == values  # unmarked primaries


def test_wide_gamuts_without_hdr() -> None:
    for primaries in (hdr.BT2020, hdr.P3):
        assert shown((0.5, 0.5, 0.5), 1, primaries) == pytest.approx([127.5] * 3, abs=0.1)
    assert shown((0.9175, 0.2003, 0.1386), 1, hdr.P3) == pytest.approx([255, 0, 0], abs=3)  # sRGB's red in Display P3
    assert not hdr.needed(1, 1) and hdr.needed(1, hdr.P3) and hdr.needed(hdr.HLG, 2)
