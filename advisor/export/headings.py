"""The chat template for models that have none: plain headings, as a run of LoRAFit reads them."""

from advisor.export.job import Job

FILE = "chat_template.jinja"


def template(job: Job) -> str:
    """Return the template in Jinja, with the marks of what is learned."""
    begin = "{{ bos_token }}" if job.data.begins_with_bos else ""
    return begin + (
        "{% for message in messages %}"
        "{% if not loop.first %}{{ '\\n\\n' }}{% endif %}"
        "{{ '### ' + message['role'] | capitalize + ':\\n' }}"
        "{% if message['role'] == 'assistant' %}"
        "{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}"
        "{% else %}{{ message['content'] }}{% endif %}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '\\n\\n### Assistant:\\n' }}{% endif %}"
    )
