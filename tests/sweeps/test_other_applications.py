"""Hydra's test suite for launchers, which runs another application's jobs with our launcher."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import version
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from hydra.test_utils.launcher_common_tests import LauncherTestSuite
from hydra.test_utils.test_utils import TSweepRunner
from hydra.version import VersionBase
from packaging.version import Version

PLUGINS = {
    "launcher": ("etude_processes", "launcher.ProcessLauncher"),
    "sweeper": ("etude_search", "search.SearchSweeper"),
}


@pytest.fixture(autouse=True)
def named() -> Iterator[None]:
    """Other applications don't search Étude's configs: they set the plugins' configs themselves.

    The suite's jobs work in folders of their own, as Hydra 1.1 has it: without a `version_base`,
    which is the process's and which every composing of Étude's sets.
    """
    before = version.getbase()
    VersionBase.instance().setbase(Version("1.1"))
    for group, (name, target) in PLUGINS.items():
        node = {"_target_": f"hydra_plugins.etude_sweeps.{target}"}
        ConfigStore.instance().store(group=f"hydra/{group}", name=name, node=node)
    yield
    VersionBase.instance().setbase(before)
    for group, (name, _) in PLUGINS.items():
        ConfigStore.instance().repo["hydra"][group].pop(f"{name}.yaml", None)


@pytest.mark.parametrize(("launcher_name", "overrides"), [("etude_processes", [])])
class TestLauncher(LauncherTestSuite):
    """Hydra's suite with our launcher."""


def test_a_job_returns_what_the_application_returns(
    hydra_sweep_runner: TSweepRunner, tmpdir: Path
) -> None:
    sweep = hydra_sweep_runner(
        calling_file=None,
        calling_module="hydra.test_utils.a_module",
        task_function=lambda config: 2 * config.foo,
        config_path="configs",
        config_name="compose.yaml",
        overrides=["hydra/launcher=etude_processes", "foo=1,2"],
        temp_dir=tmpdir,
    )
    with sweep:
        (returns,) = sweep.returns or []
        assert [job.return_value for job in returns] == [2, 4]


def test_the_search_says_that_it_is_for_etude(
    hydra_sweep_runner: TSweepRunner, tmpdir: Path
) -> None:
    sweep = hydra_sweep_runner(
        calling_file=None,
        calling_module="hydra.test_utils.a_module",
        task_function=lambda config: 1,
        config_path="configs",
        config_name="compose.yaml",
        overrides=["hydra/sweeper=etude_search", "foo=1,2"],
        temp_dir=tmpdir,
    )
    with pytest.raises(HydraException, match="only jobs of etude"), sweep:
        pass
