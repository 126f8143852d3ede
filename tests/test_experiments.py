"Notebooks and their parameters, runs that fail or are interrupted, and one flow to a table."

import ast
import json
import os
import pickle
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, fields
from pathlib import Path

import nbformat
import pytest
from test_kernels import gone
from typer.testing import CliRunner

from cot_distill import experiments, report, runner
from cot_distill.cli import app
from cot_distill.evaluation import metrics, predict
from cot_distill.experiments import (
    ARTEFACTS,
    Artefact,
    arm,
    plan,
    project_root,
    read_profile,
    results_of,
)
from cot_distill.kernels import ForkedKernel, forked_kernels
from cot_distill.methods import LOSSES, METHODS, Registry, examples_of
from cot_distill.results import Records, read_predictions, results_frame, save_run
from cot_distill.run import (
    ASIDE,
    Knobs,
    RunConfig,
    ask_teacher,
    check_student,
    code_of,
    inputs_of,
    open_data,
    open_student,
    run_config,
    run_key,
    typed,
)
from cot_distill.runner import forecast, reproduce, run_notebook, shares, side_by_side
from cot_distill.training import train

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = sorted((ROOT / "nbs" / "experiments").glob("*.ipynb"))


def cells(notebook, tag):
    return [c for c in nbformat.read(notebook, 4).cells if tag in c.metadata.get("tags", ())]


def assigned(source):  # name -> value
    return {t.targets[0].id: ast.literal_eval(t.value) for t in ast.parse(source).body}


def notebook(file, *code, tag="parameters"):
    file.parent.mkdir(parents=True, exist_ok=True)
    made = nbformat.v4.new_notebook(
        cells=list(map(nbformat.v4.new_code_cell, code)),
        metadata=dict(kernelspec=dict(name="python3", display_name="python3", language="python")),
    )
    made.cells[0].metadata["tags"] = [tag] if tag else []
    nbformat.write(made, file)
    return file


# the committed notebooks


def test_the_single_run_takes_exactly_the_parameters_of_a_run():
    [cell] = cells(ROOT / "nbs/experiments/run.ipynb", "parameters")
    given = assigned(cell.source)
    assert set(given) == {f.name for f in fields(RunConfig)} | {"profile", "hub", "keep"}
    kinds = {f.name: dict if f.type is Knobs else f.type for f in fields(RunConfig)}
    assert {name: type(value) for name, value in given.items()} == kinds | dict(
        profile=str, hub=str, keep=str
    )
    assert run_config(**{k: v for k, v in given.items() if k not in ("profile", "hub", "keep")})


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda f: f.stem)
def test_experiments_have_one_parameters_cell_that_cleaning_keeps(file, tmp_path):
    (tmp_path / "nbs").mkdir()
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    copy = Path(shutil.copy(file, tmp_path / "nbs"))
    for name in (file, copy):
        [cell] = cells(name, "parameters")
        assert (
            all(type(v) in (str, int, float, bool, dict) for v in assigned(cell.source).values())
            and nbformat.read(name, 4).metadata.kernelspec.name == "python3"
        )
        if name is file:
            subprocess.run(
                [Path(sys.executable).parent / "nbdev-clean", "--fname", copy],
                cwd=tmp_path,
                check=True,
                capture_output=True,
            )


def test_every_artefact_has_its_notebook():
    assert {f.stem for f in EXPERIMENTS} == {"run", *ARTEFACTS}
    assert all(
        a["method"] in METHODS and run_config(**a)
        for artefact in ARTEFACTS.values()
        for a in artefact.arms
    )


@pytest.mark.parametrize("file", sorted((ROOT / "nbs").rglob("*.ipynb")), ids=lambda f: f.stem)
def test_outputs_name_no_machine(file):
    outputs = json.dumps(
        [c.get("outputs", []) for c in nbformat.read(file, 4).cells if c.cell_type == "code"]
    )
    assert not re.findall(r"(?<![\w.:/])/(?:home|root|tmp|work|usr|Users)/[^\s\"\\]*", outputs)


# settings and parameters


