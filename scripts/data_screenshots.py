"""Takes the screenshots of the Data tab: a file with tool calls, one with reasoning and one with pairs of answers."""

import io
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from playwright.sync_api import Browser, sync_playwright

from scripts.browser import CHROMIUM, require_chromium, served, settle
from specs import RunError, paths
from ui.plan import datasets

FOLDER = paths.REPO / "docs" / "screenshots"
_MODEL = {"model": "Qwen/Qwen3-0.6B", "gpu": "GeForce RTX 4090", "view": "Data"}
_SIZE = (1440, 1900)

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
    """Serve the app on uploads of our own, take every screenshot, and return the exit status."""
    try:
        require_chromium()
    except RunError as error:
        print(error, file=sys.stderr)
        return 2
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LORAFIT_RUNS"] = folder
        labels = {name: _kept(name, rows()) for name, rows in SAMPLES.items()}
        with served() as url, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            for name, label in labels.items():
                address = f"{url}/?{urlencode({**_MODEL, 'data': label})}"
                print(take(browser, address, FOLDER / f"{name}.png").relative_to(paths.REPO))
            browser.close()
    return 0


def take(browser: Browser, url: str, target: Path) -> Path:
    """Write the screenshot of one page and return its path."""
    width, height = _SIZE
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme="light")
    page = context.new_page()
    page.goto(url)
    settle(page)
    page.wait_for_timeout(800)
    page.screenshot(path=target)
    context.close()
    return target


def _kept(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Keep rows as an upload and return its label."""
    text = "\n".join(map(json.dumps, rows))
    return datasets.add(io.BytesIO(text.encode()), f"{name.removeprefix('data-')}.jsonl")


if __name__ == "__main__":
    sys.exit(main())
