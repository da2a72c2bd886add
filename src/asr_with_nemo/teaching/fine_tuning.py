"""Helpers of 12_fine_tuning."""

import contextlib
import io
from collections.abc import Iterator


@contextlib.contextmanager
def last_epoch() -> Iterator[None]:
    """Print only the last epoch's line of a training within, and what a fine-tuning starts from.

    If the training fails, everything that it printed is printed.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            yield
    except BaseException:
        print(said.getvalue(), end="")
        raise
    lines = said.getvalue().splitlines()
    starts = [line.partition("; ")[2] for line in lines if line.startswith("starts from ")]
    epochs = [line for line in lines if line.startswith("epoch ")]
    print(*starts, *epochs[-1:], sep="\n")
