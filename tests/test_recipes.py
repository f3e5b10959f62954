"""Every field of a recipe has its help text."""

import dataclasses

import pytest

from impasto import schema
from impasto.recipes import Photo, Training, Transfer, Translation


@pytest.mark.parametrize("kind", [Transfer, Training, Photo, Translation])
def test_every_field_has_its_help(kind: type) -> None:
    described = schema.described(kind)
    assert list(described) == [field.name for field in dataclasses.fields(kind)]
    for name, text in described.items():
        assert len(text) > 10, name
        assert text.endswith("."), name
