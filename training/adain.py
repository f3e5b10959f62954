"""The baseline of any painting in one pass: adaptive instance normalisation, with our encoder and decoder."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from impasto.anystyle import Canvas
from impasto.moments import Moments


class AdaIN(Canvas):
    """Gives relu4_1 the painting's means and deviations, and decodes nothing else (Huang2017, eq. 8)."""

    def paint(self, features: Mapping[str, Tensor]) -> Tensor:
        """The encoder's features at relu4_1 of the whole photograph -> (B, 3, H, W)."""
        x = self.decoder.units("relu4_1", features["relu4_1"])
        self.modulation = {name: (x.new_ones(1), x.new_zeros(1)) for name in self.decoder.modulated}
        mean, deviation = x.mean((2, 3), keepdim=True), x.std((2, 3), keepdim=True)
        goal = self.style.moments["relu4_1"]
        matched = deviations(goal)[..., None, None] * (x - mean) / (deviation + 1e-5) + goal.mean[..., None, None]
        height, width = (2 * side for side in x.shape[-2:])
        nothing = x.new_zeros(len(x), self.decoder.layers["reduce"].convolution.out_channels, height, width)
        with self._precision():
            self.rough = self.decoder.coarse({"relu4_1": matched, "relu3_1": nothing}, self.modulation)
            return self.decoder.detail(self.rough, self.modulation)


def deviations(known: Moments) -> Tensor:
    variance = known.second.diagonal(dim1=1, dim2=2) - known.mean.square()
    return variance.clamp_min(0).sqrt()
