"""Check the config of a model file, which comes from an untrusted source, and convert it to NeMo 3's format.

A config names the model's class (`target`) and a class for each part (`_target_`, in old files `cls`), at any depth.
NeMo imports and calls what is named. Its own list of allowed callables has functions that write files, and classes
that load further models, whose configs it doesn't check. So only the classes of `models.parts` are built, with the
parameters, types and limits listed there, and the models of `MODEL_CLASSES`.

- Sections about data, optimiser or profiling take effect in a later training: a data set may be a `pipe:` that runs a
  command. They are dropped, and so is `decoding`, whose language models are paths: decoding is greedy.
- Tokenizers are paths: only files in the archive are read.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from asr_with_nemo.errors import InputError
from asr_with_nemo.models.nemo_internals import yaml_loader

if TYPE_CHECKING:
    from pydantic import BaseModel

PARTS = ("preprocessor", "spec_augment", "encoder", "decoder", "joint")
"""Sections of a config that name the class that builds them."""
MODEL_CLASSES = (
    "EncDecCTCModel",
    "EncDecCTCModelBPE",
    "EncDecRNNTModel",
    "EncDecRNNTBPEModel",
    "EncDecHybridRNNTCTCModel",
    "EncDecHybridRNNTCTCBPEModel",
    "EncDecMultiTaskModel",
)
"""The model classes that are loaded: CTC, transducers, and hybrids of both, each of letters or, BPE, of pieces; and
attention encoder-decoders (Canary)."""
LARGEST_CONFIG = 2 * 1024**2
"""Bytes of a config; that of a model with a thousand tokens has 20,000."""
_FLAGS = ("ctc_reduction", "rnnt_reduction", "use_cer", "log_prediction", "compute_eval_loss")
_SECTIONS = ("labels", "tokenizer", "decoding", "interctc", "model_defaults", "loss", "aux_ctc", "adapters")
_KEPT = (*PARTS, *_FLAGS, "target", *_SECTIONS)
"""Keys of a config that are read; all others are dropped."""
_ATTENTION = "EncDecMultiTaskModel"
_OF_ATTENTION = ("model_defaults", "prompt_format", "prompt_defaults", "tokenizer", "decoding", "adapters")
_CANARY = "nemo.collections.common.tokenizers.canary_tokenizer"
_PROMPTED = "a recogniser that is told the language of each recording"
_OTHERS = {
    "EncDecTransfModelBPE": "a model that translates speech",
    "EncDecRNNTBPEModelWithPrompt": _PROMPTED,
    "EncDecHybridRNNTCTCBPEModelWithPrompt": _PROMPTED,
    "EncDecMultiTalkerRNNTBPEModel": "a recogniser of one among several speakers",
    "EncDecClassificationModel": "a classifier of recordings",
    "EncDecFrameClassificationModel": "a detector of speech",
    "EncDecSpeakerLabelModel": "a recogniser of speakers",
    "SortformerEncLabelModel": "a model that tells speakers apart (diarization)",
    "ClusteringDiarizer": "a model that tells speakers apart (diarization)",
    "SpeechEncDecSelfSupervisedModel": "an encoder trained without texts",
    "EncDecDenoiseMaskedTokenPredModel": "an encoder trained without texts",
    "EncDecMaskedTokenPredModel": "an encoder trained without texts",
}
_COLLECTIONS = {
    "speechlm2": "a language model that listens (SALM)",
    "tts": "a model that speaks",
    "audio": "a model that changes audio",
}
"""What models of other kinds are, by the class, or by the collection of NeMo's that it is in."""
SALM = (
    "from_pretrained(NAME), as its examples/speechlm2/salm_generate.py does. That needs nemo_toolkit[speechlm2], which "
    "the course doesn't install, and the language model inside from Hugging Face, by a network or from the cache there"
)
"""What runs a SALM."""
_MOST_SYMBOLS = 10  # pieces per frame that greedy decoding of a transducer writes at most, as in NeMo's configs
_MOST_LANGUAGES = 256  # of a tokenizer; each is loaded
_MOST_VALUES = 1_000_000  # of a config, once aliases and references are followed
_DEEPEST = 50  # levels of a config
_NAMESPACES = re.compile(r"(nemo|torch)(\.\w+)+")
_MODULES, _MODELS = "nemo.collections.asr.modules", "nemo.collections.asr.models"
_GLOBAL, _ADAPTED = "global_cfg", {"", "encoder", "decoder", "joint"}
_FILE_KEYS = re.compile(r"path|file|dir|_model$")


