"""A run is isolated from the settings of its process, and doesn't change them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from comparing import assert_same
from omegaconf import DictConfig

from etude.records.record import Record
from etude.training.run import train

Small = Callable[..., DictConfig]


@pytest.fixture(scope="module")
def whole(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Record:
    return train(small(tmp_path_factory.mktemp("whole"))).record


@pytest.fixture
def settings_are_put_back() -> Iterator[None]:
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    torch.use_deterministic_algorithms(False)
    torch.autograd.set_detect_anomaly(False)


@pytest.mark.parametrize(
    "disturb",
    [
        lambda: torch.manual_seed(3),
        lambda: torch.set_default_dtype(torch.float64),
        lambda: torch.set_default_device("meta"),
        lambda: torch.use_deterministic_algorithms(True),
    ],
)
@pytest.mark.usefixtures("settings_are_put_back")
def test_a_disturbed_process_trains_the_same(
    small: Small, whole: Record, tmp_path: Path, disturb: Callable[[], object]
) -> None:
    disturb()
    assert_same(train(small(tmp_path)).record, whole)


def test_nor_does_a_surrounding_context(small: Small, whole: Record, tmp_path: Path) -> None:
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same(train(small(tmp_path)).record, whole)


@pytest.mark.usefixtures("settings_are_put_back")
def test_the_process_is_as_it_was(small: Small, whole: Record, tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    train(small(tmp_path / "other", "trainer.deterministic=true", "trainer.detect_anomaly=true"))
    assert torch.equal(torch.rand(4), expected)
    assert torch.get_default_dtype() == torch.float64
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.is_anomaly_enabled()
    assert_same(train(small(tmp_path / "same")).record, whole)
