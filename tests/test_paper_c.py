"Paper C from our own questions in a mirror of the hub, and a teacher behind a socket, to figures."

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from everyday import LINES, QUESTIONS, ScriptServer, write_mirror

from cot_distill.counterfactual import counterfactuals
from cot_distill.evaluation import mode_metrics, predict, predict_modes
from cot_distill.experiments import plan, read_profile, results_of
from cot_distill.figures import by_test
from cot_distill.methods import METHODS, WHOLE, examples_of
from cot_distill.questions import Question
from cot_distill.recordings import save_completions
from cot_distill.records import CONTROLS, Completion
from cot_distill.results import read_predictions
from cot_distill.run import Knobs, ask_teacher, open_data, requests_of, run_config, steps_of, study
from cot_distill.runner import forecast, reproduce
from cot_distill.students import ARCHITECTURES, small_student
from cot_distill.teacher import LabTeacher, RecordedTeacher, Request
from cot_distill.training import train
from cot_distill.views import MODES

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = """[everyday]
benchmark = commonsense_qa
teacher = endpoint:script
target = teacher
students = small:gpt2
methods = cot multi-view counterfactual+multi-view
tests = quarel
steps = 4
batch_size = 4
width = 16
layers = 1
vocab = 400
max_prompt = 96
max_target = 32
precision = float32
"""


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", (server := ScriptServer()).url)
    yield server
    server.close()


@pytest.fixture
def root(tmp_path, monkeypatch):
    write_mirror(tmp_path / "hub", LINES, LINES)
    monkeypatch.setenv("COT_DISTILL_HUB", str(tmp_path / "hub"))
    shutil.copytree(ROOT / "nbs" / "experiments", tmp_path / "nbs" / "experiments")
    (tmp_path / "settings.ini").write_text(SETTINGS)
    return tmp_path


@pytest.mark.long
def test_from_everyday_questions_to_figures(root, server):
    profile, artefacts = (
        read_profile("everyday", root),
        ["table_c1", "figure_c5", "figure_c7", "ablations"],
    )
    likely = [
        line for line in str(forecast(artefacts, profile, root)).split("\n") if "in all" in line
    ]
    asked_at_most = int(likely[0].split()[4].replace(",", ""))
    outcomes = reproduce(artefacts, profile, root, progress=False)
    assert [(o.name, o.error) for o in outcomes if o.state != "done"] == [] and len(
        outcomes
    ) == 3 + 4
    made = {f.name for f in (root / "figures" / "everyday").iterdir()}
    assert {f"{a}.{kind}" for a in artefacts for kind in ("md", "csv", "png", "svg")} <= made and {
        "table_c1_modes.md",
        "ablations_tokens.md",
    } <= made
    assert 0 < server.asked.total() <= asked_at_most
    runs = results_of("table_c1", "everyday", root)
    assert list(runs.method) == ["cot", "multi-view", WHOLE] and set(runs.n) == {26}
    kept = sum(line.fate == "kept" for line in LINES if line.id[0] == "C")
    assert (
        runs.counterfactuals[2]["kept"] == kept
        and runs.examples[2]["questions"] - runs.examples[1]["questions"] == 2 * kept
    )
    tested = by_test(runs)
    assert Counter(zip(tested.test, tested["mode"]))["commonsense_qa", "vote"] == 2 and set(
        tested[tested.test == "quarel"].n
    ) == {8}
    assert Counter(tested[tested.test == "quarel"]["mode"]) == dict(
        plain=1, direct=2
    )  # elsewhere only as the method is compared
    assert set(tested.chance.round(3)) == {0.2, 0.5}
    told = read_predictions(root / "data" / "results" / "everyday", runs.run[2])
    voted = tested.query(
        "method == @WHOLE and test == 'commonsense_qa' and mode == 'vote'"
    ).accuracy.iloc[0]
    assert len(told) == 26 * len(MODES) + 8 and told.groupby(["test", "mode"]).right.mean()[
        "commonsense_qa", "vote"
    ] == pytest.approx(voted)
    assert all(
        o.state == "kept" for o in reproduce([], profile, root, progress=False)
    ) and "asks nothing new" not in str(forecast(artefacts, profile, root))


