"""What the tools of other makers print, as their owners published it, becomes this machine's devices."""

import json

import pytest

from catalog import machine, others

# https://github.com/marimo-team/marimo/issues/9237, and its second kind of name from a pull request to LocalAI, 7761.
ROCM = {
    "card0": {
        "GPU use (%)": "0",
        "VRAM Total Memory (B)": "21458059264",
        "VRAM Total Used Memory (B)": "27856896",
        "Card Series": "Radeon RX 7900 XT",
        "Card Model": "0x744c",
        "GFX Version": "gfx1100",
    },
    "card1": {"VRAM Total Memory (B)": "67108864", "Card Series": "Raphael", "GFX Version": "gfx1036"},
    "system": {"Driver version": "6.14"},
}
XPU = {
    "device_id": 0,
    "device_name": "Intel(R) Arc(TM) A770 Graphics",
    "memory_physical_size_byte": "17079205888",
    "memory_free_size_byte": "16000000000",
}


def test_a_card_of_amd_is_found_with_the_catalogs_figures_and_a_processors_graphics_are_not():
    [found] = others.amd("WARNING: AMD GPU device(s) is/are in a low-power state\n" + json.dumps(ROCM))
    assert (found.backend, found.index, found.free_bytes) == ("rocm", 0, 21458059264 - 27856896)
    device = machine.of_another_maker(found)
    assert (device.gpu.name, device.torch_name) == ("Radeon RX 7900 XT", "cuda:0")
    assert device.gpu.usable_bytes <= found.total_bytes
    assert "untried" in device.gpu.source


def test_a_card_of_intel_is_found_under_torchs_name():
    [found] = others.intel(json.dumps(XPU), 1)
    device = machine.of_another_maker(found)
    assert (device.gpu.name, device.torch_name, device.free_bytes) == ("Arc A770", "xpu:1", 16_000_000_000)


@pytest.mark.parametrize(
    ("name", "gib", "known"),
    [
        pytest.param("Apple M1 Pro", 32, "Apple M1 Pro 32 GB", id="listed"),
        pytest.param("Apple M9", 48, "Apple M9", id="newer than the list"),
        pytest.param("Apple M1 Pro", 48, "Apple M1 Pro", id="memory that it is not sold with"),
    ],
)
def test_a_mac_is_one_device_whose_memory_is_shared(name, gib, known):
    device = machine.of_another_maker(others.Found("mps", name, 0, gib << 30, 1 << 30))
    assert (device.gpu.name, device.torch_name) == (known, "mps")
    assert device.gpu.usable_bytes == pytest.approx((gib << 30) * 2 / 3, abs=2)


@pytest.mark.parametrize(
    "text", ["", "not JSON", "[1]", "{", '{"card0": 1}', '{"card0": {"VRAM Total Memory (B)": "N/A"}}']
)
def test_a_tool_that_says_nothing_of_use_finds_no_card(text):
    assert not list(others.amd(text))
    assert not list(others.intel(text, 0))


def test_devices_of_other_makers_come_before_the_processor(monkeypatch):
    found = tuple(others.intel(json.dumps(XPU), 0))
    monkeypatch.setattr(others, "found", lambda: found)
    assert [device.torch_name for device in machine.devices()] == ["xpu:0"]
