"""The probability of each letter or piece that NeMo's greedy searches write."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nemo.collections.asr.parts.utils.rnnt_utils import Hypothesis

SETTINGS = {
    "preserve_frame_confidence": True,
    "preserve_token_confidence": True,
    "preserve_word_confidence": False,
    "exclude_blank": True,
    "aggregation": "prod",
    "method_cfg": {"name": "max_prob", "alpha": 1.0},
}
"""The section `confidence_cfg` of a decoding whose hypotheses `probabilities` reads."""


def probabilities(hypothesis: "Hypothesis", choices: int) -> list[float]:
    """Return the probability of each letter or piece of a greedy search, from 0 to 1.

    Args:
        hypothesis: with `token_confidence`.
        choices: the number of the network's outputs, the blank among them.
    """
    # NeMo's confidence is the highest probability p scaled to (p · V - 1) / (V - 1), from 0 for a guess to 1.
    return [(float(confidence) * (choices - 1) + 1) / choices for confidence in hypothesis.token_confidence]
