"""How warm a card is and what it draws, where its driver tells."""

import functools
from contextlib import suppress
from typing import Any

import pynvml
import torch

_MILLI = 1000


def readings(device: str) -> dict[str, float]:
    """Return the temperature and the power of a card as fields of a ``Metric``; empty where nobody tells.

    The power is that of the whole card, which other processes may use too.

    Source:
        https://docs.nvidia.com/deploy/nvml-api, nvmlDeviceGetTemperature and nvmlDeviceGetPowerUsage.
    """
    handle = _handle(device) if device.startswith("cuda") else None
    found: dict[str, float] = {}
    if handle is None:
        return found
    with suppress(pynvml.NVMLError):
        found["temperature_celsius"] = float(pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU))
    with suppress(pynvml.NVMLError):
        found["power_watts"] = pynvml.nvmlDeviceGetPowerUsage(handle) / _MILLI
    return found


@functools.cache
def _handle(device: str) -> Any:
    """Return NVML's handle of a card, found by its UUID, since torch numbers only those that it may use; else None."""
    try:
        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
    except pynvml.NVMLError:
        return None
