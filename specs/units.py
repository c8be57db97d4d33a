"""Bytes and how they are shown: everything computes in bytes, GiB appears only where a person reads."""

KIB = 2**10
MIB = 2**20
GIB = 2**30


def gib(num_bytes: int) -> str:
    """Return bytes as a person reads them, in GiB with one decimal; under 1 GiB in whole MiB, under 1 MiB in KiB."""
    if 0 < abs(num_bytes) < MIB and abs(round(num_bytes / KIB)) < MIB // KIB:
        return f"{num_bytes / KIB:,.0f} KiB" if abs(num_bytes) >= KIB else "under 1 KiB"
    if _in_mib(num_bytes):
        return f"{num_bytes / MIB:,.0f} MiB"
    return f"{num_bytes / GIB:,.1f} GiB"


def gib_between(less: int, more: int) -> str:
    """Return how much lies between two sizes, such that the three add up as they are shown."""
    if more < MIB:
        return gib(more - less)
    if _in_mib(more):
        return f"{round(more / MIB) - round(less / MIB):,} MiB"
    return gib(more - less) if _in_mib(less) else f"{round(more / GIB, 1) - round(less / GIB, 1):,.1f} GiB"


def with_digits(number: float, digits: int) -> str:
    """Return a number with so many digits, or as a whole one where it is larger: 1,234 and not 1.23e+03."""
    return f"{number:.{digits}g}" if abs(round(number)) < 10**digits else f"{number:,.0f}"


def in_powers(number: float) -> str:
    """Return a number with all its digits and a power of ten, such as ``1.2e-4``."""
    digits, power = f"{number:e}".split("e")
    return f"{float(digits):g}e{int(power)}"


def _in_mib(num_bytes: int) -> bool:
    return abs(round(num_bytes / MIB)) < GIB // MIB
