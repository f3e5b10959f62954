"""What the machine is found to have."""

import pytest
import torch

from impasto import machine
from impasto.errors import InputError


def test_device() -> None:
    assert machine.pick_device().type in ("cuda", "mps", "cpu")
    with pytest.raises(InputError, match="abacus"):
        machine.pick_device("abacus")
    assert (machine.pick_device() == "cuda") == torch.cuda.is_available()


def test_free_memory() -> None:
    assert 1e7 < machine.free_memory(torch.device("cpu")) < 1e14


def test_precision() -> None:
    cpu = torch.device("cpu")
    assert machine.precision("float32", cpu) == torch.float32
    assert machine.precision("bfloat16", cpu) == torch.bfloat16
    assert machine.precision("auto", cpu) in (torch.float32, torch.bfloat16)


@pytest.mark.parametrize("sparingly", [False, True])
def test_reused_memory_changes_no_result(sparingly: bool) -> None:
    with pytest.raises(KeyError), machine.reused_memory(sparingly=sparingly):
        assert float(torch.ones(1000, 1000).sum()) == 1e6
        raise KeyError
