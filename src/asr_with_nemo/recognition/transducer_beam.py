"""Beam search of a transducer with NeMo: boosted phrases, and an n-gram model of its letters or pieces.

The search is NeMo's `malsd_batch`, the language model NGPU-LM, and the phrases are in NeMo's boosting tree (GPU-PB),
which all run on a CPU too. Sources: A. Andrusenko et al., "TurboBias: universal ASR context-biasing powered by
GPU-accelerated phrase-boosting tree", arXiv 2508.07014, 2025; V. Bataev et al., "NGPU-LM: GPU-accelerated n-gram
language model for context-biasing in greedy ASR decoding", arXiv 2505.22857, 2025.
"""

import contextlib
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from asr_with_nemo.errors import InputError
from asr_with_nemo.models.loading import alphabet, writes_letters
from asr_with_nemo.models.recognizer import durations, most_symbols
from asr_with_nemo.recognition import boosting, language_model, ngrams
from asr_with_nemo.recognition.language_model import Weights
from asr_with_nemo.recognition.prefix_search import check_weights

if TYPE_CHECKING:
    import torch
    from nemo.collections.asr.models import ASRModel
    from nemo.collections.asr.parts.context_biasing import GPUBoostingTreeModel
    from nemo.collections.asr.parts.submodules.ngram_lm import NGramGPULanguageModel
    from nemo.collections.asr.parts.submodules.rnnt_decoding import AbstractRNNTDecoding
    from nemo.collections.asr.parts.utils.rnnt_utils import Hypothesis

TRANSDUCER_WEIGHTS = Weights(0.1, 0.0, 4)
"""Defaults; there is no beta. Of 0 to 0.7, this alpha made the fewest errors on AN4's dev set with a weak RNN-T."""
_SHARE = 1e-3
_MOST_SYMBOLS = 10
"""The letters or pieces in a frame, for a model without a limit."""


class TransducerSearch:
    """NeMo's beam search of a transducer, RNN-T or TDT, with boosted phrases and a language model.

    Attributes:
        arpa: file of a language model of the model's letters or pieces; None for none.
        weights: alpha and width; beta is always 0.
        boosts: bonus for each of some words or phrases, in natural logs.
        decoding: NeMo's decoding, with these.

    Args:
        model: a transducer or a hybrid.
        arpa, boosts: as above.
        alpha, width: by default `TRANSDUCER_WEIGHTS`.

    Raises:
        InputError: the language model can't be read or is of other letters or pieces, a weight is out of range, or the
            model can't write a phrase.
    """

    def __init__(
        self,
        model: "ASRModel",
        arpa: str | os.PathLike | None = None,
        boosts: boosting.Phrases | None = None,
        alpha: float | None = None,
        width: int | None = None,
    ):
        self.arpa, self._order = arpa, 0
        self.boosts = boosting.weighted(boosts or {}, boosting.TRANSDUCER_WEIGHT)
        if arpa:
            if os.fspath(arpa).endswith(".gz"):
                raise InputError(f"{arpa}: NeMo's search reads no compressed file; unpack it with gunzip -k")
            read = ngrams.read_arpa(arpa)
            language_model.check_tokens(arpa, read, alphabet(model))
            if read.order < 2:
                raise InputError(f"{arpa}: a model of order 1; NeMo's search needs 2 or more: build_lm.py --order")
            self._order = read.order
        given = {"alpha": alpha, "width": width}  # a file's tuned weights are those of a CTC model
        self.weights = replace(TRANSDUCER_WEIGHTS, **{name: one for name, one in given.items() if one is not None})
        check_weights(self.weights)
        self.decoding = self._of(model)

    def __str__(self) -> str:
        boosted = boosting.described(self.boosts)
        if not self.arpa:
            return f"malsd_batch (width {self.weights.width}){boosted}"
        weights = f"alpha {self.weights.alpha:g}, width {self.weights.width}"
        return f"malsd_batch + {self._order}-gram of tokens ({weights}){boosted}"

    def _of(self, model: "ASRModel") -> "AbstractRNNTDecoding":
        from nemo.collections.asr.parts.submodules.rnnt_beam_decoding import BeamBatchedRNNTInfer
        from nemo.collections.asr.parts.submodules.rnnt_decoding import RNNTBPEDecoding, RNNTDecoding
        from nemo.collections.asr.parts.submodules.tdt_beam_decoding import BeamBatchedTDTInfer
        from omegaconf import OmegaConf

        has, width = durations(model), self.weights.width
        settings: dict[str, object] = {"strategy": "malsd_batch", "beam": {"beam_size": width}}
        settings |= {"model_type": "tdt", "durations": has} if has else {}
        parts = {"decoding_cfg": OmegaConf.create(settings), "decoder": model.decoder, "joint": model.joint}
        if writes_letters(model):
            decoding = RNNTDecoding(**parts, vocabulary=model.joint.vocabulary)
        else:
            decoding = RNNTBPEDecoding(**parts, tokenizer=model.tokenizer)
        # The config takes a list of phrases for models of pieces only, and one weight for all of them.
        models, alphas = self._fused(model)
        decoding.decoding = (BeamBatchedTDTInfer if has else BeamBatchedRNNTInfer)(
            decoder_model=model.decoder,
            joint_model=model.joint,
            **({"durations": has} if has else {}),
            blank_index=decoding.blank_id,
            beam_size=width,
            max_symbols_per_step=most_symbols(model) or _MOST_SYMBOLS,
            fusion_models=models,
            fusion_models_alpha=alphas,
            blank_lm_score_mode="lm_weighted_full" if self.arpa else "no_score",
            pruning_mode="late",
        )
        return decoding

    def _fused(self, model: "ASRModel") -> "tuple[list[NGramGPULanguageModel], list[float]]":
        """Return NeMo's language model and boosting tree, and the weight of each."""
        from nemo.collections.asr.parts.submodules.ngram_lm import NGramGPULanguageModel

        models, alphas = [], []
        if self.arpa:
            with contextlib.redirect_stderr(io.StringIO()):  # a progress bar for a file that is read at once
                models.append(NGramGPULanguageModel.from_file(self.arpa, len(alphabet(model))))
            alphas.append(self.weights.alpha)
        if self.boosts:
            # The blank gets the language model's share of the score by the sum of these weights; a tree has none.
            models.append(boosting_tree(model, {phrase: one / _SHARE for phrase, one in self.boosts.items()}))
            alphas.append(_SHARE)
        return models, alphas


