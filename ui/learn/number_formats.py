"""Number formats bit by bit. Pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Format:
    """A floating-point format: one sign bit, exponent, mantissa."""

    label: str
    exponent: int
    """Bits of the exponent."""
    mantissa: int
    """Bits after the leading one."""
    source: str
    infinite: bool = True
    """Whether the highest exponent is reserved for infinity and NaN, as IEEE 754 does."""

    @property
    def bits(self) -> int:
        """The total number of bits."""
        return 1 + self.exponent + self.mantissa

    @property
    def bias(self) -> int:
        """What is subtracted from the stored exponent."""
        return int(2 ** (self.exponent - 1) - 1)

    @property
    def largest(self) -> float:
        """The largest finite number."""
        if self.infinite:
            return (2 - 2.0**-self.mantissa) * 2.0**self.bias
        return (2 - 2.0 ** (1 - self.mantissa)) * 2.0 ** (self.bias + 1)

    @property
    def step_at_one(self) -> float:
        """The distance from 1 to the next number."""
        return 2.0**-self.mantissa


_IEEE = "IEEE 754-2019"
FORMATS: Mapping[str, Format] = {
    "float32": Format("float32", 8, 23, _IEEE),
    "bfloat16": Format("bfloat16", 8, 7, "Kalamkar et al. 2019, https://arxiv.org/abs/1905.12322"),
    "float16": Format("float16", 5, 10, _IEEE),
    "float8_e4m3fn": Format(
        "float8_e4m3fn", 4, 3, "Micikevicius et al. 2022, https://arxiv.org/abs/2209.05433", infinite=False
    ),
    "float8_e5m2": Format("float8_e5m2", 5, 2, "Micikevicius et al. 2022, https://arxiv.org/abs/2209.05433"),
}
"""The formats by the names that PyTorch gives them."""


def encode(number: float, kind: Format) -> tuple[int, int, int]:
    """Return sign, exponent and mantissa as they are stored, rounded to nearest with ties to even.

    A number that is too large becomes infinity, or NaN in a format without infinity.
    """
    sign = int(math.copysign(1, number) < 0)
    size = abs(number)
    top = 2**kind.exponent - 1
    if math.isnan(size):
        return sign, top, 2**kind.mantissa - 1
    if size == 0:
        return sign, 0, 0
    if math.isinf(size):
        return _overflow(sign, kind)
    exponent = max(math.frexp(size)[1] - 1, 1 - kind.bias)
    steps = round(size / 2.0 ** (exponent - kind.mantissa))
    if steps == 2 ** (kind.mantissa + 1):
        exponent, steps = exponent + 1, steps // 2
    if steps * 2.0 ** (exponent - kind.mantissa) > kind.largest:
        return _overflow(sign, kind)
    if steps < 2**kind.mantissa:
        return sign, 0, steps
    return sign, exponent + kind.bias, steps - 2**kind.mantissa


def decode(sign: int, exponent: int, mantissa: int, kind: Format) -> float:
    """Return the number that stored bits stand for."""
    top = 2**kind.exponent - 1
    if exponent == top and kind.infinite:
        return math.nan if mantissa else math.copysign(math.inf, -sign or 1)
    if exponent == top and mantissa == 2**kind.mantissa - 1:
        return math.nan
    size = (
        mantissa * 2.0 ** (1 - kind.bias - kind.mantissa)
        if exponent == 0
        else (2**kind.mantissa + mantissa) * 2.0 ** (exponent - kind.bias - kind.mantissa)
    )
    return -size if sign else size


def bit_text(number: float, kind: Format) -> tuple[str, str, str]:
    """Return the stored bits of sign, exponent and mantissa as text."""
    sign, exponent, mantissa = encode(number, kind)
    return str(sign), f"{exponent:0{kind.exponent}b}", f"{mantissa:0{kind.mantissa}b}"


def _overflow(sign: int, kind: Format) -> tuple[int, int, int]:
    top = 2**kind.exponent - 1
    return (sign, top, 0) if kind.infinite else (sign, top, 2**kind.mantissa - 1)
