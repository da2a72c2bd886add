"""ASR with NeMo and Weights & Biases: what the course's notebooks and scripts share.

The modules are named for the stages of the course and read in that order: an4, audio, manifest, features, tracking,
explore, training, decoding, evaluation. Importing the package is cheap; NeMo (10 to 15 s) is imported where it is used.
"""

import os

from asr_with_nemo.base.compat import add_tar_filter

__version__ = "0.1.0"

# onnxruntime from 1.29 on reports to Microsoft unless this is set before it is imported, by a thread that a forked
# process lacks and waits for. requirements.txt holds the last one without; this is for machines that have another.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

add_tar_filter()
