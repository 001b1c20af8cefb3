"""Conversion of BERT checkpoints (Devlin et al. 2018, arXiv:1810.04805) to and from Étude."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

from etude.interop.family import Family
from etude.interop.hf_config import ACTIVATIONS, HFConfig, activation_name
from etude.interop.rules import Rule, Same, Stacked
from etude.models.encoder import Encoder
from etude.models.heads import ClassificationHead, MaskedLanguageHead, TaggingHead
from etude.nn.attention import MultiHeadAttention
from etude.nn.block import PostNormBlock
from etude.nn.mask import Bidirectional
from etude.nn.norm import LayerNorm
from etude.nn.position import Learned

Heads = dict[str, tuple[type | None, dict[str, Rule]]]


def body(prefix: str) -> dict[str, Rule]:
    """Returns the conversion rules (`etude.interop.rules`) of a BERT or RoBERTa model without a
    head, as a dict from the names of Étude's modules; see `Family.names`.

    Args:
        prefix: the prefix of the tensor names in the checkpoint, such as `bert.`.
    """
    layer = prefix + "encoder.layer.{i}."
    return {
        "embedding": Same(prefix + "embeddings.word_embeddings"),
        "position": Same(prefix + "embeddings.position_embeddings"),
        "token_types": Same(prefix + "embeddings.token_type_embeddings"),
        "embedding_norm": Same(prefix + "embeddings.LayerNorm"),
        "blocks.{i}.attention.qkv": Stacked(
            *(f"{layer}attention.self.{each}" for each in ("query", "key", "value"))
        ),
        "blocks.{i}.attention.out": Same(layer + "attention.output.dense"),
        "blocks.{i}.attention_norm": Same(layer + "attention.output.LayerNorm"),
        "blocks.{i}.feedforward.up": Same(layer + "intermediate.dense"),
        "blocks.{i}.feedforward.down": Same(layer + "output.dense"),
        "blocks.{i}.feedforward_norm": Same(layer + "output.LayerNorm"),
    }


class BertFamily(Family):
    """Conversion of the BERT family: encoders with learned positions, token types, and a norm after
    each branch.

    `Encoder` uses neither the pooler that `transformers` adds to a body without a head, nor the
    next-sentence head of pretraining. `LoadedModel.rest` retains their tensors.
    """

    model_type = "bert"
    kind = Encoder
    prefix = "bert."
    embedding = "bert.embeddings.word_embeddings.weight"
    heads: ClassVar[Heads] = {
        "BertModel": (None, {}),
        "BertForMaskedLM": (
            MaskedLanguageHead,
            {
                "head.dense": Same("cls.predictions.transform.dense"),
                "head.norm": Same("cls.predictions.transform.LayerNorm"),
                "head": Same("cls.predictions"),
            },
        ),
        "BertForSequenceClassification": (
            ClassificationHead,
            {"head.dense": Same("bert.pooler.dense"), "head.classifier": Same("classifier")},
        ),
        "BertForTokenClassification": (TaggingHead, {"head.classifier": Same("classifier")}),
        "BertForQuestionAnswering": (TaggingHead, {"head.classifier": Same("qa_outputs")}),
    }
    architectures: ClassVar[tuple[str, ...]] = (*heads, "BertForPreTraining")
    bodies = ("BertModel",)
    names: ClassVar = body("bert.")
    renamed: ClassVar = {r"(.*LayerNorm)\.gamma": r"\1.weight", r"(.*LayerNorm)\.beta": r"\1.bias"}
    unused: ClassVar[tuple[str, ...]] = (r"bert\.embeddings\.position_ids",)
    copies: ClassVar[Mapping[str, str]] = {
        r"cls\.predictions\.decoder\.bias": "cls.predictions.bias"
    }
    output = "cls.predictions.decoder.weight"
    retained: ClassVar[tuple[str, ...]] = (
        r"bert\.pooler\..*", r"cls\..*", r"classifier\..*", r"qa_outputs\..*",
    )  # fmt: skip
    ignored_fields: ClassVar[tuple[str, ...]] = (
        "attention_probs_dropout_prob", "hidden_dropout_prob", "directionality",
        "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers",
        "pooler_size_per_head", "pooler_type", "tie_word_embeddings",
    )  # fmt: skip
    sizes = (30522, 512, 1e-12)

    def head(self, architecture: str) -> tuple[type | None, dict[str, Rule]]:
        """Returns Étude's head class and the head's conversion rules for a `transformers` class.

        The rules are a dict from the names of Étude's modules, such as `head.dense`. For a class
        without a head, the head class is None, and the dict is empty.

        Args:
            architecture: one of the supported classes, `architectures`.
        """
        return self.heads[architecture.replace("ForPreTraining", "ForMaskedLM")]

    def rules(self, module: Any, architecture: str) -> Mapping[str, Rule]:
        return {**self.names, **self.head(architecture)[1]}

    def first_position(self, config: HFConfig) -> int:
        """Returns the index of the position embedding's row for the first token of a text."""
        return 0

    def arguments(self, config: HFConfig, architecture: str) -> dict[str, Any]:
        head: Any = self.head(architecture)[0]
        if head in (ClassificationHead, TaggingHead):
            names = config.get("id2label", {})
            labels = len(names) if names else config.size("num_labels", 2)
            head = partial(head, labels=labels)
        elif head is MaskedLanguageHead:
            config.only("tie_word_embeddings", True)
            self.check_head(config)
        vocabulary, longest, eps = self.sizes
        offset = self.first_position(config)
        rows = config.size("max_position_embeddings", longest)
        if rows <= offset:
            expected = f"a number above {offset}, the row of the embedding for the first position"
            config.refuse("max_position_embeddings", expected, rows)
            rows = offset + 1
        return {
            "vocab_size": config.size("vocab_size", vocabulary),
            "layers": config.size("num_hidden_layers", 12),
            "heads": config.size("num_attention_heads", 12),
            "dim": config.size("hidden_size", 768),
            "max_length": rows - offset,
            "attention": MultiHeadAttention,
            "position": partial(Learned, offset=offset),
            "norm": partial(LayerNorm, eps=config.number("layer_norm_eps", eps)),
            "feedforward": config.activation(
                "hidden_act", "gelu", ACTIVATIONS, config.size("intermediate_size", 3072)
            ),
            "mask": Bidirectional,
            "block": PostNormBlock,
            "head": head,
            "dropout": config.number("hidden_dropout_prob", 0.1),
            "token_types": config.size("type_vocab_size", 2),
            "embedding_norm": True,
        }

    def check_head(self, config: HFConfig) -> None:
        """Adds a problem to the config if its activation is not GELU, which Étude's head always
        uses.
        """
        config.only("hidden_act", "gelu", "gelu_python")

    def config(self, module: Any) -> dict[str, Any]:
        block, head = module.blocks[0], module.head
        vocabulary, dim = module.embedding.weight.shape
        fields = {
            "architectures": [self._architecture(head)],
            "model_type": self.model_type,
            "vocab_size": vocabulary,
            "num_hidden_layers": len(module.blocks),
            "num_attention_heads": block.attention.heads,
            "hidden_size": dim,
            "intermediate_size": block.feedforward.up.out_features,
            "hidden_act": activation_name(block.feedforward, ACTIVATIONS),
            "max_position_embeddings": module.max_length + getattr(module.position, "offset", 0),
            "type_vocab_size": 0 if module.token_types is None else len(module.token_types.weight),
            "layer_norm_eps": block.attention_norm.eps,
            "hidden_dropout_prob": module.dropout.p,
            "attention_probs_dropout_prob": module.dropout.p,
            **self.extra_fields(module),
        }
        if isinstance(head, ClassificationHead | TaggingHead):
            labels = range(head.classifier.out_features)
            fields["id2label"] = {str(i): f"LABEL_{i}" for i in labels}
            fields["label2id"] = {f"LABEL_{i}": i for i in labels}
        return fields

    def extra_fields(self, module: Any) -> dict[str, Any]:
        """Returns fields of `config.json` that a subclass adds to those of BERT."""
        return {}

    def _architecture(self, head: object) -> str:
        kind = None if head is None else type(head)
        for name, (ours, _) in self.heads.items():
            if ours is kind:
                return name
        raise AttributeError(
            f"no {self.model_type} class of transformers has the head {type(head).__name__}"
        )
