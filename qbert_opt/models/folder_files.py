"""The files of a model folder, checked before the model is loaded.

Only JSON and the headers of weight files are read. Anything that would be ignored, run as code, or read from elsewhere
is refused here, so that exactly the content of the folder is used.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..errors import InputFileError
from ..runtime.files import MAX_JSON_BYTES

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
PLAN = "allocation.json"  # of a quantized folder
INDEX = "model.safetensors.index.json"
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "pytorch_model.pt")
ADAPTERS = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin", "pytorch_adapter.bin")
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
FLOATS = ("F64", "F32", "F16", "BF16")
HUB_FILES = ("*.json", "*.txt", "*.model", "model*.safetensors")  # no pickled weights


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Type (safetensors' name, for example `F32`) and shape of a tensor in a weight file."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Contents of a model folder.

    Attributes:
        folder: local path.
        name: what the user called it.
        config: its `config.json`.
        tensors: every tensor of its weight files, by name.
    """

    folder: Path
    name: str
    config: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]


def find_folder(source: str | Path) -> Path:
    """Return the local folder of a model; a hub model (`owner/name`) is downloaded first, without pickled weights.

    Args:
        source: a path, or a hub model's name.

    Raises:
        InputFileError: the folder is missing, is a file or has no config.json, or the hub model cannot be fetched.
    """
    folder = Path(source)
    try:
        exists, is_folder = folder.exists(), folder.is_dir()
        has_config = is_folder and (folder / CONFIG).exists()
        adapter = is_folder and any((folder / name).exists() for name in ADAPTERS)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputFileError(f"{_short(source)}: cannot be opened: {reason}. Give a model folder.") from None
    if exists and not is_folder:
        raise InputFileError(f"{source}: is a file. Give the folder that holds config.json and model.safetensors.")
    if is_folder and adapter and not has_config:
        raise InputFileError(
            f"{source}: holds an adapter without its model. Merge it into the model (peft's merge_and_unload) and save."
        )
    if is_folder and not has_config:
        raise InputFileError(f"{source}: is not a model folder: no config.json. Give a transformers model folder.")
    if is_folder:
        return folder
    owner, _, name = str(source).partition("/")
    if str(source).startswith((".", "/", "~")) or not owner or not name or "/" in name or Path(owner).exists():
        raise InputFileError(f"{_short(source)}: no such folder. Give a model folder, or a hub model as owner/name.")
    return _downloaded(str(source))


def read_model_files(source: str | Path) -> ModelFiles:
    """Read the config and the headers of the weight files, and refuse folders that would be used only in part.

    Args:
        source: a path, or a hub model's name.

    Raises:
        InputFileError: it is not a model folder; a file is missing, truncated, unreadable or a git-lfs pointer; the
            folder has adapters or custom code; or weights are already quantized, pickled, or outside the folder.
    """
    folder, name = find_folder(source), str(source)
    config = read_json(folder / CONFIG)
    _check_requests(folder, name, config)
    tensors: dict[str, StoredTensor] = {}
    for file in _weight_files(folder, name, config):
        tensors.update(read_header(file))
    return ModelFiles(folder, name, config, tensors)