def test_what_a_profile_says_of_single_artefacts(tmp_path):
    (tmp_path / "nbs").mkdir()
    settings = tmp_path / "settings.ini"
    settings.write_text(
        "[a]\nseeds = 0 1\nsteps = 9\n"
        "[a figure_c5 figure_c7]\nbenchmarks = lab:two_hop lab:eight\n"
        "matches = steps tokens\nseeds = 3\n"
        "[a figure_c6]\nstudents = lab:t5 lab:bart\nmethods = ft cot\n"
        "[ab]\n"
    )
    profile = read_profile("a", tmp_path)
    assert (
        len(plan("table_c1", profile)) == 14
        and {c.steps for c in plan("figure_c5", profile)} == {9}
        and {c.seed for c in plan("figure_c5", profile)} == {3}
    )
    assert {(c.benchmark, c.match) for c in plan("figure_c7", profile)} == {
        (b, m) for b in ("lab:two_hop", "lab:eight") for m in ("steps", "tokens")
    }
    assert {(c.student, c.method, c.seed) for c in plan("figure_c6", profile)} == {
        (s, m, i) for s in ("lab:t5", "lab:bart") for m in ("ft", "cot") for i in (0, 1)
    }
    for wrong, why in (
        ("[a figure_5]\n", "did you mean 'figure_c5'"),
        ("[a figure_c5]\nmethods = dcot\n", "did you mean 'd-cot'"),
        ("[a figure_c5]\nmatches = time\n", "none of steps, tokens"),
    ):
        settings.write_text(f"[a]\n{wrong}")
        with pytest.raises(ValueError, match=rf"\[a figure_.*\]: .*{why}"):
            read_profile("a", tmp_path)


@pytest.mark.parametrize(
    "tests, why",
    [("quarel arc_chalenge", "did you mean 'arc_challenge'"), ("reversed", "is none of exams")],
)
def test_test_sets_that_are_not_there(tests, why):
    with pytest.raises(ValueError, match=why):
        run_config(benchmark="commonsense_qa", tests=tests)
    with pytest.raises(ValueError, match="is none of holds"):
        run_config(tests="quarel")


# in the lab


@pytest.fixture(scope="module")
def shelter():
    config = run_config(
        benchmark="lab:shelter",
        world=dict(cue=0.9),
        languages="en",
        train_limit=100,
        test_limit=12,
        tests="holds reversed random absent",
        student="small:gpt2",
    )
    return config, open_data(config)


def test_other_test_sets_of_the_lab(shelter):
    config, data = shelter
    assert list(data.tests) == ["holds", "reversed", "random", "absent"] and {
        len(t) for t in (*data.tests.values(), data.test)
    } == {12}
    cued = lambda test: [data.world.cued_option(q) == q.answer for q in data.tests[test]]
    assert (
        all(cued("holds"))
        and not any(cued("reversed"))
        and all(data.world.cued_option(q) is None for q in data.tests["absent"])
    )
    assert not set(data.train) & set(data.spare) and len(data.train) + len(data.spare) == 468
    eight = open_data(
        replace(
            config,
            benchmark="lab:two_hop",
            world=Knobs(families="two_hop,eight"),
            tests="lab:eight lab:two_hop",
        )
    )
    assert list(eight.tests) == ["lab:eight"] and {
        len(q.choices) for q in eight.tests["lab:eight"]
    } == {8}


