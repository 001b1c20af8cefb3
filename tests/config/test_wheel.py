"""The wheel contains the configs."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from etude.config.paths import conf_dir

ROOT = Path(__file__).resolve().parents[2]


def test_in_a_checkout_they_are_at_the_top() -> None:
    assert conf_dir() == ROOT / "conf"


@pytest.mark.slow
def test_an_installed_wheel_finds_its_own(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(tmp_path)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("etude-*.whl")
    installed = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(installed)
    shipped = {p.relative_to(ROOT / "conf") for p in (ROOT / "conf").rglob("*.yaml")}
    assert {p.relative_to(installed / "etude/conf") for p in installed.rglob("*.yaml")} == shipped
    done = subprocess.run(
        [sys.executable, "-m", "etude", "train", "--cfg", "job", "experiment=debug"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "name: debug" in done.stdout
    where = "from etude.config.paths import conf_dir; print(conf_dir())"
    done = subprocess.run(
        [sys.executable, "-c", where],
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(installed / "etude" / "conf")
