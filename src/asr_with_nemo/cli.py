"""Command-line options that scripts share, and `run`, which parses the command line and reports errors."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import typer

from asr_with_nemo.errors import InputError

Model = Annotated[
    str,
    typer.Argument(
        help="an4 (ships with the course); a .nemo or .ckpt file; wandb:NAME:ALIAS; QuartzNet15x5Base-En or another of "
        "NeMo's names; ORG/NAME on Hugging Face.",
        metavar="MODEL",
    ),
]
"""Argument of scripts that take a model: any name that `models.names.model_path` resolves."""

LanguageModel = Annotated[
    str | None,
    typer.Option(
        help="Decode with a language model; without a FILE.arpa, the one next to the model.", metavar="[FILE.arpa]"
    ),
]
"""Option --lm of scripts that decode. Its value is optional: pass `bare=BARE_LANGUAGE_MODEL` to `run`."""
BARE_LANGUAGE_MODEL = {"--lm": ".arpa"}

Project = Annotated[str | None, typer.Option(help="W&B project; default: WANDB_PROJECT, else ASR.")]
Name = Annotated[str, typer.Option(help="Only runs whose name matches; * and ? are wildcards.")]
Group = Annotated[str | None, typer.Option(help="Only runs of this group.")]
Sweep = Annotated[str | None, typer.Option(help="Only runs of this sweep: its id, or its group if it ran offline.")]
Tag = Annotated[str | None, typer.Option(help="Only runs with this tag.")]
Last = Annotated[int | None, typer.Option(min=1, help="Only the most recent runs, this many.")]
Metric = Annotated[str, typer.Option(help="Metric by which the runs are ranked.")]
Maximize = Annotated[bool, typer.Option("--maximize", help="Rank the largest value of the metric first.")]
"""Options of scripts that select runs of a project."""


def run(*mains: Callable[..., None], bare: Mapping[str, str] | None = None, about: str | None = None) -> None:
    """Run a script's `main` with Typer; an `InputError` is printed without a traceback, with exit status 1.

    Args:
        mains: functions whose parameters are the command line's; of several, each is a subcommand by its name.
        bare: options with an optional value, and the suffix that a value must have: with {"--lm": ".arpa"},
            `--lm recording.wav` is `--lm` without a value, passed to `main` as "", followed by an argument.
            `--lm=VALUE` takes any value.
        about: the help text above several subcommands.
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
    except BrokenPipeError:  # the reader, such as `| head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _with_values(arguments: Sequence[str], bare: Mapping[str, str]) -> list[str]:
    """Return the arguments with `=` appended to each bare option that has no value.

    Example:
        >>> _with_values(["--lm", "a.wav", "--lm", "b.arpa"], {"--lm": ".arpa"})
        ['--lm=', 'a.wav', '--lm', 'b.arpa']
    """
    complete = []
    for place, argument in enumerate(arguments):
        if argument == "--":  # only arguments follow
            return complete + list(arguments[place:])
        following = "".join(arguments[place + 1 : place + 2])
        is_bare = argument in bare and (following.startswith("-") or not following.endswith(bare[argument]))
        complete.append(f"{argument}=" if is_bare else argument)
    return complete