def test_what_each_method_studies(shelter):
    config, data = shelter
    with_method = lambda method, **more: (replace(config, method=method, **more), data)
    plain, none = study(*with_method("cot"))
    assert plain is data.train and none is None
    added, made = study(*with_method("counterfactual"))
    ordinary, _ = study(*with_method("cot+ordinary"))
    unfiltered, raw = study(*with_method(f"{WHOLE}/no-filter"))
    assert (
        list(added) == [*data.train, *made]
        and 20 < len(made) < 90
        and len(added) == len(ordinary)
        and set(ordinary[100:]) <= set(data.spare)
    )
    assert {q.id for q in made} < {q.id for q in raw} and list(unfiltered) == [*data.train, *raw]
    assert [q.id for q in study(*with_method(WHOLE, seed=0))[1]] == [q.id for q in made]
    with pytest.raises(ValueError, match="leaves 3; lower it"):
        study(replace(config, method="cot+ordinary"), data._replace(spare=data.spare[:3]))
    with pytest.raises(ValueError, match="give it a teacher"):
        study(replace(config, method="counterfactual"), data._replace(teacher=None))
    with pytest.raises(ValueError, match="not one of 100 questions"):
        study(replace(config, method="counterfactual"), data._replace(teacher=Stubborn()))


def test_both_papers_at_once(shelter):
    config, data = shelter
    config = replace(config, method="d-cot-nr/unlikelihood+counterfactual")
    questions, made = study(config, data)
    examples = examples_of(METHODS[config.method], questions, ask_teacher(config, data, questions))
    added = [e for e in examples if e.question.id in {q.id for q in made}]
    assert (
        len(added) > 20
        and any(len(e.positives) > 1 for e in added)
        and any(e.negatives for e in added)
    )
    assert all(t.answer == e.question.answer for e in added for t in e.positives)


class Stubborn:
    name = "stubborn"

    def complete(self, requests):
        return [
            Completion(r.question.id, self.name, 0, "No.", r.language, r.view) for r in requests
        ]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_asks_what_it_announces(shelter, method):
    "What a dry run counts is at least what is asked, and of the same views."
    config, data = shelter
    asked = []

    class Listening(LabTeacher):
        def complete(self, requests):
            asked.extend(requests)
            return super().complete(requests)

    config, data = replace(config, method=method), data._replace(teacher=Listening(data.world))
    announced = Counter(r.view for r in requests_of(config, data))
    asked.clear()
    questions, made = study(config, data)
    examples = examples_of(
        METHODS[method], questions, ask_teacher(config, data, questions), config.k, config.m
    )
    heard = Counter(r.view for r in asked)
    assert set(heard) == set(announced) and all(heard[view] <= announced[view] for view in heard)
    assert {e.control for e in examples} == (
        {CONTROLS[v] if METHODS[method].tokens else None for v in METHODS[method].views}
        if METHODS[method].views != ("cot",)
        else {None}
    )
    added = {e.question.id for e in examples} - {q.id for q in data.train}
    assert bool(added) == bool(METHODS[method].added) and all(
        ("~" in id) == (METHODS[method].added != "ordinary") for id in added
    )


def test_equal_numbers_of_tokens(shelter, tmp_path):
    config, data = shelter
    student = small_student(
        "gpt2",
        [q.stem for q in data.train],
        width=16,
        layers=1,
        heads=2,
        max_prompt=200,
        max_target=200,
    )
    seen = {}
    for method in ("ft", "cot", "multi-view"):
        mine = replace(config, method=method, match="tokens", steps=40)
        rows = [
            student.encode(e)
            for e in examples_of(METHODS[method], data.train, ask_teacher(mine, data))
        ]
        steps = steps_of(mine, data, student, rows)
        assert steps_of(replace(mine, match="steps"), data, student, rows) == 40 and (
            steps == 40
        ) == (method == "cot")
        seen[method] = train(student, rows, tmp_path / method, steps=steps, batch_size=8).tokens
    assert max(seen.values()) / min(seen.values()) < 1.1