def weight_paths(files: ModelFiles) -> list[Path]:
    """Return the weight files of a model folder.

    Args:
        files: contents of the folder.

    Raises:
        InputFileError: a file has disappeared since the folder was read.
    """
    return _weight_files(files.folder, files.name, files.config)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of a model folder.

    Args:
        path: a file of at most `MAX_JSON_BYTES`; a larger one is refused before it is read.

    Raises:
        InputFileError: unreadable, too large, a git-lfs pointer, or not a JSON object.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise InputFileError(f"{path}: has {path.stat().st_size} bytes; at most {MAX_JSON_BYTES} are read.")
        data = path.read_bytes()
    except OSError as error:
        raise InputFileError(f"{path}: cannot be read: {error.strerror}.") from None
    _check_pointer(path, data[: len(LFS_POINTER)])
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputFileError(f"{path}: is not JSON: {error}. Copy the file again.") from None
    if not isinstance(document, dict):
        raise InputFileError(f"{path}: holds a {type(document).__name__}, not an object. Copy the file again.")
    return document


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Read names, types and shapes of a safetensors file; the library checks them against the file's size.

    Args:
        path: a safetensors file; no tensor is loaded.

    Raises:
        InputFileError: missing, unreadable, a git-lfs pointer, truncated, or not a safetensors file.
    """
    try:
        with path.open("rb") as file:
            _check_pointer(path, file.read(len(LFS_POINTER)))
        size = path.stat().st_size
    except OSError as error:
        raise InputFileError(f"{path}: cannot be read: {error.strerror}.") from None
    try:
        with safe_open(path, framework="numpy") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118 (no mapping)
            return {name: StoredTensor(part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
    except (SafetensorError, OSError) as error:
        raise InputFileError(
            f"{path}: {size} bytes, not a complete safetensors file ({first_line(error)}). Copy or download it again."
        ) from None


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type if it has no message.

    If the first line only announces the next, both are returned.

    Args:
        error: an error of any library.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].endswith(":"):
        return f"{lines[0]} {lines[1]}"
    return lines[0] if lines else type(error).__name__


def _check_requests(folder: Path, name: str, config: Mapping[str, Any]) -> None:
    """Refuse adapters, custom code, and weights under other names."""
    adapters = [folder / file for file in ADAPTERS if (folder / file).exists()]
    adapters += [path for path in sorted(folder.glob("*/adapter_config.json")) if "checkpoint-" not in str(path)]
    if adapters or config.get("adapters"):
        where = adapters[0].relative_to(folder) if adapters else "config.json: adapters"
        raise InputFileError(
            f"{name}: has an adapter ({where}) that would not be used. Merge it into the model (peft's "
            "merge_and_unload) and save, or remove it."
        )
    for file in (CONFIG, "tokenizer_config.json"):
        document = config if file == CONFIG else read_json(folder / file) if (folder / file).exists() else {}
        if document.get("auto_map"):
            raise InputFileError(
                f"{name}: {file} requires custom code (auto_map), which is never run. Give a model of a class that "
                "transformers has; remove auto_map only if that class computes the same."
            )
    quantized = config.get("quantization_config") or config.get("compression_config")
    if quantized:
        method = quantized.get("quant_method", "unknown") if isinstance(quantized, dict) else quantized
        if method == "qbert-opt" and not (folder / PLAN).exists():
            raise InputFileError(f"{folder / PLAN}: is missing from this quantized folder. Quantize the model again.")
        what = "a quantized folder of this tool" if method == "qbert-opt" else f"quantized already (by {method})"
        raise InputFileError(f"{name}: is {what}. Give the float model that it was made from.")
    if config.get("transformers_weights") not in (None, WEIGHTS, INDEX):
        raise InputFileError(
            f"{name}: config.json names other weights ({config['transformers_weights']}). Rename them to {WEIGHTS} and "
            "remove transformers_weights."
        )


def _weight_files(folder: Path, name: str, config: Mapping[str, Any]) -> list[Path]:
    whole, index = folder / WEIGHTS, folder / INDEX
    if whole.exists() and index.exists():
        raise InputFileError(f"{name}: has {WEIGHTS} and {INDEX}, which contradict each other. Remove the older one.")
    if whole.exists():
        return [whole]
    if index.exists():
        return _shards(index)
    pickled = next((file for file in PICKLED if (folder / file).exists()), None)
    if pickled is not None:
        named = (config.get("architectures") or ["AutoModel"])[0]
        raise InputFileError(
            f"{name}: has no {WEIGHTS}, only {pickled}, which can run code when it is opened. If you trust it, convert "
            f"it in Python: transformers.{named}.from_pretrained({name!r}).save_pretrained({name!r})."
        )
    others = sorted(file.name for file in folder.glob("*.safetensors"))
    hint = f" (there is {others[0]})" if others else ""
    raise InputFileError(f"{name}: has no {WEIGHTS}{hint}. Save the model with save_pretrained.")


def _shards(index: Path) -> list[Path]:
    """Return the files that an index names, after checking that they contain exactly the tensors it lists."""
    named = read_json(index).get("weight_map")
    if not isinstance(named, dict) or not named or not all(isinstance(file, str) for file in named.values()):
        raise InputFileError(f"{index}: has no weight_map from tensors to files. Save the model again.")
    files = []
    for file in sorted(set(named.values())):
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise InputFileError(
                f"{index}: names {file!r}; only safetensors files in the same folder are read. Save the model again."
            )
        if not (index.parent / file).exists():
            raise InputFileError(f"{index}: names {file}, which is missing. Copy or download it again.")
        listed = {tensor for tensor, where in named.items() if where == file}
        different = sorted(listed ^ read_header(index.parent / file).keys())
        if different:
            fault = "is listed but missing" if different[0] in listed else "is present but not listed"
            raise InputFileError(f"{index}: {file}: {different[0]} {fault}. Save the model again.")
        files.append(index.parent / file)
    return files


def _check_pointer(path: Path, start: bytes) -> None:
    if start == LFS_POINTER:
        raise InputFileError(
            f"{path}: is a git-lfs pointer, not the file itself. Run 'git lfs pull' in its repository."
        )


def _downloaded(name: str) -> Path:
    """Fetch a hub model without retries; without network, the local cache is used."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, allow_patterns=list(HUB_FILES)))
    except LocalEntryNotFoundError:
        raise InputFileError(
            f"{name}: no such folder, and the hub cannot be reached. Give a model folder, or check the connection."
        ) from None
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise InputFileError(f"{_short(name)}: neither a folder nor a hub model: {first_line(error)}") from None
    if not (folder / CONFIG).exists():
        raise InputFileError(f"{name}: the hub model has no config.json. Give a transformers model.")
    return folder


def _short(source: str | Path) -> str:
    text = str(source)
    return text if len(text) <= 120 else f"{text[:100]}… ({len(text)} characters)"


def file_stamp(path: Path) -> tuple[int, ...] | None:
    """Return size and modification time (ns) of a file, which change when it is written to; None if it is missing.

    Args:
        path: path of the file.
    """
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns
