"""Faces in photographs: where they are, and painting them again."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import SMALL
from torch import Tensor

from impasto import bundled, faces, images, onepass, presets, transfer
from impasto.faces import Face
from impasto.networks import Network, Statistics
from impasto.onepass import Model

ASTRONAUT = images.to_tensor(bundled.locate("astronaut"))  # 512 x 512, with a face
EYES, MOUTH = [(108, 204), (108, 240)], (155, 222)  # rows and columns


@pytest.mark.parametrize("size", [256, 512, 1000])
def test_a_face_is_found_at_every_size(size: int) -> None:
    (face,) = faces.find(images.to_size(ASTRONAUT, size))
    oval = face.oval(512, 512)
    assert all(float(oval[0, 0, row, column]) > 0.8 for row, column in (*EYES, MOUTH))
    assert float(oval[0, 0, :, 320:].max()) < 1e-3 and float(oval.mean()) < 0.06
    rows, columns = window = face.window(512, 512)
    assert rows.start < 80 and rows.stop > 180 and columns.start < 180 and columns.stop > 260
    torch.testing.assert_close(face.oval(512, 512, window), oval[..., rows, columns])


@pytest.mark.parametrize("name", ["chelsea", "coffee", "rocket"])
def test_no_face_in_other_pictures(name: str) -> None:
    photograph = images.to_tensor(bundled.locate(name))
    assert faces.find(photograph) == [] and faces.guidance(photograph, 0.3) is None


@pytest.mark.parametrize("size", [(1, 1), (23, 400), (24, 24), (400, 30)])
def test_small_and_even_pictures_have_no_faces(size: tuple[int, int]) -> None:
    assert faces.find(torch.full((1, 3, *size), 0.5)) == []


def test_guidance() -> None:
    """Its square is the strength in a face, and 1 away from it."""
    guidance = faces.guidance(ASTRONAUT, 0.3)
    assert guidance is not None and max(guidance.shape) == faces.SEARCHED
    strength = images.resize(guidance.square(), 512, 512)[0, 0]
    assert float(strength[130, 222]) == pytest.approx(0.3, abs=0.02)
    torch.testing.assert_close(strength[250:], torch.ones(262, 512), rtol=0, atol=1e-3)
    assert faces.guidance(ASTRONAUT, 1.0) is None


def test_small_faces_are_painted_larger() -> None:
    """From the photograph with all its detail, only around the face, and with the colours that were there."""
    stripes = 0.1 * (torch.arange(160) // 4 % 2).float().expand(2, 3, 200, 160)
    painted, sizes = torch.full((2, 3, 100, 80), 0.3), []
    face = Face(0.5, 0.25, 0.2)

    def paint(near: Tensor) -> Tensor:
        sizes.append(tuple(near.shape))
        return near + torch.tensor([0.2, 0.5, 0.8]).view(3, 1, 1)

    found = faces.repaint(painted.clone(), paint, stripes, [[], [face]])
    # 22 pixels on each side of the centre, cut at the left border; the face's 20 pixels become 200.
    assert sizes == [(1, 3, 440, 420)]
    assert torch.equal(found[0], painted[0])
    changed = found[1] - painted[1]
    torch.testing.assert_close(changed, changed[:1].expand_as(changed), rtol=0, atol=1e-5)
    assert float(changed[0, 45:55, 14:26].std()) == pytest.approx(0.05, abs=0.01)
    assert abs(float(changed[0].mean())) < 1e-3
    assert float((changed[0] * (face.oval(100, 80)[0, 0] < 1e-3)).abs().max()) < 1e-3


def test_large_faces_keep_their_size() -> None:
    photograph, sizes = torch.zeros(1, 3, 500, 500), []
    faces.repaint(photograph, lambda near: sizes.append(near.shape) or near, photograph, [[Face(0.5, 0.5, 0.5)]])
    assert sizes == [(1, 3, 500, 500)]


def test_faces_stay_in_place() -> None:
    """A painting that is the photograph does not change, whatever the two sizes are."""
    waves = torch.sin(torch.arange(1333) / 6)
    photograph = (0.5 + 0.2 * (waves + waves[:1000, None])).expand(1, 3, 1000, 1333)
    painted = images.resize(photograph, 675, 900)
    for face in (Face(0.413, 0.371, 0.1), Face(0.507, 0.633, 0.2)):
        found = faces.repaint(painted.clone(), lambda near: near, photograph, [[face]])
        assert float((found - painted).abs().max()) < 0.02


def test_a_large_face_is_fast() -> None:
    photograph = torch.rand(1, 3, 1500, 1500)
    before = time.perf_counter()
    faces.repaint(photograph, lambda near: near, photograph, [[Face(0.5, 0.5, 0.6)]])
    assert time.perf_counter() - before < 5


@pytest.fixture(scope="module")
def ours() -> Model:
    torch.manual_seed(0)
    return Model(Network(SMALL).requires_grad_(False), {"recipe": '{"underpainting": 1}'})


def test_one_pass_paints_faces_again(ours: Model) -> None:
    """Without raised contrast; not in films, in third-party models, or if it is turned off."""
    photograph = images.to_size(ASTRONAUT, 300)
    plain = onepass.apply(photograph, ours, fine_faces=False)
    fine = onepass.apply(photograph, ours)
    (face,) = faces.find(photograph)
    changed = (fine - plain).abs().amax(1)[0]
    assert float(changed[face.window(300, 300)].max()) > 0.05
    assert float((changed * (face.oval(300, 300)[0, 0] < 1e-3)).max()) < 1e-3

    def paint(near: Tensor) -> Tensor:
        return onepass.apply(near, ours, clarity=0, underpainting=0, fine_faces=False)

    torch.testing.assert_close(fine, faces.repaint(plain.clone(), paint, photograph, [[face]]))
    batch = onepass.apply(torch.cat([torch.zeros_like(photograph), photograph]), ours, grain=0)
    torch.testing.assert_close(batch[1:], onepass.apply(photograph, ours, grain=0), rtol=0, atol=1e-4)
    frame, same = (onepass.apply(photograph, ours, fine_faces=f, film=Statistics(0.0)) for f in (True, False))
    assert torch.equal(frame, same)
    theirs = Model(ours.network, {})
    assert torch.equal(onepass.apply(photograph, theirs), onepass.apply(photograph, theirs, fine_faces=False))


def test_strength_of_faces(ours: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The photograph is mixed in once; with a painting as style, the filter is as strong as elsewhere."""
    monkeypatch.setattr(faces, "PAINTED", 60)
    photograph = images.to_size(ASTRONAUT, 200)
    full, half = (onepass.apply(photograph, ours, strength=s, grain=0) for s in (1, 0.5))
    torch.testing.assert_close(half, (photograph + full) / 2, rtol=0, atol=1e-4)
    painting = onepass.from_painting(images.to_size(images.to_tensor(bundled.locate("udnie")), 64))
    settings: dict[str, Any] = {"strength": 0.5, "grain": 0, "fine_faces": False, "precision": "float32"}
    plain = onepass.apply(photograph, painting, **settings)
    wanted = faces.repaint(
        plain, lambda near: onepass.apply(near, painting, **settings), photograph, [faces.find(photograph)]
    )
    found = onepass.apply(photograph, painting, **{**settings, "fine_faces": True})
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)


