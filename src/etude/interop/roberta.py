"""Conversion of RoBERTa checkpoints (Liu et al. 2019, arXiv:1907.11692) to and from Étude."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from etude.interop.bert import BertFamily, Heads, body
from etude.interop.hf_config import HFConfig
from etude.interop.rules import Same
from etude.models.heads import ClassificationHead, MaskedLanguageHead, TaggingHead


class RobertaFamily(BertFamily):
    """Family of RoBERTa: BERT with positions numbered from the padding token's id + 1."""

    model_type = "roberta"
    prefix = "roberta."
    embedding = "roberta.embeddings.word_embeddings.weight"
    heads: ClassVar[Heads] = {
        "RobertaModel": (None, {}),
        "RobertaForMaskedLM": (
            MaskedLanguageHead,
            {
                "head.dense": Same("lm_head.dense"),
                "head.norm": Same("lm_head.layer_norm"),
                "head": Same("lm_head"),
            },
        ),
        "RobertaForSequenceClassification": (
            ClassificationHead,
            {
                "head.dense": Same("classifier.dense"),
                "head.classifier": Same("classifier.out_proj"),
            },
        ),
        "RobertaForTokenClassification": (TaggingHead, {"head.classifier": Same("classifier")}),
        "RobertaForQuestionAnswering": (TaggingHead, {"head.classifier": Same("qa_outputs")}),
    }
    architectures: ClassVar[tuple[str, ...]] = tuple(heads)
    bodies = ("RobertaModel",)
    names: ClassVar = body("roberta.")
    unused: ClassVar[tuple[str, ...]] = (r"roberta\.embeddings\.position_ids",)
    copies: ClassVar[Mapping[str, str]] = {r"lm_head\.decoder\.bias": "lm_head.bias"}
    output = "lm_head.decoder.weight"
    retained: ClassVar[tuple[str, ...]] = (
        r"roberta\.pooler\..*", r"lm_head\..*", r"classifier\..*", r"qa_outputs\..*",
    )  # fmt: skip
    sizes = (50265, 512, 1e-12)

    def first_position(self, config: HFConfig) -> int:
        padding = config.get("pad_token_id", 1)
        if isinstance(padding, int) and padding >= 0:
            return padding + 1
        expected = "a token id, because RoBERTa numbers the first position pad_token_id + 1"
        config.refuse("pad_token_id", expected, padding)
        return 0

    def check_head(self, config: HFConfig) -> None:
        """Does nothing, since RoBERTa's head always uses GELU."""

    def extra_fields(self, module: Any) -> dict[str, Any]:
        return {"pad_token_id": getattr(module.position, "offset", 0) - 1}
