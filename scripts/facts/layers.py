"""Write assets/layers.json: the layers of every shipped model that an adapter may train, as its configuration builds.

The catalog never imports torch, so they are read off once here, on the ``meta`` device:
``python -m scripts.facts.layers``. A test compares the file with the installed transformers.
"""

import json
from typing import Any

import transformers

from scripts.facts.architectures import built
from specs.paths import assets
from trainer.model.build import model_config
from trainer.model.layers import layers


def of(config: dict[str, Any]) -> dict[str, Any]:
    """Return the layers of a configuration as JSON values."""
    return layers(built(model_config(config))).to_dict()


def as_json(found: dict[str, dict[str, Any]]) -> str:
    """Return the file's text: one model per line, so that a diff shows what a new transformers changed."""
    lines = (f"    {json.dumps(name)}: {json.dumps(entry)}" for name, entry in sorted(found.items()))
    source = f"built on the meta device with transformers {transformers.__version__} by scripts/facts/layers.py"
    body = ",\n".join(lines)
    return f'{{\n  "source": {json.dumps(source)},\n  "layers": {{\n{body}\n  }}\n}}\n'


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    entries = json.loads((assets() / "models.json").read_text(encoding="utf-8"))["models"]
    found = {entry["name"]: of(entry["config"]) for entry in entries}
    (assets() / "layers.json").write_text(as_json(found), encoding="utf-8")
    print(f"{len(found)} models")
