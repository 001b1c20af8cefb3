"""Released weights into a module of ours, and back."""

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
"""Bytes of the largest file that is written, as `transformers` does."""
DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
"""Formats of numbers that weights may have."""
DEPTHS = (
    "num_hidden_layers", "n_layer", "num_layers", "num_decoder_layers", "encoder_layers",
    "decoder_layers",
)  # fmt: skip
"""Fields that count layers, in all families."""
MAX_LISTED = 5
"""Mismatches that a message lists."""

log = logging.getLogger("etude.interop")


@dataclass(frozen=True)
class Loaded:
    """A released model as one of ours.

    Attributes:
        module: ours, evaluating.
        family: whose names and config these are.
        architecture: the class of `transformers` that it was read as.
        config: of `config.json`.
        folder: where it was.
        arguments: of the module's class, as its config describes it.
        rest: released tensors that our module has no use for, by name: BERT's pooler. Without
            them what `save_weights` writes is not all that was read.
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
) -> Loaded:
    """A folder of Hugging Face's form, or one file of weights with `config.json` beside it.

    Nothing in the files names code that is run, and `transformers` is not needed. Each tensor is
    read straight into its place: the memory taken is the model's, and one tensor's more.

    Args:
        dtype: of all parameters; None is that of the token embedding in the file.
        device: where they shall lie.
        architecture: the class of `transformers` to read it as; None is the config's first.

    Raises:
        RequestError: a family, class or field that Étude has not; tensors that are missing, left
            over, or of another shape; a file that is damaged. Each names what was expected.
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
) -> Loaded:
    """`load_weights` from tensors and a config that are read already."""
    family = family_of(config)
    kind = family.architecture(config, architecture)
    _check_depth(config, tensors)
    found = _file_names_by_current_name(family, tensors)
    same = None
    if family.output in found and family.embedding in found:
        same = _tensors_equal(tensors, found[family.output], found[family.embedding])
    family.adjust_config(config, same)
    module = family.build(config, kind)
    pieces = dict(family.pieces(module, kind))
    rest = _check_tensors(family, config, tensors, found, pieces, same)
    kept = {name: tensors.read(name).clone() for name in rest}
    if kept:
        log.info("not used by %s, kept aside: %s", type(module).__name__, _join_names(rest))
    _fill_parameters(family, module, kind, tensors, found, dtype, torch.device(device))
    where = tensors.where if tensors.where.is_dir() else tensors.where.parent
    arguments = family.arguments(config, kind)
    return Loaded(module.eval(), family, kind, config.values, where, arguments, kept)


def _check_depth(config: HFConfig, tensors: Tensors) -> None:
    """Refuses more layers than there are tensors, before they are built."""
    most = len(tensors.names())
    problems = [
        Problem(f"{config.where}, {field}", f"at most {most}, the number of tensors", layers)
        for field in DEPTHS
        if isinstance(layers := config.values.get(field), int) and layers > most
    ]
    if problems:
        raise RequestError(problems)


def _file_names_by_current_name(family: Family, tensors: Tensors) -> dict[str, str]:
    """The name in the file of each tensor, by what a class with a head calls it today."""
    found = {}
    names = tensors.names()
    bare = family.prefix and not any(name.startswith(family.prefix) for name in names)
    heads = {rule for rule in family.retained if not rule.startswith(re.escape(family.prefix))}
    for name in names:
        present = name
        for pattern, today in family.renamed.items():
            present = re.sub(f"^{pattern}$", today, present)
        if bare and present != family.output and not matches(heads, present):
            present = family.prefix + present
        found[present] = name
    return found


def _tensors_equal(tensors: Tensors, a: str, b: str) -> bool:
    return tensors.shape(a) == tensors.shape(b) and torch.equal(tensors.read(a), tensors.read(b))


