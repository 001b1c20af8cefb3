"""What all models share: embedding, position, a stack of blocks, and a last norm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from etude.errors import Checks, InvalidArguments, Problem
from etude.models.kinds import LayerKind, check_mask, check_position, kinds_of_layers
from etude.models.mup import MuP, widths
from etude.nn.attention import check_heads
from etude.nn.cache import KVCache
from etude.nn.documents import Documents
from etude.nn.mask import Mask, causal_mask, own_key
from etude.nn.parts import Part, asked
from etude.nn.position import Position
from etude.optim.widths import Widths


class Body(nn.Module):
    """Token ids to vectors, by a stack of blocks; the parts are those of `Decoder`.

    Args:
        embedding: makes vectors (B, T, D) of what is read: one shared with another body, or a layer
            that reads something else than tokens. None makes one of `vocab_size` tokens.
        cross: whether each block has a branch that reads a memory.
        head_dim: K, told to the attention and the position part; None is D / H, and not told.
        scale_embeddings: multiply them by sqrt(D) (Vaswani et al. 2017, section 3.4).
        round_embedding_scale: round that factor to float32 and to the precision of the embeddings
            before it is multiplied with, as Gemma's code does: in bfloat16 it is another number.
        embedding_norm: a norm between the embeddings and the first block (BERT).
        token_types: the number of kinds of tokens that have an embedding of their own (BERT's
            segments); 0 is none.
        recompute: keep no activations within a block for the backward pass, but compute them
            again (Chen et al. 2016, arXiv:1604.06174): less memory, a third more time.
        pattern, kinds: layers that differ, see `etude.models.kinds`; None is layers that are alike.
        mup_base_dim: the width at which muP (`etude.models.mup`) is the standard parametrisation,
            which is what None says at any width.

    Attributes:
        mup: None in the standard parametrisation.
        kinds: a kind's own position part, by the kind's name.

    Raises:
        InvalidArguments: sizes that don't fit together, and whatever a part finds wrong.
    """

    embedding: nn.Embedding | nn.Linear

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
        known = embedding is not None or vocabulary > 0
        checks.that(known, "vocab_size", vocab_size, "a positive number")
        checks.positive(layers=layers, dim=dim, max_length=max_length)
        check_heads(checks, heads, head_dim, dim)
        checks.that(token_types >= 0, "token_types", token_types, "0 or more")
        checks.probability(dropout=dropout)
        checks.done()
        kinds = kinds or {}
        kinds_here = kinds_of_layers(pattern, kinds, layers)
        self.mup = None if mup_base_dim is None else MuP(mup_base_dim, dim, heads, head_dim)
        self.max_length, self.recompute = max_length, recompute
        self.mask = mask()
        self.embedding_scale = self._root_of(dim) if scale_embeddings else None
        self.round_embedding_scale = round_embedding_scale
        self.embedding = nn.Embedding(vocabulary, dim) if embedding is None else embedding
        in_heads = {"heads": heads} if head_dim is None else {"heads": heads, "head_dim": head_dim}
        for_position = {"dim": dim, "max_length": max_length, **in_heads}
        self.position = self._new_position(position, for_position)
        self.token_types = nn.Embedding(token_types, dim) if token_types else None
        new_norm = partial(norm, dim=dim, bias=bias)
        self.embedding_norm = new_norm() if embedding_norm else None
        self.dropout = nn.Dropout(dropout)
        common = {"dim": dim, "bias": bias, "dropout": dropout}
        told = {"attention": common | in_heads | self._of_base_width(), "feedforward": common}
        usual = {"attention": attention, "feedforward": feedforward, "block": block}
        here = [_parts_of(kinds.get(name or "", LayerKind()), usual) for name in kinds_here]
        self.blocks = _new_blocks(here, told, new_norm, cross)
        self._add_kinds(kinds, kinds_here, for_position)
        self.norm = new_norm() if self.blocks[-1].final_norm else nn.Identity()

    def _root_of(self, dim: int) -> float:
        """What embeddings are scaled by; in muP not by the width, but by the base width."""
        return math.sqrt(dim if self.mup is None else self.mup.base)

    def _new_position(self, part: Part, told: dict[str, int]) -> Any:
        made = part(**told)
        made.causal = self.mask.causal
        if self.mup is not None and self.mup.ratio != 1:
            made.at_base_width(self.mup.ratio)
        return made

    def _of_base_width(self) -> dict[str, int]:
        """What an attention is told besides where muP's base width is another."""
        if self.mup is None or self.mup.ratio == 1:
            return {}
        return {"base_head_dim": self.mup.base_head_dim}

    def _add_kinds(
        self,
        kinds: Mapping[str, LayerKind],
        kinds_here: Sequence[str | None],
        for_position: dict[str, int],
    ) -> None:
        """Builds the masks and positions that kinds of layers have of their own.

        Args:
            kinds_here: the name of each layer's kind.
            for_position: what a position is told.
        """
        checks = Checks()
        self.kinds = nn.ModuleDict()
        self._masks: dict[str, Mask] = {}
        for name, kind in kinds.items():
            if name not in kinds_here:  # fewer layers than the pattern has names
                continue
            if kind.mask is not None:
                self._masks[name] = kind.mask()
                check_mask(checks, name, self._masks[name], self.mask)
            if kind.position is not None:
                own = self._new_position(kind.position, for_position)
                check_position(checks, name, own)
                self.kinds[name] = nn.ModuleDict({"position": own})
        checks.done()
        # Kinds without a mask and a position of their own see what the model's own parts let see.
        self._views = tuple(
            name if name in self._masks or (name or "") in self.kinds else None
            for name in kinds_here
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
        """Token ids (B, T), or what else the embedding reads, to vectors (B, T, D), or (B, 1, D) of
        the last position.

        Args:
            cache: what came before `tokens`; they are appended to it.
            keep: (B, S), false where a token, or one in the cache, is padding: nobody sees it.
            positions: (B, T), where tokens stand if not one after the other, as after padding; all
                below S.
            documents: the sequences are packed of them; each begins at position 0 and sees
                itself alone. Not with a cache.
            token_types: (B, T), of 0 ... ; None is all 0.
            memory: (B, M, D), what a cross-attention reads; see `KVCache` for later calls.
            memory_keep: (B, M), false where the memory is padding.
            memory_documents: the memory is packed too; each document reads the one with its number.
            last_only: only the last position.

        Raises:
            InvalidArguments: for a sequence longer than the position part can represent; documents
                with a cache, or with a mask that depends on where a text begins.
        """
        start = 0 if cache is None else cache.length
        if documents is not None:
            self._check_packed(cache)
            positions = documents.positions
        if positions is not None:
            self._reach(start + tokens.shape[1])
        x = self._embedded(tokens, start if positions is None else positions, token_types)
        contexts = self._contexts(x, start, keep, positions, documents)
        across = self._across(memory, memory_keep, cache, documents, memory_documents)
        again = self.recompute and self.training and cache is None and torch.is_grad_enabled()
        for i, block in enumerate(self.blocks):
            context = contexts[self._views[i]]
            if cache is not None:
                context["cache"] = cache.layers[i]
                if across:
                    across["cache"] = cache.across[i]
            each = context | ({"across": across} if across else {})
            x = checkpoint(block, x, use_reentrant=False, **each) if again else block(x, **each)
        return self.norm(x[:, -1:] if last_only else x)

    def _check_packed(self, cache: KVCache | None) -> None:
        checks = Checks()
        checks.that(cache is None, "documents", "a cache", "nothing kept from before")
        for mask in self.masks.values():
            kind, expected = type(mask).__name__, "a mask that is the same everywhere"
            checks.that(mask.everywhere, "documents", kind, expected)
        checks.done()

    def _reach(self, length: int) -> None:
        for part in (self.position, *self._positions.values()):
            part.reach(length)

    def _embedded(self, tokens: Tensor, at: int | Tensor, token_types: Tensor | None) -> Tensor:
        """What the first block reads, (B, T, D)."""
        x = self.embedding(tokens)
        if self.embedding_scale is not None and self.round_embedding_scale:
            scale = torch.full((), self.embedding_scale, dtype=torch.float32, device=x.device)
            x = x * scale.to(x.dtype)
        elif self.embedding_scale is not None:
            x = x * self.embedding_scale
        x = self.position.embed(x, at)
        if self.token_types is not None:
            # RoBERTa has one: of two texts, the second is told by the separator alone
            told = token_types is not None and self.token_types.num_embeddings > 1
            x = x + self.token_types(token_types if told else torch.zeros_like(tokens))
        if self.embedding_norm is not None:
            x = self.embedding_norm(x)
        y: Tensor = self.dropout(x)
        return y

    def _across(
        self,
        memory: Tensor | None,
        keep: Tensor | None,
        cache: KVCache | None,
        documents: Documents | None,
        memory_documents: Documents | None,
    ) -> dict[str, Any]:
        """What the cross-attention takes beside x; nothing where there is no memory to read. A
        cache that has read one knows its padding too.
        """
        known = cache is not None and cache.across[0].memory is not None
        if memory is None and not known:
            return {}
        if cache is not None and keep is None:
            keep = cache.memory_keep
        elif cache is not None:
            cache.memory_keep = keep
        seen = None
        if keep is not None:
            none = ~keep.any(dim=1, keepdim=True)  # a softmax needs something, be it padding
            seen = (keep | none)[:, None, None, :]
        if documents is not None and memory_documents is not None:
            own = documents.mask(memory_documents)
            seen = own | ~own.any(dim=-1, keepdim=True)  # likewise
        return {"position": self.position, "causal": False, "bias": seen, "memory": memory}

    def _contexts(
        self,
        x: Tensor,
        start: int,
        keep: Tensor | None,
        positions: Tensor | None,
        documents: Documents | None,
    ) -> dict[str | None, dict[str, Any]]:
        """What the attention takes beside x, by what its layer has of its own: made once for all
        layers with the same mask and position, and not again in each.
        """
        # Compiled blocks would be compiled again for each new list of lengths.
        compiled = self.blocks[0]._compiled_call_impl is not None
        packed = None
        common: dict[str, Any] = {} if positions is None else {"positions": positions}
        if documents is not None and not compiled and documents.apart:
            common["documents"] = documents
        elif documents is not None:
            packed = documents.mask()
        T, contexts = x.shape[1], {}
        for view, layer in self._layer_with.items():
            mask, position = self.at_layer(layer)
            causal, bias = self._scores(mask, position, T, start + T, x, keep, packed)
            contexts[view] = {"position": position, "causal": causal, "bias": bias, **common}
        return contexts

    def _scores(
        self,
        mask: Mask,
        position: Position,
        T: int,
        S: int,
        x: Tensor,
        keep: Tensor | None,
        packed: Tensor | None,
    ) -> tuple[bool, Tensor | None]:
        """Whether later keys are to be hidden, and what is added to the scores besides."""
        causal, bias = mask.causal, position.bias(T, S, like=x)
        seen = mask.seen(T, S, x.device)
        if keep is not None:
            seen = keep[:, None, None, :] if seen is None else seen & keep[:, None, None, :]
        if packed is not None:
            seen = packed if seen is None else seen & packed
        if seen is None and bias is None:
            return causal, None
        if causal and T > 1:
            later = causal_mask(T, S, x.device)
            seen = later if seen is None else seen & later
        if seen is None:
            return False, bias
        if keep is not None and seen.shape[-2] > 1:
            # A query that is padding may have nothing to see; what it computes is not used, but
            # must be a number.
            seen = seen | own_key(T, S, x.device)
        if bias is None:
            return False, torch.zeros_like(seen, dtype=x.dtype).masked_fill(~seen, -torch.inf)
        return False, bias.masked_fill(~seen, -torch.inf)

    def at_layer(self, i: int) -> tuple[Mask, Position]:
        """The mask and the position part of a layer."""
        view, mask, position = self._views[i], self.mask, self.position
        if view is not None:
            mask = self._masks.get(view, mask)
            position = self._positions.get(view, position)
        return mask, position

    @property
    def alike(self) -> bool:
        """Whether all layers have the model's own mask and position part."""
        return all(view is None for view in self._views)

    @property
    def _positions(self) -> dict[str, Any]:
        return {name: kind.get_submodule("position") for name, kind in self.kinds.items()}

    @property
    def masks(self) -> dict[str, Mask]:
        """The masks of all layers, by the argument that states each: `mask`, `kinds.local.mask`.
        They hide later keys all, or none does.
        """
        own = {"mask": self.mask} if any(v not in self._masks for v in self._views) else {}
        return own | {f"kinds.{name}.mask": mask for name, mask in self._masks.items()}

    @property
    def window(self) -> int:
        """The number of tokens that the next one may depend on when generating."""
        return self.max_length

    def new_cache(self, batch: int, length: int) -> KVCache:
        """An empty cache for `batch` sequences of up to `length` tokens.

        Raises:
            InvalidArguments: for a bidirectional model: what it computes at a position changes
                with the tokens that follow, so nothing can be kept.
        """
        for where, mask in self.masks.items():
            if not mask.cacheable:
                kind = "mask that says it is `cacheable`" if mask.causal else "causal mask"
                raise InvalidArguments(Problem(where, f"a {kind}; a cache needs one"))
        return KVCache(len(self.blocks), batch, length)

    def widths(self) -> Widths | None:
        """What the optimizer is told of muP; None in the standard parametrisation."""
        return widths(self)

    def num_parameters(self) -> int:
        """All of them, a tied embedding once."""
        return sum(parameter.numel() for parameter in self.parameters())


def _parts_of(kind: LayerKind, usual: dict[str, Part]) -> dict[str, Part]:
    """The parts of a kind's blocks: its own, or else the usual ones."""
    return {name: getattr(kind, name) or part for name, part in usual.items()}


def _new_blocks(
    layers: Sequence[dict[str, Part]], told: dict[str, dict[str, Any]], norm: Part, cross: bool
) -> nn.ModuleList:
    """A block for each layer; it and its parts are told its place if they ask for it.

    Args:
        layers: the attention, feedforward and block of each.
        told: what the first two are told.
        norm: takes no arguments.
        cross: whether there is a second attention, which reads a memory.
    """
    blocks = nn.ModuleList()
    for i, parts in enumerate(layers):
        place = {"layer": i, "layers": len(layers)}
        branches: dict[str, Part] = {"norm": norm}
        branches |= {name: partial(parts[name], **given) for name, given in told.items()}
        if cross:
            branches["cross"] = branches["attention"]
        placed = {name: partial(part, **asked(part, **place)) for name, part in branches.items()}
        blocks.append(parts["block"](**placed, **asked(parts["block"], **place)))
    return blocks
