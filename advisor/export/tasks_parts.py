"""What the scripts for tasks of their own differ in: rows, labels and measures; one entry a task.

What a script shares with a run stands in ``specs.portable``, whose source it is given.
"""

import inspect
from collections.abc import Mapping

from advisor.export import script_data
from advisor.export.embeddings_part import EMBEDDINGS
from advisor.export.job import Job, literal
from advisor.export.part import Part
from specs.portable import passages, tags, targets


def text(job: Job, part: Part) -> str:
    """Return the functions that a task brings to its script."""
    return "".join(f"\n\n{inspect.getsource(function)}" for function in part.portable) + part.text(job)


HEADS = '''

class Collator:
    """Makes a batch of rows: padded tokens, and the labels that the task gives them."""

    def __init__(self, tokenizer, labels):
        self.tokenizer, self.labels = tokenizer, labels

    def __call__(self, rows):
        names = [name for name in ("input_ids", "token_type_ids") if name in rows[0]]
        batch = self.tokenizer.pad([{name: row[name] for name in names} for row in rows], return_tensors="pt")
        return {**batch, **self.labels(rows, batch["input_ids"].shape[1])}


def likeliest(logits, labels):
    return (logits[0] if isinstance(logits, tuple) else logits).argmax(-1)


def name_outputs(model, tokenizer, found):
    """Let the model's configuration name its outputs: in the order of numbers if all are, else of the alphabet."""
    names = sorted(found, key=int if all(name.removeprefix("-").isdecimal() for name in found) else None)
    if len(names) != model.config.num_labels:
        sys.exit(f"The data has {len(names)} classes or tags, the plan {model.config.num_labels}.")
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: number for number, name in enumerate(names)}
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    return names


def class_name(value):
    """Return the name of a class or tag; nothing where there is none."""
    value = int(value) if isinstance(value, float) and value.is_integer() else value
    name = "" if value is None else str(value).strip()
    return "" if name in {"-1", "-100"} else name


def group(text):
    """Return what rows of the same text share, so that no text is both learned and evaluated."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)


def new_modules(model):
    """Return the modules that the task adds: what lies outside the model that was trained before, and a pooler."""
    outside = [name for name, part in model.named_children() if part is not model.base_model and [*part.parameters()]]
    pooler = getattr(model.base_model, "pooler", None)
    return outside + ([f"{model.base_model_prefix}.pooler"] if pooler is not None else [])
'''

_CLASSES = '''

def learned(path, tokenizer):
    """Return the tokens of each text, the name of its class, and a number that the same texts share."""
    found = []
    for row in rows(path):
        texts = tuple(str(row.get(column) or "") for column in {texts})
        label = class_name(row.get({label}))
        if not label or not texts[0].strip():
            print("skipped a row without a text or a class", file=sys.stderr)
            continue
        pair = texts if tokenizer.sep_token else ("\\n\\n".join(texts),)
        read = tokenizer(*pair, truncation=True, max_length=MAX_LENGTH, return_attention_mask=False)
        found.append({{**read, "label": label, "length": len(read["input_ids"]), "group": group("\\n".join(texts))}})
    return Dataset.from_list(found)


def values(model, tokenizer, data, held_out):
    names = name_outputs(model, tokenizer, {{*data["label"]}})
    numbers = {{name: number for number, name in enumerate(names)}}

    def labels(batch, length):
        return {{"labels": torch.tensor([numbers[row["label"]] for row in batch])}}

    def measures(predicted):
        found, right = predicted.predictions, predicted.label_ids
        return {{
            "accuracy": float(accuracy_score(right, found)),
            "f1": float(f1_score(right, found, average="macro", zero_division=0)),
        }}

    return {{
        "data_collator": Collator(tokenizer, labels),
        "compute_metrics": measures,
        "preprocess_logits_for_metrics": likeliest,
    }}
'''


def _classes(job: Job) -> str:
    columns = tuple(job.data.column(role) for role in job.data.roles[:-1])
    texts = f"({', '.join(literal(column) for column in columns)},)"
    return _CLASSES.format(label=literal(job.data.column(job.data.roles[-1])), texts=texts)


_TAGS = '''

def learned(path, tokenizer):
    """Return the tokens of each row, the tags of those that begin a word, and a number that the same texts share."""
    found = []
    for row in rows(path):
        words, names = (json.loads(side) if isinstance(side, str) else side for side in (row[{words}], row[{tags}]))
        names = [class_name(name) for name in names or ()]
        read = tagged_tokens(words or (), names, tokenizer, MAX_LENGTH) if len(words or ()) == len(names) else {{}}
        if not all(names) or not any(read.get("tags", ())):
            print("skipped a row without words, or without a tag for each", file=sys.stderr)
            continue
        found.append({{**read, "length": len(read["input_ids"]), "group": group(" ".join(words))}})
    return Dataset.from_list(found)


def values(model, tokenizer, data, held_out):
    names = name_outputs(model, tokenizer, {{tag for row in data["tags"] for tag in row}} - {{""}})
    numbers = {{name: number for number, name in enumerate(names)}}

    def labels(batch, length):
        padded = []
        for row in batch:
            own, more = [numbers.get(tag, -100) for tag in row["tags"]], [-100] * (length - len(row["tags"]))
            padded.append(own + more if tokenizer.padding_side == "right" else more + own)
        return {{"labels": torch.tensor(padded)}}

    def measures(predicted):
        right, found = predicted.label_ids.tolist(), predicted.predictions.tolist()
        sides = [
            [[names[tag] for tag, label in zip(*pair) if label != -100] for pair in zip(side, right)]
            for side in (right, found)
        ]
        return entity_scores(*sides)

    return {{
        "data_collator": Collator(tokenizer, labels),
        "compute_metrics": measures,
        "preprocess_logits_for_metrics": likeliest,
    }}
'''


