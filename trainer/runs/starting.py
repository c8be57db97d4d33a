"""Starts runs: new, again with other settings, further, or longer; what cannot be trained here is refused first."""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from specs import FinetunePlan, PlanError, RunError
from specs.dataset import share_to_hold_out
from specs.doors.door import setting
from specs.effect import require_effect
from trainer.data.examples import Example, examples, first_example, require_trained
from trainer.data.source import DataSource
from trainer.runs import launcher, trial
from trainer.runs.ablation import with_modules
from trainer.runs.combinations import refuse_combination
from trainer.runs.contract import Place, Run, first_of, spread
from trainer.runs.feasibility import Facts, Ground, require_feasible
from trainer.runs.race import Race, percent
from trainer.runs.storage import shelf
from trainer.runs.store import Store
from trainer.runs.varied import race_of, with_values

_COPY = " (copy)"


class Starter:
    """Starts runs of one store on this machine."""

    def __init__(self, store: Store, facts: Facts) -> None:
        self._store, self._facts = store, facts

    def start(
        self, plan: FinetunePlan, data: DataSource, place: Place, estimate: Mapping[str, Any] | None = None
    ) -> Run:
        """Queue a run, start it if its device is free, and return it; the same token never makes a second run.

        Raises:
            LorafitError: If it cannot be trained here.
        """
        self._require_trainable(plan, data, place)
        return self._launched(self._store.create(plan, data, estimate, place=place))

    def race(
        self,
        plan: FinetunePlan,
        texts: Sequence[str],
        data: DataSource,
        place: Place,
        estimate: Mapping[str, Any] | None = None,
        *,
        repeats: int = 0,
    ) -> Run:
        """Queue a run that begins with a race or an ablation, start it if its device is free, and return it.

        Args:
            plan: What the trials have in common. If it holds out no rows, the race sets ``eval_split``.
            texts: What they differ in, such as ``learning_rate=1e-4,2e-4``.
            data: What they are trained on.
            place: Where.
            estimate: What is predicted of the plan.
            repeats: For an ablation, with how many seeds each plan is trained; 0 for a race.

        Raises:
            LorafitError: If there is nothing to compare, or a trial cannot be trained here.
        """
        if place.away:
            raise RunError("race", "is run on this machine", place.away, "Race here, or send one plan there")
        shared = judged(plan, data)
        modules = self._facts.linear_modules(place.model_path or plan.model_name_or_path)
        race = race_of(shared, [*with_modules(texts, modules)], repeats=repeats)
        for number in range(0, len(race.changes), max(1, repeats)):
            self._require_trainable(race.plan_of(number, shared), data, place)
        run = self._store.create(shared, data, estimate, place=place, race=race)
        for told in preview(plan, shared, race):
            self._store.add_event(run.id, "race", told)
        return self._launched(run)

    def retry(self, run: Run, plan: FinetunePlan, estimate: Mapping[str, Any] | None = None) -> Run:
        """Start a run of the same data with another plan, linked to this one.

        Called twice, as by a double click, it returns the same run, until that one is over.

        Raises:
            LorafitError: If it cannot be trained here, or is a combination of adapters.
        """
        refuse_combination(run)
        place = dataclasses.replace(run.place, parent_id=run.id, token=_token(self._store, run, plan))
        return self.start(plan, run.data, place, estimate)

    def duplicate(self, run: Run) -> Run:
        """Start the same plan on the same data once more, as a run of its own; the name says that it is a copy.

        Raises:
            LorafitError: If it cannot be trained here any more.
        """
        again = self.retry(run, run.plan, run.estimate)
        if run.name and not again.name:
            name = f"{run.name[: shelf.LONGEST_NAME - len(_COPY)]}{_COPY}"
            return self._store.describe(again.id, name=name, note=run.note)
        return again

    def resume(self, run_id: str, plan: FinetunePlan | None = None, estimate: Mapping[str, Any] | None = None) -> Run:
        """Queue a run that is over again, and start it if its device is free.

        Args:
            run_id: The run.
            plan: Its plan on another number of devices; None goes on with as many as before.
            estimate: What is predicted of that plan.

        Raises:
            LorafitError: If it is not over, has finished, or cannot be trained here any more.
        """
        run = self._store.run(run_id)
        if not run.is_resumable:
            return self._launched(self._store.request_resume(run_id))
        if plan is None or plan == run.plan:
            self._require_continuable(run)
            return self._launched(self._store.request_resume(run_id))
        if run.races or run.place.away:
            way_out = "Resume it on as many as before"
            raise PlanError("num_gpus", "stays as it is in a race, and elsewhere", plan.num_gpus, way_out)
        place = dataclasses.replace(run.place, device=spread(first_of(run.place.device), plan.num_gpus))
        self._require_continuable(dataclasses.replace(run, plan=plan, place=place))
        return self._launched(self._store.request_resume(run_id, plan=plan, device=place.device, estimate=estimate))

    def extend(self, run_id: str, steps: int) -> Run:
        """Queue a run that is over for more steps, and start it if its device is free.

        Raises:
            LorafitError: If it is not over, cannot be trained here any more, or is a combination of adapters.
        """
        run = self._store.run(run_id)
        refuse_combination(run)
        if run.is_over:
            self._require_continuable(run)
        return self._launched(self._store.extend(run_id, steps))

    def _launched(self, run: Run) -> Run:
        launcher.launch(self._store, run.id)
        return self._store.run(run.id)

    def _require_continuable(self, run: Run) -> None:
        """Refuse to go on with a run whose machine, model or data changed."""
        run.data.require_unchanged(run.details.get("data_sha256"))
        self._require_trainable(run.plan, run.data, run.place)

    def _require_trainable(self, plan: FinetunePlan, data: DataSource, place: Place) -> None:
        """Refuse what the worker would refuse minutes later; what may take longest is asked last."""
        model = place.model_path or plan.model_name_or_path
        first = first_example(data)
        require_trained(first.task, data.path)
        if data.evaluation_split:
            first_example(dataclasses.replace(data, split=data.evaluation_split))
        modules = self._facts.linear_modules(model)
        ground = Ground(
            device=spread(place.card, plan.num_gpus),
            here=not place.away,
            compute_capabilities=None if place.away else self._facts.compute_capabilities(),
            linear_modules=modules,
            task_types=self._facts.task_types(model),
            has_pairs=first.task == "preference",
            kinds=first.kinds,
        )
        require_feasible(plan, ground)
        if not place.away or Path(model).is_dir():
            self._facts.require_obtainable(model)
        if trial.needs_trial(plan, modules):
            trial.require_buildable(plan, model)