def read_yaml(content: bytes, path: Path) -> object:
    """Read a model's config.

    Raises:
        InputError: it is too large, or isn't YAML.
    """
    import yaml

    if len(content) > LARGEST_CONFIG:
        raise InputError(f"{path}: its config has over {LARGEST_CONFIG:,} bytes; refused")
    try:
        return yaml.load(content.decode("utf-8"), Loader=yaml_loader())
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise InputError(f"{path}: its config can't be read as YAML ({error})") from error


def checked(config: object, path: Path, folder: Path | None = None) -> dict:
    """Return the needed keys of a model's config, in NeMo 3's format, checked to be safe.

    Args:
        config: as read from the file.
        path: of the model, for messages.
        folder: folder of the archive's other files; None without any.

    Raises:
        InputError: the config isn't of one of the `MODEL_CLASSES`, or is unsafe.
    """
    from asr_with_nemo.models.parts import InterCTC  # pydantic takes half a second

    if isinstance(config, dict) and isinstance(config.get("model"), dict):  # a whole training config
        root, config = config, config["model"]
    else:
        root = config
    if not isinstance(config, dict):
        raise InputError(f"{path}: its config is not a mapping, so not a NeMo model")
    # All keys, also those that are dropped below: a file with something unsafe there can't be trusted.
    for key, value in _values(config, path):
        if key in ("_target_", "cls", "target") and value is not None and not _NAMESPACES.fullmatch(str(value)):
            raise refusal(path, f"{key}: {value}", "is neither NeMo's nor torch's, and would be called")
    # The class first: a model of another kind has other sections.
    target = _model_class(config, path)
    if target.endswith(_ATTENTION):
        return _with_rate(_checked_attention(config, root, path, folder)) | {"target": target}
    config = {key: modern(resolved(config[key], root, path)) for key in _KEPT if config.get(key) is not None}
    transduces = "RNNT" in target
    for part in PARTS:
        if part == "joint" and not transduces:
            config.pop(part, None)
        elif part in config:
            config[part] = _checked_part(part, config[part], path, transduces)
        elif part != "spec_augment":
            kind = "a transducer" if transduces else "a CTC model"
            raise InputError(f"{path}: its config has no {part}, so not {kind}")
    _check_decoding(config.pop("decoding", None), "decoding", path)
    if "interctc" in config:
        config["interctc"] = _valid(InterCTC, config["interctc"], "interctc", path)
    if "adapters" in config:
        config["adapters"] = _checked_adapters(config["adapters"], path)
    for key in _FLAGS:
        if not isinstance(config.get(key, ""), str | bool):
            raise refusal(path, f"{key}: {config[key]}", "has the wrong type")
    config["vocabulary"] = _letters(config, path)
    if "tokenizer" in config:
        config["tokenizer"] = _checked_tokenizer(config["tokenizer"], path, folder)
        config["validation_ds"] = {"use_start_end_token": False}  # NeMo's transcribe looks for it there
        config.pop("labels", None)  # NeMo takes them from the tokenizer
    if transduces:
        _complete_transducer(config, path)
    if "Hybrid" in target:
        config["aux_ctc"] = _checked_ctc(config.get("aux_ctc"), path)
    if letters := config.pop("vocabulary"):
        config["labels"] = letters  # without this key, NeMo 3 uses a default alphabet for data
        for decoder in (config["decoder"], (config.get("aux_ctc") or {}).get("decoder")):
            if decoder is not None and "prednet" not in decoder:
                decoder |= {"num_classes": len(letters), "vocabulary": letters}
    if "Hybrid" not in target:
        config.pop("aux_ctc", None)
    return _with_rate(config) | {"target": target}


def _with_rate(config: dict) -> dict:
    """Return a config with NeMo's own defaults, for code that reads them from there."""
    preprocessor = {"sample_rate": 16_000, "window_stride": 0.01} | config["preprocessor"]
    return config | {"preprocessor": preprocessor, "sample_rate": preprocessor["sample_rate"]}


def refusal(path: Path, what: str, why: str) -> InputError:
    """Return the error for a model file that asks for something unsafe."""
    return InputError(
        f"{path}: refused, because its config has {what}, which {why}; get the model from a source you trust"
    )


