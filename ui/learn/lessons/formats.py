"""Number formats bit by bit."""

import streamlit as st

from ui.learn.lessons import reference
from ui.learn.number_formats import FORMATS, bit_text, decode, encode


def show() -> None:
    """Show how each format stores a number that the reader types."""
    st.markdown(
        "Training memory is a count of numbers times their bytes, so the format of each number matters. A "
        "floating-point number has a sign, an **exponent** (how large it can be) and a **mantissa** (how precise)."
    )
    number = st.number_input(
        "A number to store", value=0.1, format="%.8g", step=0.1, key="number", bind="query-params", width=260
    )
    stored = {name: decode(*encode(number, kind), kind) for name, kind in FORMATS.items()}
    bits = {name: bit_text(number, kind) for name, kind in FORMATS.items()}
    st.table(
        {
            "Format": [_name(name) for name in FORMATS],
            "Bytes": [f"{kind.bits // 8}" for kind in FORMATS.values()],
            "Sign · exponent · mantissa": [
                f":gray[{sign}] :blue[{exponent}] :orange[{mantissa}]" for sign, exponent, mantissa in bits.values()
            ],
            "Stored as": [f"{value:.9g}" for value in stored.values()],
            "Error": [f"{abs(value - number) / abs(number):.2%}" if number else "0 %" for value in stored.values()],
            "Largest": [f"{kind.largest:.3g}" for kind in FORMATS.values()],
            "Step at 1": [f"{kind.step_at_one:.2g}" for kind in FORMATS.values()],
        },
        border="horizontal",
        hide_index=True,
        alt="The number in each format",
    )
    st.markdown(
        "**bfloat16** keeps float32's exponent: nothing overflows, but only two to three digits are kept. **float16** "
        "is more precise but ends at 65,504, which is why it needs loss scaling. Type 70000 to see float16 overflow, "
        "or 0.00001 to see it lose digits where bfloat16 does not. NVIDIA cards before Ampere compute in float16 only."
    )
    reference.sources(" · ".join(dict.fromkeys(kind.source for kind in FORMATS.values())))


def _name(name: str) -> str:
    """Return a format's name, linked to its definition if that is online."""
    address = FORMATS[name].source.partition("https://")[2]
    return f"[`{name}`](https://{address})" if address else f"`{name}`"
