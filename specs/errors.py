"""Every error a person can cause, each with one sentence that says what, where, the rule and the way out."""


class LorafitError(Exception):
    """An error whose text is one sentence for a person: subject, rule, what was found, way out."""

    def __init__(self, subject: str, rule: str, got: object = None, way_out: str = "") -> None:
        """Compose the sentence; ``got`` is shown shortened and on one line, so that hostile input stays harmless."""
        shown = "" if got is None else f", got {shortened(got)}"
        ending = f" {way_out.rstrip('.')}." if way_out else ""
        super().__init__(f"{subject}: {rule}{shown}.{ending}")
        self.subject = subject


class SpecError(LorafitError):
    """A model or GPU description that cannot be used."""


class PlanError(LorafitError):
    """A plan with a value out of range, or one that contradicts itself."""


class CatalogError(LorafitError):
    """A fact that was asked for and could not be found or read."""


class TraceError(LorafitError):
    """A model whose training step could not be traced."""


class DataError(LorafitError):
    """A data set that cannot be trained on as it is."""


class RunError(LorafitError):
    """A request that a run cannot fulfil in its state, or that its machine cannot."""


def shortened(value: object, limit: int = 80) -> str:
    """Return ``repr(value)`` on one line of at most ``limit`` characters."""
    text = value if isinstance(value, str) and value.isidentifier() else repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
