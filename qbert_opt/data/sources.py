"""Which files a data source is: a file, a folder of splits in the Hub's layouts, or a bundled data set."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path

from ..errors import InputFileError, UsageError
from ..runtime.input_files import decode_text, file_size, parse_json, read_bytes
from .arrow_tables import read_arrow, read_parquet
from .tables import Table, shown_names
from .text_tables import read_csv, read_json, read_json_lines, read_tsv

MAX_TEXT_BYTES = 2**30
GZIP_MAGIC = b"\x1f\x8b"
TEXT_FORMATS: Mapping[str, Callable[[str, Path], Table]] = {
    ".tsv": read_tsv,
    ".csv": read_csv,
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".json": read_json,
}
BINARY_FORMATS: Mapping[str, Callable[[Path], Table]] = {".parquet": read_parquet, ".arrow": read_arrow}
SUFFIXES = (*TEXT_FORMATS, *BINARY_FORMATS)
METADATA = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")  # of Hugging Face datasets
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})")


def bundled_datasets() -> tuple[str, ...]:
    """Return the names of the data sets that ship with the package, for example `snips/dev`."""
    root = resources.files(__package__) / "bundled"
    return tuple(
        sorted(
            f"{folder.name}/{Path(file.name).stem}"
            for folder in root.iterdir()
            if folder.is_dir()
            for file in folder.iterdir()
            if file.name.endswith(".tsv")
        )
    )


def find_files(source: str, split: str | None) -> list[Path]:
    """Find the files of a source: one, or all shards of a split in their order.

    Args:
        source: a path, or the name of a bundled data set.
        split: which split of a folder.

    Raises:
        InputFileError: nothing there, no data file in the folder, or a shard is missing.
        UsageError: a split that the folder does not have, or none named where it has several.
    """
    path = Path(source)
    if is_folder(path):
        return _find_split(path, split)
    if split is not None:
        raise UsageError(f"`split` {split}: {source} is no folder of splits. Give the folder, or leave `split` out.")
    if source in bundled_datasets() and not path.exists():
        return [Path(str(resources.files(__package__))) / "bundled" / f"{source}.tsv"]
    try:
        file_size(path)
    except InputFileError as error:
        raise InputFileError(
            f"{error} Give a {', '.join(SUFFIXES)} file, a folder of splits, or a bundled data set "
            f"({', '.join(bundled_datasets())})."
            if "no such file" in str(error)
            else str(error)
        ) from None
    return [path]


def is_folder(path: Path) -> bool:
    """Tell whether a path is a folder; a name too long for the system is none.

    Args:
        path: need not exist.
    """
    try:
        return path.is_dir()
    except OSError:
        return False


def read_table(path: Path) -> Table:
    """Read a file by its ending; text formats also compressed, as `.tsv.gz`.

    Args:
        path: its ending says its format.

    Raises:
        InputFileError: an unknown ending, or what the format's reader refuses.
    """
    suffix = _suffix(path)
    if suffix in BINARY_FORMATS:
        return BINARY_FORMATS[suffix](path)
    compressed = suffix.endswith(".gz")
    if suffix.removesuffix(".gz") not in TEXT_FORMATS:
        raise InputFileError(
            f"{path}: unknown ending {suffix!r}. Legal: {', '.join(SUFFIXES)}; text formats also with .gz; .conll for "
            "words and tags in columns."
        )
    content = read_bytes(path, MAX_TEXT_BYTES, "a data file")
    if compressed:
        content = _unpacked(content, path)
    elif content.startswith(GZIP_MAGIC):
        raise InputFileError(f"{path}: is compressed by gzip. Name it {path.name}.gz, or unpack it.")
    return TEXT_FORMATS[suffix.removesuffix(".gz")](decode_text(content, path), path)


def _suffix(path: Path) -> str:
    return "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix


def _unpacked(content: bytes, path: Path) -> bytes:
    """Unpack every member of a gzip file; never more than `MAX_TEXT_BYTES`, whatever the file says."""
    parts: list[bytes] = []
    size = 0
    try:
        while content:
            member = zlib.decompressobj(wbits=31)
            parts.append(member.decompress(content, MAX_TEXT_BYTES - size + 1))
            size += len(parts[-1])
            if size > MAX_TEXT_BYTES:
                raise InputFileError(f"{path}: more than {MAX_TEXT_BYTES} bytes unpacked. Give a sample of it.")
            if not member.eof:
                raise InputFileError(f"{path}: cannot be unpacked: the file ends too early. Fetch it again.")
            content = member.unused_data
    except zlib.error as error:
        raise InputFileError(f"{path}: cannot be unpacked: {error}. Fetch it again.") from None
    return b"".join(parts)


def _find_split(folder: Path, split: str | None) -> list[Path]:
    """Find a split as the Hub and `save_to_disk` lay them out.

    DIR/test.csv, DIR/test-00000-of-00002.parquet, DIR/data/test-*.parquet, DIR/test/*.parquet, and DIR/test/ with the
    `state.json` of a saved data set, or DIR itself with one.
    """
    if (folder / "state.json").is_file():
        if split is not None:
            raise UsageError(f"`split` {split}: {folder} is one saved split. Leave `split` out, or give its parent.")
        return _saved(folder)
    splits: dict[str, list[Path]] = {}
    for file in sorted(f for f in [*folder.glob("*"), *folder.glob("data/*")] if _is_data(f)):
        stem = file.name.removesuffix(_suffix(file))
        shard = _SHARD.fullmatch(stem)
        splits.setdefault(shard[1] if shard else stem, []).append(file)
    for inner in sorted(f for f in folder.glob("*") if f.is_dir() and f.name != "data" and f.name not in splits):
        files = _saved(inner) if (inner / "state.json").is_file() else sorted(f for f in inner.glob("*") if _is_data(f))
        if files:
            splits[inner.name] = files
    if not splits:
        raise InputFileError(f"{folder}: no {', '.join(SUFFIXES)} file in this folder. Give a data file.")
    names = shown_names(sorted(splits))
    if split is None and len(splits) > 1:
        raise UsageError(f"{folder}: holds {names}. Say which with `split`.")
    if split is not None and split not in splits:
        raise UsageError(f"`split` {split}: {folder} holds {names}.")
    files = splits[next(iter(splits)) if split is None else split]
    _check_shards(files)
    return files


def _is_data(file: Path) -> bool:
    known = _suffix(file).removesuffix(".gz") in SUFFIXES
    return known and file.name not in METADATA and not file.name.startswith(".") and file.is_file()


def _check_shards(files: list[Path]) -> None:
    """Refuse several files that are not all the shards of one table."""
    shards = [_SHARD.fullmatch(f.name.removesuffix(_suffix(f))) for f in files]
    if not any(shards):
        endings = {_suffix(f) for f in files}
        numbered = all(re.search(r"\d", f.stem) for f in files)
        if len(files) > 1 and (len(endings) > 1 or not numbered):
            raise UsageError(f"{files[0].parent}: holds the split in {len(files)} files; give one file.")
        return
    found = [(int(shard[2]), int(shard[3])) if shard else (-1, -1) for shard in shards]
    count = found[0][1]
    if found != [(number, count) for number in range(count)]:
        raise InputFileError(
            f"{files[0]}: is one of {count} shards, and the folder has {len(files)} files of this split. "
            "Fetch the missing ones, or give one file."
        )


def _saved(folder: Path) -> list[Path]:
    """Find the arrow files of a split that `Dataset.save_to_disk` wrote."""
    path = folder / "state.json"
    state = parse_json(decode_text(read_bytes(path, MAX_TEXT_BYTES, "a data set's state"), path), path)
    entries = state.get("_data_files") if isinstance(state, dict) else None
    names = [e.get("filename") if isinstance(e, dict) else None for e in entries] if isinstance(entries, list) else []
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise InputFileError(f"{path}: names no data files. Expected '_data_files' as save_to_disk writes it.")
    if state.get("_indices_data_files"):
        raise InputFileError(f"{path}: holds a selection of rows. Save it again after flatten_indices().")
    return [folder / str(name) for name in names]
