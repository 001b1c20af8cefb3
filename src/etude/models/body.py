"""Base class of all models: embedding, position module, a stack of blocks, and a final norm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from etude.activations.inspectable import Inspectable
from etude.errors import Checks, InvalidArguments, Problem
from etude.models.kinds import LayerKind, check_mask, check_position, kinds_of_layers
from etude.models.mup import MuP, widths
from etude.nn.attention import check_heads
from etude.nn.cache import KVCache
from etude.nn.documents import Documents
from etude.nn.mask import Mask, causal_mask, own_key
from etude.nn.parts import Part, accepted_arguments
from etude.nn.position import Position
from etude.nn.sites import Tap, site
from etude.optim.widths import Widths


class Body(Inspectable, nn.Module):
    """Transformer without a head: maps token ids to vectors by a stack of blocks.

    Arguments that are not listed here are those of `Decoder`. B is the batch size, T the number of
    tokens, D the width `dim`, and H the number of attention heads.

    Args:
        embedding: layer that returns vectors (B, T, D), such as an embedding shared with another
            body, or a layer whose inputs are not tokens. If None, an embedding of `vocab_size`
            tokens is created.
        cross: whether each block contains cross-attention.
        head_dim: K, the dimension of an attention head; passed to the attention and the position
            module. If None, K is D / H, and the argument is not passed.
        scale_embeddings: whether to multiply embeddings by sqrt(D) (Vaswani et al. 2017, section
            3.4).
        round_embedding_scale: whether to round sqrt(D) to float32 and then to the dtype of the
            embeddings before the multiplication, as Gemma's code does. The rounding changes the
            result in bfloat16.
        embedding_norm: whether there is a norm between the embeddings and the first block (BERT).
        token_types: number of token types with an embedding (BERT's segments); 0 disables them.
        recompute: whether to recompute the activations of each block in the backward pass (gradient
            checkpointing, Chen et al. 2016, arXiv:1604.06174). It needs less memory and a third
            more time.
        pattern, kinds: layer kinds (groups of layers with their own modules) and the pattern in
            which they repeat; see `etude.models.kinds`. None makes all layers the same.
        mup_base_dim: base width of muP (`etude.models.mup`); None uses the standard
            parametrisation.

    Attributes:
        mup: width and base width in muP; None in the standard parametrisation.
        kinds: dict from the name of each layer kind that has its own position module to a dict with
            this module as `position`.

    Raises:
        InvalidArguments: the sizes are inconsistent, or a module rejects its arguments.
    """

    embedding: nn.Embedding | nn.Linear
    tap: Tap | None = None

    def __init__(
        self,
        *,
        vocab_size: int | None,
        layers: int,
        heads: int,
        dim: int,
        max_length: int,
        attention: Part,
        position: Part,
        norm: Part,
        feedforward: Part,
        mask: Part,
        block: Part,
        dropout: float,
        bias: bool,
        embedding: nn.Embedding | nn.Linear | None = None,
        cross: bool = False,
        head_dim: int | None = None,
        scale_embeddings: bool = False,
        embedding_norm: bool = False,
        token_types: int = 0,
        recompute: bool = False,
        mup_base_dim: int | None = None,
        pattern: Sequence[str] | None = None,
        kinds: Mapping[str, LayerKind] | None = None,
        round_embedding_scale: bool = False,
    ) -> None:
        super().__init__()
        checks = Checks()
        vocabulary = vocab_size or 0
        has_size = embedding is not None or vocabulary > 0
        checks.that(has_size, "vocab_size", vocab_size, "a positive number")
        checks.positive(layers=layers, dim=dim, max_length=max_length)
        check_heads(checks, heads, head_dim, dim)
        checks.that(token_types >= 0, "token_types", token_types, "0 or more")
        checks.probability(dropout=dropout)
        checks.done()
        kinds = kinds or {}
        layer_kinds = kinds_of_layers(pattern, kinds, layers)
        self.mup = None if mup_base_dim is None else MuP(mup_base_dim, dim, heads, head_dim)
        self.max_length, self.recompute = max_length, recompute
        self.mask = mask()
        self.embedding_scale = self._embedding_scale(dim) if scale_embeddings else None
        self.round_embedding_scale = round_embedding_scale
        self.embedding = nn.Embedding(vocabulary, dim) if embedding is None else embedding
        head_sizes = (
            {"heads": heads} if head_dim is None else {"heads": heads, "head_dim": head_dim}
        )
        position_arguments = {"dim": dim, "max_length": max_length, **head_sizes}
        self.position = self._new_position(position, position_arguments)
        self.token_types = nn.Embedding(token_types, dim) if token_types else None
        new_norm = partial(norm, dim=dim, bias=bias)
        self.embedding_norm = new_norm() if embedding_norm else None
        self.dropout = nn.Dropout(dropout)
        common = {"dim": dim, "bias": bias, "dropout": dropout}
        arguments = {
            "attention": common | head_sizes | self._base_width_arguments(),
            "feedforward": common,
        }
        defaults = {"attention": attention, "feedforward": feedforward, "block": block}
        layer_parts = [
            _parts_of_kind(kinds.get(name or "", LayerKind()), defaults) for name in layer_kinds
        ]
        self.blocks = _new_blocks(layer_parts, arguments, new_norm, cross)
        self._add_kinds(kinds, layer_kinds, position_arguments)
        self.norm = new_norm() if self.blocks[-1].final_norm else nn.Identity()

    @property
    def own_sites(self) -> dict[str, str]:
        """The model's own sites; see `etude.nn.sites`. A subclass adds its output."""
        return {"embed": "B T D", "final": "B T D"}

    def _embedding_scale(self, dim: int) -> float:
        """Returns sqrt(D), the factor of the embeddings; in muP, D is the base width."""
        return math.sqrt(dim if self.mup is None else self.mup.base)

    def _new_position(self, part: Part, arguments: dict[str, int]) -> Any:
        position = part(**arguments)
        position.causal = self.mask.causal
        if self.mup is not None and self.mup.ratio != 1:
            position.at_base_width(self.mup.ratio)
        return position

    def _base_width_arguments(self) -> dict[str, int]:
        """Returns a dict of the additional constructor arguments of the attention in muP: only
        `base_head_dim`, the head dimension at the base width. It is empty without muP, and at the
        base width.
        """
        if self.mup is None or self.mup.ratio == 1:
            return {}
        return {"base_head_dim": self.mup.base_head_dim}

    def _add_kinds(
        self,
        kinds: Mapping[str, LayerKind],
        layer_kinds: Sequence[str | None],
        arguments: dict[str, int],
    ) -> None:
        """Builds the masks and position modules that layer kinds use instead of the model's.

        The position modules are stored in the attribute `kinds`, and the masks in `_masks`. Nothing
        is built for a layer kind that no layer uses.

        Args:
            kinds: layer kinds by name.
            layer_kinds: for each layer, the name of its layer kind; None without a layer kind.
            arguments: constructor arguments of a position module.
        """
        checks = Checks()
        self.kinds = nn.ModuleDict()
        self._masks: dict[str, Mask] = {}
        for name, kind in kinds.items():
            if name not in layer_kinds:  # fewer layers than the pattern has names
                continue
            if kind.mask is not None:
                self._masks[name] = kind.mask()
                check_mask(checks, name, self._masks[name], self.mask)
            if kind.position is not None:
                own = self._new_position(kind.position, arguments)
                check_position(checks, name, own)
                self.kinds[name] = nn.ModuleDict({"position": own})
        checks.done()
        # Kinds without a mask and a position module share the contexts of the model's own.
        self._views = tuple(
            name if name in self._masks or (name or "") in self.kinds else None
            for name in layer_kinds
        )
        self._layer_with = {view: i for i, view in enumerate(self._views)}

    def hidden(
        self,
        tokens: Tensor,
        cache: KVCache | None = None,
        *,
        keep: Tensor | None = None,
        positions: Tensor | None = None,
        documents: Documents | None = None,
        token_types: Tensor | None = None,
        memory: Tensor | None = None,
        memory_keep: Tensor | None = None,
        memory_documents: Documents | None = None,
        last_only: bool = False,
    ) -> Tensor:
        """Maps token ids (B, T) to vectors (B, T, D); with `last_only`, to those of the last
        position, (B, 1, D).

        Args:
            tokens: token ids, or other inputs that the embedding accepts.
            cache: keys and values of the tokens before `tokens`; those of `tokens` are appended.
            keep: (B, S), false where a token, in the cache or in `tokens`, is padding; S is the
                number of tokens in both. Padding is hidden from all queries. None means no padding.
            positions: (B, T), explicit positions of the tokens, for example if padding precedes
                them; all below S. If None, positions are counted from the number of cached tokens.
                Ignored if `documents` is set.
            documents: the documents packed in `tokens`. Each begins at position 0, and none attends
                to another. They cannot be combined with a cache.
            token_types: (B, T), token types from 0; None means type 0 for every token.
            memory: (B, M, D), the M vectors that the cross-attention attends to. With a cache, only
                the first call needs them.
            memory_keep: (B, M), false where the memory is padding; None means no padding.
            memory_documents: the documents packed in `memory`; document i of `tokens` attends to
                document i of `memory`.
            last_only: whether to compute the last position only.

        Raises:
            InvalidArguments: the sequence is longer than the position module supports; documents
                are combined with a cache, or with a mask that depends on where a text starts.
        """
        start = 0 if cache is None else cache.length
        if documents is not None:
            self._check_packed(cache)
            positions = documents.positions
        if positions is not None:
            self._reach(start + tokens.shape[1])
        x = self._embed(tokens, start if positions is None else positions, token_types)
        x = site(self, "embed", x)
        contexts = self._attention_contexts(x, start, keep, positions, documents)
        cross_context = self._cross_context(memory, memory_keep, cache, documents, memory_documents)
        recompute = self.recompute and self.training and cache is None and torch.is_grad_enabled()
        for i, block in enumerate(self.blocks):
            context = contexts[self._views[i]]
            if cache is not None:
                context["cache"] = cache.layers[i]
                if cross_context:
                    cross_context["cache"] = cache.across[i]
            arguments = context | ({"across": cross_context} if cross_context else {})
            x = (
                checkpoint(block, x, use_reentrant=False, **arguments)
                if recompute
                else block(x, **arguments)
            )
        return site(self, "final", self.norm(x[:, -1:] if last_only else x))

    def _check_packed(self, cache: KVCache | None) -> None:
        checks = Checks()
        expected = "None, because packed documents cannot be combined with a cache"
        checks.that(cache is None, "cache", type(cache).__name__, expected)
        for where, mask in self.masks.items():
            expected = "a mask that does not depend on the position at which a text starts"
            hint = "a packed document can start at any position; a mask class that supports this "
            hint += "has the attribute `everywhere = True`"
            checks.that(mask.everywhere, where, type(mask).__name__, expected, hint)
        checks.done()

    def _reach(self, length: int) -> None:
        for part in (self.position, *self._positions.values()):
            part.reach(length)

    def _embed(self, tokens: Tensor, at: int | Tensor, token_types: Tensor | None) -> Tensor:
        """Returns the input of the first block, (B, T, D).

        Args:
            tokens: token ids (B, T), or other inputs that the embedding accepts.
            at: position of the first token, or the positions (B, T).
            token_types: see `hidden`.
        """
        x = self.embedding(tokens)
        if self.embedding_scale is not None and self.round_embedding_scale:
            scale = torch.full((), self.embedding_scale, dtype=torch.float32, device=x.device)
            x = x * scale.to(x.dtype)
        elif self.embedding_scale is not None:
            x = x * self.embedding_scale
        x = self.position.embed(x, at)
        if self.token_types is not None:
            # RoBERTa has a single type: only the separator marks the second of two texts
            has_types = token_types is not None and self.token_types.num_embeddings > 1
            x = x + self.token_types(token_types if has_types else torch.zeros_like(tokens))
        if self.embedding_norm is not None:
            x = self.embedding_norm(x)
        y: Tensor = self.dropout(x)
        return y

    def _cross_context(
        self,
        memory: Tensor | None,
        keep: Tensor | None,
        cache: KVCache | None,
        documents: Documents | None,
        memory_documents: Documents | None,
    ) -> dict[str, Any]:
        """Returns the keyword arguments of the cross-attention; empty if there is no memory (the
        vectors that the cross-attention attends to).

        `keep` is the padding mask of the memory, and `documents` and `memory_documents` are the
        boundaries of documents in the text and in the memory (see `hidden`). A cache that contains
        the memory also contains its padding mask.

        The keys are `position`, `causal` (false), `bias` and `memory`. Here `bias` is a boolean
        mask, true where a key is visible, or None if all keys are; `memory` may be None if the
        cache contains it.
        """
        is_cached = cache is not None and cache.across[0].memory is not None
        if memory is None and not is_cached:
            return {}
        if cache is not None and keep is None:
            keep = cache.memory_keep
        elif cache is not None:
            cache.memory_keep = keep
        visible = None
        if keep is not None:
            all_padding = ~keep.any(dim=1, keepdim=True)  # a softmax needs at least one key
            visible = (keep | all_padding)[:, None, None, :]
        if documents is not None and memory_documents is not None:
            same_document = documents.mask(memory_documents)
            # a softmax needs at least one key
            visible = same_document | ~same_document.any(dim=-1, keepdim=True)
        return {"position": self.position, "causal": False, "bias": visible, "memory": memory}

    def _attention_contexts(
        self,
        x: Tensor,
        start: int,
        keep: Tensor | None,
        positions: Tensor | None,
        documents: Documents | None,
    ) -> dict[str | None, dict[str, Any]]:
        """Returns a dict from layer kinds to the keyword arguments of their attention. A key is the
        name of a layer kind that has its own mask or position module. The key None stands for all
        other layers.

        The keyword arguments are `position`, `causal` and `bias`. There is also `positions` if
        positions are set, and `documents` if each packed document is computed separately.

        Args:
            x: input of the first block, (B, T, D).
            start: number of tokens in the cache, which precede those of `x`.
            keep, positions, documents: see `hidden`.
        """
        # Compiled blocks would be recompiled for each new list of lengths.
        is_compiled = self.blocks[0]._compiled_call_impl is not None
        packed = None
        common: dict[str, Any] = {} if positions is None else {"positions": positions}
        if documents is not None and not is_compiled and documents.prefers_split:
            common["documents"] = documents
        elif documents is not None:
            packed = documents.mask()
        T, contexts = x.shape[1], {}
        for view, layer in self._layer_with.items():
            mask, position = self.at_layer(layer)
            causal, bias = self._score_bias(mask, position, T, start + T, x, keep, packed)
            contexts[view] = {"position": position, "causal": causal, "bias": bias, **common}
        return contexts

    def _score_bias(
        self,
        mask: Mask,
        position: Position,
        T: int,
        S: int,
        x: Tensor,
        keep: Tensor | None,
        packed: Tensor | None,
    ) -> tuple[bool, Tensor | None]:
        """Returns the arguments `causal` and `bias` of an attention module.

        `causal` says whether the attention module itself must hide later keys. `bias` is added to
        the scores (B, H, T, S), to which its shape can be broadcast; it is minus infinity where a
        key is hidden. It is None if nothing is added.

        Args:
            mask, position: mask and position module of the layer.
            T, S: number of queries, and of all positions.
            x: input of the first block, whose dtype and device `bias` gets.
            keep: see `hidden`.
            packed: (B, 1, T, S), true where query and key belong to the same document; None without
                packed documents, or if each document is computed separately.
        """
        causal, bias = mask.causal, position.bias(T, S, like=x)
        visible = mask.seen(T, S, x.device)
        if keep is not None:
            visible = (
                keep[:, None, None, :] if visible is None else visible & keep[:, None, None, :]
            )
        if packed is not None:
            visible = packed if visible is None else visible & packed
        if visible is None and bias is None:
            return causal, None
        if causal and T > 1:
            not_later = causal_mask(T, S, x.device)
            visible = not_later if visible is None else visible & not_later
        if visible is None:
            return False, bias
        if keep is not None and visible.shape[-2] > 1:
            # A padding query may have no visible key; its output is not used, but must not be NaN.
            visible = visible | own_key(T, S, x.device)
        if bias is None:
            return False, torch.zeros_like(visible, dtype=x.dtype).masked_fill(~visible, -torch.inf)
        return False, bias.masked_fill(~visible, -torch.inf)

    def at_layer(self, i: int) -> tuple[Mask, Position]:
        """Returns the mask and the position module that layer i uses."""
        view, mask, position = self._views[i], self.mask, self.position
        if view is not None:
            mask = self._masks.get(view, mask)
            position = self._positions.get(view, position)
        return mask, position

    @property
    def alike(self) -> bool:
        """Whether all layers use the model's own mask and position module."""
        return all(view is None for view in self._views)

    @property
    def _positions(self) -> dict[str, Any]:
        return {name: kind.get_submodule("position") for name, kind in self.kinds.items()}

    @property
    def masks(self) -> dict[str, Mask]:
        """Dict of the masks that the layers use. A key is the argument that sets the mask: `mask`
        for the model's own mask, `kinds.local.mask` for the mask of the layer kind `local`.

        Either all these masks hide later keys, or none does.
        """
        own = {"mask": self.mask} if any(v not in self._masks for v in self._views) else {}
        return own | {f"kinds.{name}.mask": mask for name, mask in self._masks.items()}

    @property
    def window(self) -> int:
        """Largest number of previous tokens that the next token depends on in generation."""
        return self.max_length

    def new_cache(self, batch: int, length: int) -> KVCache:
        """Returns an empty cache for `batch` sequences of up to `length` tokens.

        Raises:
            InvalidArguments: a mask is not `cacheable`. In a bidirectional model, for example, the
                output at a position depends on later tokens, so keys and values cannot be cached.
        """
        for where, mask in self.masks.items():
            if not mask.cacheable:
                kind = "mask with `cacheable = True`" if mask.causal else "causal mask"
                raise InvalidArguments(Problem(where, f"a {kind}, which a cache requires"))
        return KVCache(len(self.blocks), batch, length)

    def widths(self) -> Widths | None:
        """Returns the model's width relative to muP's base width, and how the size of each
        parameter grows with the width; from these, the optimizer scales the learning rates. Returns
        None in the standard parametrisation.
        """
        return widths(self)

    @property
    def shown_sizes(self) -> dict[str, int]:
        """The numbers of layers and heads, the width, and the vocabulary size of a model of tokens.

        They describe the model to users. A custom block without `attention.heads` has no `heads`.
        """
        rows, columns = self.embedding.weight.shape
        of_tokens = isinstance(self.embedding, nn.Embedding)
        heads = getattr(getattr(self.blocks[0], "attention", None), "heads", None)
        width = {"layers": len(self.blocks), "width": columns if of_tokens else rows}
        vocabulary = {"vocabulary": rows} if of_tokens else {"inputs": columns}
        return width | ({} if heads is None else {"heads": heads}) | vocabulary

    @property
    def part_notes(self) -> dict[str, str]:
        """Notes for users on submodules, by their names: the layer kind of each block whose mask or
        position module is not that of the model.
        """
        named = enumerate(self._views)
        return {f"blocks.{i}": f"layer kind {name}" for i, name in named if name is not None}

    def num_parameters(self) -> int:
        """Returns the number of parameters; a tied embedding counts once."""
        return sum(parameter.numel() for parameter in self.parameters())


def _parts_of_kind(kind: LayerKind, defaults: dict[str, Part]) -> dict[str, Part]:
    """Returns a dict with the same keys as `defaults`: `attention`, `feedforward` and `block`. A
    value is the factory that the layer kind sets or, if the layer kind sets none, the model's
    factory in `defaults`.
    """
    return {name: getattr(kind, name) or part for name, part in defaults.items()}


def _new_blocks(
    layers: Sequence[dict[str, Part]], arguments: dict[str, dict[str, Any]], norm: Part, cross: bool
) -> nn.ModuleList:
    """Builds and returns the blocks of a model, one for each dict in `layers`.

    Factories with a parameter `layer` receive the index of their block; those with a parameter
    `layers` receive the number of blocks.

    Args:
        layers: for each layer, a dict of the factories `attention`, `feedforward` and `block`.
        arguments: dict from `attention` and `feedforward` to the keyword arguments of this factory.
        norm: factory of a norm, without arguments.
        cross: whether the blocks contain cross-attention.
    """
    blocks = nn.ModuleList()
    for i, parts in enumerate(layers):
        index = {"layer": i, "layers": len(layers)}
        branches: dict[str, Part] = {"norm": norm}
        branches |= {name: partial(parts[name], **fixed) for name, fixed in arguments.items()}
        if cross:
            branches["cross"] = branches["attention"]
        factories = {
            name: partial(part, **accepted_arguments(part, **index))
            for name, part in branches.items()
        }
        blocks.append(parts["block"](**factories, **accepted_arguments(parts["block"], **index)))
    return blocks
