"""Hyperparameter sweeps in W&B's format, online and offline. The names here are those that notebooks use."""

from asr_with_nemo.sweeps.results import draw_curves, draw_history, draw_importance, draw_slices, write_results
from asr_with_nemo.sweeps.run import FOLDER, agent, load_results, run_sweep, sweep
from asr_with_nemo.sweeps.space import check_sweep, load_sweep, preview_trials
from asr_with_nemo.sweeps.workers import SweepJob

__all__ = [
    "FOLDER",
    "SweepJob",
    "agent",
    "check_sweep",
    "draw_curves",
    "draw_history",
    "draw_importance",
    "draw_slices",
    "load_results",
    "load_sweep",
    "preview_trials",
    "run_sweep",
    "sweep",
    "write_results",
]