# test modes


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    "A student that writes another view for each token, and knows the answers by heart."
    questions = [
        Question(
            f"q{i}",
            "t",
            "en",
            f"What is number {i}?",
            dict(A="red", B="blue", C="green"),
            "ABC"[i % 3],
        )
        for i in range(6)
    ]
    from cot_distill.records import Example, Target

    student = small_student(
        "gpt2",
        [
            f"{q.stem} (A) red (B) blue (C) green is fit . is not it Answer: A B C"
            for q in questions
        ],
        width=64,
        layers=2,
        heads=2,
        max_prompt=64,
        max_target=48,
        seed=1,
    )
    view = lambda q, c: (
        f"{q.answer_text} is fit."
        if c == CONTROLS["pvc"]
        else " ".join(f"({letter}) is not it." for letter in q.choices if letter != q.answer)
    )
    rows = [
        student.encode(Example(q, (Target(view(q, c), q.answer),), control=c))
        for q in questions
        for c in CONTROLS.values()
    ]
    train(student, rows, tmp_path_factory.mktemp("taught"), steps=150, batch_size=12, lr=3e-3)
    return student, questions


def test_the_token_decides_on_the_view(taught):
    student, questions = taught
    told = predict_modes(student, questions, MODES)
    found = mode_metrics(told, questions, cued=lambda q: "A")
    assert (
        list(told) == list(MODES)
        and [found[m]["accuracy"] for m in ("direct", "elimination", "vote", "shuffled")] == [1] * 4
    )
    assert (
        found["direct"]["views"]["pvc"] == found["elimination"]["views"]["nvc"] == 1
        and 0 < found["shuffled"]["views"]["nvc"] < 1
    )
    assert {m["chance"] for m in found.values()} == {1 / 3} and found["direct"]["follows_cue"] == 0
    assert told["shuffled"] != told["direct"] and all(
        s in (d, e) for s, d, e in zip(told["shuffled"], told["direct"], told["elimination"])
    )


def test_plain_methods_are_tested_as_before(taught):
    student, questions = taught
    assert predict_modes(student, [*questions, replace(questions[0], id="none", answer=None)]) == {
        "plain": predict(student, questions)
    }


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_control_tokens_are_single_tokens_of_every_student(arch):
    student = small_student(
        arch,
        ["What is it? (A) red (B) blue"],
        width=32,
        layers=1,
        heads=2,
        max_prompt=64,
        max_target=8,
    )
    question, ids = Question("q", "t", "en", "What is it?", dict(A="red", B="blue"), "A"), []
    for control in CONTROLS.values():
        (id,) = student.tokenizer(control, add_special_tokens=False).input_ids
        assert (
            student.encode_prompt(question, control).count(id) == 1
            and id not in student.encode_prompt(question)
            and id != student.tokenizer.unk_token_id
        )
        ids.append(id)
    assert len(set(ids)) == 2 and set(predict_modes(student, [question], MODES)) == set(MODES)


# recordings


def test_a_recording_gives_positive_views_but_no_negative_ones(tmp_path):
    "Text written with the answer in view is a positive view; negative views are missing."
    q = QUESTIONS[0]
    said = [
        Completion(q.id, "t", 0, "It rises.\nAnswer: (C)"),
        Completion(q.id, "t", 1, "Warm air.\nAnswer: (C)", saw_answer=True),
        Completion(q.id, "t", 2, "Shown.\nAnswer: (C)", view="pvc", saw_answer=True),
    ]
    teacher = RecordedTeacher(save_completions(said, tmp_path / "said.jsonl"))
    ask = lambda view, teacher=teacher: [
        c.sample for c in teacher.complete([Request(q, "en", n=4, view=view)])
    ]
    assert (ask("cot"), ask("pvc"), ask("nvc"), ask("topic")) == ([0], [1, 2], [], [])
    assert teacher.missing == 3 + 2 + 4 + 4 and ask(
        "cot", RecordedTeacher(tmp_path / "said.jsonl", saw_answer=True)
    ) == [1]
    assert counterfactuals([q], teacher).dropped == {"topic words: no reply": 1}
