"""Tests of `GenerationConfig`."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, replace
from inspect import signature
from typing import Any

import pytest
import torch
from test_generate import Counting

from etude.errors import Checks, InvalidArguments
from etude.generation.generate import generate
from etude.generation.generation_config import GenerationConfig
from etude.generation.stopping import StopConditions
from etude.models.text_generator import TextGenerator

PROMPT = torch.tensor([[1, 2, 3]])


def test_it_cannot_be_made_with_mistakes_which_are_all_reported() -> None:
    with pytest.raises(InvalidArguments) as caught:
        GenerationConfig(samples=0, top_p=2.0, early_stopping=True, min_new_tokens=101)
    found = [problem.where for problem in caught.value.problems]
    assert found == ["min_new_tokens", "samples", "top_p", "early_stopping"]
    with pytest.raises(FrozenInstanceError):
        GenerationConfig().samples = 0  # type: ignore[misc]
    with pytest.raises(InvalidArguments, match="beams = 2"):
        replace(GenerationConfig(temperature=0.5), beams=2)


def test_a_config_is_the_same_as_its_fields() -> None:
    def draw(*config: GenerationConfig, **options: Any) -> list[list[int]]:
        generator = torch.Generator().manual_seed(0)
        model = Counting()
        out = generate(model, PROMPT, *config, generator=generator, use_cache=False, **options)
        return out.tolist()

    config = GenerationConfig(max_new_tokens=4, samples=2, top_k=3)
    expected = draw(max_new_tokens=4, samples=2, top_k=3)
    assert draw(config) == expected
    assert draw(replace(config, max_new_tokens=9), max_new_tokens=4) == expected


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(TypeError, match="top_q"):
        generate(Counting(), PROMPT, top_q=3)


def test_other_mistakes_are_reported_beside_those_of_the_options() -> None:
    with pytest.raises(InvalidArguments) as caught:
        generate(Counting(), PROMPT[:, :0], temperature=-1.0)
    assert [problem.where for problem in caught.value.problems] == ["tokens", "temperature"]


def test_a_model_takes_the_same_options_with_the_same_defaults() -> None:
    taken = signature(TextGenerator.generate).parameters
    for field in fields(GenerationConfig):
        assert taken[field.name].default == field.default, field.name


def test_ends() -> None:
    assert StopConditions().fill == 0
    assert StopConditions([7, 8]).fill == 7


def test_what_is_collected() -> None:
    checks = Checks()
    checks.that(False, "first", 1, "another")
    with checks.collecting():
        GenerationConfig(samples=0)
    assert [problem.where for problem in checks.problems] == ["first", "samples"]
    with pytest.raises(ValueError, match="other"), checks.collecting():
        raise ValueError("other")


def test_values_of_other_types_are_reported_together() -> None:
    wrong = {
        "samples": "2", "max_new_tokens": 2.5, "top_k": True, "temperature": "hot",
        "no_repeat_ngram": None, "greedy": "yes", "top_p": "half", "beams": 1.5,
    }  # fmt: skip
    with pytest.raises(InvalidArguments) as error:
        GenerationConfig(**wrong)
    told = {problem.where: problem.expected for problem in error.value.problems}
    assert told == {
        "samples": "a whole number",
        "max_new_tokens": "a whole number",
        "top_k": "a whole number",
        "temperature": "a number",
        "no_repeat_ngram": "a whole number",
        "greedy": "true or false",
        "top_p": "a number",
        "beams": "a whole number",
    }
    assert GenerationConfig(samples=2, temperature=1).temperature == 1
