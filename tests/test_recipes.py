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


def test_help_of_switches_fits_both_flags() -> None:
    """The command line shows --name or --no-name, whichever changes the default, with the same text."""
    switches = {
        field.name: schema.described(kind)[field.name]
        for kind in (Transfer, Training, Photo, Translation)
        for field in dataclasses.fields(kind)
        if field.type == "bool"
    }
    assert len(switches) >= 6
    assert [name for name, text in switches.items() if " Off: " not in text] == []
