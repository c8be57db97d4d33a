"""What the script for embeddings differs in: sentence-transformers' trainer, batches, and how well texts are found."""

from advisor.export import script_data
from advisor.export.job import Job, literal
from advisor.export.part import Part
from specs.portable import batches

_LIKENESS = '''

def around(model, source):
    """Return the model as sentence-transformers trains it, with what its folder puts behind the pooling."""

    class Given(Transformer):
        def _load_model(self, *args, **kwargs):
            return model

    first = Given(source)
    first.__class__ = Transformer
    behind = []
    listed = cached_file(source, "modules.json", _raise_exceptions_for_missing_entries=False)
    for entry in json.load(open(listed, encoding="utf-8")) if listed else []:
        kind = entry["type"].rpartition(".")[2]
        behind += [Dense.load(source, subfolder=entry["path"])] if kind == "Dense" else []
        behind += [Normalize()] if kind == "Normalize" else []
    for module in behind:
        module.requires_grad_({trains_all})
    said = cached_file(source, "config_sentence_transformers.json", _raise_exceptions_for_missing_entries=False)
    prompts = (json.load(open(said, encoding="utf-8")).get("prompts") or {{}}) if said else {{}}
    modules = [first, Pooling(model.config.get_text_config().hidden_size, {pooling}), *behind]
    return SentenceTransformer(modules=modules, prompts=prompts, device=str(model.device))


def group(text):
    """Return what rows of the same text share, so that no text is both learned and evaluated."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)


{texts}

def learned(path, tokenizer, prompts):
    """Return the tokens of the texts of each row, and a number that the same texts share."""
    query = prompts.get("query") or ""
    document = next((prompts[name] for name in ("document", "passage", "corpus") if prompts.get(name)), "")
    found = []
    for row in rows(path):
        texts, score, asked = texts_of(row)
        if len(texts) < {number} or not all(text.strip() for text in texts):
            print("skipped a row without all of its texts", file=sys.stderr)
            continue
        before = [""] * len(texts) if score is not None else [query] + [document] * (len(texts) - 1)
        read = [list(tokenizer(one + text, truncation=True, max_length=MAX_LENGTH)["input_ids"])
                for one, text in zip(before, texts[:{number}])]
        found.append({{"texts": read, "score": score, "length": max(map(len, read)), "group": group(asked)}})
    return Dataset.from_list(found)


class Batches:
    """Makes a batch of rows: padded tokens of each of their texts, and the scores where they have any."""

    valid_label_columns = ("label",)

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def __call__(self, rows):
        first, *others = zip(*(row["texts"] for row in rows))
        batch = {{f"text0_{{name}}": values for name, values in self.padded(first).items()}}
        padded = self.padded([text for column in others for text in column])
        for number in range(len(others)):
            part = slice(number * len(rows), (number + 1) * len(rows))
            batch |= {{f"text{{number + 1}}_{{name}}": values[part] for name, values in padded.items()}}
        if rows[0]["score"] is not None:
            batch["label"] = torch.tensor([row["score"] for row in rows], dtype=torch.float32)
        return batch

    def padded(self, texts):
        return self.tokenizer.pad([{{"input_ids": text}} for text in texts], return_tensors="pt")


class Distinct(DefaultBatchSampler):
    """Batches in which no text occurs twice, in an order that depends only on the seed and the epoch."""

    def __init__(self, dataset, batch_size, drop_last, seed=0, **kwargs):
        super().__init__(dataset, batch_size=batch_size, drop_last=drop_last, seed=seed)
        self.texts = [frozenset(hash(tuple(text)) for text in texts) for texts in dataset["texts"]]
        self.sizes = batch_sizes(len(self.texts), batch_size)

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(len(self.texts), generator=generator).tolist()
        yield from distinct_batches(self.texts, order, self.sizes)

    def __len__(self):
        return len(self.sizes)


class EmbeddingTrainer(SentenceTransformerTrainer):
    """Draws batches without doubles, and measures how well texts are found among the held-out rows."""

    def add_model_card_callback(self, default_args_dict):
        pass

    def get_batch_sampler(self, dataset, batch_size, drop_last, seed=0, **kwargs):
        return Distinct(dataset, batch_size=batch_size, drop_last=drop_last, seed=seed)

    def evaluation_loop(self, *args, metric_key_prefix="eval", **kwargs):
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        for name, value in measures(self.model, self.data_collator, self.eval_dataset).items():
            output.metrics[f"{{metric_key_prefix}}_{{name}}"] = value
        return output

    def _save(self, output_dir=None, state_dict=None):
        self.model.save_pretrained(output_dir or self.args.output_dir, create_model_card=False)
        self.processing_class.save_pretrained(output_dir or self.args.output_dir)

    def _load_best_model(self):
        inner, best = self.model[0].model, self.state.best_model_checkpoint
        if hasattr(inner, "peft_config"):
            from peft import load_peft_weights, set_peft_model_state_dict

            set_peft_model_state_dict(inner, load_peft_weights(best, device=str(inner.device)))
        else:
            super()._load_best_model()


def measures(model, collate, held_out, size={batch_size}):
    model.eval()
    vectors = []
    with torch.no_grad():
        for start in range(0, len(held_out), size):
            part = [held_out[number] for number in range(start, min(start + size, len(held_out)))]
            batch, columns = collate(part), []
            for number in range(len(part[0]["texts"])):
                name = f"text{{number}}_"
                own = {{key[len(name):]: value for key, value in batch.items() if key.startswith(name)}}
                own = {{key: value.to(model.device) for key, value in own.items()}}
                columns.append(torch.nn.functional.normalize(model(own)["sentence_embedding"].float(), dim=-1).cpu())
            vectors.append(columns)
    columns = [torch.cat(parts) for parts in zip(*vectors)]
    scores = held_out["score"][:]
    if scores[0] is not None:
        alike = (columns[0] * columns[1]).sum(-1).numpy()
        return {{"spearman": float(spearmanr(alike, scores).statistic)}} if len({{*scores}}) > 1 else {{}}
    texts = [[tuple(text) for text in texts] for texts in held_out["texts"]]
    flat = [row[column] for column in range(1, len(texts[0])) for row in texts]
    first = {{text: number for number, text in reversed(list(enumerate(flat)))}}
    kept = sorted(first.values())
    place = {{text: kept.index(number) for text, number in first.items()}}
    alike = columns[0] @ torch.cat(columns[1:])[kept].T
    right = torch.tensor([place[row[1]] for row in texts])
    ranks = (alike > alike.gather(1, right[:, None])).sum(1) + 1
    found = torch.where(ranks <= 10, 1.0 / ranks, 0.0)
    return {{"accuracy": float((ranks == 1).float().mean()), "mrr": float(found.mean())}}


def values(model, tokenizer, data, held_out):
    return {{"loss": {loss}(model, scale={scale}), "data_collator": Batches(tokenizer)}}
'''

