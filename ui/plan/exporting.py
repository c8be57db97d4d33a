"""The export of a plan with its data: what a tool is told, and all files of it as one zip."""

import shutil
import tempfile
import zipfile
from pathlib import Path

from advisor import ByRule, Recommendation
from advisor.export import Export, exported
from trainer.data import conversion
from trainer.data.known import training_data
from ui.plan.planning import Request


def export_of(asked: Request, result: Recommendation | ByRule, name: str, nodes: int = 1) -> Export:
    """Return the plan and its data in one format.

    Raises:
        PlanError: If the tool cannot be told something of the plan or of the data.
    """
    data, model = asked.data, asked.situation.model
    known = training_data(data.source, data.report, data.reader, name=data.name, model=(model.model_type, model.name))
    return exported(
        result.plan,
        name,
        data=known,
        model=model,
        gpu=asked.situation.gpu,
        nodes=nodes,
    )


def archive(asked: Request, made: Export) -> bytes:
    """Return a zip with the files of an export and, where the tool needs it, the converted data.

    Raises:
        DataError: If no row of the data can be converted.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name, content in made.files.items():
            (folder / name).write_text(content, encoding="utf-8")
        if made.conversion is not None:
            told = conversion.write_all(asked.data.source, made.conversion, asked.data.reader.tokenizer, folder)
            (folder / "READ ME.txt").write_text("\n".join([made.conversion.why, *told, ""]), encoding="utf-8")
        else:
            shutil.copyfile(asked.data.path, folder / asked.data.name)
        target = folder / "export.zip"
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as packed:
            for path in paths:
                packed.write(path, path.relative_to(folder))
        return target.read_bytes()  # Streamlit takes no open file that may also be written
