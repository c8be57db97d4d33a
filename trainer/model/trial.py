"""Builds the model of a plan without weights, in a process of its own: ``python -m trainer.model.trial MODEL``.

It reads the plan from standard input, and says in a sentence what cannot be built, such as an adapter on modules that
the model lacks.
"""

import sys
from collections.abc import Sequence

from specs import FinetunePlan, LorafitError
from trainer.model.build import build
from trainer.model.packing import META


def main(arguments: Sequence[str]) -> int:
    """Build once; return the exit status."""
    (model,) = arguments
    try:
        build(FinetunePlan.from_json(sys.stdin.read()), model, device=META)
    except LorafitError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