def test_every_profile_parses():
    sections = re.findall(r"^\[(?!DEFAULT)(\S+)\]", (ROOT / "settings.ini").read_text(), re.M)
    assert {"lab", "lab-full", "colab", "paper"} <= set(sections)
    for name in sections:
        profile = read_profile(name, ROOT)
        assert profile.students and profile.seeds
        for artefact in (name for name, a in ARTEFACTS.items() if a.arms):
            if ARTEFACTS[artefact].lab and profile.combined["benchmark"] != ("lab",):
                with pytest.raises(ValueError, match="only the lab has"):
                    plan(artefact, profile)
                continue
            configs = plan(artefact, profile)
            assert len(set(configs)) == len(configs) and len(configs) >= len(
                profile.for_artefact(artefact).students
            ) * len(profile.for_artefact(artefact).seeds)


@pytest.mark.parametrize("value, hub", [("", ""), ("mirror", "mirror"), ("$SOME_MIRROR", "there")])
def test_hub_of_a_profile(tmp_path, monkeypatch, value, hub):
    (tmp_path / "settings.ini").write_text(f"[x]\nhub = {value}\n")
    monkeypatch.setenv("SOME_MIRROR", "there")
    assert read_profile("x", tmp_path).hub == hub


@pytest.mark.parametrize("variable", ["$SOME_MIRROR", "${SOME_MIRROR}"])
def test_a_variable_that_is_not_set_means_the_hub_itself(tmp_path, monkeypatch, variable):
    (tmp_path / "settings.ini").write_text(f"[x]\nhub = {variable}\n")
    monkeypatch.delenv("SOME_MIRROR", raising=False)
    assert read_profile("x", tmp_path).hub == ""


@pytest.mark.parametrize(
    "name, value, why",
    [
        ("stpes", 3, "no parameter 'stpes'; the nearest is 'steps'"),
        ("steps", "many", "'steps' is int, not 'many'"),
        ("steps", 3.5, "is int"),
        ("steps", "3.5", "is int"),
        ("steps", True, "is int"),
        ("lr", None, "is float"),
        ("student", 3, "is str"),
    ],
)
def test_bad_parameters(name, value, why):
    with pytest.raises(ValueError, match=why):
        run_config(**{name: value})


def test_types_are_those_of_the_fields():
    assert (
        typed("lr", "3e-4"),
        typed("lr", 1),
        typed("steps", "7"),
        typed("languages", "en bg"),
    ) == (3e-4, 1.0, 7, "en bg") and type(typed("lr", 1)) is float
    assert run_config(lr=1) == run_config(lr=1.0)


@pytest.mark.parametrize(
    "settings, why",
    [
        ("[y]\n", r"no profile \[x\]; it has y"),
        ("[x]\nseeds = one\n", r"\[x\]: "),
        ("[x]\nsteps = 1e3\n", r"\[x\]: parameter 'steps' is int"),
        ("[x]\nsed = 1\n", "nearest is 'seed'"),
    ],
)
def test_bad_settings(tmp_path, settings, why):
    (tmp_path / "settings.ini").write_text(settings)
    with pytest.raises(ValueError, match=why):
        read_profile("x", tmp_path)


def test_no_root(tmp_path):
    with pytest.raises(ValueError, match="cot-distill init"):
        project_root(tmp_path)
    assert project_root(ROOT / "nbs" / "experiments") == ROOT


def test_a_page_says_where_its_results_come_from(tmp_path):
    with pytest.raises(ValueError, match="cot-distill init") as outside:
        project_root(tmp_path)
    (tmp_path / "settings.ini").write_text("[lab]\n")
    with pytest.raises(FileNotFoundError, match="cot-distill reproduce table_m1") as no_runs:
        results_of("table_m1", "lab", tmp_path)
    with pytest.raises(ValueError, match="has no profile") as no_profile:
        results_of("table_m1", "lap", tmp_path)
    for found in (outside, no_runs, no_profile):
        error = pickle.loads(pickle.dumps(found.value))
        assert error._render_traceback_() == [f"{type(error).__name__}: {error}"]


# running notebooks