def _check_tensors(
    family: Family,
    config: HFConfig,
    tensors: Tensors,
    found: Mapping[str, str],
    pieces: Mapping[str, list[Piece]],
    same: bool | None,
) -> list[str]:
    """The names in the file of what our module has no use for, after everything was found right.

    Raises:
        RequestError: the first tensors that are missing, misshapen, or left over.
    """
    wanted = {piece.name: piece.shape for each in pieces.values() for piece in each}
    where = str(tensors.where)
    missing: list[Problem] = []
    misshapen: list[Problem] = []
    extra: list[Problem] = []
    for name, shape in wanted.items():
        if name not in found:
            missing.append(Problem(f"{where}, {name}", f"a tensor of shape {_shape_text(shape)}"))
        elif tensors.shape(found[name]) != shape:
            have = tensors.shape(found[name])
            hint = None
            if name == family.embedding and have[1:] == shape[1:]:
                hint = f"vocab_size in {NAME} is {shape[0]}"
            expected = f"the shape {_shape_text(shape)} that {NAME} says"
            misshapen.append(Problem(f"{where}, {found[name]}", expected, _shape_text(have), hint))
    rest = []
    for name, there in found.items():
        original = next((of for rule, of in family.copies.items() if matches([rule], name)), None)
        if name in wanted or matches(family.unused, name):
            continue
        if original is not None:
            if original in found and not _tensors_equal(tensors, there, found[original]):
                expected = f"what {found[original]} has: Étude has one tensor for both"
                extra.append(Problem(f"{where}, {there}", expected))
            continue
        if name == family.output:
            if not same:
                expected = f"what the embedding has: tie_word_embeddings in {NAME} is true"
                extra.append(Problem(f"{where}, {there}", expected))
        elif matches(family.retained, name):
            rest.append(there)
        else:
            expected = f"no such tensor in {family.model_type} as {NAME} describes it"
            extra.append(Problem(f"{where}, {there}", expected))
    problems = misshapen + missing + extra
    if len(missing) > len(wanted) // 2:
        other = _guess_family(tensors.names(), family)
        hint = f"the names are those of {other}" if other else "is this another architecture?"
        problems.insert(0, Problem(where, f"the tensors of {family.model_type}", hint=hint))
    if problems:
        more = len(problems) - MAX_LISTED
        shown = problems[:MAX_LISTED]
        if more > 0:
            last = f"{len(missing)} missing, {len(misshapen)} of another shape, {len(extra)} extra"
            shown.append(
                Problem(where, "the tensors of the model", last, f"{more} more like these")
            )
        raise RequestError(shown)
    return rest


def _guess_family(names: list[str], but: Family) -> str | None:
    """The family whose names a file has, if another than `but`."""
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
    found: Mapping[str, str],
    dtype: torch.dtype | None,
    device: torch.device,
) -> None:
    """Puts a parameter with the file's numbers in place of each on the meta device."""
    if dtype is None:
        dtype = _read_floats(tensors, found[family.embedding]).dtype
    for name, parameter in list(module.named_parameters()):
        path, _, key = name.rpartition(".")
        owner = module.get_submodule(path)
        place = torch.empty(parameter.shape, dtype=dtype, device=device)
        owner._parameters[key] = nn.Parameter(place)
    with torch.no_grad():
        for _, pieces in family.pieces(module, architecture):
            for piece in pieces:
                there = _read_floats(tensors, found[piece.name])
                piece.view.copy_(there.view(piece.view.shape))


def _read_floats(tensors: Tensors, name: str) -> Tensor:
    """A tensor of numbers that a model can be computed with.

    Raises:
        RequestError: whole numbers; quantised ones, whose factors Étude would not know.
    """
    there = tensors.read(name)
    if there.dtype not in DTYPES.values():
        expected = f"numbers of {', '.join(DTYPES)}"
        raise RequestError(Problem(f"{tensors.where}, {name}", expected, str(there.dtype)[6:]))
    return there


def family_for(module: nn.Module) -> Family:
    """The family that has all parts of a module.

    Raises:
        RequestError: none has; it names what the nearest ones lack.
    """
    said = {}
    for name, family in FAMILIES.items():
        wrong = family.mismatches(module)
        if not wrong:
            return family
        said[name] = wrong
    near = sorted(
        (name for name in said if type(module) is FAMILIES[name].kind),
        key=lambda name: len(said[name]),
    )
    problems = [
        Problem(f"as {name}", "parts that this family has", hint=_join_names(said[name], "; "))
        for name in near[:4]
    ]
    kinds = ", ".join(sorted({family.kind.__name__ for family in FAMILIES.values()}))
    raise RequestError(problems or Problem("the model", f"one of {kinds}", type(module).__name__))


