"""Descriptions, defaults and help of the commands; test_cli.py and test_runs_*.py run them."""

import pytest

from impasto import cli, commands
from impasto.commands import options


def test_every_command_is_described() -> None:
    assert set(commands.DEFAULTS) == set(cli.ABOUT)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--recipe", "owl"], "owl"),
        (["a", "--recipe=owl", "b"], "owl"),
        (["--recipe"], None),
        (["--recipes", "owl"], None),
        (["--recipe", "owl", "--recipe", "gatys-2016"], "gatys-2016"),
        ([], None),
    ],
)
def test_peek(arguments: list[str], expected: str | None) -> None:
    assert options.peek(arguments, "--recipe") == expected


def test_peek_reads_underscores_as_tyro_does() -> None:
    assert options.peek(["--style_layers", "relu1_1"], "--style-layers") == "relu1_1"


@pytest.mark.parametrize("name", commands.DEFAULTS)
def test_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([name, "--help"])
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert f"impasto {name}" in said and len(said.splitlines()) > 8
