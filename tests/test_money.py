"The commands that say what is spent; a whole run through the lab's server with a canary key."

import os
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cot_distill import runner
from cot_distill.cli import app, open_ledger
from cot_distill.run import run_config
from cot_distill.runner import run_notebook

ROOT = Path(__file__).resolve().parents[1]
KEY = "sk-canary-77aa01"
SETTINGS = """
[paid]
benchmark = lab
teacher = lab-server
students = small:gpt2
seeds = 0 1
languages = bg vi
train_limit = 30
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    (tmp_path / "settings.ini").write_text(SETTINGS)
    shutil.copytree(ROOT / "nbs" / "experiments", tmp_path / "nbs" / "experiments")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("COT_DISTILL_CEILING", raising=False)
    return tmp_path


def call(*args):
    return CliRunner().invoke(app, args)


def test_a_dry_run_counts_every_prompt_once_and_sends_nothing(root):
    said = call("reproduce", "table_m1", "--profile", "paid", "--dry-run")
    assert said.exit_code == 0, said.output
    assert (
        "in all: 240 prompts, 1,080 samples" in said.output
    )  # two seeds, two languages of the rationale, greedy and sampled: 2·2·2·30; (1 + 8)·30·2·2
    assert (
        "asks nothing new" in said.output
        and "margin of 30%" in said.output
        and open_ledger(root).bill().requests == 0
    )


def test_the_ledger_command(root):
    assert "nothing was asked yet" in call("ledger").output
    from cot_distill.ledger import Prompt, Response, grant, settle

    ledger = open_ledger(root)
    (leave,) = ledger.transact(
        [(grant, (Prompt("s", "m", [dict(role="user", content="?")], {}), 1, "me", lambda n: 0.1))]
    )
    ledger.transact(
        [(settle, (leave.attempt, Response([("Because.", "stop")], 10, 5, "{}", 0.1), 0.25))]
    )
    said = call("ledger", "--export", "out.parquet", "--last", "1").output
    assert (
        "$0.2500" in said
        and "Because." in said
        and "stop 1" in said
        and (root / "out.parquet").exists()
    )
    assert "0 completions were new" in call("ledger", "--load", "out.parquet").output


def test_a_budget_reaches_every_notebook(root, monkeypatch):
    monkeypatch.setattr(runner, "reproduce", lambda *a, **k: [])
    monkeypatch.setenv("COT_DISTILL_CEILING", "")
    call("reproduce", "table_m1", "--profile", "paid", "--budget", "1.5")
    assert float(os.environ["COT_DISTILL_CEILING"]) == 1.5


def test_a_whole_run_through_the_lab_server_leaves_no_trace_of_the_key(root):
    config = run_config(
        teacher="lab-server",
        student="small:gpt2",
        method="d-cot",
        languages="en bg",
        steps=2,
        samples=2,
        train_limit=12,
        test_limit=8,
        width=32,
        layers=1,
        batch_size=4,
    )
    done = run_notebook(
        root / "nbs" / "experiments" / "run.ipynb",
        root / "data" / "results" / "paid" / "run.ipynb",
        asdict(config) | dict(profile="paid"),
        root,
    )
    assert done.state == "done", done.error
    bill, files = open_ledger(root).bill(), [p for p in root.rglob("*") if p.is_file()]
    assert bill.samples == 24 and bill.cost == 0 and len(files) > 8
    assert not [p.name for p in files if KEY.encode() in p.read_bytes()]


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("ledger", "--load", "nosuch.parquet"), "nosuch.parquet is no ledger's export"),
        (("ledger", "--load", "settings.ini"), "settings.ini is no ledger's export"),
        (("ledger", "--export", "no/such/out.parquet"), "out.parquet cannot be written"),
        (("reproduce", "table_m1", "--profile", "paid", "--budget", "-5"), "--budget"),
    ],
)
def test_a_command_that_cannot_be_done_says_so_in_a_line(root, arguments, said):
    result = call(*arguments)
    assert result.exit_code and isinstance(result.exception, SystemExit), result.exception
    assert said in f"{result.output} {result.exception}"
    assert open_ledger(root).bill().requests == 0


def test_a_broken_ledger_is_said_in_a_line(root):
    path = Path(open_ledger(root).path)
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()
    path.write_bytes(b"no ledger at all" * 100)
    result = call("ledger")
    assert "cannot be opened as a ledger" in str(result.exception)
    assert isinstance(result.exception, SystemExit)
