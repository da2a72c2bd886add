"""What every script of the course does at its edge: parse the command line, and say what is wrong in plain words."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import typer

from asr_with_nemo.errors import InputError

Model = Annotated[
    str,
    typer.Argument(
        help="an4, which ships; a .nemo or .ckpt file; wandb:NAME:ALIAS; QuartzNet15x5Base-En or another of NeMo's "
        "names; ORG/NAME on Hugging Face.",
        metavar="MODEL",
    ),
]
"""The argument of the scripts that take a model: all that `pretrained.model_path` resolves."""

LanguageModel = Annotated[
    str | None,
    typer.Option(
        help="Decode with a language model; without a FILE.arpa, the one beside the model.", metavar="[FILE.arpa]"
    ),
]
"""The option --lm of the scripts that decode; for `run`, it is one whose value may be left out."""
BARE_LANGUAGE_MODEL = {"--lm": ".arpa"}

Project = Annotated[str | None, typer.Option(help="W&B's project; by default WANDB_PROJECT, else ASR.")]
Name = Annotated[str, typer.Option(help="Only runs of such a name; * and ? stand for any letters.")]
Group = Annotated[str | None, typer.Option(help="Only the runs of this group.")]
Sweep = Annotated[str | None, typer.Option(help="Only the runs of this sweep: its id, or its group if it ran offline.")]
Tag = Annotated[str | None, typer.Option(help="Only runs with this tag.")]
Last = Annotated[int | None, typer.Option(min=1, help="Only that many runs, the youngest.")]
Metric = Annotated[str, typer.Option(help="By which the runs are ranked.")]
Maximize = Annotated[bool, typer.Option("--maximize", help="More of the metric is better.")]
"""The options of the scripts that look at a project's runs."""


def run(*mains: Callable[..., None], bare: Mapping[str, str] | None = None, about: str | None = None) -> None:
    """Run a script's `main` with Typer; an `InputError` is printed without a traceback and exits with 1.

    Args:
        mains: its parameters are the command line's; of several, each is a command by its name, and `about` says what
            they are for.
        bare: options whose value may be left out, and the suffix by which a value is known: with {"--lm": ".arpa"},
            `--lm recording.wav` is `--lm` without a value, which `main` gets as "", and an argument. `--lm=VALUE` takes
            any value.
        about: see `mains`.
    """
    app = typer.Typer(
        add_completion=False,
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,
        no_args_is_help=len(mains) > 1,
        help=about,
    )
    for main in mains:
        app.command()(main)
    try:
        app(_with_values(sys.argv[1:], bare or {}))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _with_values(arguments: Sequence[str], bare: Mapping[str, str]) -> list[str]:
    complete = []
    for place, argument in enumerate(arguments):
        if argument == "--":  # what follows are no options
            return complete + list(arguments[place:])
        following = "".join(arguments[place + 1 : place + 2])
        is_bare = argument in bare and (following.startswith("-") or not following.endswith(bare[argument]))
        complete.append(f"{argument}=" if is_bare else argument)
    return complete
