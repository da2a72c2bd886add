"""The tasks of 08_tracking."""

import numpy as np
from scipy import stats

from asr_with_nemo.teaching import tuning
from asr_with_nemo.teaching.tasks import Wrong, whole


def task_1(answer: int) -> str:
    """The number of recorded trials whose rank by the last epoch differs from that by the best epoch."""
    number = whole(answer, "Answer with a number of trials.")
    curves = tuning.read_study().curves
    by_best, by_last = (stats.rankdata(values, method="min") for values in (curves.min(1), curves[:, -1]))
    changed = int((by_best != by_last).sum())
    if number == changed:
        moved = int(np.abs(by_best - by_last).max())
        return f"The trial that moves most moves by {moved} {'places' if moved != 1 else 'place'}."
    if number == int((curves.min(1) != curves[:, -1]).sum()):
        raise Wrong("That is how many trials have another value in the last epoch. How many get another rank by it?")
    places = [np.argsort(values) for values in (curves.min(1), curves[:, -1])]
    if number == int((places[0] != places[1]).sum()):
        raise Wrong("argsort gives the trial at each rank, not the rank of each trial. See scipy.stats.rankdata.")
    raise Wrong("Rank all trials by curves.min(1) and by curves[:, -1], and count where the two ranks differ.")


def task_2(answer: dict[str, object]) -> str:
    """The versions and aliases of an artifact of which one version is logged twice."""
    if not isinstance(answer, dict) or set(answer) != {"versions", "latest", "best"}:
        raise Wrong("Answer with a dictionary of three keys: versions, latest and best.")
    if not isinstance(answer["versions"], list | tuple | set):
        raise Wrong('The value of "versions" is a list of their names, such as ["v0"].')
    versions = sorted(map(str, answer["versions"]))
    if len(versions) == 4:
        raise Wrong("Four were logged, but the last one has the bytes of one that is there. Does that make a version?")
    if versions != ["v0", "v1", "v2"]:
        raise Wrong("Versions are counted from v0, one for each different content.")
    if answer["latest"] == "v2":
        raise Wrong("latest goes to what was logged last. Which version is that?")
    if answer["latest"] != "v1":
        raise Wrong("latest goes to the version that was logged last, whether it is new or not.")
    if answer["best"] != "v1":
        raise Wrong("A lower score is better here. Which version has the lowest?")
    return "One version can have several aliases, and logging a file again moves them without storing it twice."