def test_a_notebook_refuses_what_papermill_would_ignore(tmp_path):
    tagged, untagged = (
        notebook(tmp_path / "a.ipynb", "steps = 1"),
        notebook(tmp_path / "b.ipynb", "steps = 1", tag=None),
    )
    with pytest.raises(ValueError, match="a.ipynb has no parameter 'stpes'; it has steps"):
        run_notebook(tagged, tmp_path / "out.ipynb", dict(stpes=2), tmp_path)
    with pytest.raises(ValueError, match="b.ipynb has no cell tagged 'parameters'"):
        run_notebook(untagged, tmp_path / "out.ipynb", dict(steps=2), tmp_path)
    assert not (tmp_path / "out.ipynb").exists()


def test_a_kernel_that_dies_is_a_failed_run(tmp_path):
    "As it does when memory runs out."
    outcome = run_notebook(
        notebook(tmp_path / "dies.ipynb", "steps = 1", "import os; os._exit(9)"),
        tmp_path / "out.ipynb",
        dict(steps=2),
        tmp_path,
    )
    assert outcome.state == "failed" and "died" in outcome.error


@pytest.mark.long
def test_a_forked_kernel_gives_the_digits_of_an_ordinary_one(tmp_path):
    (tmp_path / "nbs").symlink_to(ROOT / "nbs")
    (tmp_path / "settings.ini").touch()
    config = run_config(
        student="small:gpt2",
        method="d-cot-nr/unlikelihood",
        languages="en tr",
        steps=12,
        width=64,
        layers=1,
        train_limit=64,
        test_limit=16,
        samples=4,
        max_target=48,
        precision="float32",
    )
    with forked_kernels("cot_distill.training") as forked:
        for name, kernels in dict(forked=forked, ordinary=None).items():
            outcome = run_notebook(
                ROOT / "nbs/experiments/run.ipynb",
                tmp_path / f"{name}.ipynb",
                asdict(config) | dict(profile=name),
                tmp_path,
                kernels,
            )
            assert outcome.state == "done", outcome.error
        assert sys.platform != "linux" or isinstance(forked.started[0], ForkedKernel)
    stored = lambda name: Records(tmp_path / f"data/results/{name}.jsonl.gz").load().values()
    timed = ["seconds", "tokens_per_second", "peak_mb", "wall_seconds"]
    one, other = (results_frame(stored(n)).drop(columns=timed) for n in ("forked", "ordinary"))
    assert len(one.losses[0]) >= 10 and one.to_json() == other.to_json()
    assert read_predictions(tmp_path / "data/results/forked", one.run[0]).equals(
        read_predictions(tmp_path / "data/results/ordinary", other.run[0])
    )


PARAMETERS = (
    "\n".join(
        f"{f.name} = {dict(f.default) if f.type is Knobs else f.default!r}"
        for f in fields(RunConfig)
    )
    + '\nprofile = ""\nhub = ""\nkeep = ""'
)
RUN = """
import pathlib
from dataclasses import asdict, fields
from cot_distill.results import Records
from cot_distill.run import RunConfig, run_config
if method == "cot" and not pathlib.Path("mended").exists():
    raise RuntimeError("the teacher is silent")
config = run_config(**{f.name: globals()[f.name] for f in fields(RunConfig)})
record = dict(name=config.name, config=asdict(config), metrics=dict(accuracy=0.5, seconds=1.0))
Records(f"data/results/{profile}.jsonl.gz").add([record])
"""
ONCE = """
import pathlib
if method == "cot" and pathlib.Path("tried").exists():
    pathlib.Path("mended").touch()
pathlib.Path("tried").touch()
"""
TABLE = """
import pathlib
from cot_distill.results import Records
pathlib.Path("figures/quick").mkdir(parents=True, exist_ok=True)
found = Records(f"data/results/{profile}.jsonl.gz").load()
pathlib.Path("figures/quick/tiny.md").write_text(str(len(found)))
"""


def finished(root, profile="quick"):
    "Keys of the finished runs of a profile."
    return set(Records(root / f"data/results/{profile}.jsonl.gz").load())


