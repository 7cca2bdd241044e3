"""Find a model's matrices by what they do, not by what they are called.

One forward pass over a dummy sentence tells the order of the linear layers and which of them read the same tensor.
The encoder is the longest list of equal blocks; inside a block the three layers that share an input are query, key and
value, the next is the attention's output, then the wide and the narrow feed-forward layer.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import nn

from ..errors import InputFileError
from ..profiles import HeadSpec, Kind, MatrixSpec, ModelProfile, TableSpec
from .loading import LoadedModel


@dataclass(slots=True)
class _Call:
    """One call of a linear layer in the dummy pass; keeping the input alive keeps its identity unique."""

    module: str
    layer: nn.Linear
    input: torch.Tensor


def profile_model(loaded: LoadedModel) -> ModelProfile:
    """Read shapes and roles of a loaded encoder.

    Raises:
        InputFileError: no list of encoder blocks with linear layers is found.
    """
    model = loaded.model
    blocks = _encoder_blocks(model, loaded.name)
    calls, table_reads, num_tokens = _dummy_pass(loaded)
    matrices: list[MatrixSpec] = []
    for index, prefix in enumerate(blocks):
        inside = [call for call in calls if call.module.startswith(prefix + ".")]
        for call, kind in zip(inside, _kinds(inside), strict=True):
            rows, columns = call.layer.weight.shape
            matrices.append(MatrixSpec(module=call.module, kind=kind, block=index, rows=rows, columns=columns))
    searched = {matrix.module for matrix in matrices}
    if not searched:
        raise InputFileError(f"{loaded.name}: no linear layer was reached inside its {len(blocks)} blocks.")
    tables = _tables(model, table_reads, num_tokens)
    head = [
        HeadSpec(module=call.module, rows=call.layer.out_features, columns=call.layer.in_features)
        for call in calls
        if call.module not in searched
    ]
    priced = {f"{name}.weight" for name in searched} | {f"{table.module}.weight" for table in tables}
    other = sum(p.numel() for name, p in model.named_parameters() if name not in priced)
    return ModelProfile(
        name=loaded.name,
        architecture=type(model).__name__,
        sha256=loaded.sha256,
        num_blocks=len(blocks),
        hidden=model.config.hidden_size,
        heads=model.config.num_attention_heads,
        matrices=tuple(matrices),
        tables=tuple(tables),
        head=tuple(head),
        other_elements=other,
    )


def _encoder_blocks(model: nn.Module, name: str) -> list[str]:
    """Names of the blocks in the module list that holds most linear weights."""
    best: tuple[int, list[str]] = (0, [])
    for list_name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList):
            continue
        weight = sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear))
        if weight > best[0]:
            best = (weight, [f"{list_name}.{index}" for index in range(len(module))])
    if not best[1]:
        raise InputFileError(f"{name}: no list of encoder blocks with linear layers found in {type(model).__name__}.")
    return best[1]


def _dummy_pass(loaded: LoadedModel) -> tuple[list[_Call], Counter[str], int]:
    calls: list[_Call] = []
    reads: Counter[str] = Counter()
    handles = []
    for name, module in loaded.model.named_modules():
        if isinstance(module, nn.Linear):
            handles.append(
                module.register_forward_hook(
                    lambda layer, args, _out, name=name: calls.append(_Call(name, layer, args[0]))
                )
            )
        elif isinstance(module, nn.Embedding):
            handles.append(
                module.register_forward_hook(
                    lambda _layer, args, _out, name=name: reads.update({name: args[0].numel()})
                )
            )
    encoded = loaded.tokenizer("turn the light on", return_tensors="pt")
    try:
        with torch.no_grad():
            loaded.model(**encoded)
    finally:
        for handle in handles:
            handle.remove()
    return calls, reads, encoded["input_ids"].numel()


def _kinds(calls: list[_Call]) -> list[Kind]:
    """Roles of one block's linear layers in order of execution; `linear` for what is no plain transformer block."""
    shared = Counter(id(call.input) for call in calls)
    if len(calls) == 6 and shared[id(calls[0].input)] == 3 and all(calls[i].input is calls[0].input for i in range(3)):
        names = _attention_inputs([call.module for call in calls[:3]])
        return [*names, "attention_output", "intermediate", "output"]
    return ["linear"] * len(calls)


def _attention_inputs(modules: list[str]) -> list[Kind]:
    """Query, key and value do the same work; which is which is only a name: q…, k…, v… if so called."""
    by_letter: dict[str, Kind] = {"q": "query", "k": "key", "v": "value"}
    letters = [module.rsplit(".", 1)[-1][0] for module in modules]
    if sorted(letters) == ["k", "q", "v"]:
        return [by_letter[letter] for letter in letters]
    return ["query", "key", "value"]


def _tables(model: nn.Module, reads: Counter[str], num_tokens: int) -> list[TableSpec]:
    tables, seen = [], set()
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and id(module.weight) not in seen:
            seen.add(id(module.weight))
            rows, columns = module.weight.shape
            # relative positions are read once per pair of tokens, which is no row gather
            per_token = reads[name] / num_tokens
            tables.append(
                TableSpec(module=name, rows=rows, columns=columns, reads_per_token=per_token if per_token <= 1 else 0.0)
            )
    return tables
