"""The chat template for models that have none: plain headings, as a run of LoRAFit reads them."""

from advisor.export.job import Job
from specs import headings

FILE = "chat_template.jinja"


def template(job: Job) -> str:
    """Return the template in Jinja, with the marks of what is learned."""
    return headings.template(begins_with_bos=job.data.begins_with_bos)