@pytest.fixture
def root(tmp_path, monkeypatch):
    "A project of two runs and a table."
    artefacts = Registry("artefact")
    artefacts["tiny"] = Artefact("Tiny", (arm("cot"), arm("ft")))
    monkeypatch.setattr(runner, "PRELOADED", ())
    monkeypatch.setattr(experiments, "ARTEFACTS", artefacts)
    monkeypatch.setattr(runner, "ARTEFACTS", artefacts)
    monkeypatch.setattr(report, "ARTEFACTS", artefacts)
    notebook(tmp_path / "nbs/experiments/run.ipynb", PARAMETERS, RUN)
    notebook(tmp_path / "nbs/experiments/tiny.ipynb", 'profile = "quick"', TABLE)
    (tmp_path / "settings.ini").write_text("[quick]\nsteps = 2\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_only_missing_runs_are_made(root):
    profile = read_profile("quick", root)
    first = reproduce(["tiny"], profile, root, progress=False)
    assert [o.state for o in first] == ["failed", "done", "done"]
    assert first[0].name.startswith("lab-lab-gpt2-cot-native-s0")
    assert first[0].error.startswith("RuntimeError: the teacher is silent (cell 3 of lab-lab-gpt2")
    assert (root / "figures/quick/tiny.md").read_text() == "1"
    lines = str(forecast(["tiny"], profile, root)).split("\n")
    assert [line[:5] for line in lines[:2]] == ["to do", "fresh"]
    (root / "mended").touch()
    shown = CliRunner().invoke(app, ["reproduce", "--profile", "quick"])
    assert shown.exit_code == 0, shown.output
    assert "2 notebooks run, 1 runs kept from before, 0 failed" in shown.output
    assert "figures/quick/tiny.md" in shown.output
    assert (root / "figures/quick/tiny.md").read_text() == "2"
    assert "2 of 2 runs are finished" in str(forecast(["tiny"], profile, root))
    assert len(results_of("tiny", "quick", root)) == 2
    records = Records(root / "data/results/quick.jsonl.gz")
    records.remove([sorted(finished(root))[0]])
    assert "1 of 2 runs are finished" in str(forecast(["tiny"], profile, root))


def test_a_run_that_another_profile_finished_is_taken_over(root):
    (root / "settings.ini").write_text(
        "[quick]\nsteps = 2\n[twin]\nsteps = 2\ntakes = quick\n"
        "[longer]\nsteps = 3\ntakes = quick\n[alone]\nsteps = 2\n"
    )
    (root / "mended").touch()
    reproduce(["tiny"], read_profile("quick", root), root, progress=False)
    says = lambda name: str(forecast(["tiny"], read_profile(name, root), root))
    assert "2 of 2 runs are finished" in says("twin") and not finished(root, "twin")
    assert all("0 of 2 runs are finished" in says(other) for other in ("longer", "alone"))
    made = reproduce(["tiny"], read_profile("twin", root), root, progress=False)
    assert [o.state for o in made] == ["kept", "kept", "done"]
    assert finished(root, "twin") == finished(root)


def test_code_that_changed_is_named_and_can_be_accepted(root, monkeypatch):
    (root / "mended").touch()
    profile = read_profile("quick", root)
    reproduce(["tiny"], profile, root, progress=False)
    records = Records(root / "data/results/quick.jsonl.gz")
    then = experiments.found_records(plan("tiny", profile), profile, root)
    old = [r | dict(environment=dict(code=code_of(c) | dict(losses="0"))) for c, r in then.items()]
    records.add(old)
    call = lambda *more: CliRunner().invoke(app, ["reproduce", "--profile", "quick", *more])
    assert "2 were made by other code" in call("--dry-run").output
    assert re.search(r"lab-lab-gpt2-ft-native-s0: losses$", call("--why", "ft").output.strip())
    assert "2 runs accepted: reworded" in call("--accept", "reworded").output
    assert "made by other code" not in call("--dry-run").output
    kept = records.load().values()
    records.add(
        [
            r | dict(environment=dict(code=r["environment"]["code"] | dict(training="0")))
            for r in kept
        ]
    )
    assert re.search(r"lab-lab-gpt2-ft-native-s0: training$", call("--why", "ft").output.strip())
    assert "2 runs accepted: later" in call("--accept", "later").output
    assert "made by other code" not in call("--dry-run").output  # the first judgement still stands
    assert {r["accepted"]["reason"] for r in records.load().values()} == {"reworded; later"}
    records.add(old)
    assert [o.state for o in reproduce(["tiny"], profile, root, False)][:2] == ["kept"] * 2
    fresh = reproduce(["tiny"], profile, root, progress=False, fresh=True)
    assert [o.state for o in fresh] == ["done"] * 3


def test_a_failed_run_is_told_and_tried_again(root):
    "The first command says why; with --retry the run that failed once is done in the end."
    call = lambda *more: CliRunner().invoke(app, ["reproduce", "--profile", "quick", *more])
    told = call().output
    assert "cell 3 of lab-lab-gpt2-cot" in told and "data/results/quick/lab-lab-gpt2-cot" in told
    assert re.search(r"\| RuntimeError: the teacher is silent\n", told)
    notebook(root / "nbs/experiments/run.ipynb", PARAMETERS, ONCE + RUN)
    again = call("--retry", "1")
    assert again.exit_code == 0, again.output
    assert "[1 of 1 runs] done in" in again.output and "0 failed" in again.output
    page = (root / "figures/quick/report.html").read_text()
    assert "lab-lab-gpt2-cot-native-s0-" in page and "All on one page" in again.output


def test_plans_and_lists_are_data(root):
    call = lambda *more: CliRunner().invoke(app, ["reproduce", "--profile", "quick", *more])
    listed = json.loads(call("--list", "--json").output)
    assert listed == [
        dict(name="tiny", title="Tiny", source="ours", profiles=["quick"], made=False)
    ]
    planned = json.loads(call("--dry-run", "--json").output)
    assert [run["state"] for run in planned["runs"]] == ["to do", "to do"]
    assert planned["runs"][0]["config"]["method"] == "cot"
    assert (planned["total"]["runs"], planned["total"]["jobs"]) == (2, 1)
    refused = call("--json")
    assert refused.exit_code == 1 and "--list or --dry-run" in refused.output


def test_a_failing_run_is_the_exit_code_though_the_table_exists(root):
    (root / "figures/quick").mkdir(parents=True)
    (root / "figures/quick/tiny.md").touch()
    notebook(root / "nbs/experiments/run.ipynb", PARAMETERS, "1/0")
    shown = CliRunner().invoke(app, ["reproduce", "tiny", "--profile", "quick"])
    assert shown.exit_code == 1 and re.search(
        "failed: lab-lab-gpt2-ft-native-s0.*: ZeroDivisionError: division by zero", shown.output
    )


# several runs at once


@pytest.mark.parametrize(
    "cores, jobs, threads, gpus, share",
    [
        (2, 0, 0, "", [{}]),
        (2, 1, 0, "0,1", [{}]),
        (2, 0, 1, "", [dict(OMP_NUM_THREADS="1")] * 2),
        (6, 0, 4, "", [dict(OMP_NUM_THREADS="4")]),
        (8, 3, 0, "", [dict(OMP_NUM_THREADS="2")] * 3),
        (2, 4, 0, "", [dict(OMP_NUM_THREADS="1")] * 4),
        (8, 3, 0, "0,5", [dict(OMP_NUM_THREADS="2", CUDA_VISIBLE_DEVICES=g) for g in "050"]),
    ],
)
def test_shares_of_the_machine(cores, jobs, threads, gpus, share, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    assert shares(jobs, threads) == share


def test_each_gpu_that_the_driver_names_gets_a_run(tmp_path, monkeypatch):
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho NVIDIA H100\necho NVIDIA H100\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    runner.gpu_names.cache_clear()
    try:
        assert [share["CUDA_VISIBLE_DEVICES"] for share in shares(0)] == ["0", "1"]
        assert runner.device_here({}) == "NVIDIA H100"
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        assert shares(0) == [{}] and "NVIDIA" not in runner.device_here({})
    finally:
        runner.gpu_names.cache_clear()


def test_a_dot_in_a_name_does_not_cut_it(tmp_path):
    "Runs of one student would write over each other's notebooks."
    profile = experiments.Profile("own")
    runs = [run_config(student="lab:gpt2", lr=lr) for lr in (0.001, 0.002)]
    named = [RunConfig(**asdict(c) | dict(student="org/Model-2.5-small")) for c in runs]
    first, second = (experiments.run_path(c, profile, tmp_path, ".ipynb") for c in named)
    assert first != second and "Model-2.5-small" in first.name and first.suffix == ".ipynb"


def test_times_of_this_device_come_before_those_of_others(monkeypatch):
    config = run_config(method="ft", steps=10)

    def record(device, seconds):
        about = dict(config=asdict(config), environment=dict(device=device))
        return about | dict(metrics=dict(wall_seconds=seconds))

    slow, fast = record("another", 500.0), record("this one", 100.0)
    monkeypatch.setattr(runner, "known_records", lambda *_: [slow])
    for every, expected in (([slow, fast], (100.0, 0)), ([slow], (500.0, 1))):
        monkeypatch.setattr(runner, "all_records", lambda *_: every)
        found, elsewhere = runner.likely_seconds([config], None, None, "this one")
        assert (found[config], elsewhere) == expected


def test_a_failure_beside_others_begins_no_more():
    begun, go = [], threading.Event()

    def task(item, place):
        begun.append(item)
        if item == 1:
            raise ValueError("no such parameter")
        go.wait(5)

    with pytest.raises(ValueError):
        list(side_by_side(task, range(1, 100), ["here", "there"]))
    go.set()
    assert len(begun) <= 4


MEET = """import os, pathlib, time
pathlib.Path(f"here-{method}").write_text(os.environ.get("OMP_NUM_THREADS", "all"))
while len([*pathlib.Path().glob("here-*")]) < 2: time.sleep(.05)
"""


def test_runs_side_by_side(root):
    (root / "mended").touch()
    notebook(root / "nbs/experiments/run.ipynb", PARAMETERS, MEET + RUN)
    (root / "settings.ini").write_text("[quick]\nsteps = 2\nthreads = 3\n")
    done = reproduce(["tiny"], read_profile("quick", root), root, progress=False, jobs=2)
    assert (
        [o.state for o in done] == ["done"] * 3
        and done[0].name.startswith("lab-lab-gpt2-cot")
        and {f.read_text() for f in root.glob("here-*")} == {"3"}
    )


STAY = """import os, pathlib, time
pathlib.Path(f"here-{method}-{seed}").write_text(str(os.getpid()))
if seed: time.sleep(600)
"""
COMMAND = """
from cot_distill import cli, experiments as e, runner
e.ARTEFACTS.clear()
e.ARTEFACTS["tiny"] = e.Artefact("Tiny", (e.arm("ft"),))
runner.PRELOADED = ()
cli.app()
"""


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_an_interruption_keeps_what_is_finished_and_leaves_nobody_behind(root, jobs):
    (root / "mended").touch()
    (root / "settings.ini").write_text("[quick]\nsteps = 2\nseeds = 0 1 2 3\n")
    notebook(root / "nbs/experiments/run.ipynb", PARAMETERS, STAY + RUN)
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "reproduce", "--profile", "quick", "--jobs", jobs],
        cwd=root,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # a test run in the background of a shell ignores it
    while not all((root / f"here-ft-{seed}").exists() for seed in range(1, 1 + int(jobs))):
        time.sleep(0.1)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) != 0
    assert len(finished(root)) == 1 and len([*root.glob("here-*")]) == 1 + int(jobs)
    assert all(gone(int(f.read_text())) for f in root.glob("here-*"))