def _tags(job: Job) -> str:
    words, names = (literal(job.data.column(role)) for role in job.data.roles)
    return _TAGS.format(words=words, tags=names)


_PASSAGES = '''

def learned(path, tokenizer):
    """Return the parts in which contexts are read, and a number that the parts of the same question share."""
    found = []
    for number, row in enumerate(rows(path), start=1):
        question, context, said = row.get({question}), row.get({context}), row.get({answers})
        said = json.loads(said) if isinstance(said, str) else said or {{}}
        if isinstance(said, list):
            said = {{name: [one[name] for one in said] for name in ("answer_start", "text")}}
        pairs = [(int(start), text) for start, text in zip(said.get("answer_start") or (), said.get("text") or ())]
        answers = [(start, text) for start, text in pairs if text and start >= 0 and context.startswith(text, start)]
        if not question or not answers:
            print("skipped a row without an answer in its context", file=sys.stderr)
            continue
        whole = {{"context": context, "answers": [text for _, text in answers], "number": number}}
        asked = group(f"{{context}}\\n\\n{{question}}")
        for part in passage_parts(question, context, answers, tokenizer, MAX_LENGTH):
            found.append({{**part, **whole, "length": len(part["input_ids"]), "group": asked}})
    return Dataset.from_list(found)


def values(model, tokenizer, data, held_out):
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id

    def labels(batch, length):
        left = tokenizer.padding_side == "left"
        moved = [length - len(row["input_ids"]) if left else 0 for row in batch]
        names = ("start_positions", "end_positions")
        return {{name: torch.tensor([row[name] + more for row, more in zip(batch, moved)]) for name in names}}

    def measures(predicted):
        parts, right, contexts = collections.defaultdict(list), {{}}, {{}}
        for row, *scores in zip(held_out, *predicted.predictions):
            begin = len(scores[0]) - len(row["starts"]) if tokenizer.padding_side == "left" else 0
            sides = (side[begin : begin + len(row["starts"])].tolist() for side in scores)
            parts[row["number"]].append((*sides, row["starts"], row["ends"]))
            right[row["number"]], contexts[row["number"]] = row["answers"], row["context"]
        found = [best_answer(scores, contexts[number]) for number, scores in parts.items()]
        return answer_scores([*right.values()], found)

    return {{"data_collator": Collator(tokenizer, labels), "compute_metrics": measures}}
'''


def _passages(job: Job) -> str:
    columns = {role: literal(job.data.column(role)) for role in ("question", "context", "answers")}
    return _PASSAGES.format(**columns)


_TARGETS = '''

def learned(path, tokenizer):
    """Return the tokens of both sides, and a number that the same questions share."""
    found = []
    for row in rows(path):
        turns, tools = said(row)
        *before, last = [(turn["role"], turn.get("content") or "") for turn in turns]
        if tools or last[0] != "assistant" or not last[1].strip() or any(role == "assistant" for role, _ in before):
            print("skipped a row with tools, or without its one answer at the end", file=sys.stderr)
            continue
        read = sides_tokens("\\n\\n".join(words for _, words in before), last[1], tokenizer, MAX_LENGTH)
        asked = hashlib.sha256("\\n".join(words for _, words in before).encode()).digest()[:8]
        length = max(len(read["input_ids"]), len(read["labels"]))
        found.append({{**read, "length": length, "group": int.from_bytes(asked, "big", signed=True)}})
    return Dataset.from_list(found)


def values(model, tokenizer, data, held_out):
    padded = DataCollatorForSeq2Seq(tokenizer)
    if held_out is not None:
        model.generation_config.max_length = max(map(len, held_out["labels"])) + 1

    def measures(predicted):
        sides = (
            tokenizer.batch_decode(np.where(side < 0, tokenizer.pad_token_id, side), skip_special_tokens=True)
            for side in (predicted.label_ids, predicted.predictions)
        )
        return rouge(*sides)

    return {{
        "data_collator": lambda rows: padded([{{name: row[name] for name in ("input_ids", "labels")}} for row in rows]),
        "compute_metrics": measures,
    }}
'''


def _targets(job: Job) -> str:
    return script_data.said(job) + _TARGETS.format()


PARTS: Mapping[str, Part] = {
    "FEATURE_EXTRACTION": EMBEDDINGS,
    "SEQ_CLS": Part(
        text=_classes,
        packages=("scikit-learn",),
        imports=("from sklearn.metrics import accuracy_score, f1_score",),
        strata='data["label"][:]',
    ),
    "QUESTION_ANS": Part(
        text=_passages,
        portable=(
            passages.passage_parts,
            passages.answer_tokens,
            passages.best_answer,
            passages.plain_words,
            passages.answer_scores,
            passages.word_f1,
        ),
        modules=("collections", "re", "string"),
        portable_imports=("from collections import Counter",),
        label_names=("start_positions", "end_positions"),
    ),
    "SEQ_2_SEQ_LM": Part(
        text=_targets,
        portable=(targets.sides_tokens, targets.rouge, targets.overlap, targets.longest_common),
        modules=("re",),
        imports=("import numpy as np",),
        portable_imports=("from collections import Counter",),
        trainer="Seq2SeqTrainer",
        arguments="Seq2SeqTrainingArguments",
        transformers=("DataCollatorForSeq2Seq",),
        values={"predict_with_generate": True},
    ),
    "TOKEN_CLS": Part(text=_tags, portable=(tags.tagged_tokens, tags.entities, tags.entity_scores)),
}
"""Every task that has a script of its own."""
