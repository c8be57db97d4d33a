"""The part of the script that reads the data: rows of a file, what is said in them, and their tokens."""

from advisor.export import headings
from advisor.export.job import Job, literal
from specs import dataset

MAIN = """

def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default={data})
    parser.add_argument("--model", default={model})
    parser.add_argument("--output", default={output})
    parser.add_argument("--max-steps", type=int, default={max_steps})
    args = parser.parse_args()
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))  # torchrun starts one process per GPU
    set_seed({seed})

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
"""
"""How the main function of a script begins: its arguments, the device, the seed and the tokenizer."""

_JSONL = '''

def rows(path):
    """Yield the rows of the data: one JSON object a line."""
    with open(path, encoding="utf-8") as lines:
        yield from (json.loads(line) for line in lines if line.strip())
'''

_JSON = '''

def rows(path):
    """Yield the rows of the data: a list of JSON objects."""
    with open(path, encoding="utf-8") as file:
        yield from json.load(file)
'''

_CSV = '''

def rows(path):
    """Yield the rows of the data: the names of columns stand in the first line."""
    csv.field_size_limit(2**25)
    with open(path, encoding={encoding}, newline="") as file:
        yield from csv.DictReader(file, delimiter={delimiter})
'''

_TEXT = '''

def rows(path):
    """Yield the paragraphs of the data: what stands between empty lines."""
    with open(path, encoding={encoding}) as file:
        for paragraph in re.split(r"\\n(?:[^\\S\\n]*\\n)+", file.read()):
            if paragraph.strip():
                yield {{"text": paragraph.strip("\\n")}}
'''

_TABLE = '''

def rows(path):
    """Yield the rows of the data, without the empty keys that a table gives to every row."""
    table = load_dataset({arguments})
    for row in table:
        yield {{name: named(filled(value), table.features[name]) for name, value in row.items() if value is not None}}


def named(value, kind):
    """Return the name of a class in place of its number, also in a list."""
    names = getattr(getattr(kind, "feature", kind), "names", None)
    if isinstance(value, list):
        return [named(entry, kind) for entry in value]
    return names[value] if names and isinstance(value, int) and 0 <= value < len(names) else value


def filled(value):
    if isinstance(value, dict):
        return {{key: filled(entry) for key, entry in value.items() if entry is not None}}
    return [filled(entry) for entry in value] if isinstance(value, list) else value
'''

_PIECES = '''

def rendered(turns, tools, tokenizer, template):
    """Return the text that the model reads, and the parts of it that it learns to say."""
    bos, eos = leading(tokenizer), tokenizer.eos_token or ""
    if isinstance(turns, str):
        text = turns if bos and turns.startswith(bos) else bos + turns
        return text + eos, [(0, len(text + eos))]
    controls = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    messages = [{name: said for name, said in turn.items() if name != "train"} for turn in turns]

    def render(messages, **options):
        names = {"chat_template": template, "tools": tools or None, **tokenizer.special_tokens_map, **options}
        texts, marked = render_jinja_template([messages], **names)
        return texts[0], marked[0] if marked else []

    said = [index for index, turn in enumerate(turns) if turn["role"] == "assistant"]
    text, spans = render(messages, return_assistant_tokens_mask="endgeneration" in template)
    spans = [tuple(span) for span in spans if span[0] < span[1]]
    if len(spans) != len(said):
        spans = []
        for index in said:
            asked, _ = render(messages[:index], add_generation_prompt=True)
            answered, _ = render(messages[: index + 1])
            if not (text.startswith(asked) and text.startswith(answered)):
                raise ValueError("this chat template writes earlier turns in another way once more is said")
            spans.append((len(asked), len(answered)))
    require_said(messages, text)
    if tools and render(messages, tools=None)[0] == text:
        raise ValueError("its tools are left out by the chat template")
    spans = [(start, stop(text, start, end, controls)) for start, end in spans]
    ends = tuple(filter(None, (*controls, eos)))
    if turns[-1]["role"] == "assistant" and not text.rstrip().endswith(ends):
        text, spans[-1] = text + eos, (spans[-1][0], len(text + eos))
    return text, [span for index, span in zip(said, spans) if turns[index].get("train", True)]


def leading(tokenizer):
    """Return the token that the tokenizer puts before a text by itself, or nothing."""
    ids = tokenizer("a")["input_ids"]
    return tokenizer.bos_token if tokenizer.bos_token and ids[:1] == [tokenizer.bos_token_id] else ""


def stop(text, start, end, controls):
    """Return where an answer ends, with the special token at which generation stops."""
    if text[start:end].rstrip().endswith(tuple(controls)):
        return end
    return end + next((len(token) for token in controls if text.startswith(token, end)), 0)


def require_said(messages, text):
    """Refuse a row of which the chat template leaves something out."""
    for number, message in enumerate(messages, start=1):
        said = (message.get("content") or "").strip()
        forms = (said, *(json.dumps(said, ensure_ascii=ascii)[1:-1] for ascii in (False, True)))
        left_out = re.sub(r"^<think>.*?</think>", "", said, flags=re.DOTALL).strip()
        if not any(form in text for form in (*forms, left_out)):
            raise ValueError(f"message {number} is left out by the chat template")
'''

