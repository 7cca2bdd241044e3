"""Map the labels of a data set to outputs of a head: all by name or all by id, decided for the whole data set.

    by name     every label is a name in `id2label`, exactly or up to case and surrounding blanks
    by id       every label is an id, `0` to `C - 1`, as written, as a float (`1.0`), or as `LABEL_1`

Labels that are valid both ways with different results are refused, because a wrong guess would give a plausible but
wrong accuracy. `LABEL_k` always means id k unless it is a name, so every label can be written unambiguously.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from ..errors import InputFileError

Reading = dict[str, int]  # output of each label

_ID = re.compile(r"(0|[1-9][0-9]*)(?:\.0+)?")
_PLACEHOLDER = re.compile(r"label_(0|[1-9][0-9]*)", re.IGNORECASE)
SHOWN_NAMES = 8


def label_reading(
    names: Sequence[str], labels: Sequence[Sequence[str]], *, source: str, model: str, what: str = "label"
) -> Reading:
    """Decide how the labels of a data set are read.

    Args:
        names: names of the head's outputs, in their order.
        labels: labels of every sample of the whole data set, not only of the samples that are used.
        source: name of the data set, for messages.
        model: name of the model, for messages.
        what: `label` or `tag`, for messages.

    Returns:
        The output's index for each distinct label.

    Raises:
        InputFileError: the model does not know a label, names are mixed with ids, several outputs share a name, or
            labels mean different outputs as names and as ids.
    """
    distinct = tuple(dict.fromkeys(label for sample in labels for label in sample))
    by_name = _by_name(names, distinct, source, model, what)
    by_id = _by_id(len(names), distinct, _ID)
    if by_name is not None and by_id is not None and by_name != by_id:
        label = next(label for label in distinct if by_name[label] != by_id[label])
        raise InputFileError(
            f"{source}: {what} {label!r} is the name of output {by_name[label]} of {model} and also the id of output "
            f"{names[by_id[label]]!r}. Write ids as LABEL_{by_id[label]}, or use names that are not numbers."
        )
    reading = by_name or by_id or _by_id(len(names), distinct, _PLACEHOLDER)
    if reading is None:
        raise InputFileError(_unreadable(names, labels, distinct, source, model, what))
    return reading


def label_ids(
    names: Sequence[str],
    labels: Sequence[str],
    *,
    whole: Sequence[str] | None = None,
    source: str,
    model: str,
) -> list[int]:
    """Return the index of the head's output for each label.

    Args:
        names: of the head's outputs, in their order.
        labels: the labels to convert.
        whole: labels of the whole data set that `labels` is taken from; by default `labels`.
        source: name of the data set, for messages.
        model: name of the model, for messages.

    Raises:
        InputFileError: see `label_reading`; names the first such sample.
    """
    every = [(label,) for label in (labels if whole is None else whole)]
    reading = label_reading(names, every, source=source, model=model)
    return [reading[label] for label in labels]


def check_same_meaning(
    labels: Sequence[Sequence[str]], model: tuple[str, Sequence[str]], reference: tuple[str, Sequence[str]], source: str
) -> None:
    """Check that the labels of a data set mean the same classes to a model and to its reference.

    Ids mean different classes if the two have their outputs in a different order.

    Args:
        labels: labels of each sample of the whole data set.
        model: name of the model, and the names of its outputs in their order.
        reference: the same for the reference.
        source: name of the data set.

    Raises:
        InputFileError: a label means two classes (names the first), or `label_reading` refuses the labels.
    """
    (ours, ours_of), (theirs, theirs_of) = (
        (label_reading(names, labels, source=source, model=name), names) for name, names in (model, reference)
    )
    for label in ours:
        if ours_of[ours[label]] != theirs_of[theirs[label]]:
            raise InputFileError(
                f"{source}: label {label!r} is {ours_of[ours[label]]!r} to {model[0]} and "
                f"{theirs_of[theirs[label]]!r} to its reference {reference[0]}. Label by name."
            )


def numbers(labels: Sequence[str], source: str, reason: str = "This is a regression model") -> list[float]:
    """Return the labels of a regression, or the scores of pairs, as numbers.

    Args:
        labels: as written in the file.
        source: the file, for messages.
        reason: why they must be numbers, for messages.

    Raises:
        InputFileError: a label is not a finite number.
    """
    values = []
    for row, label in enumerate(labels):
        try:
            value = float(label)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise InputFileError(
                f"{source}: sample {row + 1} has label {label!r}. {reason}; give finite numbers such as 2.5 as labels."
            )
        values.append(value)
    return values


def output_order(names: Sequence[str], reference: Sequence[str], model: str, reference_model: str) -> list[int]:
    """Match the outputs of a model with those of a reference by name.

    Args:
        names: names of the model's outputs, in their order.
        reference: names of the reference's outputs.
        model: name of the model, for messages.
        reference_model: name of the reference, for messages.

    Returns:
        For each output of the model, the index of the reference's output of the same name.

    Raises:
        InputFileError: the names differ, or are in another order and not unique.
    """
    if tuple(names) == tuple(reference):
        return list(range(len(names)))
    different = sorted(set(names) ^ set(reference))
    if different or len(set(names)) < len(names) or len(names) != len(reference):
        reason = f"only one has an output named {different[0]!r}" if different else "a name occurs twice"
        raise InputFileError(
            f"{model} answers with {_shown(names)}, its reference {reference_model} with {_shown(reference)}: "
            f"{reason}. Give both the same names in id2label."
        )
    places = {name: index for index, name in enumerate(reference)}
    return [places[name] for name in names]


def sorted_names(labels: Iterable[str]) -> list[str]:
    """Return the names of a new head's outputs in sorted order, with numeric ids sorted by value.

    Args:
        labels: may contain duplicates.
    """
    distinct = set(labels)
    if all(_ID.fullmatch(label) for label in distinct):
        return sorted(distinct, key=lambda label: (float(label), label))
    return sorted(distinct)


def _by_name(names: Sequence[str], labels: Sequence[str], source: str, model: str, what: str) -> Reading | None:
    """Read labels as names, exactly or else up to case and surrounding blanks; None if one is not a name."""
    for plain in (str, _plain):
        known: dict[str, int] = {plain(name): index for index, name in enumerate(names)}
        if not all(plain(label) in known for label in labels):
            continue
        count = Counter(map(plain, names))
        for label in labels:
            if count[plain(label)] > 1:
                outputs = [str(index) for index, name in enumerate(names) if plain(name) == plain(label)]
                raise InputFileError(
                    f"{source}: {what} {label!r} is the name of outputs {' and '.join(outputs)} of {model}. "
                    "Give its outputs different names in id2label, or label by id."
                )
        return {label: known[plain(label)] for label in labels}
    return None


def _by_id(outputs: int, labels: Sequence[str], form: re.Pattern[str]) -> Reading | None:
    """Read labels as ids; None if one is not an id."""
    reading: Reading = {}
    for label in labels:
        match = form.fullmatch(label.strip())
        if match is None or len(match[1]) > len(str(outputs)) or int(match[1]) >= outputs:
            return None
        reading[label] = int(match[1])
    return reading


def _unreadable(
    names: Sequence[str], samples: Sequence[Sequence[str]], labels: Sequence[str], source: str, model: str, what: str
) -> str:
    """Return the reason why labels are neither all names nor all ids."""
    by_name = _known(lambda label: _by_name(names, [label], source, model, what), labels)
    by_id = _known(lambda label: _by_id(len(names), [label], _ID), labels)

    def first(label: str) -> str:
        number = next(index for index, mine in enumerate(samples, 1) if label in mine)
        return f"sample {number} has {what} {label!r}"

    unknown = next((label for label in labels if not by_name[label] and not by_id[label]), None)
    if unknown is not None:
        return (
            f"{source}: {first(unknown)}. {model} knows {_shown(names)}, or ids 0 to {len(names) - 1}. "
            "Correct it, or give the model that these labels belong to."
        )
    name = next(label for label in labels if not by_id[label])
    number = next(label for label in labels if not by_name[label])
    return f"{source}: {first(name)}, a name, and {first(number)}, an id of {model}. Label all by name or all by id."


def _known(read: Callable[[str], Reading | None], labels: Sequence[str]) -> Mapping[str, bool]:
    return {label: read(label) is not None for label in labels}


def _plain(label: str) -> str:
    return label.strip().casefold()


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN_NAMES]) + (" …" if len(names) > SHOWN_NAMES else "")
