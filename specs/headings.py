"""The chat template of a model that has none: plain headings, as a run reads and writes them."""

BEFORE_ANSWER, BEHIND_ANSWER = "{% generation %}", "{% endgeneration %}"
"""What marks in transformers' templates what the model says."""


def template(*, begins_with_bos: bool, marked: bool = True) -> str:
    """Return the headings in Jinja, with the marks of what is learned unless a reader does not know them."""
    begin, end = (BEFORE_ANSWER, BEHIND_ANSWER) if marked else ("", "")
    return ("{{ bos_token }}" if begins_with_bos else "") + (
        "{% for message in messages %}"
        "{% if not loop.first %}{{ '\\n\\n' }}{% endif %}"
        "{{ '### ' + message['role'] | capitalize + ':\\n' }}"
        "{% if message['role'] == 'assistant' %}"
        f"{begin}{{{{ message['content'] + eos_token }}}}{end}"
        "{% else %}{{ message['content'] }}{% endif %}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '\\n\\n### Assistant:\\n' }}{% endif %}"
    )