SLOW = """
import time
with open("begun", "a") as log:
    log.write(f"{method}-{seed}\\n")
time.sleep(0.3)
"""


@pytest.mark.long
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_killed_at_any_moment_and_started_again(root):
    "Nothing is lost, and nothing is done twice but what was running."
    (root / "mended").touch()
    (root / "settings.ini").write_text("[quick]\nsteps = 2\nseeds = 0 1 2 3\n")
    notebook(root / "nbs/experiments/run.ipynb", PARAMETERS, SLOW + RUN)
    command = [sys.executable, "-c", COMMAND, "reproduce", "--profile", "quick"]
    start = lambda: subprocess.Popen(command, cwd=root, stderr=subprocess.DEVNULL)
    log, rng, kills = root / "begun", random.Random(0), 3
    begun = lambda: log.read_text().split() if log.exists() else []
    for number in range(kills):
        process = start()
        while len(begun()) <= number and process.poll() is None:
            time.sleep(0.02)
        time.sleep(0.6 * rng.random())
        process.kill()
        process.wait()
    assert start().wait() == 0
    assert (root / "figures/quick/tiny.md").read_text() == "4" and len(finished(root)) == 4
    assert set(begun()) == {f"ft-{seed}" for seed in range(4)} and len(begun()) <= 4 + kills
    assert len([*(root / "data/results/quick").glob("*.ipynb")]) == 4


