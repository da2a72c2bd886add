"""Model card of the model that ships with the course."""

import json
from pathlib import Path

from asr_with_nemo.base.html import ENVIRONMENT
from asr_with_nemo.recognition.results import FOLDER, made_with, markdown_table, read_results, table_cells


def model_card(assets: Path, folder: Path = FOLDER) -> str:
    """Render the card of the model that ships, from the results of the study `shipped` and the files of the model.

    Args:
        assets: folder of an4.nemo.
        folder: folder of the results files.

    Raises:
        InputError: the study has no results yet.
    """
    rows = read_results("shipped", folder)
    training, machine = rows[0]["training"], rows[0]["machine"]
    notes = json.loads((assets / "an4.json").read_text(encoding="utf-8"))
    columns = ("WER", "errors", "95% interval", "CER", "RTFx")
    card = ENVIRONMENT.get_template("model_card.md").render(
        weights=training["weights"] / 1e6,
        nemo=(assets / "an4.nemo").stat().st_size / 1e6,
        onnx=(assets / "an4.onnx").stat().st_size / 1e6,
        arpa=(assets / "an4.arpa").stat().st_size / 1e6,
        order=notes["order"],
        vocabulary=notes["vocabulary"],
        epochs=training["epochs"],
        minutes=training["seconds"] / 60,
        precision=training["precision"],
        cores=machine["cores"],
        device=machine["device"],
        table=markdown_table([{"": row["name"]} | {name: table_cells(row)[name] for name in columns} for row in rows]),
        made="\n".join(f"Made with: {line}." for line in sorted({made_with(row) for row in rows})),
    )
    return card + "\n"  # jinja2 drops a template's last line break
