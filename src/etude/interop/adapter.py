"""Merging of a `peft` adapter into the weights of a released model.

If a tensor of the adapter cannot be merged, an error is raised. The low-rank update of a matrix of
shape (out, in) is the product B A of two smaller matrices: A of shape (rank, in) and B of shape
(out, rank).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from etude.errors import Problem, RequestError, nearest
from etude.interop.adapter_config import ALL_LINEAR, NAME, AdapterConfig
from etude.interop.family import Family
from etude.interop.peft import PREFIX, WEIGHTS
from etude.interop.pretrained import LoadedModel
from etude.interop.rules import Piece
from etude.interop.tensor_slices import TensorSlice, tensor_slices
from etude.interop.tensors import SafeTensors
from etude.models.decoder import Decoder
from etude.models.encoder_decoder import EncoderDecoder

PART_SUFFIXES = {
    ".lora_A.weight": "a",
    ".lora_B.weight": "b",
    ".lora_embedding_A": "embedding_a",
    ".lora_embedding_B": "embedding_b",
    ".lora_magnitude_vector": "size",
}
"""Short names of an adapter's tensors, by the suffix of each tensor's name in the file."""
MAX_PROBLEMS = 5


@dataclass
class LowRankChange:
    """An adapter's low-rank update of one module of the released model.

    Attributes:
        parts: dict of the adapter's tensors for the module. The keys are `a` and `b` (the matrices
            A and B of a linear layer), `embedding_a` and `embedding_b` (those of an embedding), and
            `size` (DoRA's magnitudes).
    """

    parts: dict[str, Tensor] = field(default_factory=dict)

    @property
    def embedding(self) -> bool:
        """Whether the module is an embedding, whose update is the transpose of the product B A of
        the adapter's two matrices.
        """
        return "embedding_a" in self.parts

    def product(self) -> Tensor:
        """Returns the update as a matrix, not yet multiplied by the scale.

        The shape is (out, in) for a linear layer, and (vocabulary, width) for an embedding.
        """
        if self.embedding:
            return (self.parts["embedding_b"] @ self.parts["embedding_a"]).mT
        return self.parts["b"] @ self.parts["a"]

    def shapes(self, known: _AdaptableTensor, rank: int, dora: bool) -> dict[str, tuple[int, ...]]:
        """Returns the shapes that the tensors in `parts` must have, as a dict with the same keys,
        such as `a`.

        Args:
            known: the released tensor that is updated.
            rank: the rank of the update.
            dora: whether the adapter uses DoRA, which adds a magnitude for each row.
        """
        rows, inputs = len(known.slice_.rows), known.slice_.parameter.shape[-1]
        if not known.is_linear:
            return {"embedding_a": (rank, rows), "embedding_b": (inputs, rank)}
        size = {"size": (rows,)} if dora else {}
        return {"a": (rank, inputs), "b": (rows, rank), **size}


def merge_adapter(loaded: LoadedModel, folder: Path) -> None:
    """Merges the `peft` adapter in `folder` into the weights of a released model, in place.

    In float32, the logits of the merged model equal those of the model with the adapter in `peft`,
    up to a relative error of about 1e-6.

    If a decoder's output projection is its embedding, and the adapter changes one of the two, the
    decoder gets a separate output projection.

    Raises:
        RequestError: a config field or a tensor is unsupported, or a tensor is missing or has the
            wrong shape, or the adapter changes an embedding that several modules of an
            encoder-decoder, or of an encoder with a head over the vocabulary, share. The model is
            unchanged in these cases.
    """
    config = AdapterConfig.of(folder)
    file = folder / WEIGHTS
    if not file.is_file():
        pickled = (folder / "adapter_model.bin").is_file()
        hint = (
            "adapter_model.bin is not supported: load it with peft and save it as safetensors"
            if pickled
            else "no such file"
        )
        raise RequestError(Problem(str(file), "a file with an adapter's weights", hint=hint))
    tensors = SafeTensors(file, [file])
    names = {name.removeprefix(PREFIX): name for name in tensors.names()}
    untied = _needs_untying(loaded, names, tensors)
    if untied:
        loaded.module.head = _untied_projection(loaded.module)
    known = _adaptable_tensors(loaded)
    changes, whole, problems = _read_changes(loaded, config, known, names, tensors)
    problems += _check_changes(config, known, changes, str(file))
    problems += _check_whole_tensors(config, known, changes, whole, str(file))
    if problems:
        if untied:
            loaded.module.head = None
        more = len(problems) - MAX_PROBLEMS
        last = [Problem(str(file), "an adapter for this model", hint=f"further problems: {more}")]
        raise RequestError(problems[:MAX_PROBLEMS] + (last if more > 0 else []))
    with torch.no_grad():
        for name, tensor in whole.items():
            view = known[name].slice_.piece.view
            view.copy_(tensor.view(view.shape))
        for name, change in changes.items():
            _apply_change(known[f"{name}.weight"].slice_, change, config.scale(name))


def _apply_change(slice_: TensorSlice, change: LowRankChange, scale: float) -> None:
    """Adds a low-rank update to the rows `slice_` of a parameter, in place.

    The update is s B A, where s is `scale`, and A and B are the matrices of `change`. The sum is
    computed in float32, or in the parameter's dtype if it is more precise. With DoRA, each row is
    then scaled to its learned magnitude.
    """
    rows = slice_.rows
    exact = torch.promote_types(slice_.parameter.dtype, torch.float32)
    parts = {key: x.to(rows.device, exact) for key, x in change.parts.items()}
    weight = slice_.parameter[rows].to(exact) + scale * LowRankChange(parts).product()
    if "size" in parts:
        weight *= (parts["size"] / weight.norm(dim=1))[:, None]
    slice_.parameter[rows] = weight.to(slice_.parameter.dtype)


@dataclass(frozen=True)
class _AdaptableTensor:
    """A tensor of the released model that an adapter may update.

    Attributes:
        slice_: the rows of an Étude parameter that contain the tensor.
        is_linear: whether the tensor belongs to a linear layer; false for embeddings.
    """

    slice_: TensorSlice
    is_linear: bool


def _adaptable_tensors(loaded: LoadedModel) -> dict[str, _AdaptableTensor]:
    """Returns all tensors of a released model, as a dict from their names in `transformers` to
    `_AdaptableTensor` objects.

    Tensors that the Étude module does not use are included.
    """
    owners = dict(loaded.module.named_modules())
    tensors = {
        name: _AdaptableTensor(
            slice_, isinstance(owners[slice_.name.rpartition(".")[0]], nn.Linear)
        )
        for name, slice_ in tensor_slices(loaded.module, loaded.family, loaded.architecture).items()
    }
    for name, tensor in loaded.rest.items():
        piece = Piece(name, tuple(tensor.shape), tensor)
        tensors[name] = _AdaptableTensor(
            TensorSlice(name, tensor, piece, torch.arange(len(tensor))), tensor.ndim == 2
        )
    return tensors


def _read_changes(
    loaded: LoadedModel,
    config: AdapterConfig,
    known: Mapping[str, _AdaptableTensor],
    names: Mapping[str, str],
    tensors: SafeTensors,
) -> tuple[dict[str, LowRankChange], dict[str, Tensor], list[Problem]]:
    """Reads all tensors of an adapter, and assigns them to modules or tensors of the released
    model.

    Args:
        config: the adapter's config.
        known: the released model's tensors, by their names in `transformers`.
        names: dict from each adapter tensor's name, without the prefix of `peft`, to its name in
            the file.
        tensors: reader of the adapter's tensors.

    Returns:
        A dict of the low-rank updates by module name, a dict of the full tensors (which replace
        released tensors) by tensor name, and a list of problems: one for each tensor of the adapter
        that is not floating-point, that the config does not allow, or that belongs to no module to
        which Étude can apply LoRA.
    """
    changes: dict[str, LowRankChange] = {}
    whole: dict[str, Tensor] = {}
    problems = []
    for short, name in names.items():
        where = f"{tensors.where}, {name}"
        end = next((end for end in PART_SUFFIXES if short.endswith(end)), None)
        module = _current_name(loaded.family, short.removesuffix(end or ""), is_module=bool(end))
        tensor = tensors.read(name)
        if not tensor.is_floating_point():
            problems.append(Problem(where, "a floating-point tensor", str(tensor.dtype)))
        elif end is not None and f"{module}.weight" in known:
            changes.setdefault(module, LowRankChange()).parts[PART_SUFFIXES[end]] = tensor
        elif end is None and module in known:
            whole[module] = tensor
            if not _is_declared(config, short):
                expected = (
                    "no tensor that replaces a weight, since bias and modules_to_save in "
                    f"{NAME} do not include it"
                )
                problems.append(Problem(where, expected))
        elif not _is_copy(loaded, module, tensor, names, tensors):
            expected = (
                f"a LoRA update for a module of {loaded.architecture} to which Étude can apply LoRA"
            )
            modules = [each.removesuffix(".weight") for each in known]
            problems.append(Problem(where, expected, hint=nearest(module, modules)))
    return changes, whole, problems


def _current_name(family: Family, name: str, *, is_module: bool) -> str:
    """Returns the name that `transformers` now uses for a module or a tensor of an adapter.

    Args:
        family: the family of the released model.
        name: the name in the adapter, without the prefix of `peft`.
        is_module: whether `name` is the name of a module; otherwise, it is that of a tensor.
    """
    name = name.replace(".base_layer.", ".")
    current = f"{name}.weight" if is_module else name
    for pattern, new in family.renamed.items():
        current = re.sub(f"^{pattern}$", new, current)
    return current.removesuffix(".weight") if is_module else current


def _is_declared(config: AdapterConfig, name: str) -> bool:
    """Returns whether an adapter with this config may contain the full tensor `name`.

    A full tensor replaces a released tensor instead of updating it. A bias is allowed unless the
    field `bias` is `none`. The tensors of the modules in `modules_to_save` are allowed, too, as are
    the frozen matrices that `peft` saves next to a low-rank update.

    Args:
        config: the adapter's config.
        name: the tensor's name in the adapter, without the prefix of `peft`.
    """
    if "bias" in name and config.values.get("bias", "none") != "none":
        return True
    # `peft` also saves the frozen matrix of an embedding or a projection that it updates.
    return config.replaces(name.rpartition(".")[0]) or name.endswith(".base_layer.weight")


def _is_copy(
    loaded: LoadedModel, name: str, tensor: Tensor, names: Mapping[str, str], tensors: SafeTensors
) -> bool:
    """Returns whether a tensor of an adapter is only a copy of another tensor.

    This is the case for the weight of the output projection if it equals the embedding, and for the
    bias of the output projection if it equals the head's bias. Such a tensor can be ignored.

    Args:
        name: the tensor's name in `transformers`.
        tensor: the tensor's values.
        names, tensors: see `_read_changes`.
    """
    output = loaded.family.output.removesuffix(".weight")
    if name == f"{output}.weight":
        return _equals_embedding(loaded, tensor)
    if name == f"{output}.bias":
        first = names.get(f"{output.rpartition('.')[0]}.bias")
        return first is not None and torch.equal(tensors.read(first), tensor)
    return False


def _equals_embedding(loaded: LoadedModel, tensor: Tensor) -> bool:
    ours: Tensor = loaded.module.embedding.weight
    return tensor.shape == ours.shape and torch.equal(tensor.to(ours), ours)


def _check_changes(
    config: AdapterConfig,
    known: Mapping[str, _AdaptableTensor],
    changes: Mapping[str, LowRankChange],
    where: str,
) -> list[Problem]:
    """Returns a problem for each low-rank update that is missing, unexpected, or of a wrong shape.

    Each module that the config targets (see `AdapterConfig.targets`) must have an update, and no
    other module may have one. If the config's `target_modules` is `all-linear`, the update of any
    module may be missing.

    Args:
        config: the adapter's config.
        known: the released model's tensors, by their names in `transformers`.
        changes: the low-rank updates by module name.
        where: the adapter's file, for messages.
    """
    problems = []
    all_linear = str(config.values["target_modules"]).lower() == ALL_LINEAR
    for name, tensor in known.items():
        module, _, kind = name.rpartition(".")
        if kind != "weight":
            continue
        change, is_matrix = changes.get(module), len(tensor.slice_.piece.shape) == 2
        wanted = is_matrix and config.targets(module, is_linear=tensor.is_linear)
        if change is None:
            if wanted and not all_linear:
                expected = (
                    f"the LoRA tensors (A and B) of this module, since target_modules in {NAME} "
                )
                expected += "names it"
                problems.append(Problem(f"{where}, {module}", expected))
            continue
        if not wanted:
            expected = f"no LoRA tensors, since target_modules in {NAME} does not name this module"
            problems.append(Problem(f"{where}, {module}", expected))
            continue
        if change.embedding and config.dora:
            expected = "false, since DoRA of an embedding is not supported"
            problems.append(Problem(f"{config.where}, use_dora", expected, True))
        shapes = change.shapes(tensor, config.rank(module), config.dora)
        for key in sorted(shapes.keys() | change.parts.keys()):
            part, shape = change.parts.get(key), shapes.get(key)
            if part is None or part.shape != shape:
                end = next(end for end, each in PART_SUFFIXES.items() if each == key)
                expected = f"no such tensor, given the settings of this module in {NAME}"
                if shape is not None:
                    expected = f"a tensor of shape {_shape_text(shape)}"
                actual = None if part is None else _shape_text(part.shape)
                problems.append(Problem(f"{where}, {module}{end}", expected, actual))
    return problems


def _check_whole_tensors(
    config: AdapterConfig,
    known: Mapping[str, _AdaptableTensor],
    changes: Mapping[str, LowRankChange],
    whole: Mapping[str, Tensor],
    where: str,
) -> list[Problem]:
    """Returns a problem for each full tensor that is missing, unexpected, or of a wrong shape.

    A full tensor replaces a released tensor instead of updating it.

    `bias` and `modules_to_save` in the config determine which full tensors the adapter contains.

    Args:
        config: the adapter's config.
        known: the released model's tensors, by their names in `transformers`.
        changes: the low-rank updates by module name. If `bias` is `lora_only`, their modules need a
            full bias. If it is `none`, full tensors are allowed only in these modules and in those
            of `modules_to_save`.
        whole: the full tensors by tensor name.
        where: the adapter's file, for messages.
    """
    problems = []
    biases = config.values.get("bias", "none")
    for name, tensor in known.items():
        module, _, kind = name.rpartition(".")
        stated = biases == "all" or (biases == "lora_only" and module in changes)
        needed = config.replaces(module) or (kind == "bias" and stated)
        shape, full = tensor.slice_.piece.shape, whole.get(name)
        if (full is None and needed) or (full is not None and full.shape != shape):
            actual = None if full is None else _shape_text(full.shape)
            expected = f"a tensor of shape {_shape_text(shape)}"
            problems.append(Problem(f"{where}, {name}", expected, actual))
        if full is not None and not (needed or module in changes or biases != "none"):
            expected = "no such tensor, since the adapter has no low-rank update of this module"
            problems.append(Problem(f"{where}, {name}", expected))
    return problems


def _needs_untying(loaded: LoadedModel, names: Mapping[str, str], tensors: SafeTensors) -> bool:
    """Returns whether embedding and output projection need separate matrices after a merge.

    Separate matrices are needed if the model shares one matrix between the two modules, and the
    adapter changes at least one of the modules. A full tensor that equals the shared matrix is no
    change. For the arguments `names` and `tensors`, see `_read_changes`.

    Raises:
        RequestError: the family cannot have separate matrices for these two modules.
    """
    module, family = loaded.module, loaded.family
    bare = family.prefix if loaded.architecture in family.bodies else ""
    embedding = family.embedding.removeprefix(bare).removesuffix(".weight")
    output = family.output.removesuffix(".weight")
    for short, name in names.items():
        end = next((end for end in PART_SUFFIXES if short.endswith(end)), "")
        current = _current_name(family, short.removesuffix(end), is_module=bool(end))
        current = current if end else current.removesuffix(".weight")
        if current not in (embedding, output):
            continue
        if not end and _equals_embedding(loaded, tensors.read(name)):
            continue
        if isinstance(module, Decoder):
            return module.head is None
        gives = getattr(getattr(module, "head", None), "gives", None)
        if isinstance(module, EncoderDecoder) or gives == "vocabulary":
            expected = "no tensor that updates the embedding"
            hint = f"Étude shares the embedding of {family.model_type} between several modules"
            hint += ", so the update cannot be merged"
            raise RequestError(Problem(f"{tensors.where}, {name}", expected, hint=hint))
    return False


def _untied_projection(module: Any) -> nn.Linear:
    """Returns a new output projection whose weight is a copy of the weight of the embedding.

    `module` is the model with the embedding.
    """
    weight = module.embedding.weight
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad)
    return layer


def _shape_text(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape)) or "one value"
