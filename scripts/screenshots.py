"""Takes the screenshots of every page in light, in dark and on a phone, and of the Data tab, into docs/screenshots."""

import io
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias
from urllib.parse import urlencode

from playwright.sync_api import Browser, sync_playwright

from scripts.browser import CHROMIUM, require_chromium, served, settle
from specs import RunError, paths
from trainer.runs.store import Store
from ui.plan.data import datasets

FOLDER = paths.REPO / "docs" / "screenshots"
LLAMA = "model=meta-llama%2FLlama-3.1-8B&gpu=GeForce+RTX+4090"
PAGES = {
    "plan": f"?{LLAMA}",
    "plan-edited": f"?{LLAMA}&r=64",
    "compare": f"compare?{LLAMA}",
    "compare-step": f"compare?{LLAMA}&show=One+step",
    "compare-heat-map": f"compare?{LLAMA}&show=Batch+and+length",
    "compare-devices": f"compare?{LLAMA}&show=Devices+needed",
    "runs": "runs",
    "accuracy": "accuracy",
    "learn": "learn",
    "learn-quantization": "learn?lesson=Quantization",
}
_View: TypeAlias = tuple[int, int, Literal["light", "dark"]]
"""Width and height in CSS pixels, and the colour scheme."""
VIEWS: Mapping[str, _View] = {
    "light": (1280, 800, "light"),
    "dark": (1280, 800, "dark"),
    "phone": (390, 844, "light"),
}
_DATA_TAB = {"model": "Qwen/Qwen3-0.6B", "gpu": "GeForce RTX 4090", "view": "Data"}
_DATA_VIEW: _View = (1440, 1900, "light")

_CITIES = ("Oslo", "Lima", "Kyoto", "Accra", "Quito", "Riga")
_WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def tool_calls() -> list[Mapping[str, Any]]:
    """Return conversations in which a tool is called, with a column that is not read."""
    return [
        {
            "id": f"w{number}",
            "tools": [_WEATHER],
            "messages": [
                {"role": "user", "content": f"What is the weather in {city}?"},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {
                            "id": f"c{number}",
                            "type": "function",
                            "function": {"name": "get_weather", "arguments": json.dumps({"city": city})},
                        }
                    ],
                },
                {"role": "tool", "tool_call_id": f"c{number}", "content": json.dumps({"celsius": 3 + number})},
                {"role": "assistant", "content": f"It is {3 + number} degrees in {city}."},
            ],
        }
        for number, city in enumerate(_CITIES)
    ]


def reasoning() -> list[Mapping[str, Any]]:
    """Return answers with reasoning before them."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"A train takes {hours} hours for {hours * speed} km. How fast is it?"},
                {
                    "role": "assistant",
                    "reasoning_content": f"Speed is way over time: {hours * speed} km / {hours} h = {speed} km/h.",
                    "content": f"It goes at {speed} km/h.",
                },
            ]
        }
        for hours, speed in ((2, 80), (3, 60), (5, 120), (4, 90), (6, 75), (1, 110))
    ]


def pairs() -> list[Mapping[str, Any]]:
    """Return pairs of a better and a worse answer, one of them without a worse one."""
    asked = ("Is water wet?", "Why is the sky blue?", "How do I boil an egg?", "Who wrote Faust?", "What is a prime?")
    good = (
        "It makes other things wet; whether it is wet itself depends on what you mean by the word.",
        "Air scatters blue light more than red, so blue reaches us from all sides.",
        "Put it into boiling water for six to ten minutes, then into cold water.",
        "Johann Wolfgang von Goethe.",
        "A whole number above 1 that only 1 and itself divide.",
    )
    rows = [
        {"prompt": prompt, "chosen": answer, "rejected": "No idea.", "annotator": number % 2}
        for number, (prompt, answer) in enumerate(zip(asked, good, strict=True), start=1)
    ]
    return [*rows, {"prompt": "Are cats liquid?", "chosen": "Only in jest.", "rejected": ""}]


SAMPLES = {"data-tools": tool_calls, "data-reasoning": reasoning, "data-preference": pairs}
"""What is shown, by the name of its screenshot."""


def main() -> int:
    """Take every screenshot, and return the exit status."""
    try:
        require_chromium()
    except RunError as error:
        print(error, file=sys.stderr)
        return 2
    FOLDER.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        _pages(browser)
        _data_tab(browser)
        browser.close()
    return 0


def take(browser: Browser, url: str, name: str, view: _View) -> None:
    """Write the screenshot of one page in one view, and print its path."""
    width, height, scheme = view
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()
    page.goto(url)
    settle(page)
    page.wait_for_timeout(800)
    target = FOLDER / f"{name}.png"
    page.screenshot(path=target)
    context.close()
    print(target.relative_to(paths.REPO))


def _pages(browser: Browser) -> None:
    """Take every page, with the runs of this machine."""
    pages = dict(PAGES)
    if runs := Store(paths.runs()).runs():
        pages["run"] = f"runs?run={max(runs, key=lambda run: run.step).id}"
    with served() as url:
        for name, path in pages.items():
            for view, settings in VIEWS.items():
                take(browser, f"{url}/{path}", f"{name}-{view}", settings)


def _data_tab(browser: Browser) -> None:
    """Take the Data tab, with uploads of our own in a folder of their own."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LORAFIT_RUNS"] = folder
        labels = {name: _kept(name, rows()) for name, rows in SAMPLES.items()}
        with served() as url:
            for name, label in labels.items():
                take(browser, f"{url}/?{urlencode({**_DATA_TAB, 'data': label})}", name, _DATA_VIEW)


def _kept(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Keep rows as an upload and return its label."""
    text = "\n".join(map(json.dumps, rows))
    return datasets.add(io.BytesIO(text.encode()), f"{name.removeprefix('data-')}.jsonl")


if __name__ == "__main__":
    sys.exit(main())
