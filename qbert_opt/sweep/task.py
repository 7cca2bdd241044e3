"""One task of a sweep, and the key under which its result is cached."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from ..runtime.frozen import Frozen

KEY_DIGITS = 32


class Task(Frozen):
    """A step with everything that its result depends on.

    Attributes:
        step: a file in `sweep/steps`.
        title: what it works on, for progress and messages.
        inputs: keys of the tasks whose results it reads, by step.
        options: everything else that the result depends on, including hashes of files.
        paths: paths of the files whose hashes are in `options`; not part of the key, so a moved file changes nothing.
        code: release and commit of the code that does the task.
        key: hash of step, inputs, options and code.
    """

    step: str
    title: str
    inputs: dict[str, str]
    options: dict[str, Any]
    paths: dict[str, Any]
    code: str
    key: str


def make_task(
    step: str,
    title: str,
    inputs: Mapping[str, Task],
    options: Mapping[str, Any],
    paths: Mapping[str, Any],
    code: str,
) -> Task:
    """Return a task with its key.

    Args:
        step: a file in `sweep/steps`.
        title: what it works on.
        inputs: tasks whose results it reads, by step.
        options: everything else that the result depends on; JSON.
        paths: paths of its files; JSON.
        code: release and commit of the code that does the task.
    """
    keys = {name: task.key for name, task in inputs.items()}
    parts = json.dumps([step, keys, dict(options), code], sort_keys=True, separators=(",", ":"))
    key = hashlib.sha256(parts.encode()).hexdigest()[:KEY_DIGITS]
    return Task(
        step=step, title=title, inputs=keys, options=dict(options), paths=dict(paths), code=code, key=key
    )  # fmt: skip
