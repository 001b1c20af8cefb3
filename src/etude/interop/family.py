"""Base class for the conversion of a family of Hugging Face models to and from Étude."""

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
    """Base class for the conversion of a family of Hugging Face models to and from Étude.

    A family converts between `config.json` and constructor arguments, and between the names of
    tensors in a checkpoint and those of Étude's parameters. Patterns are regular expressions.

    Attributes:
        model_type: the value of `model_type` in `config.json`.
        kind: the Étude class of the family's models.
        architectures: the supported classes of `transformers`; the first is used if the config
            names no class.
        bodies: the classes of `transformers` without a head, whose tensor names have no prefix.
        prefix: the prefix of the body's tensor names in a class with a head.
        names: dict from the name of each Étude module to the rule that converts its parameters (see
            `etude.interop.rules`). In a name, `{i}` is the index of the block.
        renamed: patterns of older tensor names, each with the current name.
        unused: patterns of the names of checkpoint tensors that are ignored, because they have no
            learned values.
        copies: patterns of the names of checkpoint tensors, each with the name of the tensor that
            must have the same values.
        retained: patterns of the names of checkpoint tensors that the Étude module does not use,
            but keeps, so that an exported checkpoint contains them again.
        ignored_fields: fields of `config.json` that affect only training, or unsupported heads.
        synonyms: other names of config fields in `transformers`, each with the name that is read.
        embedding: the full name of the token embedding's tensor in a checkpoint, such as
            `bert.embeddings.word_embeddings.weight`.
        output: the full name of the output projection's tensor in a checkpoint, which may be a copy
            of the embedding.
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
        """Returns the constructor arguments of the Étude model that a `config.json` describes.

        Problems are added to `config.problems`.

        Args:
            architecture: the class of `transformers` that the weights are read as.
        """
        raise NotImplementedError

    def config(self, module: Any) -> dict[str, Any]:
        """Returns the `config.json` of the family's model that is most similar to an Étude module.

        The fields include `architectures` and the dropout probabilities.

        Raises:
            AttributeError: the module lacks an attribute that every model of the family has.
        """
        raise NotImplementedError

    def architecture_for(self, module: Any, ending: str = "") -> str:
        """Returns the class of `transformers` to export an Étude module as.

        Args:
            ending: the end of the class name, needed if several classes have the module's head. If
                it is empty, or no class ends with it, returns the class in `config(module)`.
        """
        default: str = self.config(module)["architectures"][0]
        matching = (each for each in self.architectures if ending and each.endswith(ending))
        return next(matching, default)

    def rules(self, module: Any, architecture: str) -> Mapping[str, Rule]:
        """Returns a dict of the rules (`etude.interop.rules`) that convert a module's parameters.

        The keys have the same form as those of the attribute `names`. `architecture` is the class
        of `transformers`.
        """
        return self.names

    def adjust_config(self, config: HFConfig, same: bool | None) -> None:
        """Corrects a config that contradicts the tensors in the file; does nothing by default.

        Args:
            config: the config, which may be changed.
            same: whether the output projection in the file equals the embedding; None if the file
                has no output projection.
        """

    def architecture(self, config: HFConfig, requested: str | None) -> str:
        """Returns the name of the class of `transformers` to read the weights as.

        The class is `requested` or, if that is None, the first class in the config, or else the
        first of `architectures`. If this class is unsupported, adds a problem to the config, and
        returns the first of `architectures` instead.
        """
        stated = config.get("architectures") or [self.architectures[0]]
        name = requested or (stated[0] if isinstance(stated, list) else stated)
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
        """Builds the Étude module on the meta device in float32, without initialising it.

        Raises:
            RequestError: Étude cannot represent some fields of the config; the message names all
                of them.
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
        except (RuntimeError, OverflowError) as error:  # more bytes than an int64 can count
            reason = str(error).partition("\n")[0]
            expected = "sizes that fit in memory"
            raise RequestError(Problem(config.where, expected, hint=reason)) from error

    def pieces(
        self,
        module: nn.Module,
        architecture: str,
        of: Callable[[Tensor], Tensor] = lambda parameter: parameter,
    ) -> Iterator[tuple[str, list[Piece]]]:
        """Yields each parameter of an Étude module with the checkpoint tensors that it consists of.

        Each item is the parameter's name and a list of `Piece`s: checkpoint tensors, each with a
        view of the parameter.

        Args:
            architecture: the class of `transformers` whose tensor names are used.
            of: a function that maps a parameter to a tensor with as many rows. The views are views
                of this tensor. By default, it is the parameter itself.

        Raises:
            KeyError: the family has no rule for a parameter.
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
        """Returns a message for each difference between a module and the most similar model of the
        family.

        The list is empty if the family can represent the module.
        """
        if type(module) is not self.kind:
            return [f"model is {type(module).__name__}, not {self.kind.__name__}"]
        try:
            config = self.config(module)
        except AttributeError as error:
            return [f"the model has no {error.name}" if error.name else str(error)]
        try:
            twin = self.build(HFConfig(config, self.model_type), config["architectures"][0])
        except RequestError as error:
            return [str(problem) for problem in error.problems]
        return structure_differences(module_structure(module), module_structure(twin))


def matches(patterns: Iterable[str], name: str) -> bool:
    """Returns whether one of the regular expressions `patterns` matches the whole name."""
    return any(re.fullmatch(pattern, name) for pattern in patterns)


def _keep_weights(module: nn.Module, layers: int) -> None:
    """Initialisation that does nothing: the weights are read from a file afterwards."""