_ANSWERS = '''

def tokenized(row, tokenizer, template):
    """Return input_ids and labels of a row: the loss counts only what the assistant says."""
    turns, tools = said(row)
    text, spans = rendered(turns, tools, tokenizer, template)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, places = encoded["input_ids"][:MAX_LENGTH], encoded["offset_mapping"][:MAX_LENGTH]
    labels = [
        token if LEARN_PROMPTS or any(start <= first < end and last > first for start, end in spans) else -100
        for token, (first, last) in zip(ids, places)
    ]
    if all(label == -100 for label in labels):
        raise ValueError(f"its answer begins after max_length ({MAX_LENGTH} tokens)")
    return {"input_ids": ids, "labels": labels, "group": group(turns)}
'''

_PAIRS = '''

def tokenized(row, tokenizer, template):
    """Return the tokens of a pair: what both begin with, and how each goes on."""
    asked, answers, tools = said(row)
    sides, starts = [], []
    for answer in answers:
        text, spans = rendered(asked + answer, tools, tokenizer, template)
        begun = text.rindex(answer + (tokenizer.eos_token or "")) if isinstance(asked, str) else None
        own = spans[-sum(turn["role"] == "assistant" for turn in answer) :] if begun is None else [(begun, len(text))]
        encoded = tokenizer(text[: own[-1][1]], add_special_tokens=False, return_offsets_mapping=True)
        sides.append(encoded["input_ids"])
        starts.append(sum(first < own[0][0] for first, _ in encoded["offset_mapping"]))
    chosen, rejected = sides
    begun = min(starts)
    while begun and chosen[:begun] != rejected[:begun]:  # tokens may merge across the end of the question
        begun -= 1
    if chosen == rejected or not chosen[begun:] or not rejected[begun:]:
        raise ValueError("chosen and rejected are the same to the model")
    if begun >= MAX_LENGTH:
        raise ValueError(f"its answer begins after max_length ({MAX_LENGTH} tokens)")
    tokens = {"prompt_ids": chosen[:begun], "chosen_ids": chosen[begun:], "rejected_ids": rejected[begun:]}
    return tokens | {"group": group(asked)}
'''

