"Notebooks and their parameters, runs that fail or were interrupted, the command, and one true flow from question to table."

import ast
import json
import os
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

from cot_distill import experiments
from cot_distill.evaluation import metrics, predict
from cot_distill.experiments import (
    ARTEFACTS,
    Artefact,
    RunConfig,
    app,
    arm,
    ask_teacher,
    dry,
    execute,
    open_data,
    open_student,
    plan,
    project_root,
    read_profile,
    reproduce,
    results_of,
    run_config,
    run_key,
    shares,
    side_by_side,
    typed,
    write_run,
)
from cot_distill.figures import read_predictions, read_results
from cot_distill.kernels import ForkedKernel, forked_kernels
from cot_distill.methods import METHODS, examples_of
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
    assert list(given) == [f.name for f in fields(RunConfig)] + ["profile", "hub"]
    assert {name: type(value) for name, value in given.items()} == {
        f.name: f.type for f in fields(RunConfig)
    } | dict(profile=str, hub=str)
    assert run_config(**{k: v for k, v in given.items() if k not in ("profile", "hub")})


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda f: f.stem)
def test_experiments_have_one_parameters_cell_that_cleaning_keeps(file, tmp_path):
    (tmp_path / "nbs").mkdir()
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    copy = Path(shutil.copy(file, tmp_path / "nbs"))
    for name in (file, copy):
        [cell] = cells(name, "parameters")
        assert (
            all(type(v) in (str, int, float, bool) for v in assigned(cell.source).values())
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
            if ARTEFACTS[artefact].lab and profile.parameters["benchmark"] != "lab":
                with pytest.raises(ValueError, match="only the lab has"):
                    plan(artefact, profile)
                continue
            configs = plan(artefact, profile)
            assert len(set(configs)) == len(configs) and len(configs) >= len(
                profile.special.get(artefact, profile).students
            ) * len(profile.special.get(artefact, profile).seeds)


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
    with pytest.raises(ValueError, match="inside a clone"):
        project_root(tmp_path)
    assert project_root(ROOT / "nbs" / "experiments") == ROOT


# running notebooks


def test_execute_refuses_what_papermill_would_ignore(tmp_path):
    tagged, untagged = (
        notebook(tmp_path / "a.ipynb", "steps = 1"),
        notebook(tmp_path / "b.ipynb", "steps = 1", tag=None),
    )
    with pytest.raises(ValueError, match="a.ipynb has no parameter 'stpes'; it has steps"):
        execute(tagged, tmp_path / "out.ipynb", dict(stpes=2), tmp_path)
    with pytest.raises(ValueError, match="b.ipynb has no cell tagged 'parameters'"):
        execute(untagged, tmp_path / "out.ipynb", dict(steps=2), tmp_path)
    assert not (tmp_path / "out.ipynb").exists()


def test_a_kernel_that_dies_is_a_failed_run(tmp_path):
    "As it does when memory runs out."
    outcome = execute(
        notebook(tmp_path / "dies.ipynb", "steps = 1", "import os; os._exit(9)"),
        tmp_path / "out.ipynb",
        dict(steps=2),
        tmp_path,
    )
    assert outcome.state == "failed" and "died" in outcome.error


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
            outcome = execute(
                ROOT / "nbs/experiments/run.ipynb",
                tmp_path / f"{name}.ipynb",
                asdict(config) | dict(profile=name),
                tmp_path,
                kernels,
            )
            assert outcome.state == "done", outcome.error
        assert sys.platform != "linux" or isinstance(forked.started[0], ForkedKernel)
    one, other = (
        read_results(tmp_path / "data/results" / name).drop(
            columns=["seconds", "tokens_per_second", "peak_mb", "profile"], errors="ignore"
        )
        for name in ("forked", "ordinary")
    )
    assert len(one.losses[0]) >= 10 and one.to_json() == other.to_json()
    assert read_predictions(tmp_path / "data/results/forked", one.run[0]).equals(
        read_predictions(tmp_path / "data/results/ordinary", other.run[0])
    )


PARAMETERS = (
    "\n".join(f"{f.name} = {f.default!r}" for f in fields(RunConfig)) + '\nprofile = ""\nhub = ""'
)
RUN = """from cot_distill.experiments import RunConfig, fields, run_config, run_key
import json, pathlib
if method == "cot" and not pathlib.Path("mended").exists(): raise RuntimeError("the teacher is silent")
config = run_config(**{f.name: globals()[f.name] for f in fields(RunConfig)})
key = run_key(config, pathlib.Path("nbs/experiments/run.ipynb"), hub)
pathlib.Path(f"data/results/{profile}/{config.name}-{key}.json").write_text(json.dumps(dict(key=key, config=dict(method=method, seed=seed, steps=steps), metrics=dict(accuracy=.5))))"""
TABLE = """import pathlib
from cot_distill.experiments import ARTEFACTS, results_of
pathlib.Path("figures/quick").mkdir(parents=True, exist_ok=True)
pathlib.Path("figures/quick/tiny.md").write_text(str(len([*pathlib.Path(f"data/results/{profile}").glob("*.json")])))"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    "A project of two runs and a table."
    monkeypatch.setattr(experiments, "NEEDED", ())
    monkeypatch.setattr(
        experiments, "ARTEFACTS", dict(tiny=Artefact("Tiny", (arm("cot"), arm("ft"))))
    )
    notebook(tmp_path / "nbs/experiments/run.ipynb", PARAMETERS, RUN)
    notebook(tmp_path / "nbs/experiments/tiny.ipynb", 'profile = "quick"', TABLE)
    (tmp_path / "settings.ini").write_text("[quick]\nsteps = 2\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_failed_or_is_missing_is_run_again_and_nothing_else(root):
    profile = read_profile("quick", root)
    first = reproduce(["tiny"], profile, root, progress=False)
    assert [o.state for o in first] == ["failed", "done", "done"] and all(
        o.name.startswith(n)
        for o, n in zip(first, ("lab-lab-gpt2-cot-native-s0", "lab-lab-gpt2-ft-native-s0", "tiny"))
    )
    assert (
        "RuntimeError: the teacher is silent" == first[0].error
        and (root / "figures/quick/tiny.md").read_text() == "1"
    )
    assert [line[:9] for line in dry(["tiny"], profile, root)[:2]] == ["to do    ", "finished "]
    [record] = (root / "data/results/quick").glob("*.json")
    written = record.stat().st_mtime_ns
    (root / "mended").touch()
    shown = CliRunner().invoke(app, ["reproduce", "--profile", "quick"])
    assert (
        shown.exit_code == 0
        and "2 notebooks run, 1 runs kept from before, 0 failed" in shown.output
        and "figures/quick/tiny.md" in shown.output
    )
    assert (
        record.stat().st_mtime_ns == written and (root / "figures/quick/tiny.md").read_text() == "2"
    )
    assert "2 of 2 runs are finished" in dry(["tiny"], profile, root)
    assert len(results_of("tiny", "quick", root)) == 2
    record.unlink()  # as an interruption leaves it
    assert "1 of 2 runs are finished" in dry(["tiny"], profile, root)


def test_a_run_that_another_profile_finished_is_taken_over(root):
    (root / "settings.ini").write_text(
        "[quick]\nsteps = 2\n[twin]\nsteps = 2\ntakes = quick\n[longer]\nsteps = 3\ntakes = quick\n[alone]\nsteps = 2\n"
    )
    (root / "mended").touch()
    reproduce(["tiny"], read_profile("quick", root), root, progress=False)
    [one, other] = (root / "data/results/quick").glob("*.json")
    one.with_suffix(".parquet").write_text("predictions")
    twin, longer, alone = (read_profile(name, root) for name in ("twin", "longer", "alone"))
    assert (
        "2 of 2 runs are finished" in dry(["tiny"], twin, root)
        and not (root / "data/results/twin").exists()
    )
    assert all(
        "0 of 2 runs are finished" in dry(["tiny"], other, root) for other in (longer, alone)
    )
    assert [o.state for o in reproduce(["tiny"], twin, root, progress=False)] == [
        "kept",
        "kept",
        "done",
    ]
    assert {f.name: f.read_text() for f in (root / "data/results/twin").iterdir()} == {
        f.name: f.read_text() for f in (one, other, one.with_suffix(".parquet"))
    }


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
COMMAND = """from cot_distill import experiments as e
e.NEEDED, e.ARTEFACTS = (), dict(tiny=e.Artefact("Tiny", (e.arm("ft"),)))
e.app()"""


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
    assert len([*(root / "data/results/quick").glob("*.json")]) == 1 and len(
        [*root.glob("here-*")]
    ) == 1 + int(jobs)
    assert all(gone(int(f.read_text())) for f in root.glob("here-*"))


def test_what_makes_a_run_another_run(root, tmp_path):
    run, config = (
        root / "nbs/experiments/run.ipynb",
        run_config(benchmark="arc_easy", teacher=f"recording:{tmp_path}/said.jsonl"),
    )
    (tmp_path / "said.jsonl").write_text("one")
    key = lambda config=config, hub="": run_key(config, run, hub)
    first = key()
    assert re.fullmatch("[0-9a-f]{8}", first) and key() == first
    assert (
        len(
            {
                first,
                *(
                    key(
                        RunConfig(
                            **asdict(config) | {f.name: f.default + (f.type is str and "x" or 1)}
                        )
                    )
                    for f in fields(RunConfig)
                    if f.name not in ("benchmark", "teacher")
                ),
            }
        )
        == len(fields(RunConfig)) - 1
    )
    book = nbformat.read(run, 4)
    book.cells.insert(0, nbformat.v4.new_markdown_cell("prose"))
    book.cells[1].outputs = [nbformat.v4.new_output("stream", text="output")]
    nbformat.write(book, run)
    assert key() == first  # neither prose nor outputs change a result
    notebook(run, PARAMETERS, RUN + "\nmore = 1")
    changed = key()
    (tmp_path / "said.jsonl").write_text("two")
    recorded = key()
    mirror = tmp_path / "mirror" / "allenai" / "ai2_arc"
    mirror.mkdir(parents=True)
    (mirror / "train.parquet").write_bytes(b"questions")
    assert len({first, changed, recorded, key(hub=str(tmp_path / "mirror"))}) == 4


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
        and "run this inside a clone" in shown.stderr
        and "Traceback" not in shown.stderr
    )


# the flow


@pytest.mark.parametrize(
    "benchmark, teacher, student, why",
    [
        ("arc_easy", "lab", "small:gpt2", "knows the lab's questions only"),
        ("lab", "oracle", "small:gpt2", "choose lab, lab-server, recording:FILE"),
    ],
)
def test_what_does_not_fit_is_refused(benchmark, teacher, student, why):
    with pytest.raises(ValueError, match=why):
        open_data(run_config(benchmark=benchmark, teacher=teacher, student=student))


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
        record = write_run(
            config,
            tmp_path / "results",
            f"{seed:08}",
            metrics(predictions, data.group_of),
            predictions,
            "lab",
        )
        assert (
            record.name == f"{config.name}-{seed:08}.json"
            and str(tmp_path) not in record.read_text()
        )
    runs = read_results(tmp_path / "results")
    assert (
        list(runs.method) == ["ft", "d-cot-nr/click"]
        and list(runs.n) == [6, 6]
        and runs.accuracy.between(0, 1).all()
    )
    assert (
        set(asdict(config)) <= set(runs.columns)
        and len(read_results(tmp_path / "results", ["00000001"])) == 1
    )
    told = read_predictions(tmp_path / "results", runs.run[1])
    assert (
        len(told) == 6
        and told.right.mean() == pytest.approx(runs.accuracy[1])
        and set(told.language) <= {"en", "tr"}
    )
    assert not [*(tmp_path / "results").glob("*.draft")]
