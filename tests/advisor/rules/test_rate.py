"""LoRA's rates against the published sweep that they come from."""

import csv
import math
from pathlib import Path

import pytest

from advisor.rules.rate import OPTIMA, SWEEP_BATCH, lora_rate
from tests.advisor.pricing import situation

SWEEP = Path(__file__).parents[2] / "golden" / "rate_sweep.csv"
RATES = ("4e-5", "1e-4", "2e-4", "3e-4", "4e-4", "1e-3", "2e-3", "3e-3")


def rows():
    with SWEEP.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def losses(row):
    return [(math.log(float(rate)), float(row[rate])) for rate in RATES if row[rate]]


def vertex(row):
    """Return the lowest point of the parabola through the three losses around the lowest, as rate and function."""
    points = losses(row)
    lowest = min(range(len(points)), key=lambda number: points[number][1])
    middle = min(max(lowest, 1), len(points) - 2)
    (x0, y0), (x1, y1), (x2, y2) = points[middle - 1 : middle + 2]
    slope = (y1 - y0) / (x1 - x0)
    bend = ((y2 - y1) / (x2 - x1) - slope) / (x2 - x0)

    def loss(rate):
        x = math.log(rate)
        return y0 + slope * (x - x0) + bend * (x - x0) * (x - x1)

    return math.exp((x0 + x1) / 2 - slope / (2 * bend)), loss


SWEPT = [row for row in rows() if row["rank"] == "16"]
IN_CATALOG = (
    "meta-llama/Llama-3.2-1B",
    "meta-llama/Llama-3.2-3B",
    "meta-llama/Llama-3.1-8B",
    "Qwen/Qwen3-8B",
    "Qwen/Qwen3-30B-A3B",
)


@pytest.mark.parametrize("model", IN_CATALOG)
def test_the_rate_at_the_sweeps_batch_costs_little_against_the_best(model):
    (row,) = [row for row in SWEPT if row["model"] == model]
    best, loss = vertex(row)
    value, (least, most), *_ = lora_rate(situation(model=model), SWEEP_BATCH)
    assert loss(value) - loss(best) < 0.001
    assert least < value < most
    assert loss(value) <= loss(2e-4)


@pytest.mark.parametrize(
    ("prefix", "rate"),
    [
        pytest.param("meta-llama/Llama-3.2", 9.7e-4, id="small Llamas"),
        pytest.param("meta-llama/Llama-3.1-8B", 3.6e-4, id="Llama 8B"),
        pytest.param("Qwen/Qwen3.5", 3.0e-4, id="Qwen3.5"),
        pytest.param("nvidia/NVIDIA-Nemotron-3-Nano", 4.9e-4, id="Nemotron 3"),
        pytest.param("openai/gpt-oss", 3.6e-4, id="gpt-oss"),
    ],
)
def test_an_optimum_is_the_mean_of_its_models(prefix, rate):
    found = [vertex(row)[0] for row in SWEPT if row["model"].startswith(prefix)]
    assert math.exp(sum(map(math.log, found)) / len(found)) == pytest.approx(rate, rel=0.02)
    assert rate in {one.rate for one in OPTIMA}


@pytest.mark.parametrize(("batch", "share"), [(8, 0.25), (32, 0.5), (128, 1.0), (512, 2.0)])
def test_the_rate_grows_with_the_root_of_the_batch(batch, share):
    asked = situation()
    assert lora_rate(asked, batch)[0] == pytest.approx(share * lora_rate(asked, SWEEP_BATCH)[0])


def test_no_batch_raises_the_rate_to_where_runs_diverge():
    assert lora_rate(situation(model="meta-llama/Llama-3.2-1B"), 4_096)[0] == 1e-3
