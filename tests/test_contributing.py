"The changes that CONTRIBUTING.md shows: each diff applies, and the command after it says so."

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf8")
CHANGE = re.compile(
    r"^## (?P<title>[^\n]+)\n(?:(?!^## ).)*?"
    r"^```diff\n(?P<diff>.*?)^```\n(?:(?!^## ).)*?"
    r"^```sh\n(?P<command>.*?)^```\n(?:(?!^## ).)*?"
    r"^```text\n(?P<said>.*?)^```\n",
    re.MULTILINE | re.DOTALL,
)
CHANGES = [match.groupdict() for match in CHANGE.finditer(TEXT)]


def test_every_diff_is_tried():
    assert len(CHANGES) == TEXT.count("```diff\n") == 4


@pytest.fixture
def copy(tmp_path):
    "The project without its tests, results and figures."
    for name in ("nbs", "cot_distill"):
        skip = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=skip)
    for name in ("pyproject.toml", "settings.ini"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def done(folder, *command, text=None):
    path = os.pathsep.join([str(BIN), os.environ["PATH"]])
    env = os.environ | dict(PYTHONPATH=str(folder), PATH=path, COLUMNS="200")
    answer = subprocess.run(
        command, cwd=folder, env=env, input=text, capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


@pytest.mark.parametrize("change", CHANGES, ids=[c["title"] for c in CHANGES])
def test_a_change(change, copy):
    done(copy, "git", "apply", "--recount", "-", text=change["diff"])
    done(copy, "nbdev-export")
    said = done(copy, "bash", "-ec", change["command"])
    for line in change["said"].splitlines():
        assert line in said
