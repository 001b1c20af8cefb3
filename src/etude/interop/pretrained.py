"""Loading of Hugging Face weights into Étude modules, and saving in the same format."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from etude.errors import Problem, RequestError
from etude.interop.family import Family, Model, matches
from etude.interop.family_registry import FAMILIES, family_of
from etude.interop.hf_config import NAME, HFConfig
from etude.interop.rules import Piece
from etude.interop.sentence_modules import split_mean_head
from etude.interop.structure import module_structure, structure_differences
from etude.interop.tensors import INDEX, SAFETENSORS, Tensors, open_tensors

SHARD = 5 * 10**9
"""Maximum size of a saved file in bytes, as in `transformers`."""
DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
"""Supported dtypes of weights, by name."""
DEPTHS = (
    "num_hidden_layers", "n_layer", "num_layers", "num_decoder_layers", "encoder_layers",
    "decoder_layers",
)  # fmt: skip
"""Config fields that contain a number of layers, for all families."""
SHARED = "Étude has one tensor for these two names"
MAX_LISTED = 5
"""Maximum number of mismatches in a message."""

log = logging.getLogger("etude.interop")


@dataclass(frozen=True)
class LoadedModel:
    """A released model, loaded into an Étude module.

    Attributes:
        module: the Étude module, in evaluation mode.
        family: the family that converts the tensor names and the config.
        architecture: the class of `transformers` that the weights were read as.
        config: the fields of `config.json`.
        folder: the folder of the weights; for a single file, the folder that contains it.
        arguments: the constructor arguments of the module's class.
        rest: tensors of the checkpoint that the module does not use, by name, such as BERT's
            pooler. `save_weights` needs them to write a complete checkpoint.
    """

    module: Model
    family: Family
    architecture: str
    config: dict[str, Any]
    folder: Path
    arguments: dict[str, Any]
    rest: dict[str, Tensor] = field(default_factory=dict)


def load_weights(
    folder: Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    architecture: str | None = None,
) -> LoadedModel:
    """Loads a Hugging Face model folder, or one weights file with `config.json` next to it.

    No code from the files is run, and `transformers` is not needed. Each tensor is read directly
    into its parameter, so the peak memory is that of the model plus one tensor.

    Args:
        folder: the folder or the weights file.
        dtype: the dtype of all parameters; if None, that of the token embedding in the file.
        device: the device of the parameters.
        architecture: the class of `transformers` to read the weights as; if None, the first class
            in the config.

    Raises:
        RequestError: the config has an unsupported family, class or field; tensors are missing or
            unexpected, or have the wrong shape; a file is damaged.
    """
    folder = Path(folder)
    config = HFConfig.of(folder.parent if folder.is_file() else folder)
    with open_tensors(folder) as tensors:
        return load_tensors(tensors, config, dtype=dtype, device=device, architecture=architecture)


def load_tensors(
    tensors: Tensors,
    config: HFConfig,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    architecture: str | None = None,
) -> LoadedModel:
    """Loads a model from an open reader of tensors and a parsed `config.json`.

    The other arguments, the result and the errors are those of `load_weights`.
    """
    family = family_of(config)
    kind = family.architecture(config, architecture)
    _check_depth(config, tensors)
    file_names = _file_names_by_current_name(family, tensors)
    same = None
    if family.output in file_names and family.embedding in file_names:
        same = _tensors_equal(tensors, file_names[family.output], file_names[family.embedding])
    family.adjust_config(config, same)
    module = family.build(config, kind)
    pieces = dict(family.pieces(module, kind))
    rest = _check_tensors(family, config, tensors, file_names, pieces, same)
    unused = {name: tensors.read(name).clone() for name in rest}
    if unused:
        log.info("tensors not used by %s: %s", type(module).__name__, _join_names(rest))
    _fill_parameters(family, module, kind, tensors, file_names, dtype, torch.device(device))
    where = tensors.where if tensors.where.is_dir() else tensors.where.parent
    arguments = family.arguments(config, kind)
    return LoadedModel(module.eval(), family, kind, config.values, where, arguments, unused)


def _check_depth(config: HFConfig, tensors: Tensors) -> None:
    """Checks that the config has no more layers than the file has tensors.

    This check comes before the layers are built, since a wrong number could need too much memory.

    Raises:
        RequestError: the config has more layers.
    """
    most = len(tensors.names())
    problems = [
        Problem(
            f"{config.where}, {field}", f"at most {most}, the number of tensors in the file", layers
        )
        for field in DEPTHS
        if isinstance(layers := config.values.get(field), int) and layers > most
    ]
    if problems:
        raise RequestError(problems)


def _file_names_by_current_name(family: Family, tensors: Tensors) -> dict[str, str]:
    """Returns a dict from each tensor's current name in `transformers` to its name in the file.

    The names can differ because older versions of `transformers` used other names, or because the
    file contains a model without a head, whose names have no prefix. The current name has the
    prefix.
    """
    file_names = {}
    names = tensors.names()
    bare = family.prefix and not any(name.startswith(family.prefix) for name in names)
    heads = {rule for rule in family.retained if not rule.startswith(re.escape(family.prefix))}
    for name in names:
        current = name
        for pattern, today in family.renamed.items():
            current = re.sub(f"^{pattern}$", today, current)
        if bare and current != family.output and not matches(heads, current):
            current = family.prefix + current
        file_names[current] = name
    return file_names


def _tensors_equal(tensors: Tensors, a: str, b: str) -> bool:
    return tensors.shape(a) == tensors.shape(b) and torch.equal(tensors.read(a), tensors.read(b))


def _check_tensors(
    family: Family,
    config: HFConfig,
    tensors: Tensors,
    file_names: Mapping[str, str],
    pieces: Mapping[str, list[Piece]],
    same: bool | None,
) -> list[str]:
    """Checks the tensors of a file, and returns those that are kept in `LoadedModel.rest`.

    The result contains their names in the file. Tensors that match `Family.retained` are kept.

    Args:
        file_names: dict from each tensor's current name in `transformers` to its name in the file.
        pieces: for each parameter of the module, the checkpoint tensors that it consists of.
        same: whether the output projection equals the embedding; None if the file has no output
            projection.

    Raises:
        RequestError: tensors are missing or unexpected, or have the wrong shape; the message lists
            the first problems.
    """
    wanted = {piece.name: piece.shape for each in pieces.values() for piece in each}
    where = str(tensors.where)
    missing: list[Problem] = []
    misshapen: list[Problem] = []
    extra: list[Problem] = []
    for name, shape in wanted.items():
        if name not in file_names:
            missing.append(Problem(f"{where}, {name}", f"a tensor of shape {_shape_text(shape)}"))
        elif tensors.shape(file_names[name]) != shape:
            actual = tensors.shape(file_names[name])
            hint = None
            if name == family.embedding and actual[1:] == shape[1:]:
                hint = f"vocab_size in {NAME} is {shape[0]}"
            expected = f"the shape {_shape_text(shape)}, according to {NAME}"
            misshapen.append(
                Problem(f"{where}, {file_names[name]}", expected, _shape_text(actual), hint)
            )
    rest = []
    for name, file_name in file_names.items():
        original = next((of for rule, of in family.copies.items() if matches([rule], name)), None)
        if name in wanted or matches(family.unused, name):
            continue
        if original is not None:
            if original in file_names and not _tensors_equal(
                tensors, file_name, file_names[original]
            ):
                expected = f"the same values as {file_names[original]}"
                extra.append(Problem(f"{where}, {file_name}", expected, hint=SHARED))
            continue
        if name == family.output:
            if not same:
                expected = "the same values as the token embedding"
                hint = f"tie_word_embeddings in {NAME} is true"
                extra.append(Problem(f"{where}, {file_name}", expected, hint=hint))
        elif matches(family.retained, name):
            rest.append(file_name)
        else:
            expected = f"no such tensor in the {family.model_type} model that {NAME} describes"
            extra.append(Problem(f"{where}, {file_name}", expected))
    problems = misshapen + missing + extra
    if len(missing) > len(wanted) // 2:
        other = _guess_family(tensors.names(), family)
        names = f"the tensor names are those of a {other} model"
        hint = names if other else f"check model_type in {NAME}"
        hint = f"{len(missing)} of {len(wanted)} tensors are missing; {hint}"
        problems.insert(0, Problem(where, f"the tensors of a {family.model_type} model", hint=hint))
    if problems:
        more = len(problems) - MAX_LISTED
        shown = problems[:MAX_LISTED]
        if more > 0:
            last = (
                f"{len(missing)} tensors missing, {len(misshapen)} with the wrong shape, "
                f"{len(extra)} unexpected"
            )
            shown.append(
                Problem(where, "the tensors of the model", last, f"further problems: {more}")
            )
        raise RequestError(shown)
    return rest


def _guess_family(names: list[str], but: Family) -> str | None:
    """Returns the `model_type` of the family to which more than half of a file's tensors belong.

    Returns None if there is no such family.

    Args:
        names: the names of the tensors in the file.
        but: the family that is not considered.
    """
    general = {re.sub(r"\.\d+\.", ".{i}.", name) for name in names}

    def score(family: Family) -> int:
        ours = {name for rule in family.names.values() for name in vars(rule).values()}
        return sum(
            f"{pre}{name}".rpartition(".")[0] in ours
            for name in general
            for pre in ("", family.prefix)
        )

    best = max((each for each in FAMILIES.values() if each is not but), key=score)
    return best.model_type if score(best) > len(general) // 2 else None


def _fill_parameters(
    family: Family,
    module: nn.Module,
    architecture: str,
    tensors: Tensors,
    file_names: Mapping[str, str],
    dtype: torch.dtype | None,
    device: torch.device,
) -> None:
    """Replaces each parameter, which is on the meta device, by one with the file's values.

    Args:
        file_names: dict from each tensor's current name in `transformers` to its name in the file.
        dtype: the dtype of the parameters; None for that of the token embedding in the file.
    """
    if dtype is None:
        dtype = _read_floats(tensors, file_names[family.embedding]).dtype
    for name, parameter in list(module.named_parameters()):
        path, _, key = name.rpartition(".")
        owner = module.get_submodule(path)
        storage = torch.empty(parameter.shape, dtype=dtype, device=device)
        owner._parameters[key] = nn.Parameter(storage)
    with torch.no_grad():
        for _, pieces in family.pieces(module, architecture):
            for piece in pieces:
                tensor = _read_floats(tensors, file_names[piece.name])
                piece.view.copy_(tensor.view(piece.view.shape))


def _read_floats(tensors: Tensors, name: str) -> Tensor:
    """Reads a floating-point tensor.

    Raises:
        RequestError: the tensor contains integers or quantised values, which are not supported.
    """
    tensor = tensors.read(name)
    if tensor.dtype not in DTYPES.values():
        expected = f"one of the dtypes {', '.join(DTYPES)}"
        raise RequestError(Problem(f"{tensors.where}, {name}", expected, str(tensor.dtype)[6:]))
    return tensor


def family_for(module: nn.Module) -> Family:
    """Returns the first family that can represent all components of a module.

    Raises:
        RequestError: there is no such family; the message names the differences from the most
            similar families.
    """
    mismatches = {}
    for name, family in FAMILIES.items():
        mismatches[name] = family.mismatches(module)
        if not mismatches[name]:
            return family
    nearest = sorted(
        (name for name in mismatches if type(module) is FAMILIES[name].kind),
        key=lambda name: len(mismatches[name]),
    )
    problems = [_family_problem(name, mismatches[name]) for name in nearest[:4]]
    kinds = ", ".join(sorted({family.kind.__name__ for family in FAMILIES.values()}))
    raise RequestError(problems or Problem("the model", f"one of {kinds}", type(module).__name__))


def _family_problem(name: str, mismatches: list[str]) -> Problem:
    """Returns the `Problem` to report if a model cannot be saved as a model of the family `name`.

    `mismatches` are the differences between the model and the family, as messages.
    """
    expected = f"a model that uses only components of {name}"
    return Problem(f"export as {name}", expected, hint=_join_names(mismatches, "; "))


def check_writable(module: nn.Module, where: str) -> None:
    """Checks that `etude convert` can export a model.

    Args:
        where: the config key that requires the export, for the message.

    Raises:
        RequestError: the model cannot be exported; the message names the unsupported components
            and the choices that can be exported.
    """
    try:
        family_for(split_mean_head(module)[0])
    except RequestError as error:
        names = [name for name, family in FAMILIES.items() if type(module) is family.kind]
        heads = " with model/head=classification, mean, tagging or masked_lm"
        choices = f"families that can be exported: {', '.join(names) or 'none'}"
        choices += heads if hasattr(getattr(module, "head", None), "gives") else ""
        near = "; ".join(f"{each.where}: {each.hint}" for each in error.problems if each.hint)
        expected = "a model whose components all exist in transformers"
        raise RequestError(Problem(where, expected, hint=f"{near}; {choices}")) from error


def save_weights(
    module: nn.Module,
    folder: Path,
    *,
    family: Family | None = None,
    config: Mapping[str, Any] | None = None,
    architecture: str | None = None,
    rest: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Writes `config.json` and `model.safetensors`, or shards of it, for `transformers`.

    Args:
        folder: the folder, created if missing; existing files of these names are replaced.
        family: the family to save as; if None, the family that has all components of the module.
        config: the fields of the `config.json` that the module was loaded with. They are written
            unchanged if they describe the module; otherwise, the fields that the family sets
            replace them. If None, the family sets all fields.
        architecture: the class of `transformers`; if None, the first class with the module's head.
        rest: further tensors to write, by name: those of a loaded checkpoint that the module does
            not use (`LoadedModel.rest`); None for no such tensors.
        dtype: the dtype of the saved weights; if None, that of the parameters.

    Raises:
        RequestError: `family`, or each family if it is None, lacks components of the module. No
            file is written.
    """
    if family is None:
        family = family_for(module)
    elif wrong := family.mismatches(module):
        raise RequestError(_family_problem(family.model_type, wrong))
    fields = family.config(module)
    if config is not None:
        fields = _merge_config(family, module, dict(config), fields)
    kind = architecture or fields["architectures"][0]
    if kind not in family.architectures:
        kind = family.config(module)["architectures"][0]
    first = next(module.parameters())
    dtype = first.dtype if dtype is None else dtype
    fields = {**fields, "architectures": [kind], "dtype": str(dtype).removeprefix("torch.")}
    fields.pop("torch_dtype", None)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _write_shards(_released_tensors(family, module, kind, rest or {}, dtype), folder)
    text = json.dumps(fields, indent=2, sort_keys=True, ensure_ascii=False)
    (folder / NAME).write_text(text + "\n", encoding="utf-8")


