"""ASR with NeMo and Weights & Biases: what the course's notebooks and scripts share.

The modules are named for the stages of the course and read in that order: an4, audio, manifest, features, tracking,
explore, training, decoding, evaluation. Importing the package is cheap; NeMo (10 to 15 s) is imported where it is used.
"""

from asr_with_nemo import old_python

__version__ = "0.1.0"

old_python.add_tar_filter()
