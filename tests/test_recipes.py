"""Every field of a recipe has its help text."""

import dataclasses

import pytest

from impasto import cli, schema
from impasto.recipes import Photo, Training, Transfer, Translation


@pytest.mark.parametrize("kind", [Transfer, Training, Photo, Translation])
def test_every_field_has_its_help(kind: type) -> None:
    described = schema.described(kind)
    assert list(described) == [field.name for field in dataclasses.fields(kind)]
    for name, text in described.items():
        assert len(text) > 10, name
        assert text.endswith("."), name


def test_help_of_switches_fits_both_flags() -> None:
    """The command line shows --name or --no-name, whichever changes the default, each with its own text."""
    switches = {
        field.name: schema.described(kind)[field.name]
        for kind in (Transfer, Training, Photo, Translation)
        for field in dataclasses.fields(kind)
        if field.type == "bool"
    }
    assert len(switches) >= 6
    assert [name for name, text in switches.items() if " Off: " not in text] == []


def test_printed_help_of_a_switch_is_that_of_its_flag(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    for recipe, flag, absent in (("impasto", "--no-clip", "Keep values in"), ("pytorch-blog", "--clip", "--no-clip")):
        with pytest.raises(SystemExit):
            cli.main(["transfer", "--help", "--recipe", recipe])
        shown = [line for line in capsys.readouterr().out.splitlines() if "clip" in line.lower()]
        assert any(flag in line.split() for line in shown)
        assert not any(absent in line for line in shown)