def boosting_tree(model: "ASRModel", boosts: Mapping[str, float]) -> "GPUBoostingTreeModel":
    """Return NeMo's boosting tree of phrases, in which each has its weight, spread over its letters or pieces.

    A phrase of letters begins after a space or at the start, and ends before a space or at the end. One of pieces
    begins with a word, but may end inside one.

    Raises:
        InputError: the model can't write a phrase.
    """
    from nemo.collections.asr.parts.context_biasing import GPUBoostingTreeModel
    from nemo.collections.asr.parts.context_biasing.context_graph_universal import ContextGraph

    labels = alphabet(model)
    space = labels.index(" ") if writes_letters(model) else None
    graph = ContextGraph(context_score=0.0)
    sequences = [_columns(model, labels, phrase, space) for phrase in boosts]
    graph.build(token_ids=sequences, phrases=list(boosts))
    shares: dict[int, float] = {}  # of the bonus, up to each node
    before, after = (0, 0) if space is None else (1, 1)  # the spaces around a phrase count nothing
    for columns, weight in zip(sequences, boosts.values(), strict=True):
        node, length = graph.root, len(columns) - before - after
        for place, column in enumerate(columns, 1 - before):
            node = node.next[column]
            share = weight * min(place, length) / length
            shares[node.id] = max(shares.get(node.id, 0.0), share, key=abs)
    for columns, weight in zip(sequences, boosts.values(), strict=True):
        node = graph.root
        for place, column in enumerate(columns):
            node = node.next[column]
            if place >= len(columns) - 1 - after:
                shares[node.id] = weight
    nodes = [graph.root]
    for node in nodes:
        for child in node.next.values():
            child.node_score = shares[child.id]
            child.token_score = child.node_score - node.node_score
            nodes.append(child)
    tree = GPUBoostingTreeModel.from_context_graph(graph, vocab_size=len(labels))
    if space is not None:
        import torch

        _, after = tree.advance(torch.tensor([tree.START_STATE]))
        tree.bos_state = int(after[0, space])
    return tree


def _columns(model: "ASRModel", labels: Sequence[str], phrase: str, space: int | None) -> list[int]:
    boosting.check_letters([phrase], "".join(labels))
    if space is None:
        return model.tokenizer.text_to_ids(phrase)
    return [space, *(labels.index(letter) for letter in phrase), space]


def probabilities(model: "ASRModel", encoded: "torch.Tensor", hypothesis: "Hypothesis") -> list[float]:
    """Return the probability of each letter or piece that a beam search wrote, by the transducer alone.

    Args:
        model: the transducer.
        encoded: the encoder's output for the recording, (D, T).
        hypothesis: of NeMo's, with the letters or pieces and their frames.
    """
    import torch

    written = torch.from_numpy(np.asarray(hypothesis.y_sequence, np.int64)).to(encoded.device)  # (U,)
    if not len(written):
        return []
    frames = torch.from_numpy(np.asarray(hypothesis.timestamp, np.int64)).clamp(0, encoded.shape[1] - 1)
    predicted, *_ = model.decoder(
        targets=written[None, :-1], target_length=torch.tensor([len(written) - 1])
    )  # (1, D, U)
    predicted = model.joint.project_prednet(predicted.transpose(1, 2)).transpose(0, 1)  # (U, 1, H)
    heard = model.joint.project_encoder(encoded.T[frames.to(encoded.device)][:, None])  # (U, 1, H)
    scores = model.joint.joint_after_projection(heard, predicted)[:, 0, 0, : len(alphabet(model)) + 1]  # (U, V + 1)
    return scores.softmax(-1).gather(1, written[:, None])[:, 0].tolist()
