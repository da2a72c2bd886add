"""Command-line options that scripts share, and `run`, which parses the command line and reports errors."""

import contextlib
import inspect
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from types import TracebackType
from typing import Annotated

import typer

from asr_with_nemo.base.files import is_full, place_of, reason_of
from asr_with_nemo.errors import InputError


def _end(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Report what ends a script: Ctrl-C in a word, as Typer does, and everything else with its traceback."""
    if issubclass(kind, KeyboardInterrupt):
        print("Aborted!", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)


# Scripts import this module first. What they import next may take seconds, in which Ctrl-C is pressed, too.
sys.excepthook = _end

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
        help="Decode with a language model, an ARPA file (.arpa, .arpa.gz); without a file, the one next to the model. "
        "--lm=FILE takes a file of any name.",
        metavar="[FILE]",
    ),
]
"""Option --lm of scripts that decode. Its value is optional: pass `bare=BARE_LANGUAGE_MODEL` to `run`."""
Boost = Annotated[
    list[str],
    typer.Option(
        help='A word or phrase that is expected, with its weight: "rubout:3" or rubout; or a file of them, one a line '
        "(names.txt, or ./names). Give it as often as you like.",
        metavar="PHRASE[:WEIGHT]|FILE",
    ),
]
"""Option --boost of scripts that decode, for `boosting.read_boosts`; its default is an empty tuple."""
BARE_LANGUAGE_MODEL = {"--lm": (".arpa", ".gz", ".lm", ".bin", ".binary", ".klm", ".mmap", ".trie")}

Decoder = Annotated[
    str,
    typer.Option(
        help="ctc, rnnt or tdt, for a model that has several (a hybrid); by default its transducer, rnnt or tdt.",
        metavar="NAME",
    ),
]
"""Option --decoder of scripts that decode with NeMo."""
Prompt = Annotated[
    str,
    typer.Option(
        help='What an attention decoder (Canary) is told: "source_lang=de target_lang=en pnc=no". Slots and values are '
        "the model's own, and so are the defaults; a wrong one is answered with those that it has.",
        metavar='"SLOT=VALUE ..."',
    ),
]
"""Option --prompt of scripts that decode with NeMo, for `attention.parse_prompt`."""


OverfitBatch = Annotated[
    bool,
    typer.Option(
        "--overfit-batch",
        help="Instead: learn one batch of short utterances by heart, to see that data, vocabulary, network, loss and "
        "learning rate work together. Nothing is kept; exit status 1 and the likely causes if it fails.",
    ),
]
OverfitSeconds = Annotated[float, typer.Option(help="The most seconds that --overfit-batch trains.")]
"""Options of scripts that train."""


class Channels(StrEnum):
    """Values of option --channels: the treatment of recordings with several channels."""

    mix = "mix"
    split = "split"


Project = Annotated[str | None, typer.Option(help="W&B project; default: WANDB_PROJECT, else ASR.")]
Name = Annotated[str, typer.Option(help="Only runs whose name matches; * and ? are wildcards.")]
Group = Annotated[str | None, typer.Option(help="Only runs of this group.")]
Sweep = Annotated[str | None, typer.Option(help="Only runs of this sweep: its id, or its group if it ran offline.")]
Tag = Annotated[str | None, typer.Option(help="Only runs with this tag.")]
Last = Annotated[int | None, typer.Option(min=1, help="Only the most recent runs, this many.")]
Metric = Annotated[str, typer.Option(help="Metric by which the runs are ranked.")]
Maximize = Annotated[bool, typer.Option("--maximize", help="Rank the largest value of the metric first.")]
"""Options of scripts that select runs of a project."""


def run(
    *mains: Callable[..., None], bare: Mapping[str, tuple[str, ...]] | None = None, about: str | None = None
) -> None:
    """Run a script's `main` with Typer; an `InputError` is printed without a traceback, with exit status 1.

    The same holds for a full disk. Text is UTF-8 whatever the locale, and SIGTERM ends the script as Ctrl-C does: what
    it has begun is removed, its processes end.

    Args:
        mains: functions whose parameters are the command line's; of several, each is a subcommand by its name.
        bare: options with an optional value, and the suffixes of which a value has one: with {"--lm": (".arpa",)},
            `--lm recording.wav` is `--lm` without a value, passed to `main` as "", followed by an argument.
            `--lm=VALUE` takes any value.
        about: the help text above several subcommands.
    """
    _use_utf8()
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
        with _sigterm_exits():
            app(_with_values(sys.argv[1:], bare or {}))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:  # the reader, such as `| head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except OSError as error:
        if not is_full(error):
            raise
        print(f"error: {place_of(error, 'a file')}: can't be written ({reason_of(error)})", file=sys.stderr)
        sys.exit(1)


def changed(main: Callable[..., None], **values: object) -> str:
    """Return the options, each after a space, whose values aren't the defaults of a command's `main`.

    For the command that is recorded with a result.

    Example:
        >>> def main(model: str = "an4", data_dir: str = "data/an4", seeds: int = 3): ...
        >>> changed(main, model="a model.onnx", data_dir="data/an4", seeds=5)
        " --model='a model.onnx' --seeds=5"
    """
    defaults = inspect.signature(main).parameters
    return "".join(
        f" --{name.replace('_', '-')}={shlex.quote(f'{value:g}' if isinstance(value, float) else str(value))}"
        for name, value in values.items()
        if value != defaults[name].default
    )


def _use_utf8() -> None:
    """Read and write text as UTF-8: in a locale of another encoding (LC_ALL=C), by starting Python again.

    Libraries open files in the encoding of the locale. What can't be printed, such as half a character in the name of a
    file, is printed as an escape.
    """
    if sys.getfilesystemencoding() != "utf-8" or (os.name == "nt" and not sys.flags.utf8_mode):
        os.environ["PYTHONUTF8"] = "1"  # for the processes that are started from here
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError):  # of a stream that a test has put there
            stream.reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def _sigterm_exits() -> Iterator[None]:
    """Let SIGTERM, by which machines and containers stop a process, raise SystemExit, so that clean-up runs."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _with_values(arguments: Sequence[str], bare: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Return the arguments with `=` appended to each bare option that has no value.

    Example:
        >>> _with_values(["--lm", "a.wav", "--lm", "b.arpa"], {"--lm": (".arpa",)})
        ['--lm=', 'a.wav', '--lm', 'b.arpa']
    """
    complete = []
    for place, argument in enumerate(arguments):
        if argument == "--":  # only arguments follow
            return complete + list(arguments[place:])
        following = "".join(arguments[place + 1 : place + 2])
        is_bare = argument in bare and (following.startswith("-") or not following.lower().endswith(bare[argument]))
        complete.append(f"{argument}=" if is_bare else argument)
    return complete