def test_each_parameter_makes_another_run():
    another = lambda f: (
        Knobs(cue=1) if f.type is Knobs else f.default + (f.type is str and "x" or 1)
    )
    keys = {f.name: run_key(RunConfig(**{f.name: another(f)})) for f in fields(RunConfig)}
    assert {keys.pop(name) for name in ASIDE} == {run_key(RunConfig())}
    assert len({*keys.values(), run_key(RunConfig())}) == 1 + len(keys)


def test_the_content_of_files_makes_another_run(tmp_path):
    recording, student = tmp_path / "said.jsonl", tmp_path / "student"
    config = run_config(
        benchmark="arc_easy", teacher=f"recording:{recording}", student=str(student)
    )
    seen = [run_key(config, inputs_of(config))]
    student.mkdir()
    mirror = tmp_path / "mirror" / "allenai" / "ai2_arc"
    mirror.mkdir(parents=True)
    for number, file in enumerate(
        (recording, recording, student / "model.safetensors", mirror / "train.parquet")
    ):
        file.write_text(f"content {number:0{5 + number}}")
        seen.append(run_key(config, inputs_of(config, str(tmp_path / "mirror"))))
    assert len(set(seen)) == len(seen) == 5
    assert run_key(config, inputs_of(config, str(tmp_path / "mirror"))) == seen[-1]


