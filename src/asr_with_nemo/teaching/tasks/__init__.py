"""The checks of the notebooks' tasks: each says whether an answer is right, and if not, what is wrong with it.

A notebook's tasks are functions `task_1`, `task_2` in the module of its name (`tasks/data.py` for 01_data). They take
the answer, and more if they need it, and raise `Wrong` with a hint; what they return is printed behind "right".
"""

import contextlib
import importlib
import math
import re
from collections.abc import Callable, Mapping, Set
from typing import TypeVar

Number = TypeVar("Number", int, float)


class Wrong(Exception):
    """An answer isn't right; the message says why, and doesn't give the solution away."""


def number(answer: object, otherwise: str) -> int | float:
    """Return an answer that is a number as Python's own; NumPy's, and arrays and tensors of one, are numbers too.

    Raises:
        Wrong: it isn't a number; the message is `otherwise`.
    """
    if hasattr(answer, "item"):
        with contextlib.suppress(ValueError, RuntimeError):  # of an array of several
            answer = answer.item()
    if isinstance(answer, bool) or not isinstance(answer, int | float) or answer != answer:
        raise Wrong(otherwise)
    return answer


def whole(answer: object, otherwise: str) -> int:
    """Return an answer that is a whole number, 3.0 too, as an integer.

    Raises:
        Wrong: it isn't one; the message is `otherwise`.
    """
    answer = number(answer, otherwise)
    if not math.isfinite(answer) or answer != int(answer):
        raise Wrong(otherwise)
    return int(answer)


def pair(answer: object, otherwise: str, of: Callable[[object, str], Number] = number) -> tuple[Number, Number]:
    """Return an answer that is a pair of numbers; an array of two is one, too.

    Args:
        answer: the reader's.
        otherwise: the message if it is none.
        of: `number` or `whole`.

    Raises:
        Wrong: it isn't a pair of such numbers.
    """
    if isinstance(answer, str | bytes | Mapping | Set) or not hasattr(answer, "__len__") or len(answer) != 2:
        raise Wrong(otherwise)
    first, second = (of(value, otherwise) for value in answer)
    return first, second


def check(task: str, answer: object, *given: object) -> None:
    """Print whether an answer to a task is right, or what is wrong with it.

    Args:
        task: the notebook and the task's number, such as "01_data 1".
        answer: the reader's answer; None, or an ellipsis, is no answer yet.
        given: what the check needs of the notebook besides.

    Raises:
        ValueError: there is no such task.
    """
    stem, _, number = task.partition(" ")
    try:
        module = importlib.import_module(f"{__name__}.{re.sub(r'^[0-9]+_', '', stem)}")
        function = getattr(module, f"task_{number}")
    except (ImportError, AttributeError) as error:
        raise ValueError(f"no task {task!r}") from error
    if answer is None or answer is ...:
        print(f"Task {number}: no answer yet. Change the cell, and run it again.")
        return
    try:
        praise = function(answer, *given)
    except Wrong as wrong:
        print(f"Task {number}: not yet. {wrong}")
    else:
        print(f"Task {number}: right. {praise or ''}".rstrip())
