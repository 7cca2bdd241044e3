"""Find a model's matrices and their roles by data flow, not by name.

One forward pass over a dummy sentence (`tracing`) shows which linear layers feed which. The encoder is the list of
modules that contains most linear weights. Inside a block, the attention output is the layer whose input was weighted by
a softmax; query and key feed that softmax, and the value is what it weights. A layer fed by one other layer only, or by
two layers with the same input (gated), is the feed-forward output, and those others are its intermediate layers.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ..errors import InputFileError
from ..spec.profiles import HeadSpec, Kind, MatrixSpec, ModelProfile, TableSpec
from .head_counts import head_counts
from .layers import TransposedLinear, has_own_lookup, largest_module_list, matrix_of, width_made, width_read
from .loading import LoadedModel
from .tiers import tier_of
from .tracing import LinearCall, Trace, trace
from .windows import context_limit, layer_windows, position_limit


def profile_model(loaded: LoadedModel) -> ModelProfile:
    """Return the shapes and roles of a loaded encoder's matrices; every parameter is counted exactly once.

    Args:
        loaded: the model; it is run on one short sample.

    Raises:
        InputFileError: no list of encoder blocks with linear layers is found.
    """
    model = loaded.model
    blocks = _encoder_blocks(model, loaded.name)
    example = loaded.example()
    traced = trace(model, lambda: loaded.head.read(model, example))
    num_tokens = int(example.mask.sum())
    matrices = _matrices(traced.calls, blocks, num_tokens)
    if not matrices:
        raise InputFileError(f"{loaded.name}: no linear layer was reached inside its {len(blocks)} blocks.")
    tables = _tables(model, traced, num_tokens)
    searched = {id(model.get_submodule(m.module).weight) for m in matrices}
    owners = {id(model.get_submodule(t.module).weight): t.module for t in tables}
    rest = [p for p in model.parameters() if id(p) not in searched | set(owners)]
    read = [call for call in traced.calls if id(call.layer.weight) in traced.read_weights]
    config = getattr(model, "config", None)
    causal = loaded.head.kind == "next_tokens"
    if causal:
        _check_decoder(model, loaded.name, blocks, matrices)
    heads = getattr(config, "num_attention_heads", 0) or traced.heads or 1
    return ModelProfile(
        name=loaded.name,
        architecture=type(model).__name__,
        sha256=loaded.sha256,
        num_blocks=len(blocks),
        hidden=getattr(config, "hidden_size", 0) or traced.block_outputs.get(blocks[0], 0) or matrices[0].columns,
        heads=heads,
        key_value_heads=_key_value_heads(matrices, heads, getattr(config, "num_key_value_heads", None)),
        block_heads=head_counts(config),
        causal=causal,
        matrices=matrices,
        tables=tables,
        head=_head(read, searched, owners, blocks, num_tokens),
        other_elements=sum(p.numel() for p in rest),
        unread_elements=sum(p.numel() for p in rest if id(p) not in traced.read_weights),
        position_limit=position_limit(config, causal=causal),
        context_limit=context_limit(config) if causal else None,
        windows=layer_windows(config, len(blocks)) if causal else (),
    )


def _key_value_heads(matrices: Sequence[MatrixSpec], heads: int, stated: int | None) -> int | None:
    """Return the number of key and value heads, which are as wide as query heads; None if there are as many of them.

    If one fused matrix makes queries, keys and values, its shape does not tell, and the config's number is used.
    """
    rows = {kind: next((m.rows for m in matrices if m.kind == kind), 0) for kind in ("query", "key")}
    if not rows["query"]:
        fused = any(m.kind == "query_key_value" for m in matrices)
        return stated if fused and stated is not None and stated < heads else None
    if not 0 < rows["key"] < rows["query"] or heads * rows["key"] % rows["query"]:
        return None
    return heads * rows["key"] // rows["query"]


def _check_decoder(model: nn.Module, name: str, blocks: Sequence[str], matrices: Sequence[MatrixSpec]) -> None:
    """Refuse a decoder that has a block without attention, or weights that do not belong to a supported layer.

    Raises:
        InputFileError: names the block or the weight.
    """
    read = {id(model.get_submodule(m.module).weight) for m in matrices}
    own = next((n for n, m in model.named_modules() if isinstance(m, nn.Embedding) and has_own_lookup(m)), None)
    if own is not None:
        raise InputFileError(
            f"{name}: {own} of {type(model).__name__} is not a plain embedding table; such decoders are not supported."
        )
    for number, prefix in enumerate(blocks):
        block = model.get_submodule(prefix)
        if not any(m.block == number and m.kind == "attention_output" for m in matrices):
            raise InputFileError(
                f"{name}: {prefix} of {type(model).__name__} has no attention that is recognized; only decoders with "
                "attention in every layer are supported."
            )
        for inner, weight in block.named_parameters():
            if weight.dim() > 1 and id(weight) not in read:
                raise InputFileError(
                    f"{name}: {prefix}.{inner} of {type(model).__name__} is not the weight of a linear layer; such "
                    "decoders are not supported."
                )


def _encoder_blocks(model: nn.Module, name: str) -> list[str]:
    blocks = largest_module_list(model)
    if not blocks:
        raise InputFileError(f"{name}: no list of encoder blocks with linear layers found in {type(model).__name__}.")
    return blocks


def _matrices(calls: Sequence[LinearCall], blocks: Sequence[str], num_tokens: int) -> tuple[MatrixSpec, ...]:
    """Return the weights of linear layers inside the blocks, shared weights only once."""
    matrices: list[MatrixSpec] = []
    seen: set[int] = set()
    for index, prefix in enumerate(blocks):
        inside = [call for call in calls if call.module == prefix or call.module.startswith(prefix + ".")]
        kinds = block_kinds(inside)
        for module, kind in kinds.items():
            layer = next(call.layer for call in inside if call.module == module)
            weight = layer.weight
            if id(weight) in seen:
                continue
            seen.add(id(weight))
            positions = [call.positions for call in calls if call.layer.weight is weight]
            rows, columns = matrix_of(layer).shape
            matrices.append(
                MatrixSpec(
                    module=module,
                    kind=kind,
                    block=index,
                    rows=rows,
                    columns=columns,
                    uses=sum(p == num_tokens for p in positions),
                    fixed_positions=sum(p for p in positions if p != num_tokens),
                    transposed=isinstance(layer, TransposedLinear),
                )
            )
    return tuple(matrices)


def block_kinds(calls: Sequence[LinearCall]) -> dict[str, Kind]:
    """Return the role of each linear layer of a block, by module in order of execution; `linear` if it is unknown.

    Args:
        calls: of the block's linear layers.
    """
    first: dict[str, LinearCall] = {}
    for call in calls:
        first.setdefault(call.module, call)
    kinds: dict[str, Kind] = {}
    for call in first.values():
        if call.scores and call.module not in kinds:
            for module, kind in _attention(call, first).items():
                kinds.setdefault(module, kind)
    for call in first.values():
        feeding = [first[module] for module in call.reads if module in first]
        if call.module in kinds or len(feeding) != len(call.reads) or not feeding:
            continue
        widths = {width_made(before.layer) for before in feeding}
        read = width_read(call.layer)
        same_input = len({before.input_id for before in feeding}) == 1
        free = all(kinds.get(before.module, "intermediate") == "intermediate" for before in feeding)
        if free and same_input and widths <= {read, 2 * read}:
            kinds.update(dict.fromkeys((before.module for before in feeding), "intermediate"))
            kinds[call.module] = "output"
    return {module: kinds.get(module, "linear") for module in first}


def _attention(output: LinearCall, calls: dict[str, LinearCall]) -> dict[str, Kind]:
    """Return the roles of the layers of one attention: output, query, key and value."""
    kinds: dict[str, Kind] = {output.module: "attention_output"}
    scores = [module for module in calls if module in output.scores]
    values = [module for module in calls if module in output.reads]
    kinds |= {module: "query_key_value" if module in output.scores else "value" for module in values}
    tokens = max((calls[module].positions for module in (*values, *scores)), default=0)
    if values:
        tokens = calls[values[0]].positions
    rest = [module for module in scores if module not in values]
    kinds |= {module: "position" for module in rest if calls[module].positions != tokens}
    pair = [module for module in rest if calls[module].positions == tokens]
    if len(pair) == 2:
        kinds |= dict(zip(pair, _query_and_key(pair), strict=True))
    return kinds


def _query_and_key(modules: list[str]) -> list[Kind]:
    """Return which layer is the query and which the key; they are symmetric, so only their names can tell."""
    letters = [module.rsplit(".", 1)[-1][0].lower() for module in modules]
    return ["key", "query"] if letters == ["k", "q"] else ["query", "key"]


def _tables(model: nn.Module, traced: Trace, num_tokens: int) -> tuple[TableSpec, ...]:
    tables, seen = [], set()
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and id(module.weight) not in seen:
            seen.add(id(module.weight))
            rows, columns = module.weight.shape
            # tables of relative positions are read per pair of tokens, not once per token
            per_token = traced.table_reads.get(name, 0) / num_tokens
            tables.append(
                TableSpec(
                    module=name,
                    rows=rows,
                    columns=columns,
                    reads_per_token=per_token if per_token <= 1 else 0.0,
                    tier_of=tier_of(model, name),
                )
            )
    return tuple(tables)


def _head(
    calls: Sequence[LinearCall], searched: set[int], owners: dict[int, str], blocks: Sequence[str], num_tokens: int
) -> tuple[HeadSpec, ...]:
    """Return the linear layers outside the encoder in order of execution, each once."""
    prefixes = tuple(prefix + "." for prefix in blocks)
    heads: dict[str, HeadSpec] = {}
    before = True
    for call in calls:
        before &= not call.module.startswith(prefixes)
        if id(call.layer.weight) in searched or call.module in heads:
            continue
        heads[call.module] = HeadSpec(
            module=call.module,
            rows=width_made(call.layer),
            columns=matrix_of(call.layer).shape[1],
            per_token=call.positions >= num_tokens > 1,
            before_blocks=before,
            tied_to=owners.get(id(call.layer.weight), ""),
        )
    return tuple(heads.values())