def test_a_record_of_an_older_version_is_found(tmp_path):
    "It lacks a parameter that was added since; the parameter's default stands in for it."
    records = Records(tmp_path / "old.jsonl.gz")
    config = run_config(method="cot", seed=3)
    old = {k: v for k, v in asdict(config).items() if k not in ("schedule", "held_out")}
    records.add([dict(name=config.name, config=old, metrics={})])
    assert list(records.load()) == [run_key(config)]


def test_several_processes_add_to_one_file(tmp_path):
    code = """
import sys
from cot_distill.results import Records
from cot_distill.run import run_config
from dataclasses import asdict
records = Records(sys.argv[1])
for seed in range(int(sys.argv[2]), int(sys.argv[2]) + 20):
    config = run_config(seed=seed)
    records.add([dict(name=config.name, config=asdict(config), metrics={})])
"""
    file = tmp_path / "shared.jsonl.gz"
    start = lambda first: subprocess.Popen([sys.executable, "-c", code, str(file), str(first)])
    processes = [start(0), start(100)]
    assert [p.wait() for p in processes] == [0, 0]
    assert len(Records(file).load()) == 40


def test_a_damaged_file_says_so(tmp_path):
    file = tmp_path / "cut.jsonl.gz"
    config = run_config()
    Records(file).add([dict(name=config.name, config=asdict(config), metrics={})])
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ValueError, match="cut.jsonl.gz: damaged after . records"):
        Records(file).load()


# the command


@pytest.mark.parametrize(
    "arguments, code, says",
    [
        (["--list"], 0, "table_m2"),
        (["--dry-run"], 0, "of 27 runs are finished"),
        (["table_m1", "--dry-run", "--profile", "lab"], 0, "lab-lab-gpt2-cot-en-s2"),
        (["tabel_m1"], 1, "bench_teacher: did you mean 'table_m1'?"),
        (["--profile", "laboratory"], 1, "has no profile [laboratory]; it has lab"),
        (["--profil"], 2, "No such option"),
    ],
)
def test_command(arguments, code, says, monkeypatch):
    monkeypatch.chdir(ROOT)
    if "--dry-run" in arguments:
        says = says.replace(
            "27",
            str(
                len(
                    {
                        c
                        for a in read_profile("lab", ROOT).artefacts
                        for c in plan(a, read_profile("lab", ROOT))
                    }
                )
            ),
        )
    shown = CliRunner().invoke(app, ["reproduce", *arguments])
    assert shown.exit_code == code and says in " ".join(shown.output.split())


