"""Bytes and how they are shown: everything computes in bytes, GiB appears only where a person reads."""

KIB = 2**10
MIB = 2**20
GIB = 2**30


def gib(num_bytes: int) -> str:
    """Return bytes as a person reads them, in GiB with one decimal; under 1 GiB in whole MiB."""
    if abs(num_bytes) < GIB:
        return f"{num_bytes / MIB:,.0f} MiB"
    return f"{num_bytes / GIB:,.1f} GiB"