def check_writable(module: nn.Module, where: str) -> None:
    """Looks whether `etude convert` could write a model.

    Args:
        where: the key that asks for it.

    Raises:
        RequestError: it could not; names what is in the way, and the choices that can be written.
    """
    try:
        family_for(split_mean_head(module)[0])
    except RequestError as error:
        names = [name for name, family in FAMILIES.items() if type(module) is family.kind]
        heads = " and model/head=classification, mean, tagging or masked_lm"
        choices = f"families of such models: {', '.join(names) or 'none'}"
        choices += heads if hasattr(getattr(module, "head", None), "gives") else ""
        near = "; ".join(f"{each.where} {each.hint}" for each in error.problems if each.hint)
        expected = "a model that transformers has, with all its parts"
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
    """Writes `config.json` and `model.safetensors`, or shards of it, that `transformers` opens.

    Args:
        folder: made if it is not there; files of these names in it are replaced.
        family: None is the one that has all parts of the module.
        config: fields of the released config, kept where they say the same.
        architecture: the class of `transformers`; None is the one with the module's head.
        rest: tensors of `Loaded.rest`, by name.
        dtype: of what is written; None is the parameters'.

    Raises:
        RequestError: no family, or not this one, has all parts of the module; nothing is written.
    """
    if family is None:
        family = family_for(module)
    elif wrong := family.mismatches(module):
        hint = _join_names(wrong, "; ")
        raise RequestError(Problem(f"as {family.model_type}", "parts it has", hint=hint))
    fields = family.config(module)
    if config is not None:
        fields = _merge_config(family, module, dict(config), fields)
    kind = architecture or fields["architectures"][0]
    if kind not in family.architectures:
        kind = family.config(module)["architectures"][0]
    first = next(module.parameters())
    kept_dtype = first.dtype if dtype is None else dtype
    fields = {**fields, "architectures": [kind], "dtype": str(kept_dtype).removeprefix("torch.")}
    fields.pop("torch_dtype", None)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _write_shards(_released_tensors(family, module, kind, rest or {}, kept_dtype), folder)
    text = json.dumps(fields, indent=2, sort_keys=True, ensure_ascii=False)
    (folder / NAME).write_text(text + "\n", encoding="utf-8")


def _merge_config(
    family: Family, module: nn.Module, config: dict[str, Any], ours: dict[str, Any]
) -> dict[str, Any]:
    """The released config if it describes the module, else with our fields over it."""
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
    """The released tensors by name, each made when asked for."""
    bare = architecture in family.bodies
    for _, pieces in family.pieces(module, architecture):
        for piece in pieces:
            name = piece.name.removeprefix(family.prefix) if bare else piece.name
            yield name, piece.view.detach().reshape(piece.shape).to("cpu", dtype)
    for name, tensor in rest.items():
        yield name, tensor.to("cpu", dtype)


def _write_shards(tensors: Iterator[tuple[str, Tensor]], folder: Path) -> None:
    """One file, or several with an index; a shard at a time is in memory."""
    shards: list[Path] = []
    places: dict[str, int] = {}
    total = 0
    held: dict[str, Tensor] = {}
    size = 0

    def put() -> None:
        path = folder / f".shard-{len(shards)}"
        save_file({k: x.contiguous() for k, x in held.items()}, path, metadata={"format": "pt"})
        path.chmod(folder.stat().st_mode & 0o666)  # safetensors lets nobody else read it
        shards.append(path)
        held.clear()

    for name, tensor in tensors:
        if held and size + tensor.nbytes > SHARD:
            put()
            size = 0
        held[name] = tensor
        places[name] = len(shards)
        size += tensor.nbytes
        total += tensor.nbytes
    put()
    if len(shards) == 1:
        shards[0].replace(folder / SAFETENSORS)
        return
    names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    for path, name in zip(shards, names, strict=True):
        path.replace(folder / name)
    index = {
        "metadata": {"total_size": total},
        "weight_map": {name: names[i] for name, i in places.items()},
    }
    (folder / (SAFETENSORS + INDEX)).write_text(json.dumps(index, indent=2), encoding="utf-8")


def _shape_text(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "one number"


def _join_names(names: list[str], between: str = ", ") -> str:
    more = len(names) - MAX_LISTED
    return between.join(names[:MAX_LISTED]) + (f"{between}{more} more" if more > 0 else "")
