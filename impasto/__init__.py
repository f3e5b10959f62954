"""impasto repaints photographs: neural style transfer as a library and a command line.

    import impasto

    picture = impasto.stylize("photograph.jpg", "painting.jpg")
    impasto.write("repainted.png", picture)

Names are imported when they are first used, so `import impasto` is fast and does not load torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from impasto import presets as presets, recipes as recipes
    from impasto.encoder import load as load_encoder
    from impasto.errors import (
        DivergedError,
        ImageError,
        ImpastoError,
        InputError,
        RecipeError,
        VideoError,
        WeightsError,
    )  # fmt: skip
    from impasto.images import Picture, read, to_pil, write
    from impasto.onepass import apply
    from impasto.recipes import Transfer
    from impasto.transfer import Step, steps, stylize

__version__ = "0.2.0"

__all__ = [
    "DivergedError", "ImageError", "ImpastoError", "InputError", "Picture", "RecipeError", "Step", "Transfer",
    "VideoError", "WeightsError", "apply", "load_encoder", "presets", "read", "recipes", "steps", "stylize", "to_pil",
    "write",
]  # fmt: skip

_HOMES = {
    "encoder": ["load_encoder"],
    "errors": [name for name in __all__ if name.endswith("Error")],
    "onepass": ["apply"],
    "images": ["Picture", "read", "to_pil", "write"],
    "recipes": ["Transfer"],
    "transfer": ["Step", "steps", "stylize"],
}


def __getattr__(name: str) -> Any:  # PEP 562
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"impasto.{module}"), name.removesuffix("_encoder"))
    if name in ("presets", "recipes"):
        return import_module(f"impasto.{name}")
    raise AttributeError(f"module 'impasto' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