def _merge_config(
    family: Family, module: nn.Module, config: dict[str, Any], ours: dict[str, Any]
) -> dict[str, Any]:
    """Returns the fields of the `config.json` to save with a module.

    The result is `config` if it describes the module, otherwise `config` updated with `ours`.

    Args:
        config: the fields of the `config.json` that the module was loaded with.
        ours: the fields with which the family describes the module.
    """
    reading = HFConfig(dict(config), NAME)
    try:
        twin = family.build(reading, family.architecture(reading, None))
        if not structure_differences(module_structure(module), module_structure(twin)):
            return config
    except RequestError:
        pass
    for spelling in ("rope_parameters", "rope_scaling", "rope_theta"):
        config.pop(spelling, None)
    return {**config, **ours}


def _released_tensors(
    family: Family,
    module: nn.Module,
    architecture: str,
    rest: Mapping[str, Tensor],
    dtype: torch.dtype,
) -> Iterator[tuple[str, Tensor]]:
    """Yields the name in `transformers` and the values, in `dtype`, of each tensor to save.

    These are the tensors of the module, and the tensors `rest` that it does not use.
    """
    bare = architecture in family.bodies
    for _, pieces in family.pieces(module, architecture):
        for piece in pieces:
            name = piece.name.removeprefix(family.prefix) if bare else piece.name
            yield name, piece.view.detach().reshape(piece.shape).to("cpu", dtype)
    for name, tensor in rest.items():
        yield name, tensor.to("cpu", dtype)


