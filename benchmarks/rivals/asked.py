"""What a rival is asked and how it answers. Runs in the rival's environment, where our package is not installed."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TARGETS = ("labels", "start_positions", "end_positions")  # as the loss of transformers' models names them


@dataclass(frozen=True)
class Asked:
    """A request.

    Attributes:
        model: model folder.
        kind: what the model answers: `classes`, `tags`, `spans` or `embeddings`.
        modules: names of the matrices whose bits are asked.
        bits: legal bits.
        code_bits: mean bits of a code over all weights of these matrices, one plan for each; ranges are not counted:
            with one per row they take the same bytes whatever the bits are.
        batches: token ids and masks by input name, with the right answers: `labels`, one per text or one per token
            with -100 where there is none, or `start_positions` and `end_positions` of spans, one per text. Embeddings
            have none.
    """

    model: str
    kind: str
    modules: tuple[str, ...]
    bits: tuple[int, ...]
    code_bits: tuple[float, ...]
    batches: tuple[dict[str, Any], ...]


def read(path: Path) -> Asked:
    """Read a request."""
    given = json.loads(path.read_text())
    return Asked(**{name: tuple(v) if isinstance(v, list) else v for name, v in given.items()})


def load(asked: Asked) -> Any:
    """The float32 model; without dropout, which AutoRound's scoring would switch on."""
    import torch
    import transformers

    torch.set_num_threads(1)
    torch.manual_seed(0)
    kind = {
        "classes": transformers.AutoModelForSequenceClassification,
        "tags": transformers.AutoModelForTokenClassification,
        "spans": transformers.AutoModelForQuestionAnswering,
        "embeddings": transformers.AutoModel,
    }[asked.kind]
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return kind.from_pretrained(asked.model, dtype=torch.float32, attn_implementation="eager", **off).eval()


def tensors(asked: Asked) -> list[dict[str, Any]]:
    """The batches as tensors, with the right answers."""
    import torch

    return [{name: torch.tensor(rows) for name, rows in batch.items()} for batch in asked.batches]


def inputs(asked: Asked) -> list[dict[str, Any]]:
    """The batches as tensors, without the right answers."""
    return [{name: rows for name, rows in batch.items() if name not in TARGETS} for batch in tensors(asked)]


def has_loss(asked: Asked) -> bool:
    """Whether the model has a loss to take gradients of: every batch has right answers."""
    return all(any(name in TARGETS for name in batch) for batch in asked.batches)


def answer(path: Path, package: str, scoring_s: float, plans: Sequence[Mapping[str, Any]]) -> None:
    """Write plans.

    Args:
        path: of the answer.
        package: the rival's name on the package index.
        scoring_s: processor time of scoring, in seconds; loading the model is not in it.
        plans: each with `way` (the rival's own name of the criterion), `code_bits` as asked, `said` (the mean bits that
            the rival says its plan has; None if it says nothing), `satisfied` (whether it says that it kept the
            limit) and `bits` by module.
    """
    found = {"package": package, "version": importlib.metadata.version(package), "scoring_s": round(scoring_s, 1)}
    path.write_text(json.dumps(found | {"plans": list(plans)}, indent=1))


def read_with_bits(path: Path) -> tuple[Asked, dict[str, int]]:
    """Read a request to round: what every rival is asked, and the bits of each matrix."""
    given = json.loads(path.read_text())
    bits = given.pop("bits_of")
    return Asked(**{name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}), bits


def write_weights(path: Path, way: str, rounding_s: float, model: Any, modules: Iterable[str]) -> None:
    """Write the rounded weights of a model, float32, with the way and the processor time of rounding in seconds."""
    from safetensors.torch import save_file

    weights = {module: model.get_submodule(module).weight.detach().float().contiguous() for module in modules}
    save_file(weights, path, {"way": way, "rounding_s": f"{rounding_s:.1f}"})


def refuse(path: Path, package: str, reason: str) -> None:
    """Write why a rival has no plan for this model."""
    found = {"package": package, "version": importlib.metadata.version(package), "refused": " ".join(reason.split())}
    path.write_text(json.dumps(found, indent=1))
