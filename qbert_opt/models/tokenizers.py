"""Load a model folder's tokenizer, set up so that batching does not change outputs."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer

from ..errors import InputFileError
from .architectures import blank_model, config_kind, refusing, token_types
from .folder_files import LFS_POINTER, find_folder, first_line, read_json
from .heads import KINDS
from .sentence_embeddings import PROMPT, TRANSFORMER_SETTINGS, SentenceEmbedding, read_sentence_embedding
from .windows import model_window

VOCABULARIES = (
    "tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model",
)  # fmt: skip
MIXED_CASE = "The Quick Brown FOX"


def load_tokenizer(source: str | Path, config: Any, blank: Any = None, *, name: str | None = None) -> Any:
    """Load the tokenizer of a model folder or hub model, and set it up for the model.

    Texts are truncated to the model's window and padded on the right, which leaves positions unchanged. The attention
    mask is always returned, token types only if the model has more than one.

    Args:
        source: folder or hub model.
        config: transformers' config of the model.
        blank: result of `blank_model(config)`, if available.
        name: what the user called the model, if not `source`.

    Raises:
        InputFileError: there is no tokenizer (transformers would continue with an empty vocabulary), or it requires
            custom code, has tokens beyond the model's embedding table, or lacks a feature that the kind of head needs.
    """
    folder = find_folder(source)
    name = name or str(source)
    present = [folder / file for file in VOCABULARIES if (folder / file).exists()]
    if not present:
        raise InputFileError(f"{name}: has no tokenizer ({', '.join(VOCABULARIES)}). Save it beside the model.")
    for path in present:
        _check_readable(path)
    if (folder / "tokenizer_config.json").exists() and read_json(folder / "tokenizer_config.json").get("auto_map"):
        raise InputFileError(f"{name}: tokenizer_config.json requires custom code (auto_map), which is never run.")
    kind = config_kind(config, name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, **KINDS[kind].tokenizer_options)
    except Exception as error:  # the library's errors have no common family
        raise InputFileError(_why_unreadable(folder, name, error)) from None
    model = blank_model(config, name) if blank is None else blank
    if kind in ("tags", "spans") and not tokenizer.is_fast:
        raise InputFileError(
            f"{name}: {kind} need a tokenizer that returns character offsets (tokenizer.json); this one, "
            f"{type(tokenizer).__name__}, does not. Save a fast tokenizer beside the model."
        )
    if kind == "vocabulary" and tokenizer.mask_token_id is None:
        raise InputFileError(f"{name}: the model fills masks, but its tokenizer has no mask token. Save it with one.")
    with refusing(name):
        embedding = read_sentence_embedding(folder)
        _set_inputs(tokenizer, model)
        _set_padding(tokenizer, config, name)
        _set_window(tokenizer, config, embedding, name, causal=kind == "next_tokens")
        _check_vocabulary(tokenizer, model, name)
        if embedding is not None and embedding.lower_case:
            _check_lower_case(tokenizer, name)
        if embedding is not None:
            setattr(tokenizer, PROMPT, embedding.prompt)
    return tokenizer


def _check_readable(path: Path) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(len(LFS_POINTER))
    except OSError as error:
        raise InputFileError(f"{path}: cannot be read: {error.strerror}.") from None
    if start == LFS_POINTER:
        raise InputFileError(
            f"{path}: is a git-lfs pointer, not the file itself. Run 'git lfs pull' in its repository."
        )


def _why_unreadable(folder: Path, name: str, error: Exception) -> str:
    """Return which file of a tokenizer is wrong, if one is; transformers' own message often names none."""
    path = folder / "tokenizer.json"
    if path.exists():
        try:
            Tokenizer.from_file(str(path))
        except Exception as wrong:  # a bare Exception is what the library raises
            return f"{path}: is not a tokenizer: {first_line(wrong)}. Save the tokenizer again."
    return (
        f"{name}: its tokenizer cannot be loaded ({type(error).__name__}: {first_line(error)}); a file of it may be "
        "missing, or tokenizer_config.json may name the wrong class. Save the tokenizer again beside the model."
    )


def _set_inputs(tokenizer: Any, model: Any) -> None:
    """Select the tokenizer's outputs: the mask always, token types if the model has more than one."""
    accepted = inspect.signature(model.forward).parameters
    names = ["input_ids"]
    if "token_type_ids" in tokenizer.model_input_names and "token_type_ids" in accepted and token_types(model) != 1:
        names.append("token_type_ids")
    tokenizer.model_input_names = [*names, "attention_mask"]


def _set_padding(tokenizer: Any, config: Any, name: str) -> None:
    """Pad on the right; without a padding token, use the model's, which the mask excludes anyway."""
    tokenizer.padding_side = "right"
    if tokenizer.pad_token_id is not None:
        return
    candidates = [getattr(config, "pad_token_id", None)]
    candidates += [tokenizer.eos_token_id, tokenizer.sep_token_id, tokenizer.unk_token_id]
    for index in candidates:
        token = None if index is None else tokenizer.convert_ids_to_tokens(index)
        if token is not None:
            tokenizer.pad_token = token
            return
    raise InputFileError(f"{name}: its tokenizer has no padding token. Save it with one (tokenizer.pad_token).")


def _set_window(tokenizer: Any, config: Any, embedding: SentenceEmbedding | None, name: str, *, causal: bool) -> None:
    """Truncate texts at the model's last position, or earlier if the folder requires it."""
    window = model_window(tokenizer, config, causal=causal)
    if embedding is not None and embedding.max_tokens is not None:
        window = min(window, embedding.max_tokens)
    least = tokenizer.num_special_tokens_to_add(pair=True) + 2
    if window < least:
        where = TRANSFORMER_SETTINGS if embedding is not None and embedding.max_tokens == window else "its config"
        raise InputFileError(
            f"{name}: reads {window} tokens at most ({where}), and a pair of texts needs {least}. Correct the limit."
        )
    tokenizer.model_max_length = window


def _check_vocabulary(tokenizer: Any, model: Any, name: str) -> None:
    rows = model.get_input_embeddings().num_embeddings
    token, index = max(tokenizer.get_vocab().items(), key=lambda item: (item[1], item[0]))
    if index >= rows:
        raise InputFileError(
            f"{name}: its tokenizer gives {token!r} the id {index}, but the model's embedding table has "
            f"{rows} rows. Resize the table and train it, or save the tokenizer without the added tokens."
        )
    added = max(tokenizer("")["input_ids"], default=0)  # added by its template, whose ids need not be in its vocabulary
    if added >= rows:
        raise InputFileError(
            f"{name}: its tokenizer adds the id {added} to every text, but the model's embedding table has {rows} "
            "rows. Save the tokenizer again beside the model."
        )


def _check_lower_case(tokenizer: Any, name: str) -> None:
    if tokenizer(MIXED_CASE)["input_ids"] != tokenizer(MIXED_CASE.lower())["input_ids"]:
        raise InputFileError(
            f"{name}: {TRANSFORMER_SETTINGS} requires lower-case texts (do_lower_case), but its tokenizer keeps "
            "capitals. Make the texts lower-case and set do_lower_case to false."
        )
