"""Number formats bit by bit."""

import streamlit as st

from specs import METHODS
from ui.learn.lessons import reference
from ui.learn.number_formats import FORMATS, bit_text, decode, encode
from ui.learn.start import Start
from ui.parts import exhibits


def show(begun: Start) -> None:
    """Show how each format stores a number that the reader types."""
    st.markdown(
        "Training memory is a count of numbers times their bytes, so the format of each number matters. A "
        "floating-point number has a sign, an **exponent** (how large it can be) and a **mantissa** (how precise)."
    )
    number = st.number_input(
        "A number to store", value=0.1, format="%.8g", step=0.1, key="number", bind="query-params", width=260
    )
    uses = _uses(begun)
    stored = {name: decode(*encode(number, kind), kind) for name, kind in FORMATS.items()}
    bits = {name: bit_text(number, kind) for name, kind in FORMATS.items()}
    exhibits.table(
        {
            "Format": [f"{_name(name)}{uses.get(name, '')}" for name in FORMATS],
            "Bytes": [f"{kind.bits // 8}" for kind in FORMATS.values()],
            "Sign · exponent · mantissa": [
                f":gray[{sign}] :blue[{exponent}] :orange[{mantissa}]" for sign, exponent, mantissa in bits.values()
            ],
            "Stored as": [f"{value:.9g}" for value in stored.values()],
            "Error": [f"{abs(value - number) / abs(number):.2%}" if number else "0%" for value in stored.values()],
            "Largest": [f"{kind.largest:.3g}" for kind in FORMATS.values()],
            "Step at 1": [f"{kind.step_at_one:.3g}" for kind in FORMATS.values()],
        },
        name="formats",
        alt="The number in each format",
    )
    st.markdown(
        "**bfloat16** keeps float32's exponent: nothing overflows, but only two to three digits are kept. **float16** "
        "is more precise but ends at 65,504, which is why it needs loss scaling. Type 70000 to see float16 overflow, "
        "or 0.00001 to see it lose digits where bfloat16 does not. "
        "NVIDIA cards before Ampere have no arithmetic for bfloat16: they compute in float16 or float32."
    )
    reference.sources(" · ".join(dict.fromkeys(kind.source for kind in FORMATS.values())))


def _name(name: str) -> str:
    """Return a format's name, linked to its definition if that is online."""
    address = FORMATS[name].source.partition("https://")[2]
    return f"[`{name}`](https://{address})" if address else f"`{name}`"


def _uses(begun: Start) -> dict[str, str]:
    """Return what the plan keeps in each format."""
    plan, found = begun.plan, dict[str, list[str]]()
    found.setdefault(plan.dtype, []).append("weights" if not plan.load_in_4bit else "weights that are not quantized")
    if METHODS[plan.method].trains_adapter:
        found.setdefault(plan.adapter_dtype, []).append("adapter")
    found.setdefault(plan.compute_dtype, []).append("arithmetic")
    return {name: f"  \n:gray[{begun.whose}: {', '.join(what)}]" for name, what in found.items()}
