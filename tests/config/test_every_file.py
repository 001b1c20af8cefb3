"""Every file under conf/ composes, is checked, and builds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from etude.config.checks import check
from etude.config.compose import compose
from etude.config.paths import conf_dir
from etude.errors import RequestError
from etude.models.decoder import Decoder
from etude.training.build import build_parts
from etude.training.model import build_model_from_config

CONF = conf_dir()
NOT_FOR_TRAINING = ("paper", "sweep")  # read by `reproduce`, and presets of overrides
CHOICES = sorted(
    f"{path.parent.relative_to(CONF)}={path.stem}"
    for path in CONF.rglob("*.yaml")
    if path.parent != CONF and path.relative_to(CONF).parts[0] not in NOT_FOR_TRAINING
)
TEXT = "data=text_files"
FITS = {  # so many key-value heads
    "model/attention=grouped_query_3": "smollm2_135m",
    "model/attention=grouped_query_8": "llama_1b",
    "model/attention=qk_norm_8": "qwen3_0_6b",
}
PLAIN = ["~experiment", "name=plain", "trainer.max_steps=3"]
LABELLED = ["data=labelled_files", "data.path=rows.jsonl"]
PAIRED = ["data=pairs", "data.path=rows.jsonl"]
TASKS = {  # what goes with each
    "masked_lm": ["model=encoder_nano", "model/head=masked_lm"],
    "span_denoising": ["model=transformer_nano"],
    "translation": ["model=transformer_nano", *PAIRED],
    "instruction": ["model=nano", *PAIRED],
    "classification": ["model=encoder_nano", *LABELLED],
    "text_regression": [
        "model=encoder_nano",
        "model/head=classification",
        "data=scored_files",
        "data.path=rows.jsonl",
    ],
    "question_answering": [
        "model=encoder_nano",
        "model/head=tagging",
        "data=questions",
        "data.path=rows.jsonl",
    ],
    "token_regression": [
        "model=encoder_nano",
        "model/head=tagging",
        "data=scored_words",
        "data.path=rows.jsonl",
    ],
    "tagging": ["model=encoder_nano", "model/head=tagging", "data=hkcancor"],
    "algorithmic": ["model=nano", "data=sort"],
    "regression": ["model=regressor_nano", "data=icl_regression"],
}
COMMIT = f"data.path.revision={'0' * 40}"  # with it nothing is asked of the hub
DATA = {
    "labelled_files": ("classification", ["data.path=rows.jsonl"]),
    "sotu_parties": ("classification", []),
    "pairs": ("translation", ["data.path=rows.jsonl"]),
    "catalogs": ("translation", ["data.packages=[numpy]"]),
    "tagged": ("tagging", ["data.path=words.conllu"]),
    "hkcancor": ("tagging", []),
    "scored_files": ("text_regression", ["data.path=rows.jsonl"]),
    "questions": ("question_answering", ["data.path=rows.jsonl"]),
    "questions_hub": ("question_answering", ["data.path.name=owner/name", COMMIT]),
    "scored_words": ("token_regression", ["data.path=rows.jsonl"]),
    "scored_hub": ("text_regression", ["data.path.name=owner/name", COMMIT]),
    "labelled_hub": ("classification", ["data.path.name=owner/name", COMMIT]),
    "pairs_hub": ("translation", ["data.path.name=owner/name", COMMIT]),
    "tagged_hub": ("tagging", ["data.path.name=owner/name", COMMIT]),
    **{
        path.stem: ("algorithmic", [])
        for path in (CONF / "data").glob("*.yaml")
        if "data.synthetic." in path.read_text()
    },
    "icl_regression": ("regression", []),
}
HEADS = {"masked_lm": "masked_lm", "tagging": "tagging"}
FILES = ("spam", "sentiment", "translate_en_zh")
MOVING = ("iwslt14",)  # experiments that read a branch of a hub, not a commit


def whole(choice: str) -> list[str]:
    """Returns a choice of task or labelled data with the other choices that it needs."""
    group, _, name = choice.partition("=")
    if group == "task" and name in TASKS:
        return [*PLAIN, *TASKS[name], choice]
    if group == "data" and name in DATA:
        task, more = DATA[name]
        parts = [word for word in TASKS[task] if not word.startswith("data")]
        return [*PLAIN, *parts, f"task={task}", choice, *more]
    if group == "model/head":
        task = HEADS.get(name, "classification")
        parts = [word for word in TASKS[task] if not word.startswith("model/head")]
        return [*PLAIN, *parts, f"task={task}", choice]
    return []


def needed(choice: str, corpus: Path) -> list[str]:
    """Returns the required overrides: a text, and an experiment without a tokenizer."""
    if choice == "data/tokenizer=pretrained":  # read when the data is prepared
        return ["experiment=debug", "data.tokenizer.path=tokenizer.json"]
    if choice.startswith("data/tokenizer"):
        return ["experiment=debug"]
    if choice == "data=hub_text":  # with a commit nothing is asked of the hub
        return ["data.name=owner/name", f"data.revision={'0' * 40}"]
    if choice == "data=streamed":
        return [f"data.source.path={corpus}"]
    if choice.removeprefix("experiment=") in FILES:
        return ["data.path=rows.jsonl"]
    if choice.removeprefix("experiment=") in MOVING:
        return [COMMIT]
    of_text = (TEXT, "experiment=enwik8", "experiment=names")
    reads_files = choice in of_text or "shakespeare" in choice
    return [f"data.path={corpus}"] if reads_files else []


def test_the_groups_are_those_that_were_meant() -> None:
    groups = {choice.partition("=")[0] for choice in CHOICES}
    assert {"model", "model/attention", "data", "data/tokenizer", "experiment"} <= groups
    assert len(CHOICES) >= 35


@pytest.mark.parametrize("choice", CHOICES)
def test_composes_checks_and_builds(choice: str, corpus: Path) -> None:
    needs = whole(choice)
    if needs and choice != "model/head=none":
        choice = needs.pop()
    elif choice in FITS:
        needs = [f"model={FITS[choice]}", *PLAIN]
    elif choice == "model/head=none":
        needs = ["model=bert_tiny", *PLAIN]
    elif choice.startswith("model="):
        needs = PLAIN  # not in the parts of the experiment that is taken otherwise
    else:
        needs = needed(choice, corpus)
    checked = check(compose([choice, *needs]))
    with torch.device("meta"):
        model = build_model_from_config(checked, 300_000)
    kinds = checked.nodes["task"].constructor.models
    decodes = isinstance(model, Decoder) and model.mask.causal
    if (kinds == (Decoder,) and not decodes) or not isinstance(model, kinds):
        with pytest.raises(RequestError, match="CausalLM"):
            build_parts(checked)
        return
    parts = build_parts(checked)
    for step in (0, 7, 98):  # the last may be at rate 0
        assert 0.0 < parts.schedule(step, 100) <= 1.0
    with torch.device("meta"):
        assert parts.optimizer(torch.nn.Linear(2, 2)).param_groups[0]["lr"] > 0.0
    assert parts.trainer.total_steps(steps_per_epoch=10.0) >= 1
    assert parts.data.sequence_length >= 1
    assert callable(parts.task)


def test_a_mask_that_shows_the_targets_is_refused() -> None:
    with pytest.raises(
        RequestError, match=r"model\.mask = 'Bidirectional': expected a causal mask"
    ):
        build_parts(check(compose(["experiment=debug", "model/mask=bidirectional"])))


def test_a_corpus_that_must_be_given_is_asked_for() -> None:
    with pytest.raises(RequestError, match=r"data\.path: expected a value \(set data\.path="):
        check(compose([TEXT]))


@pytest.mark.parametrize("model", ["bert_base", "t5_small", "bert_tiny model/mask=causal"])
def test_what_is_no_decoder_does_not_predict_the_next_token(model: str) -> None:
    config = compose([*f"model={model}".split(), *PLAIN])
    with pytest.raises(RequestError) as caught:
        build_parts(check(config))
    (problem,) = caught.value.problems
    assert problem.where == "model"
    assert problem.expected == "a decoder for CausalLM"
    assert problem.value == ("EncoderDecoder" if "t5" in model else "Encoder")


def test_a_slot_that_says_nothing_is_not_in_the_signature() -> None:
    plain = check(compose(["experiment=debug"])).identity
    assert "initialise" not in plain["model"]
    chosen = check(compose(["experiment=debug", "model/initialise=small"])).identity
    assert chosen["model"]["initialise"] == {"_target_": "etude.nn.init.Small"}
    bare = check(compose(["model=bert_tiny", "model/head=none", *PLAIN])).identity
    assert "head" not in bare["model"]


def test_the_width_of_a_head_is_the_models_to_say() -> None:
    """For all position parts; a part cannot set its own width."""
    for position in ("alibi", "learned", "relative", "rotary_llama3", "sinusoidal", "none"):
        checked = check(
            compose(["experiment=debug", f"model/position={position}", "model.head_dim=8"])
        )
        with torch.device("meta"):
            built = checked.nodes["model"].build(vocab_size=5)
        assert built.blocks[0].attention.head_dim == 8
    with pytest.raises(
        RequestError, match=r"the model sets this argument; to change it, set model\.head_dim"
    ):
        check(compose(["experiment=debug", "model.attention.head_dim=8"]))