_DATASET = '''

def group(asked):
    """Return what rows of the same question share, so that no question is both learned and evaluated."""
    if not isinstance(asked, str):
        asked = "\\n".join(turn["content"] for turn in asked if turn["role"] != "assistant")
    return int.from_bytes(hashlib.sha256(asked.encode()).digest()[:8], "big", signed=True)


def learned(path, tokenizer, folder):
    """Return the rows of the data as tokens; rows that cannot be learned are counted and told."""
    template = chat_template(tokenizer)
    skipped = []

    def every():
        skipped.clear()
        for number, row in enumerate(rows(path), start=1):
            try:
                yield tokenized(row, tokenizer, template)
            except (TemplateError, ValueError) as error:
                skipped.append(f"row {number}: {error}")

    try:
        name = hashlib.sha256(path.encode()).hexdigest()[:16]
        data = Dataset.from_generator(every, cache_dir=folder, fingerprint=name)
    except DatasetsError as error:
        raise SystemExit(f"No row can be learned: {(skipped or [error])[0]}") from error
    if skipped:
        print(f"{len(skipped)} rows are left out, such as {skipped[0]}", file=sys.stderr)
    if len(skipped) > max(1, 0.1 * (len(skipped) + len(data))):
        raise SystemExit("More than a tenth of the rows cannot be learned.")
    return data


def chat_template(tokenizer):
    """Return the chat template: TRL's variant for training, if it knows one, which marks what is learned."""
    if tokenizer.chat_template is None:
        tokenizer.chat_template = HEADINGS if leading(tokenizer) == "" else "{{ bos_token }}" + HEADINGS
    template = tokenizer.chat_template
    template = template if isinstance(template, str) else template["default"]
    if "endgeneration" in template:
        return template
    try:
        return get_training_chat_template(tokenizer) or template
    except ValueError:
        return template
'''

_HELD_OUT = '''

def held_out_rows(groups):
    """Return the rows to evaluate on: whole groups in an order given by the seed."""
    sizes, wanted = collections.Counter(groups), max(1, round({share} * len(groups)))
    order = sorted(sizes, key=lambda group: hashlib.sha256(f"{seed} {{group}}".encode()).digest())
    chosen, count = set(), 0
    for group in order:
        if count >= wanted:
            break
        chosen.add(group)
        count += sizes[group]
    return [row for row, group in enumerate(groups) if group in chosen]
'''


def modules(job: Job) -> list[str]:
    """Return the modules of the standard library that this part needs."""
    names = ["argparse", "hashlib", "json", "os", "re", "sys", "tempfile"]
    names += ["csv"] if job.data.file.kind in {"csv", "tsv"} else []
    names += ["collections"] if job.eval_share else []
    return sorted(names)


def needs_datasets(job: Job) -> bool:
    """Return whether rows are read with the package datasets."""
    return job.data.file.kind in {"parquet", ""}


def text(job: Job) -> str:
    """Return the functions that read the data."""
    parts = [rows(job), said(job), _PIECES, _PAIRS if job.data.is_pairs else _ANSWERS, _DATASET]
    if job.eval_share:
        parts.append(_HELD_OUT.format(share=job.eval_share, seed=job.plan.seed))
    return "".join(parts)


def constants(job: Job) -> str:
    """Return the constants of this part."""
    bare = Job(plan=job.plan, data=job.data)
    template = headings.template(bare).removeprefix("{{ bos_token }}")
    return (
        f"MAX_LENGTH = {job.plan.max_length}\n"
        + ("" if job.data.is_pairs else f"LEARN_PROMPTS = {not job.plan.completion_only_loss}\n")
        + f"HEADINGS = {literal(template)}  # for a model without a chat template\n"
    )


def rows(job: Job) -> str:
    """Return the function that reads the rows of the data."""
    file = job.data.file
    if file.kind in {"csv", "tsv"}:
        return _CSV.format(encoding=literal(file.encoding), delimiter=literal(file.delimiter))
    if file.kind == "txt":
        return _TEXT.format(encoding=literal(file.encoding))
    if file.kind == "parquet":
        return _TABLE.format(arguments='"parquet", data_files=path, split="train"')
    if not file.kind:
        return _TABLE.format(arguments=_hub(job))
    return _JSON if file.kind == "json" else _JSONL


def _hub(job: Job) -> str:
    revision = job.data.name.partition("@")[2]
    return f"path, split={literal(job.data.split)}" + (f", revision={literal(revision)}" if revision else "")