def _values(value: object, path: Path, key: object = None) -> Iterator[tuple[object, object]]:
    """Yield each value of a config with its key; aliased values count each time, so that their number is limited."""
    waiting, left = [(key, value)], _MOST_VALUES
    while waiting:
        key, value = waiting.pop()
        left -= 1
        if left < 0:
            raise InputError(f"{path}: refused, because its config has more than {_MOST_VALUES:,} values")
        if isinstance(value, dict):
            waiting += value.items()
        elif isinstance(value, list):
            waiting += [(key, item) for item in value]
        elif value is not None and not isinstance(value, str | int | float):
            raise InputError(f"{path}: refused, because its config has a {type(value).__name__}; expected plain values")
        yield key, value


def resolved(section: object, root: dict, path: Path) -> object:
    """Return a section with OmegaConf's references (`${model.dropout}`) resolved; resolvers are refused."""
    left = _MOST_VALUES

    def follow(value: object, within: tuple[str, ...] = (), depth: int = 0) -> object:
        nonlocal left
        if depth > _DEEPEST:
            raise InputError(f"{path}: refused, because its config has more than {_DEEPEST} levels")
        left -= 1
        if left < 0:
            raise InputError(f"{path}: refused, because its config has more than {_MOST_VALUES:,} values")
        if isinstance(value, dict):
            return {key: follow(item, within, depth + 1) for key, item in value.items()}
        if isinstance(value, list):
            return [follow(item, within, depth + 1) for item in value]
        if not (isinstance(value, str) and "${" in value):
            return value
        reference = re.fullmatch(r"\$\{([\w.]+)\}", value)
        if not reference or value in within:
            raise refusal(path, value, "is not a plain reference to another value")
        found = root
        for name in reference[1].split("."):
            if not isinstance(found, dict) or name not in found:
                raise InputError(f"{path}: its config refers to {value}, which is missing")
            found = found[name]
        return follow(found, (*within, value), depth + 1)

    return follow(section)


def modern(section: object) -> object:
    """Convert NeMo 1.0's `cls: ..., params: {...}` to `_target_: ...` with the parameters as keys next to it.

    Example:
        >>> modern({"cls": "nemo.Encoder", "params": {"feat_in": 64}})
        {'feat_in': 64, '_target_': 'nemo.Encoder'}
    """
    if not isinstance(section, dict):
        return section
    section = dict(section)
    if isinstance(section.get("params"), dict):
        section |= section.pop("params")
    if "cls" in section:
        section.setdefault("_target_", section.pop("cls"))
    return {key: modern(value) for key, value in section.items()}


def _model_class(config: dict, path: Path) -> str:
    """Return the full name of a config's model class.

    Raises:
        InputError: it isn't one of `MODEL_CLASSES`.
    """
    named = str(config.get("target") or f"{_MODELS}.{class_of(config)}")  # without one: of an early version
    name = named.rpartition(".")[2]
    collection = named.removeprefix("nemo.collections.").partition(".")[0]
    known = _OTHERS.get(name) or _COLLECTIONS.get(collection)
    if name not in MODEL_CLASSES and known:
        how = f"{named}.restore_from(...), with NVIDIA's instructions for this model"
        raise InputError(
            f"{path}: contains a {name}, {known}; expected a recogniser by CTC, RNN-T, TDT or attention (Canary). NeMo "
            f"itself runs it: {f'{named}.{SALM}' if collection == 'speechlm2' else how}"
        )
    if not _is_of(named, _MODELS):
        raise refusal(path, named, "is not a class of NeMo's models")
    if name not in MODEL_CLASSES:
        raise InputError(f"{path}: contains a {name}; expected one of {', '.join(MODEL_CLASSES)}")
    return f"{_MODELS}.{name}"


def class_of(config: Mapping) -> str:
    """Return the name of the model class, one of `MODEL_CLASSES`, that the sections of a config describe.

    Example:
        >>> class_of({"decoder": {}, "joint": {"joint_dropout": 0}, "tokenizer": {"dir": "pieces"}})
        'EncDecRNNTBPEModel'
    """
    pieces = "BPE" if config.get("tokenizer") else ""
    if not config.get("joint"):
        return f"EncDecCTCModel{pieces}"
    return f"EncDecHybridRNNTCTC{pieces}Model" if config.get("aux_ctc") else f"EncDecRNNT{pieces}Model"


