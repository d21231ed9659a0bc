"""Input scaling: from the colours 0 to 255 to the numbers that a model expects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import tensorflow as tf

Range = tuple[float, float]
Triple = tuple[float, float, float]
ChannelOrder = Literal["rgb", "bgr"]
_NO_MEAN, _NO_STD = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True)
class Scaling:
    """A rule from 8-bit colours to model inputs.

    A colour c becomes `(low + c / 255 * (high - low) - mean) / std`, with a mean and a deviation for
    each of red, green and blue. Then the channels are put in order.

    Attributes:
      input_range: `low` and `high`, the values of the colours 0 and 255.
      mean: Values subtracted from red, green and blue, in units of `input_range`.
      std: Values that red, green and blue are divided by.
      order: Order of the channels in the model's input.
    """

    input_range: Range = (0.0, 1.0)
    mean: Triple = _NO_MEAN
    std: Triple = _NO_STD
    order: ChannelOrder = "rgb"

    @property
    def name(self) -> str:
        """Value of --input_range that selects this rule, with the channel flags if the rule needs them."""
        # Compared by value, because numbers on the command line may be equal to a named rule.
        named = next((name for name, scaling in NAMED_SCALINGS.items() if scaling == self), None)
        return named or " ".join([_numbers(self.input_range), *self._flags()])

    def _flags(self) -> list[str]:
        values = {n: v if isinstance(v, str) else _numbers(v) for n, v in self._channel_options().items()}
        return [f"--{name} {value}" for name, value in values.items()]

    def _channel_options(self) -> dict[str, Any]:
        options = {
            "channel_mean": (self.mean, _NO_MEAN),
            "channel_std": (self.std, _NO_STD),
            "channel_order": (self.order, "rgb"),
        }
        return {name: value for name, (value, default) in options.items() if value != default}

    def describe(self) -> dict[str, Any]:
        """Return the rule as plain data, for fingerprints: rules with other results have other data."""
        return {"input_range": self.input_range, **self._channel_options()}

    def factors(self) -> tuple[list[float], list[float], list[int]]:
        """Return a factor and an offset each for red, green and blue, and the order of these channels."""
        low, high = self.input_range
        factors = [(high - low) / 255 / std for std in self.std]
        offsets = [(low - mean) / std for mean, std in zip(self.mean, self.std, strict=True)]
        return factors, offsets, [0, 1, 2] if self.order == "rgb" else [2, 1, 0]

    def apply(self, pixels: tf.Tensor) -> tf.Tensor:
        """Scale pixels, `[N, H, W, 3] float32`, RGB, 0-255, in a TensorFlow graph."""
        factors, offsets, _ = self.factors()
        if self.mean == _NO_MEAN and self.std == _NO_STD:
            # Scalars, because TensorFlow multiplies by them faster than by a vector for each pixel.
            scaled = pixels * factors[0] + offsets[0]
        else:
            scaled = pixels * factors + offsets
        return scaled if self.order == "rgb" else scaled[..., ::-1]


def _numbers(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in values)


UNIT, SIGNED, BYTES = Scaling((0.0, 1.0)), Scaling((-1.0, 1.0)), Scaling((0.0, 255.0))
# The rules that --input_range selects by name. "caffe" and "torch" are those of
# `keras.applications.imagenet_utils.preprocess_input` (keras.io/api/applications); "caffe" subtracts
# ImageNet's means and orders the channels blue, green, red.
NAMED_SCALINGS: dict[str, Scaling] = {
    "0,1": UNIT,
    "-1,1": SIGNED,
    "0,255": BYTES,
    "caffe": Scaling((0.0, 255.0), mean=(123.68, 116.779, 103.939), order="bgr"),
    "torch": Scaling((0.0, 1.0), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
}
