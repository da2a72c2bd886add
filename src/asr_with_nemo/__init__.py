"""ASR with NeMo and Weights & Biases: the code that the course's notebooks and scripts share.

There is a subpackage for each stage of the course: data, own_data, tracking, models, training, recognition, sweeps,
deployment; base, places and teaching support them. Importing the package is cheap; NeMo (10 to 15 s) is imported by the
functions that use it.
"""

import logging
import os

from asr_with_nemo.base.compat import add_tar_filter

__version__ = "0.1.0"

# onnxruntime 1.29 and later sends telemetry unless this is set before the import, from a thread that a forked process
# lacks and waits for. requirements.txt pins the last version without it; this is for machines that have another.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# Two lines on stderr as soon as NeMo is imported, which say that no telemetry is sent.
logging.getLogger("nv_one_logger").setLevel(logging.ERROR)

add_tar_filter()
