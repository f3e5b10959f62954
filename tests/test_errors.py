"""The tree of errors, and how the command line and the studio spell parameters."""

import pytest

from impasto import errors

TREE = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]


@pytest.mark.parametrize("kind", TREE)
def test_all_errors_share_one_base_class(kind: type[errors.ImpastoError]) -> None:
    assert issubclass(kind, errors.ImpastoError)
    assert kind.exit_code == {errors.UsageError: 2, errors.Stopped: 130}.get(kind, 1)


def test_parameters_are_spelt_as_flags_and_as_labels() -> None:
    message = "`style_scale` must be more than 0, not 0; see `impasto list recipes`"
    assert errors.spell(message, "--", "-").startswith("--style-scale must be")
    assert errors.spell(message).startswith("style scale must be")
    assert errors.spell(message).endswith("see `impasto list recipes`")  # a command is not a parameter


@pytest.mark.parametrize(
    ("error", "lacking"),
    [
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("required rank 4 tensor to use channels_last memory format"), False),
    ],
)
def test_lack_of_memory(error: Exception, lacking: bool) -> None:
    assert errors.lack_of_memory(error) is lacking
