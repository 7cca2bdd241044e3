"""The bundled reference: scores and profile of a BERT-base-shaped model, so that the first plan needs no model.

Recompute with `make reference`.
"""

from __future__ import annotations

import gzip
from importlib import resources
from pathlib import Path

from ..spec.scores import ScoreTable

FILE = "all-mpnet-base-v2.json.gz"


def reference_path() -> Path:
    """Return the path of the bundled scores."""
    return Path(str(resources.files(__package__) / "bundled" / FILE))


def reference_scores() -> ScoreTable:
    """Read the bundled scores."""
    return ScoreTable.model_validate_json(gzip.decompress(reference_path().read_bytes()))
