"""The model card of the model that ships with the course."""

import json
from pathlib import Path

from asr_with_nemo.recognition.results import FOLDER, made_with, markdown_table, read_results, table_cells

CARD = """# an4

A speech recogniser for what people say in AN4, the census database: spelled names and words, digits and numbers,
months, and a few commands ("rubout", "erase", "enter"). It ships with the course, and is what the name `an4` means:

```sh
python scripts/transcribe.py an4 recording.wav          # greedy
python scripts/transcribe.py an4 --lm recording.wav     # with the lexicon and language model
```

## What it is

| | |
|---|---|
| network | QuartzNet 5x1 with CTC, {weights:.2f} M weights ({nemo:.1f} MB), configs/quartznet_an4.yaml |
| without NeMo | `an4.onnx` ({onnx:.1f} MB): the same with the mel features inside, for `asr_with_nemo.runtime` |
| input | sound of 16 kHz, one channel; other rates are resampled |
| output | the letters a to z, the apostrophe and the space, one decision every 20 ms |
| language model | `an4.arpa` ({arpa:.1f} MB): {order}-grams of words over a lexicon of {vocabulary} words |
| training data | AN4's 948 training utterances alone, 42 minutes of 74 speakers; no pretrained weights |
| language model's data | the transcripts of these utterances, and the words of AN4's published dictionary |
| training | {epochs} epochs, {minutes:.0f} minutes on {cores} cores of {device}, {precision} |
| choices | made on 8 training speakers before these joined the training; the test set chose nothing |
| made by | `make model` |

## How well it does

On AN4's test set, 130 utterances of 10 other speakers; the interval is a 95% bootstrap over utterances.

{table}

{made}

## What it can't do

- **Other words.** It has heard about a hundred. Greedy decoding spells what it hears as if it were one of them, or
  nonsense; with the language model it can only answer in the lexicon's words, whatever was said.
- **Telephone speech.** Nothing above 4 kHz is left there: see the last row.
- **Other rooms and microphones.** AN4 was recorded with close microphones in a quiet office around 1991. Noise, echo
  and music were not measured.
- **Other voices.** The speakers are adults, 53 of the 74 men, from one university in the United States.
  Children and other accents were not measured.
- **To tell that it is not meant.** It always answers. Nothing in it rejects silence, noise or another language.

## Licence

The model's weights and the language model come with the course under Apache-2.0. They are made of AN4, Copyright (c)
1991-2005 Carnegie Mellon University, which allows any use as long as its notice is kept: `AN4-LICENSE.txt`, beside this
file.
"""


def model_card(assets: Path, folder: Path = FOLDER) -> str:
    """The card of the model that ships, from the results of the study `shipped` and what lies beside the model.

    Args:
        assets: the folder of an4.nemo.
        folder: of the results files.

    Raises:
        InputError: the study has no results yet.
    """
    rows = read_results("shipped", folder)
    training, machine = rows[0]["training"], rows[0]["machine"]
    notes = json.loads((assets / "an4.json").read_text(encoding="utf-8"))
    columns = ("WER", "errors", "95% interval", "CER", "RTFx")
    return CARD.format(
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