def test_masks_of_styles_go_through_faces(ours: Model) -> None:
    photograph = images.to_size(ASTRONAUT, 300)
    right = (torch.arange(300) >= 130).float().expand(1, 1, 300, 300)  # the face's centre
    fine, plain = (onepass.apply(photograph, ours, masks=[right], fine_faces=f) for f in (True, False))
    torch.testing.assert_close(fine[..., :130], photograph[..., :130])
    changed = (fine - plain).abs().amax(1)[0]
    assert float(changed[faces.find(photograph)[0].window(300, 300)][:, -40:].max()) > 0.05


def test_optimisation_paints_faces_gently() -> None:
    """By the default recipe; the rest of the picture changes as much as without."""
    recipe = replace(presets.impasto, size=128, steps=20, scales=(1.0,), precision="float32", palette=False)
    style = images.to_tensor(bundled.locate("starry-night"))
    gentle, plain = (transfer.stylize(ASTRONAUT, style, r) for r in (recipe, replace(recipe, face_strength=1.0)))
    content = images.to_size(ASTRONAUT, 128)
    face = faces.find(ASTRONAUT)[0].oval(128, 128)[0] > 0.8
    change = [(picture - content).abs().mean(1) for picture in (gentle, plain)]
    assert float(change[0][face].mean()) < 0.7 * float(change[1][face].mean())
    assert float(change[0][:, 64:].mean()) > 0.9 * float(change[1][:, 64:].mean())