def _is_of(name: str, package: str) -> bool:
    """Return whether a class's full name is in a package, or in one of its modules."""
    return re.fullmatch(rf"{re.escape(package)}(\.[a-z]\w*)?\.[A-Z]\w*", name, re.ASCII) is not None


def _checked_part(part: str, section: object, path: Path, transduces: bool = False) -> dict:
    """Return a section of `PARTS`, without parameters that its class doesn't know if they are off.

    Args:
        part: the section's name.
        section: its content.
        path: of the model, for messages.
        transduces: whether the section `decoder` is a transducer's prediction network.

    Raises:
        InputError: the section's class isn't allowed, or a parameter has another type or too large a value.
    """
    from asr_with_nemo.models.parts import ALLOWED

    if not isinstance(section, dict) or not isinstance(section.get("_target_"), str):
        raise InputError(f"{path}: its config doesn't name the class of its {part} (_target_), so not a NeMo model")
    allowed = ALLOWED["prediction" if transduces and part == "decoder" else part]
    named = section["_target_"]
    name = named.rpartition(".")[2]
    if not _is_of(named, _MODULES) or name not in allowed:
        raise refusal(path, f"{part}: {named}", f"is not one of these: {', '.join(allowed)}")
    fields = allowed[name].model_fields
    unknown = {key: value for key, value in section.items() if key not in fields and key != "_target_"}
    for key, value in unknown.items():
        if value not in (None, False):
            raise InputError(f"{path}: its {part} has {key}={value}, which this NeMo doesn't support")
    given = {key: value for key, value in section.items() if key in fields}
    return {"_target_": f"{_MODULES}.{name}"} | _valid(allowed[name], given, part, path)


def _check_decoding(section: object, name: str, path: Path) -> None:
    """Make sure that a section about decoding names no file.

    Raises:
        InputError: it does.
    """
    for key, value in _values(section, path):
        if _FILE_KEYS.search(str(key)) and isinstance(value, str) and value:
            raise refusal(path, f"{name}.{key}: {value}", "is a file outside of the archive")


def _letters(config: dict, path: Path) -> list[str] | None:
    """Return the alphabet of a config without a tokenizer; None with one.

    Raises:
        InputError: the config has neither.
    """
    if "tokenizer" in config:
        return None
    for letters in (config["decoder"].get("vocabulary"), (config.get("joint") or {}).get("vocabulary")):
        if letters:
            return letters
    letters = config.get("labels")
    if isinstance(letters, list) and letters and all(isinstance(letter, str) for letter in letters):
        return letters
    raise InputError(f"{path}: its decoder has no vocabulary; expected a model of letters, or with a tokenizer")


def _complete_transducer(config: dict, path: Path) -> None:
    """Check what a transducer has besides its networks, and set greedy decoding.

    Raises:
        InputError: a value is missing, has another type or is out of bounds, or the loss is of another kind.
    """
    from asr_with_nemo.models.parts import DurationLoss, Widths

    config["model_defaults"] = _valid(Widths, config.get("model_defaults") or {}, "model_defaults", path)
    joint, loss = config["joint"], config.pop("loss", None) or {}
    name = str(loss.get("loss_name", "")) if isinstance(loss, dict) else ""
    config["decoding"] = {"strategy": "greedy_batch", "greedy": {"max_symbols": _MOST_SYMBOLS}}
    if name.startswith("tdt"):
        settings = _valid(DurationLoss, loss.get(f"{name}_kwargs") or {}, f"loss.{name}_kwargs", path)
        if len(settings["durations"]) != joint.get("num_extra_outputs", 0):
            raise InputError(
                f"{path}: its loss has {len(settings['durations'])} durations, but its joint network "
                f"{joint.get('num_extra_outputs', 0)} outputs for them"
            )
        config["loss"] = {"loss_name": "tdt", "tdt_kwargs": settings}
        config["decoding"] |= {"model_type": "tdt", "durations": settings["durations"]}
    elif joint.get("num_extra_outputs"):
        raise InputError(
            f"{path}: its joint network has outputs for something other than durations (a multi-blank transducer); "
            "expected a transducer by RNN-T or TDT"
        )