def said(job: Job) -> str:
    """Return the function that gives what a row says, in the columns of this data."""
    data = job.data
    lines = ["", "", "def said(row):"]
    if data.shape == "text":
        return "\n".join(
            [*lines, '    """Return the text of a row."""', f"    return row[{_key(job, 'text')}], ()", ""]
        )
    lines.append(
        f'    """Return {"question, both answers" if data.is_pairs else "the messages"} and tools of a row."""'
    )
    lines += _system(job)
    lines.append(f"    tools = row.get({_key(job, 'tools')}) or ()")
    lines.append("    tools = json.loads(tools) if isinstance(tools, str) else tools")
    return "\n".join([*lines, *(_compared(job) if data.is_pairs else _told(job)), ""])


def _key(job: Job, role: str) -> str:
    return literal(job.data.column(role))


def _system(job: Job) -> list[str]:
    """Return the line that gives what a column says to the system."""
    name = next((role for role in ("system", "system_prompt") if role in job.data.columns), "")
    if not name:
        return ["    system = []"]
    key = _key(job, name)
    return [f'    system = [{{"role": "system", "content": row[{key}]}}] if row.get({key}) else []']


def _told(job: Job) -> list[str]:
    """Return the lines that give a conversation."""
    data = job.data
    if data.shape == "conversations":
        return [
            '    roles = {"system": "system", "human": "user", "gpt": "assistant"}',
            f"    turns = row[{_key(job, 'conversations')}]",
            '    turns = [{"role": roles[turn["from"]], "content": turn["value"]} for turn in turns]',
            *_begun("turns"),
            "    return turns, tools",
        ]
    if data.shape == "messages":
        return [f"    turns = row[{_key(job, 'messages')}]", *_begun("turns"), "    return turns, tools"]
    answer = f'{{"role": "assistant", "content": row[{_key(job, data.roles[1])}]}}'
    return [*_question(job, data.roles[0]), f"    return [*system, question, {answer}], tools"]


def _begun(name: str) -> list[str]:
    """Return the lines that put the system's column first, unless the messages say the same."""
    return [f'    if {name}[0]["role"] != "system":', f"        {name} = [*system, *{name}]"]


def _question(job: Job, role: str) -> list[str]:
    around = [name for name in ("input", "context") if name in job.data.columns and name != role]
    roles = [role, *around] if role == "instruction" else [*around, role]
    parts = ", ".join(f"row.get({_key(job, name)})" for name in roles)
    return [
        f"    parts = [part for part in ({parts},) if part and part.strip()]",
        '    question = {"role": "user", "content": "\\n\\n".join(parts)}',
    ]


def _compared(job: Job) -> list[str]:
    """Return the lines that give a question with its better and its worse answer."""
    data = job.data
    asked = next((role for role in data.roles if role not in {"chosen", "rejected"}), "")
    sides = [f"row[{_key(job, side)}]" for side in ("chosen", "rejected")]
    if data.traits.get(dataset.NO_SIDES):
        return [f"    return row[{_key(job, asked)}], ({', '.join(sides)}), tools"]
    if not asked:
        return [
            f"    chosen, rejected = {', '.join(sides)}",
            "    shared = 0",
            "    while chosen[shared] == rejected[shared] and shared < min(len(chosen), len(rejected)) - 1:",
            "        shared += 1",
            "    asked = chosen[:shared]",
            *_begun("asked"),
            "    return asked, (chosen[shared:], rejected[shared:]), tools",
        ]
    if data.shape == "lists":
        return [
            f"    asked = row[{_key(job, asked)}]",
            *_begun("asked"),
            f"    return asked, ({', '.join(sides)}), tools",
        ]
    answers = ", ".join(f'[{{"role": "assistant", "content": {side}}}]' for side in sides)
    return [*_question(job, asked), f"    return [*system, question], ({answers}), tools"]
