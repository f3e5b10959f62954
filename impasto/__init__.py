"""impasto repaints photographs: neural style transfer as a library, a command line and a web studio.

    import impasto

    picture = impasto.stylize("photograph.jpg", "painting.jpg")
    impasto.write("repainted.png", picture)

Names are resolved when they are first used, so that `import impasto` costs nothing and loads no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "stylize": "impasto.stylize",
    "steps": "impasto.stylize",
    "Step": "impasto.stylize",
    "read": "impasto.images",
    "write": "impasto.images",
    "to_pil": "impasto.images",
    "Picture": "impasto.images",
    "ImageError": "impasto.images",
    "WeightsError": "impasto.weights",
    "RecipeError": "impasto.recipes",
    "Transfer": "impasto.recipes",
    "DivergedError": "impasto.optimize",
}
_MODULES = {"color", "encoder", "images", "losses", "masks", "optimize", "pictures", "recipes", "weights"}

__all__ = sorted([*_HOMES, *_MODULES])  # noqa: PLE0605

if TYPE_CHECKING:
    from impasto import color, encoder, images, losses, masks, optimize, pictures, recipes, weights
    from impasto.images import ImageError, Picture, read, to_pil, write
    from impasto.optimize import DivergedError
    from impasto.recipes import RecipeError, Transfer
    from impasto.stylize import Step, steps, stylize
    from impasto.weights import WeightsError


def __getattr__(name: str) -> Any:  # PEP 562
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in _MODULES:
        return import_module(f"impasto.{name}")
    raise AttributeError(f"module 'impasto' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