def judged(plan: FinetunePlan, data: DataSource, *, rows: int | None = None) -> FinetunePlan:
    """Return a plan that holds out rows: as it is, or with as many of the data as tell losses apart.

    Args:
        plan: What is to be raced.
        data: What it is trained on.
        rows: How many rows the data has that can be trained on; counted if it is not known.
    """
    if plan.eval_split or data.evaluation_split:
        return plan
    if rows is None:
        rows = sum(isinstance(entry, Example) for entry in examples(data))
    return dataclasses.replace(plan, eval_split=float(f"{share_to_hold_out(rows):.2g}"))


def preview(plan: FinetunePlan, shared: FinetunePlan, race: Race) -> Iterator[str]:
    """Yield what a person should know of a race before it begins, in sentences.

    Args:
        plan: What was asked for.
        shared: What the trials have in common, as ``judged`` returns it.
        race: The race of that.
    """
    yield race.foretold
    if plan.eval_split != shared.eval_split:
        share = percent(shared.eval_split)
        yield f"The plan holds out no rows to compare on: the race and its winner hold out {share} (eval_split)."
    if race.own is None and not race.repeats:
        yield "The plan itself does not take part: add its own value to be sure that the winner is no worse."


def changed(plan: FinetunePlan, texts: Iterable[str]) -> FinetunePlan:
    """Return a plan with fields set from texts such as ``learning_rate=1e-4``; a new ``method`` sets its fields first.

    Raises:
        PlanError: If a text is not such a pair, a field changes nothing, or the plan refuses the values.
    """
    values = dict(setting("--set", text) for text in texts)
    if not values:
        raise PlanError("--set", "must change at least one field of the plan", None, "Write it as field=value")
    found = with_values(plan, values)
    require_effect(found, values, option="--set")
    return found


def _token(store: Store, run: Run, plan: FinetunePlan) -> str:
    """Return the token of this retry: that of the same one that still waits or trains, otherwise one that none has.

    It names all other runs that repeat this one, and so the same retry once it is over: how many there are would
    return with a deletion.
    """
    repeats = (other for other in store.runs() if other.place.parent_id == run.id)
    done = sorted(other.id for other in repeats if other.is_over or other.plan != plan)
    digest = hashlib.sha256("\n".join([plan.to_json(), *done]).encode()).hexdigest()
    return f"retry {run.id} {digest}"