def _checked_ctc(section: object, path: Path) -> dict:
    """Return the section of a hybrid's CTC decoder.

    Raises:
        InputError: it is missing or unsafe.
    """
    if not isinstance(section, dict):
        raise InputError(f"{path}: its config has no aux_ctc, so not a hybrid of a transducer and CTC")
    _check_decoding(section.get("decoding"), "aux_ctc.decoding", path)
    weight = section.get("ctc_loss_weight", 0.5)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= 1:
        raise refusal(path, f"aux_ctc.ctc_loss_weight: {weight}", "is not a number from 0 to 1")
    decoder = _checked_part("decoder", section.get("decoder"), path)
    return {"ctc_loss_weight": weight, "decoder": {"feat_in": None, "num_classes": -1, "vocabulary": []} | decoder}


def _checked_attention(config: dict, root: dict, path: Path, folder: Path | None) -> dict:
    """Return the needed keys of an attention encoder-decoder's config, with greedy decoding.

    Args:
        config, path, folder: as of `checked`.
        root: what references are looked up in.

    Raises:
        InputError: a part is missing or unsafe.
    """
    from asr_with_nemo.models.parts import ATTENTION, AttentionWidths, Prompt

    needed = ("preprocessor", "encoder", "transf_decoder", "head", "prompt_format", "tokenizer")
    keys = (*PARTS, *ATTENTION, *_OF_ATTENTION)
    config = {key: modern(resolved(config[key], root, path)) for key in keys if config.get(key) is not None}
    missing = next((key for key in needed if key not in config), None)
    if missing:
        raise InputError(f"{path}: its config has no {missing}, so not an attention encoder-decoder")
    made = {part: _checked_part(part, config[part], path) for part in PARTS[:3] if part in config}
    for part, (named, schema) in ATTENTION.items():
        section = config.get(part)
        if section is None:
            continue
        if not isinstance(section, dict) or section.get("_target_") != named:
            asked = section.get("_target_") if isinstance(section, dict) else section
            raise refusal(path, f"{part}: {asked}", f"is not {named}")
        given = {key: value for key, value in section.items() if key != "_target_"}
        made[part] = {"_target_": named} | _valid(schema, given, part, path)
    made["transf_decoder"] |= {"encoder": False}  # not NeMo's default
    made["head"].pop("num_classes", None)
    made["model_defaults"] = _valid(AttentionWidths, config.get("model_defaults") or {}, "model_defaults", path)
    prompt = {key: config[key] for key in ("prompt_format", "prompt_defaults") if key in config}
    made |= _valid(Prompt, prompt, "prompt", path)
    made["tokenizer"] = _checked_tokenizers(config["tokenizer"], path, folder)
    decoding = config.get("decoding") or {}
    _check_decoding(decoding, "decoding", path)
    greedy = {"temperature": None, "n_samples": 1, "max_generation_delta": _most_pieces(decoding)}
    made["decoding"] = {"strategy": "greedy", "greedy": greedy}
    if "adapters" in config:
        made["adapters"] = _checked_adapters(config["adapters"], path)
    # NeMo's loss and metric, of no consequence here. It would also load a second model, for times, from the archive.
    loss = "nemo.collections.common.losses.smoothed_cross_entropy.SmoothedCrossEntropyLoss"
    return made | {
        "loss": {"_target_": loss, "label_smoothing": 0.0, "pad_id": None},
        "multitask_metrics_cfg": {"metrics": {"wer": {"_target_": "nemo.collections.asr.metrics.WER"}}},
        "restore_timestamps_model": False,
    }


def _most_pieces(decoding: object) -> int:
    """Return how many more pieces than frames are written at most; -1 for no limit but the decoder's."""
    section = decoding if isinstance(decoding, dict) else {}
    asked = section.get("beam" if section.get("strategy") == "beam" else "greedy")
    most = asked.get("max_generation_delta") if isinstance(asked, dict) else None
    return most if isinstance(most, int) and 0 <= most <= LARGEST_CONFIG else -1


