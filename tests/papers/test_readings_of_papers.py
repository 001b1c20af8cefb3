"""Compares the readings of single papers with numbers computed by hand."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import curve_fit

import etude
from etude.errors import InvalidArguments, RequestError
from etude.papers.readings import value_of
from etude_papers import layer_norms, lengths, scaling
from etude_papers.lengths import Lengths
from etude_papers.scaling import Curves, Scaling
from etude_papers.transfer import Transfer


def finished(seed: int, status: str = "finished", **last: float) -> Any:
    metrics = {"step": [1]} | {key.replace("_", "/"): [value] for key, value in last.items()}
    return SimpleNamespace(summary={"seed": seed}, status=status, metrics=pd.DataFrame(metrics))


class TestOfOneSeed:
    LOSS: ClassVar[dict[str, str]] = {"run": "a", "metric": "val/loss"}
    OTHER: ClassVar[dict[str, str]] = {"run": "b", "metric": "val/loss"}

    def runs(self) -> dict[str, list[Any]]:
        """The second arm lacks the first seed, and has a zero denominator for another one."""
        return {
            "a": [finished(seed, val_loss=12.0 + seed) for seed in (0, 1, 2)],
            "b": [finished(1, val_loss=2.0), finished(2, val_loss=0.0)],
        }

    def test_a_quotient_is_of_one_seed(self) -> None:
        found = value_of({**self.LOSS, "over": self.OTHER}).read(self.runs())
        assert found[0] == 13.0 / 2.0
        assert len(found) == 2
        assert math.isnan(found[1])

    def test_a_mean_is_of_one_seed(self) -> None:
        assert value_of({"mean": [self.LOSS, self.OTHER]}).read(self.runs()) == [7.5, 7.0]

    def test_a_metric_that_no_run_has_is_told_with_the_nearest(self) -> None:
        wrong = value_of({"run": "a", "metric": "val/los"})
        with pytest.raises(
            RequestError, match=r"metric of the run a = 'val/los'.*did you mean val/loss"
        ):
            wrong.read(self.runs())
        diverged = {"a": [finished(0, "diverged", train_loss=9.0)]}
        assert math.isnan(value_of(self.LOSS).read(diverged)[0])


class TestTransfer:
    RATES = (1e-3, 2e-3, 4e-3, 8e-3)

    def run(self, width: int, rate: float, seed: int, best: float) -> Any:
        loss = 2.0 + (math.log2(rate) - math.log2(best)) ** 2 + 0.01 * seed
        return SimpleNamespace(
            config=SimpleNamespace(
                model=SimpleNamespace(dim=width), optimizer=SimpleNamespace(lr=rate)
            ),
            summary={"seed": seed},
            status="finished",
            metrics=pd.DataFrame({"step": [1], "val/loss": [loss]}),
        )

    def runs(self) -> dict[str, list[Any]]:
        """The best rate is 4e-3 with muP; without, 2e-3 at width 128 and 1e-3 at 256."""
        cells = {
            "small": {64: 4e-3},
            "mup": {128: 4e-3, 256: 4e-3},
            "sp": {128: 2e-3, 256: 1e-3},
        }
        return {
            arm: [
                self.run(width, rate, seed, best)
                for width, best in bests.items()
                for rate in self.RATES
                for seed in (0, 1)
            ]
            for arm, bests in cells.items()
        }

    def reading(self) -> Transfer:
        return Transfer(base="small", mup="mup", standard="sp", metric="val/loss")

    def test_octaves_by_hand(self, tmp_path: Path) -> None:
        found = self.reading().read(self.runs(), tmp_path)
        assert found["shift/mup"].values == [0.0, 0.0]
        assert found["shift/standard"].values == pytest.approx([2.0, 2.0])
        assert found["shift/mup"].controls == found["shift/standard"].values
        assert (tmp_path / "transfer.png").stat().st_size > 1000

    def test_a_seed_that_lacks_a_run_does_not_count(self, tmp_path: Path) -> None:
        runs = self.runs()
        runs["mup"] = [
            r for r in runs["mup"] if (r.summary["seed"], r.config.optimizer.lr) != (1, 4e-3)
        ]
        assert self.reading().read(runs, tmp_path)["shift/mup"].values == [0.0]

    def test_what_diverged_is_not_the_best(self, tmp_path: Path) -> None:
        runs = self.runs()
        for run in runs["mup"]:
            if run.config.optimizer.lr == 4e-3 and run.config.model.dim == 256:
                run.status = "diverged"  # after a small loss
        values = self.reading().read(runs, tmp_path)["shift/mup"].values
        assert values == pytest.approx([1.0, 1.0])  # the lower of two equally good rates

    def test_a_width_that_diverged_at_every_rate_has_no_best(self, tmp_path: Path) -> None:
        runs = self.runs()
        for one in runs["sp"]:
            if one.config.model.dim == 256:
                one.metrics["val/loss"] = math.nan
        found = self.reading().read(runs, tmp_path)
        assert all(map(math.isnan, found["shift/standard"].values))
        assert found["shift/mup"].values == [0.0, 0.0]

    def test_nothing_is_said_of_nothing(self, tmp_path: Path) -> None:
        assert self.reading().read({}, tmp_path) == {}
        assert not list(tmp_path.iterdir())

    def test_three_different_arms(self) -> None:
        with pytest.raises(InvalidArguments, match="base"):
            Transfer(base="a", mup="a", standard="b", metric="val/loss")


class TestScaling:
    SIZES = np.array([1e4, 2e4, 5e4, 1e5, 3e5])

    @given(floor=st.floats(0.2, 3), scale=st.floats(1, 50), exponent=st.floats(0.1, 1.5))
    def test_what_was_put_in_comes_out(self, floor: float, scale: float, exponent: float) -> None:
        losses = floor + scale * self.SIZES**-exponent
        found = scaling.fit(self.SIZES, losses)
        assert found.r2 > 0.9999
        assert found.exponent == pytest.approx(exponent, rel=0.02)  # the grid's step is 0.8 %
        assert found(self.SIZES) == pytest.approx(losses, rel=1e-3)

    def test_as_scipy_fits(self) -> None:
        noise = np.random.default_rng(0).normal(0, 0.01, len(self.SIZES))
        losses = 1.5 + 20 * self.SIZES**-0.4 + noise
        found = scaling.fit(self.SIZES, losses)

        def law(n: Any, floor: float, scale: float, exponent: float) -> Any:
            return floor + scale * n**-exponent

        (floor, scale, exponent), _ = curve_fit(law, self.SIZES, losses, p0=(1.5, 20, 0.4))
        assert found.exponent == pytest.approx(exponent, rel=0.02)
        assert found(self.SIZES) == pytest.approx(law(self.SIZES, floor, scale, exponent), abs=1e-3)

    def test_a_floor_is_none_below_zero_and_none_at_all_on_request(self) -> None:
        straight = 3 - 0.1 * np.log(self.SIZES)  # without a lower bound
        assert scaling.fit(self.SIZES, straight).floor == 0
        bent = 1.5 + 2000 * self.SIZES**-1.0
        assert scaling.fit(self.SIZES, bent, floor=False).floor == 0
        assert (
            scaling.fit(self.SIZES, bent, floor=False).r2 < 0.9 < scaling.fit(self.SIZES, bent).r2
        )

    def test_the_bootstrap_is_narrow_where_seeds_agree(self) -> None:
        one = 1.5 + 20 * self.SIZES**-0.4
        same = scaling.bootstrap(self.SIZES, np.stack([one, one, one]), 20)
        assert {fit.exponent for fit in same} == {scaling.fit(self.SIZES, one).exponent}
        noise = np.random.default_rng(0).normal(0, 0.02, (3, len(self.SIZES)))
        spread = scaling.bootstrap(self.SIZES, one + noise, 50)
        assert np.std([fit.exponent for fit in spread]) > 0.01

    def test_equal_compute_by_hand(self) -> None:
        sizes, tokens = np.array([100.0, 200.0]), np.array([1000.0, 4000.0])
        losses = np.array([[[3.0, 1.0], [4.0, 2.0]]])
        there, found = scaling.at_compute(Curves(sizes, tokens, losses), 6 * 100 * 2000)
        assert list(there) == [100, 200]
        assert found == pytest.approx([2.0, 4.0])  # 2000 is interpolated on a logarithmic scale
        there, _ = scaling.at_compute(Curves(sizes, tokens, losses), 6 * 100 * 4000)
        assert list(there) == [100, 200]
        there, _ = scaling.at_compute(Curves(sizes, tokens, losses), 6 * 200 * 4000)
        assert list(there) == [200]

    def runs(self, seeds: int) -> dict[str, list[Any]]:
        return {
            "sizes": [
                SimpleNamespace(
                    summary={"seed": seed, "parameters": int(size)},
                    metrics=pd.DataFrame(
                        {
                            "tokens": [100, 200],
                            "val/loss": [4.0, 1.0 + 20 * size**-0.4 + 0.001 * seed],
                        }
                    ),
                )
                for seed in range(seeds)
                for size in self.SIZES
            ]
        }

    def test_readings(self, tmp_path: Path) -> None:
        found = Scaling(sizes="sizes", resamples=5).read(self.runs(2), tmp_path)
        assert all(value < 0 for value in found["rise"].values)
        assert all(value > 0.1 for value in found["rise"].controls)
        assert found["r2"].values == pytest.approx([1, 1], abs=1e-4)
        assert max(found["r2"].controls) < 0.9
        assert (tmp_path / "scaling.png").stat().st_size > 1000

    def test_a_seed_without_all_sizes_does_not_count(self, tmp_path: Path) -> None:
        runs = self.runs(2)
        del runs["sizes"][-1]
        found = Scaling(sizes="sizes", resamples=5).read(runs, tmp_path)
        assert len(found["r2"].values) == 1
        assert Scaling(sizes="sizes").read({}, tmp_path) == {}


class TestLengths:
    @pytest.fixture(scope="class")
    def run(self, tmp_path_factory: pytest.TempPathFactory) -> Any:
        text = tmp_path_factory.mktemp("text") / "text.txt"
        text.write_text("To be, or not to be, that is the question.\n" * 100)
        config = etude.compose(
            "experiment=debug", "data=text_files", "data/tokenizer=char", f"data.path='{text}'",
            "model/position=alibi", "data.sequence_length=8", "trainer.max_steps=3",
            "trainer.val_check_interval=3", f"run.root='{text.parent}'", "run.samples=0",
            "schedule.warmup_steps=0",
        )  # fmt: skip
        return etude.train(config)

    @pytest.mark.parametrize("times", [1, 4])
    def test_the_mean_over_positions_is_the_loss_of_the_windows(self, run: Any, times: int) -> None:
        losses = lengths.losses_by_position(run, times)
        assert losses.shape == (8 * times,)
        data = run.data()
        run.prepare(data)
        batches = [b for b in data.evaluation_batches("val", 8 * times)]
        whole = sum(len(b["tokens"]) for b in batches if b["tokens"].shape[1] == 8 * times)
        rest = [b for b in batches if b["tokens"].shape[1] != 8 * times]
        told = run.evaluate("val", sequence_length=8 * times, which="last")["loss"]
        if not rest:
            assert losses.mean() == pytest.approx(told, rel=1e-5)
        else:  # except for some of the last tokens
            assert losses.mean() == pytest.approx(told, rel=0.02)
        assert whole > 10

    def test_gap(self, run: Any, tmp_path: Path) -> None:
        reading = Lengths(times=[1, 4], controls={"a": "b"})
        found = reading.read({"a": [run], "b": [run]}, tmp_path)
        gap = lengths.losses_by_position(run, 4).mean() - lengths.losses_by_position(run, 1).mean()
        assert found["gap/a"].values == pytest.approx([gap])
        assert (tmp_path / "lengths.png").stat().st_size > 1000
        assert reading.read({"b": [run]}, tmp_path) == {}

    def test_the_training_length_is_one_of_them(self) -> None:
        with pytest.raises(InvalidArguments, match="times"):
            Lengths(times=[2, 4], controls={})


class TestLayerNorms:
    def measure(self) -> layer_norms.LayerNorms:
        return layer_norms.LayerNorms(
            depths=[2, 16], dim=64, heads=4, vocabulary=50, length=16, batch=8
        )

    def test_slope_by_hand(self) -> None:
        assert layer_norms.log_log_slope([1, 2, 4], [3.0, 1.5, 0.75]) == pytest.approx(-1)
        assert layer_norms.log_log_slope([2, 8], [1.0, 4.0]) == pytest.approx(1)

    def test_post_ln_has_the_larger_gradient_in_depth(self) -> None:
        measure = self.measure()
        falls = measure.norm("pre", 2, 0) / measure.norm("pre", 16, 0)
        assert 2 < falls < 4  # sqrt(8) is 2.8
        assert measure.norm("post", 16, 0) > 0.8 * measure.norm("post", 2, 0)
        assert measure.norm("pre", 2, 0) == measure.norm("pre", 2, 0)  # a function of the seed

    def test_readings(self, tmp_path: Path) -> None:
        found = self.measure().measure([0, 1], tmp_path)
        assert found["slope/pre"].values == found["slope/post"].controls
        assert len(found["slope/pre"].values) == 2
        assert (tmp_path / "gradients.png").stat().st_size > 1000

    def test_depths_must_differ(self) -> None:
        with pytest.raises(InvalidArguments, match="depths"):
            layer_norms.LayerNorms(
                depths=[4, 4], dim=64, heads=4, vocabulary=50, length=16, batch=8
            )
