"""What there is to know about a family of released models: its config and its names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from etude.errors import InvalidArguments, Problem, RequestError, nearest
from etude.interop.hf_config import HFConfig
from etude.interop.rules import Piece, Rule
from etude.interop.structure import module_structure, structure_differences
from etude.models.decoder import Decoder
from etude.models.encoder import Encoder
from etude.models.encoder_decoder import EncoderDecoder
from etude.nn.drawing import shapes_only

Model = Decoder | Encoder | EncoderDecoder


class Family:
    """The base of the families; a subclass is mostly data.

    Attributes:
        model_type: what `config.json` calls it.
        kind: the class of ours that it becomes.
        architectures: the classes of `transformers` that are read, the one without a name in a
            config first.
        bodies: those of them without a head, whose names have no prefix.
        prefix: what a class with a head puts before the names of the body.
        names: the released module of each of ours. A name of ours is the parameter's without
            `.weight` or `.bias`, and with `{i}` for the block's number.
        renamed: patterns of older names, and what they are called now.
        unused: patterns of released tensors that hold nothing learned.
        copies: patterns of released tensors, and the one that each must be equal to.
        kept: patterns of released tensors that our module has no use for.
        fields: those of `config.json` that matter in training, or for heads that are not read.
        synonyms: other names of fields in `transformers`, and the field that is read.
        embedding: the released tensor of the token embedding.
        output: the released tensor of the logits' projection, which may be a second copy of it.
    """

    model_type: ClassVar[str]
    kind: ClassVar[type[Model]]
    architectures: ClassVar[tuple[str, ...]]
    bodies: ClassVar[tuple[str, ...]] = ()
    prefix: ClassVar[str] = ""
    names: ClassVar[Mapping[str, Rule]]
    renamed: ClassVar[Mapping[str, str]] = {}
    unused: ClassVar[tuple[str, ...]] = ()
    copies: ClassVar[Mapping[str, str]] = {}
    retained: ClassVar[tuple[str, ...]] = ()
    ignored_fields: ClassVar[tuple[str, ...]] = ()
    synonyms: ClassVar[Mapping[str, str]] = {}
    embedding: ClassVar[str]
    output: ClassVar[str]

    def arguments(self, config: HFConfig, architecture: str) -> dict[str, Any]:
        """The arguments of our model that a config describes; mistakes are noted in the config."""
        raise NotImplementedError

    def config(self, module: Any) -> dict[str, Any]:
        """The config that describes our module best, `architectures` and dropout among its fields.

        Raises:
            AttributeError: for a module that lacks what every model of the family has.
        """
        raise NotImplementedError

    def architecture_for(self, module: Any, ending: str = "") -> str:
        """The class of `transformers` that a module of ours is written as.

        Args:
            ending: of its name, where several have the module's head.
        """
        found: str = self.config(module)["architectures"][0]
        chosen = (each for each in self.architectures if ending and each.endswith(ending))
        return next(chosen, found)

    def rules(self, module: Any, architecture: str) -> Mapping[str, Rule]:
        """The names in one class of `transformers`, of what the module has."""
        return self.names

    def adjust_config(self, config: HFConfig, same: bool | None) -> None:
        """Corrects a config by what the file holds.

        Args:
            same: whether the output projection is the embedding; None where the file has none.
        """

    def architecture(self, config: HFConfig, asked: str | None) -> str:
        """The class of `transformers` whose weights these are."""
        stated = config.get("architectures") or [self.architectures[0]]
        name = asked or (stated[0] if isinstance(stated, list) else stated)
        if name not in self.architectures:
            config.refuse(
                "architectures",
                f"one of {', '.join(self.architectures)}",
                name,
                nearest(str(name), self.architectures),
            )
            return self.architectures[0]
        return str(name)

    def build(self, config: HFConfig, architecture: str) -> Model:
        """Our module on the meta device, in float32: no memory is taken, nothing initialised.

        Raises:
            RequestError: every field that cannot be represented.
        """
        arguments = self.arguments(config, architecture)
        for field in self.ignored_fields:
            config.get(field)
        config.synonyms(self.synonyms)
        config.done()
        try:
            with shapes_only():
                return self.kind(**arguments, initialise=_keep_weights)
        except InvalidArguments as error:
            raise RequestError(problem.under(config.where) for problem in error.problems) from error
        except (RuntimeError, OverflowError) as error:  # more bytes than can be counted
            said = str(error).partition("\n")[0]
            raise RequestError(Problem(config.where, f"sizes of a model ({said})")) from error

    def pieces(
        self,
        module: nn.Module,
        architecture: str,
        of: Callable[[Tensor], Tensor] = lambda parameter: parameter,
    ) -> Iterator[tuple[str, list[Piece]]]:
        """Each parameter's name of ours, and the released tensors in it.

        Args:
            of: gives a tensor with as many rows as a parameter; the pieces are views of it.

        Raises:
            KeyError: a parameter that the family has no name for.
        """
        rules = self.rules(module, architecture)
        for name, parameter in module.named_parameters():
            block = re.search(r"\bblocks\.(\d+)\.", name)
            pattern = re.sub(r"\bblocks\.\d+\.", "blocks.{i}.", name)
            path, _, kind = pattern.rpartition(".")
            suffix = f".{kind}" if path in rules else ""
            rule = rules[path] if suffix else rules[pattern]
            owner = module.get_submodule(name.rpartition(".")[0].rpartition(".")[0])
            pieces = rule.pieces(of(parameter), suffix, owner)
            if block is not None:
                pieces = [
                    Piece(piece.name.replace("{i}", block[1]), piece.shape, piece.view)
                    for piece in pieces
                ]
            yield name, pieces

    def mismatches(self, module: nn.Module) -> list[str]:
        """What our module has that the family has not, in words; nothing if it fits."""
        if type(module) is not self.kind:
            return [f"{type(module).__name__}, not {self.kind.__name__}"]
        try:
            config = self.config(module)
        except AttributeError as error:
            return [f"no {error.name}" if error.name else str(error)]
        try:
            twin = self.build(HFConfig(config, self.model_type), config["architectures"][0])
        except RequestError as error:
            return [str(problem) for problem in error.problems]
        return structure_differences(module_structure(module), module_structure(twin))


def matches(patterns: Iterable[str], name: str) -> bool:
    """Whether one of the patterns is the whole name."""
    return any(re.fullmatch(pattern, name) for pattern in patterns)


def _keep_weights(module: nn.Module, layers: int) -> None:
    """Leaves the weights as they are: they are about to be read."""
