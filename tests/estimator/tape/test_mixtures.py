"""What is shipped for mixtures was traced with the targets that a run trains."""

import pytest

from catalog import models
from estimator.estimate import trainable_params
from estimator.tape import library, shipping

MIXTURES = [name for name in models.names() if models.shipped(name).is_moe]


@pytest.mark.parametrize("name", MIXTURES)
def test_a_shipped_tape_of_a_mixture_trains_what_the_table_of_its_layers_says(name):
    model = models.shipped(name)
    for wanted in shipping.main_recipes(model):
        tape = library.shipped(wanted)
        if tape is not None and wanted.plan.method in {"lora", "qlora"}:
            assert trainable_params(tape, wanted.plan) == model.layers.lora_params(wanted.plan), wanted.plan
