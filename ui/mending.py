"""Ways on for a run that failed: what would need less memory, and the same run with it."""

import dataclasses
import secrets

from advisor import Situation
from advisor.levers import Lever, levers
from advisor.rules import RULE_SETS
from advisor.search import Search
from catalog import machine, models
from specs import FinetunePlan, LorafitError
from trainer.contract import Run
from trainer.launcher import launch
from ui import planning, running

OUT_OF_MEMORY = "out_of_memory"


def ways_on(run: Run) -> tuple[Lever, ...]:
    """Return the single changes that save memory, least harmful first; none for a model that the catalog lacks."""
    device = next(
        (here for here in machine.devices() if planning.torch_device(here) == run.place.device), machine.devices()[0]
    )
    try:
        situation = Situation(
            model=models.find(run.plan.model_name_or_path), gpu=device.gpu, free_bytes=device.free_bytes
        )
        search = Search(
            situation,
            RULE_SETS["evidence"],
            lambda plan: planning.priced(situation.model, plan, device.gpu),
        )
        return levers(search, search.as_it_is(run.plan))
    except LorafitError:
        return ()


def retry(run: Run, plan: FinetunePlan) -> str:
    """Start the run again with another plan, linked to the one that failed, and return its id."""
    store = running.store()
    place = dataclasses.replace(run.place, parent_id=run.id, token=secrets.token_hex(8))
    again = store.create(plan, run.data, run.estimate, place=place)
    launch(store, again.id)
    return again.id