_COLUMNS = '''
def listed(value):
    """Return the texts of a column: one, or several; of an object with a title and a text, both."""
    value = json.loads(value) if isinstance(value, str) and value.lstrip()[:1] == "[" else value
    several = value if isinstance(value, list) else [] if value in (None, "") else [value]
    return [f"{{one.get('title') or ''}} {{one.get('text') or ''}}".strip() if isinstance(one, dict) else str(one)
            for one in several]


def texts_of(row):
    """Return the texts of a row, their score, and what the rows of one text share."""
    texts = [str(row.get({anchor}) or ""), *listed(row.get({positive}))[:1]]
    asked = "\\n".join(texts)
    score = {score}
    return texts + [text for column in {wrong} for text in listed(row.get(column))], score, asked
'''

_ANSWERED = '''
def texts_of(row):
    """Return the question and the answer of a row, no score, and what the rows of one question share."""
    turns, tools = said(row)
    *before, last = [(turn["role"], turn.get("content") or "") for turn in turns]
    if tools or last[0] != "assistant" or {{role for role, _ in before}} != {{"user"}}:
        return [], None, ""
    return ["\\n\\n".join(words for _, words in before), last[1]], None, "\\n".join(words for _, words in before)
'''


def _likeness(job: Job) -> str:
    """Return the functions of embeddings, with what the data calls its texts."""
    plan, data = job.plan, job.data
    if data.task in {"related", "similarity"}:
        scored = data.task == "similarity"
        columns = [data.column(role) for role in (data.roles[:2] if scored else data.roles)]
        more = [f"negative_{number}" for number in range(2, 9)] if columns[2:] == ["negative_1"] else []
        texts = _COLUMNS.format(
            anchor=literal(columns[0]),
            positive=literal(columns[1]),
            wrong=literal([*columns[2:], *more]),
            score=f"float(row.get({literal(data.column(data.roles[2]))}))" if scored else "None",
        )
    else:
        texts = script_data.said(job) + _ANSWERED.format()
    return _LIKENESS.format(
        texts=texts.strip("\n"),
        number=plan.texts_per_row,
        pooling=literal(plan.pooling_mode),
        trains_all=not job.has_adapter,
        batch_size=plan.per_device_train_batch_size,
        loss=plan.embedding_loss,
        scale=plan.scale,
    )


EMBEDDINGS = Part(
    text=_likeness,
    portable=(batches.batch_sizes, batches.distinct_batches),
    packages=("sentence-transformers>=6.2", "scipy"),
    imports=(
        "from scipy.stats import spearmanr",
        "from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer",
        "from sentence_transformers import SentenceTransformerTrainingArguments",
        "from sentence_transformers.base.modules import Dense, Transformer",
        "from sentence_transformers.base.sampler import DefaultBatchSampler",
        "from sentence_transformers.sentence_transformer.losses import CoSENTLoss, MultipleNegativesRankingLoss",
        "from sentence_transformers.sentence_transformer.modules import Normalize, Pooling",
        "from transformers.utils import cached_file",
    ),
    trainer="EmbeddingTrainer",
    arguments="SentenceTransformerTrainingArguments",
    of_transformers=False,
    label_names=(),
    made="around(model, args.model)",
    learned="learned(args.data, tokenizer, model.prompts)",
)
"""The script of embeddings."""
