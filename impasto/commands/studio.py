"""The command that opens the studio."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from impasto.errors import InputError


@dataclass
class StudioCommand:
    """Start the studio, a web page on this machine for repainting photographs; needs `pip install 'impasto[studio]'`.

    It prints its address; Ctrl-C stops it. Nothing leaves this machine.
    """

    host: str = "127.0.0.1"
    """The address to listen on; any except 127.0.0.1, localhost and ::1 requires `auth`."""
    port: int = 7860
    """The port to listen on, up to 65535; 0: any free port."""
    auth: str = ""
    """The user name for logging in; the password is read from IMPASTO_PASSWORD, or asked for. Empty: no login."""
    max_upload: float = 100.0
    """The largest upload that is accepted, in MB. 0.001 to 10,000."""
    max_jobs: int = 1
    """How many optimisations and films run at once; the others wait. 1 to 1,000."""
    max_minutes: float = 60.0
    """The time limit of an optimisation or a film, in minutes; what is done so far is kept. 0.001 to 100,000."""
    models: tuple[Path, ...] = ()
    """Networks of `impasto pix2pix train` to add to the tab Translate. All except colouring networks get a canvas."""
    open: bool = False
    """Also open the page in the browser."""

    def run(self) -> None:
        if self.host not in ("127.0.0.1", "localhost", "::1") and not self.auth:
            raise InputError(f"`host` {self.host} exposes the studio to the network: set `auth` NAME")
        for name, value, least, most in (
            ("port", self.port, 0, 65535),
            ("max_jobs", self.max_jobs, 1, 1000),
            ("max_upload", self.max_upload, 0.001, 10_000),
            ("max_minutes", self.max_minutes, 0.001, 100_000),
        ):
            if not least <= value <= most:
                raise InputError(f"`{name}` must lie between {least:g} and {most:,}, not {value:g}")
        models = self._translators()
        try:
            from impasto import studio
        except ModuleNotFoundError as error:
            raise InputError(f"the studio needs {error.name}: pip install 'impasto[studio]'") from None
        studio.serve(
            host=self.host, port=self.port, user=self.auth, max_upload=self.max_upload, max_jobs=self.max_jobs,
            max_minutes=self.max_minutes, open_browser=self.open, models=models,
        )  # fmt: skip

    def _translators(self) -> dict[str, tuple[Path, str]]:
        """The path and the kind of each network, by its name on the page."""
        if not self.models:
            return {}
        from impasto import bundled, pix2pix

        found: dict[str, tuple[Path, str]] = {}
        for path in self.models:
            model = pix2pix.load(path)
            if path.stem in found or path.stem in bundled.TRANSLATORS:
                raise InputError(f"{path}: another network has this name; rename the file")
            if not set(model.channels) <= {1, 3}:
                raise InputError(f"{path}: the studio shows pictures of 1 or 3 channels")
            found[path.stem] = path.resolve(), model.kind
        return found