def _checked_tokenizers(section: object, path: Path, folder: Path | None) -> dict:
    """Return the settings of an attention encoder-decoder's tokenizer: one, or one for each language.

    Raises:
        InputError: a tokenizer is of another type, or its files are outside of the archive.
    """
    section = section if isinstance(section, dict) else {"type": section}
    several = section.get("type") == "agg"
    custom = f"{_CANARY}.{'CanaryTokenizer' if several else 'CanaryBPETokenizer'}"
    asked = section.get("custom_tokenizer")
    asked = asked.get("_target_") if isinstance(asked, dict) else asked
    if asked != custom:
        raise refusal(path, f"tokenizer.custom_tokenizer: {asked}", f"is not {custom}")
    made = {"custom_tokenizer": {"_target_": custom}}
    if not several:
        own = {key: value for key, value in section.items() if key != "custom_tokenizer"}
        return _checked_tokenizer(own, path, folder) | made
    languages = section.get("langs")
    if not isinstance(languages, dict) or "spl_tokens" not in languages:
        raise InputError(f"{path}: its tokenizer has no spl_tokens, so not that of an attention encoder-decoder")
    if folder is None:
        raise InputError(f"{path}: a checkpoint doesn't bring its tokenizers; give the .nemo file of this training")
    if len(languages) > _MOST_LANGUAGES:
        raise InputError(f"{path}: its tokenizer has {len(languages):,} languages; over {_MOST_LANGUAGES}, refused")
    wrong = next((name for name in languages if not re.fullmatch(r"[\w-]{1,40}", str(name), re.ASCII)), None)
    if wrong is not None:
        raise refusal(path, f"tokenizer.langs.{wrong}", "is not a language")
    return {
        "type": "agg",
        "dir": None,
        "langs": {name: _checked_tokenizer(one, path, folder) for name, one in languages.items()},
        **made,
    }


def _checked_adapters(section: object, path: Path) -> dict:
    """Return the section of a model's adapters: linear ones, in the encoder or in a transducer's networks.

    Raises:
        InputError: it has others.
    """
    from asr_with_nemo.models.parts import ADAPTER, Adapter

    if not isinstance(section, dict):
        raise refusal(path, f"adapters: {section}", "is not a mapping")
    places = section.get(_GLOBAL) or {}
    for key in ("adapter_meta_cfg", "modules"):
        places = (places.get(key) if isinstance(places, dict) else None) or {}
    found, modules = {}, {}
    for name, settings in section.items():
        if name == _GLOBAL:
            continue
        place = str(places.get(name, "")) if isinstance(places, dict) else ""
        if not re.fullmatch(r"\w{1,40}", str(name), re.ASCII) or not set(place.split("+")) <= _ADAPTED:
            raise refusal(
                path, f"adapters.{name} in {place!r}", f"is not in one of {', '.join(sorted(_ADAPTED - {''}))}"
            )
        kind = settings.get("_target_") if isinstance(settings, dict) else settings
        if kind != ADAPTER:
            raise refusal(path, f"adapters.{name}: {kind}", f"is not {ADAPTER}")
        found[name], modules[name] = _valid(Adapter, settings, f"adapters.{name}", path), place
    return {_GLOBAL: {"adapter_meta_cfg": {"modules": modules}}} | found


def _valid(schema: "type[BaseModel]", given: object, part: str, path: Path) -> dict:
    """Return the values of a section, each checked and of its type.

    Raises:
        InputError: one of them has another type, or is out of bounds.
    """
    from pydantic import ValidationError

    try:
        return schema.model_validate(given).model_dump(exclude_unset=True, by_alias=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(key) for key in (part, *first["loc"]))
        what = f"{where}: {str(first['input'])[:80]}"
        raise refusal(path, what, f"has the wrong type or size ({first['msg']})") from None


def _checked_tokenizer(section: object, path: Path, folder: Path | None) -> dict:
    """Return the settings of a SentencePiece tokenizer whose files are in the archive.

    Raises:
        InputError: the tokenizer is of another type, or its files are elsewhere.
    """
    kind = section.get("type") if isinstance(section, dict) else section
    if kind == "bpe" and not section.get("model_path"):
        raise InputError(
            f"{path}: has no tokenizer; a checkpoint's is in the folder `tokenizer` of its training, looked for beside "
            "the checkpoint and one folder up"
        )
    if kind != "bpe" or "custom_tokenizer" in section:
        raise InputError(f"{path}: its tokenizer is of type {kind}; expected SentencePiece (bpe)")
    # Keys without a file are needed too: NeMo uses a default otherwise.
    checked = {"type": kind, "dir": "", "model_path": None, "vocab_path": None, "spe_tokenizer_vocab": None}
    for key in ("model_path", "vocab_path", "spe_tokenizer_vocab"):
        name = PurePosixPath(str(section.get(key) or "").removeprefix("nemo:")).name  # early files have the whole path
        if name and (folder is None or not (folder / name).is_file()):
            raise refusal(path, f"tokenizer.{key}: {section[key]}", "is a file outside of the archive")
        checked[key] = f"nemo:{name}" if name else None
    return checked