def test_outside_a_clone(tmp_path):
    shown = subprocess.run(
        [Path(sys.executable).parent / "cot-distill", "reproduce"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (
        shown.returncode == 1
        and "cot-distill init" in shown.stderr
        and "Traceback" not in shown.stderr
    )


# the flow


@pytest.mark.parametrize(
    "benchmark, teacher, student, why",
    [
        ("arc_easy", "lab", "small:gpt2", "knows the lab's questions only"),
        ("lab", "oracle", "small:gpt2", "choose lab, lab-server, recording:FILE"),
        ("lab", "recording:", "small:gpt2", "choose lab"),
        ("lab", "lab", "small:gpt3", "did you mean 'gpt2'"),
        ("lab", "lab", "tiny:gpt2", "choose lab:ARCH"),
        ("arc_easy", "none", "lab:gpt2", "use small:gpt2 or a checkpoint"),
    ],
)
def test_what_does_not_fit_is_refused(benchmark, teacher, student, why):
    with pytest.raises(ValueError, match=why):
        check_student(run_config(benchmark=benchmark, teacher=teacher, student=student))


@pytest.mark.parametrize(
    "parameters",
    [dict(method="dcot"), dict(precision="fp8"), dict(batch_size=16, accumulate=3)],
    ids=str,
)
def test_a_value_that_no_run_can_have_is_refused(parameters):
    with pytest.raises(ValueError):
        run_config(**parameters)


def test_an_unknown_benchmark_is_refused_before_anything_runs(root):
    (root / "settings.ini").write_text(
        "[quick]\nbenchmark = exam\nteacher = recording:said.jsonl\nhub = mirror\n"
    )
    shown = CliRunner().invoke(app, ["reproduce", "--profile", "quick", "--dry-run"])
    assert shown.exit_code == 1 and "exams" in shown.output


def test_from_questions_to_results(tmp_path):
    for seed, (student, method) in enumerate(
        [("small:t5", "d-cot-nr/click"), ("small:gpt2", "ft")]
    ):
        config = run_config(
            student=student,
            method=method,
            languages="en tr",
            steps=5,
            batch_size=4,
            train_limit=24,
            test_limit=6,
            width=16,
            layers=1,
            max_prompt=64,
            max_target=48,
            samples=4,
            seed=seed,
        )
        data = open_data(config, ledger=tmp_path / "ledger.sqlite")
        assert (len(data.train), len(data.test)) == (24, 6) and {
            q.language for q in data.train
        } == {"en", "tr"}
        rationales = ask_teacher(config, data)
        assert len(rationales) == (24 * 4 if "cot" in method else 0)
        examples = examples_of(METHODS[method], data.train, rationales, config.k, config.m)
        trainee = open_student(config, data, rationales, cache=tmp_path)
        trained = train(
            trainee,
            [trainee.encode(e) for e in examples],
            tmp_path / str(seed),
            LOSSES[METHODS[method].loss].load() if METHODS[method].loss else None,
            steps=config.steps,
            batch_size=config.batch_size,
        )
        assert trained.steps == 5
        predictions = predict(trainee, data.test, check=data.check, max_new_tokens=8)
        record = dict(
            name=config.name,
            key=run_key(config),
            profile="lab",
            config=asdict(config),
            metrics=metrics(predictions, data.group_of),
        )
        kept = save_run(record, predictions, tmp_path / "results")
        assert kept.stem == f"{config.name}-{run_key(config)}"
        assert str(tmp_path) not in json.dumps(record)
    runs = results_frame(Records(tmp_path / "results/lab.jsonl.gz").load().values())
    assert list(runs.method) == ["ft", "d-cot-nr/click"] and list(runs.n) == [6, 6]
    assert runs.accuracy.between(0, 1).all() and set(asdict(config)) <= set(runs.columns)
    told = read_predictions(tmp_path / "results/lab", runs.run[1])
    assert len(told) == 6 and told.right.mean() == pytest.approx(runs.accuracy[1])
    assert set(told.language) <= {"en", "tr"}
    assert not [f for f in (tmp_path / "results").rglob("*") if f.suffix.isdigit()]