def _write_shards(tensors: Iterator[tuple[str, Tensor]], folder: Path) -> None:
    """Writes the tensors to one file, or to several files (shards) with an index.

    There are several files if the tensors have more than `SHARD` bytes (5 GB) together; each file
    then has at most that size, unless it contains a single larger tensor. Only one shard is in
    memory at a time.
    """
    shards: list[Path] = []
    shard_of: dict[str, int] = {}
    total = 0
    held: dict[str, Tensor] = {}
    size = 0

    def write_shard() -> None:
        path = folder / f".shard-{len(shards)}"
        save_file({k: x.contiguous() for k, x in held.items()}, path, metadata={"format": "pt"})
        path.chmod(folder.stat().st_mode & 0o666)  # safetensors makes the file private
        shards.append(path)
        held.clear()

    for name, tensor in tensors:
        if held and size + tensor.nbytes > SHARD:
            write_shard()
            size = 0
        held[name] = tensor
        shard_of[name] = len(shards)
        size += tensor.nbytes
        total += tensor.nbytes
    write_shard()
    if len(shards) == 1:
        shards[0].replace(folder / SAFETENSORS)
        return
    names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    for path, name in zip(shards, names, strict=True):
        path.replace(folder / name)
    index = {
        "metadata": {"total_size": total},
        "weight_map": {name: names[i] for name, i in shard_of.items()},
    }
    (folder / (SAFETENSORS + INDEX)).write_text(json.dumps(index, indent=2), encoding="utf-8")


def _shape_text(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "one value"


def _join_names(names: list[str], between: str = ", ") -> str:
    more = len(names) - MAX_LISTED
    return between.join(names[:MAX_LISTED]) + (f"{between}{more} more" if more > 0 else "")
