"From a line in a profile to the teacher, the student and the sample of questions it means."

import json
import os
from collections import Counter
from pathlib import Path

import pytest
from chat_server import plain

from cot_distill.evaluation import mode_metrics
from cot_distill.experiments import read_profile
from cot_distill.figures import contrast
from cot_distill.intervals import paired
from cot_distill.question import Question, Questions, hold_out
from cot_distill.recordings import save_completions
from cot_distill.records import Completion, Prediction
from cot_distill.results import read_predictions, results_frame, save_run
from cot_distill.run import (
    ASIDE,
    Knobs,
    Run,
    absent,
    ask_teacher,
    load_split,
    meant,
    open_data,
    open_student,
    open_teacher,
    prediction_rows,
    run_config,
    run_key,
    world_of,
)
from cot_distill.students import load_student, small_student

CHECKPOINT = "HuggingFaceTB/SmolLM2-135M-Instruct"


# spelling


@pytest.mark.parametrize(
    "given, value",
    [
        (0.90, 0.9),
        ("1e-1", 0.1),
        (7, 7),
        (123456789, 123456789),
        (False, False),
        ("yes", True),
        ("low", "low"),
        ('{"enable_thinking": false}', dict(enable_thinking=False)),
        ('["\\n", "Question:"]', ["\n", "Question:"]),
    ],
)
def test_a_setting_of_a_server_is_sent_as_it_was_meant(given, value):
    sent = meant(Knobs(x=given)["x"])
    assert sent == value and type(sent) is type(value)


@pytest.mark.parametrize("text, value", [("yes", True), ("no", False), ("True", True)])
def test_a_truth_value_of_a_profile(tmp_path, text, value):
    lines = f"[x]\nbenchmark = quarel\nteacher = none\nstudents = {CHECKPOINT}\nchat = {text}\n"
    (tmp_path / "settings.ini").write_text(lines)
    profile = read_profile("x", tmp_path)
    assert run_config(**profile.parameters, benchmark="quarel", student=CHECKPOINT).chat is value


FILE = dict(teacher="recording:x.jsonl", benchmark="quarel", student="small:gpt2")


@pytest.mark.parametrize(
    "parameters, why",
    [
        (dict(chat="maybe"), "'chat' is yes or no, not 'maybe'"),
        (dict(chat=1), "'chat' is yes or no, not 1"),
        (dict(chat=True), "chat=yes: lab:gpt2 is no pretrained checkpoint"),
        (dict(FILE, lora=8), "lora=8: small:gpt2 is no pretrained checkpoint"),
        (dict(FILE, student=CHECKPOINT, lora=-1), "a rank from 1 up"),
        ({"sampling.top_p": 0.9}, "only endpoint:MODEL and batch:MODEL take it"),
        (dict(FILE, teacher="endpoint:m", sampling=dict(temperature=1)), "set temperature itself"),
        (dict(FILE, teacher="endpoint:m", sampling=dict(n=2)), "each request has its own"),
        (dict(FILE, max_refused=20), "a share of the prompts, 0 to 1"),
        (dict(only_recorded=True), "teacher='lab' is no recording"),
        ({"teacher.temperature": 1}, "these have knobs: .*sampling"),
    ],
    ids=str,
)
def test_a_setting_that_makes_no_sense_is_refused(parameters, why):
    with pytest.raises(ValueError, match=why):
        run_config(**parameters)


@pytest.mark.parametrize("name", ASIDE)
def test_a_finished_run_does_not_depend_on_it(name):
    other = dict(max_refused=0.9).get(name, "x")
    assert run_key(run_config(**{name: other})) == run_key(run_config())


# teachers


def test_a_server_gets_the_settings_of_a_profile(serve, tmp_path, monkeypatch):
    server = serve(plain)
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    prices = tmp_path / "prices.csv"
    prices.write_text("model,input,output,as_of\nmine,3,5,2026-11-01\n")
    config = run_config(
        **FILE | dict(teacher="endpoint:mine", max_refused="0.5", prices=str(prices)),
        method="d-cot",
        samples=1,
        **{"sampling.top_p": "0.90", "sampling.seed": 123456789},
    )
    teacher = open_teacher(config, None, tmp_path / "ledger.sqlite")
    teacher.progress = False
    data = open_data(run_config(method="cot", train_limit=1, test_limit=1))
    ask_teacher(config, data._replace(teacher=teacher))
    sent = server.asked[0]
    assert (sent["top_p"], sent["seed"], sent["temperature"]) == (0.9, 123456789, 0.7)
    assert teacher.max_refused == 0.5 and (teacher.price.input, teacher.price.output) == (3, 5)


def questions_file(folder, n=60, languages=("en",)):
    folder.mkdir()
    for split in ("train", "test"):
        rows = [
            dict(
                id=f"{split}{i}",
                language=language,
                stem=f"Which is wet in {split}, {i} {language}?",
                choices=["sand", "the sea", "a stone"],
                answer="B",
            )
            for i in range(n)
            for language in languages
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return f"file:{folder}"


def said(i, view="cot", language="en", teacher="anna", **more):
    text = dict(nvc="Sand is dry.\nA stone is dry.").get(view, "The sea is water.")
    settings = dict(view=view, language=language, predicted="B") | more
    return Completion(f"train{i}", teacher, 0, text, **settings)


@pytest.fixture
def recorded(tmp_path):
    "Two files: one teacher's free text on 20 questions, another's views on 30."
    one = save_completions(map(said, range(20)), tmp_path / "one.jsonl")
    views = [
        said(i, view, language, "ben", saw_answer=True)
        for i in range(30)
        for view in ("cot", "pvc", "nvc")
        for language in ("en", "ar")
    ]
    two = save_completions(views, tmp_path / "two.jsonl")
    return f"recording:{one},{two}"


@pytest.mark.parametrize(
    "settings, examples, left_out",
    [
        (dict(method="cot"), 20, {"en/cot": 40}),
        (dict(method="cot", only_recorded=True), 20, {"en/cot": 10}),
        (dict(method="cot", only_recorded=True, recorded="anna"), 20, {}),
        (dict(method="cot", only_recorded=True, saw_answer="yes"), 30, {}),
        (dict(method="cot", only_recorded=True, saw_answer="both"), 30, {}),
        (dict(method="multi-view", only_recorded=True), 60, {}),
        (dict(method="multi-view/no-pvc", only_recorded=True, recorded="ben"), 30, {}),
        (dict(method="ft", only_recorded=True, recorded="anna"), 20, {}),
        (dict(method="multi-view", recorded="anna"), 0, {"en/pvc": 60, "en/nvc": 60}),
    ],
    ids=str,
)
def test_several_recordings_make_one_teacher(tmp_path, recorded, settings, examples, left_out):
    settings = dict(student="small:gpt2", benchmark=questions_file(tmp_path / "q")) | settings
    run = Run(run_config(teacher=recorded, **settings), tmp_path)
    assert len(run.examples) == examples
    assert absent(run.data.teacher) == left_out


def test_a_sample_in_two_files_is_refused(tmp_path, recorded):
    again = save_completions([said(3)], tmp_path / "again.jsonl")
    config = run_config(**FILE | dict(teacher=f"{recorded},{again}"))
    with pytest.raises(ValueError, match=r"again.jsonl:1:sample: repeats .*one.jsonl:4$"):
        open_teacher(config, None, None)


def test_a_recording_of_another_benchmark_is_refused(tmp_path, recorded):
    other = save_completions([Completion("x", "anna", 0, "?")], tmp_path / "other.jsonl")
    settings = dict(student="small:gpt2", benchmark=questions_file(tmp_path / "q"))
    config = run_config(teacher=f"recording:{other}", only_recorded="yes", **settings)
    with pytest.raises(ValueError, match="anna says nothing about 60 questions"):
        open_data(config)


def test_every_file_of_a_recording_is_part_of_a_run(tmp_path, recorded):
    config = run_config(**FILE | dict(teacher=recorded))
    before = Run(config).key
    with (tmp_path / "two.jsonl").open("a") as f:
        f.write("\n")
    assert Run(config).key != before


# seeds


def test_outside_the_lab_a_seed_takes_another_sample_and_nothing_else(tmp_path, recorded):
    settings = dict(
        student="small:gpt2",
        method="ft",
        benchmark=questions_file(tmp_path / "q", languages=("en", "bg")),
        tests=questions_file(tmp_path / "other"),
        train_limit=20,
        test_limit=15,
        held_out=0.2,
        teacher=recorded,
    )
    first, *others = [open_data(run_config(seed=seed, **settings)) for seed in (0, 1, 2)]
    every = load_split(run_config(**settings), None, "train", settings["benchmark"], "")
    assert first.train == hold_out(every, 0.2)[0].sample(20)  # as it was before seeds counted
    for data in others:
        assert data.train != first.train and len(data.train) == 20
        assert len({q.id for q in data.train}) == 10  # a question goes with its translation
        assert data.held_out == first.held_out and data.test == first.test
        assert data.tests == first.tests and len(data.test) == 15
        assert {*data.train, *data.spare} == {*first.train, *first.spare}
    assert others[0].train != others[1].train


def test_in_the_lab_a_seed_makes_the_world_only():
    config = run_config(seed=3, train_limit=20, languages="en bg")
    every = world_of(config).questions("train", ("en", "bg"), ("two_hop",), None)
    assert open_data(config).train == Questions(every).sample(20)


# students


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    "A folder as other programs leave it: no template, and nothing of ours."
    folder = tmp_path_factory.mktemp("student")
    student = small_student("gpt2", ["Which is wet? sand the sea a stone"] * 9, 16, 1, vocab=60)
    student.model.save_pretrained(folder)
    student.tokenizer.save_pretrained(folder)
    return str(folder)


LIMITS = dict(max_prompt=64, max_target=16)


def test_chat_without_a_template_is_refused_before_anything_is_asked(
    tmp_path, recorded, checkpoint
):
    settings = dict(LIMITS, method="cot", benchmark=questions_file(tmp_path / "q"), chat="yes")
    run = Run(run_config(teacher=recorded, student=checkpoint, **settings), tmp_path)
    with pytest.raises(ValueError, match="no chat template; leave chat=False"):
        _ = run.rationales
    assert not run.data.teacher.absent


def test_a_student_is_asked_in_its_chat_template(tmp_path, recorded, checkpoint):
    plain_one = load_student(checkpoint, **LIMITS)
    turns = "{% for m in messages %}wet {{ m['content'] }} sand{% endfor %}"
    plain_one.tokenizer.chat_template = turns
    folder = tmp_path / "chatty"
    plain_one.model.save_pretrained(folder)
    plain_one.tokenizer.save_pretrained(folder)
    settings = dict(LIMITS, teacher=recorded, benchmark=questions_file(tmp_path / "q"))
    for chat, first in ((False, "Which"), (True, "wet")):
        config = run_config(student=str(folder), chat=chat, **settings)
        data = open_data(config)
        student = open_student(config, data, [])
        ids = student.encode_prompt(data.train[0])
        assert student.tokenizer.decode(ids, skip_special_tokens=True).strip().startswith(first)


def test_adapters_are_trained_alone(tmp_path, recorded, checkpoint):
    pytest.importorskip("peft")
    settings = dict(LIMITS, method="cot", steps=2, batch_size=4, precision="float32")
    settings |= dict(benchmark=questions_file(tmp_path / "q"), test_limit=2)
    config = run_config(student=checkpoint, teacher=recorded, lora="2", **settings)
    run = Run(config, tmp_path)
    before = {n: p.detach().clone() for n, p in run.student.model.named_parameters()}
    assert run.trained.steps == 2
    moved = {n for n, p in run.student.model.named_parameters() if not p.equal(before[n])}
    assert moved and all("lora_" in name for name in moved)
    run.student.save(tmp_path / "kept")
    with pytest.raises(ValueError, match="it has adapters, which are trained on"):
        load_student(str(tmp_path / "kept"), lora=2)


def test_a_training_is_logged(tmp_path, recorded, checkpoint):
    pytest.importorskip("tensorboardX")
    settings = dict(LIMITS, method="ft", steps=2, batch_size=4, precision="float32")
    settings |= dict(benchmark=questions_file(tmp_path / "q"), test_limit=2)
    config = run_config(student=checkpoint, report_to="tensorboard", **settings, teacher="none")
    run = Run(config, tmp_path)
    assert run.trained.steps == 2
    assert [*(tmp_path / "logs" / f"{config.name}-{run.key}").rglob("*tfevents*")]


def test_a_reporter_that_is_not_there_is_refused_first(tmp_path, recorded):
    config = run_config(**FILE | dict(teacher=recorded), report_to="tensorbored")
    with pytest.raises(ValueError, match="report_to='tensorbored': this machine has"):
        _ = Run(config, tmp_path).data


# predictions


def prediction(id, language, right, benchmark="b"):
    letter = "A" if right else "B"
    return Prediction(id, language, "A", letter, right, None, "", "A", "A", benchmark=benchmark)


def test_pairs_are_of_the_same_question_in_the_same_language(tmp_path):
    "Two translations share an id; the order of predictions does not matter."
    first = [prediction("1", "en", True), prediction("1", "ar", False)]
    second = [prediction("1", "ar", True), prediction("1", "en", True)]
    assert paired(first, second)[:3] == (-0.5, 0, 1)
    with pytest.raises(ValueError, match="answered by one run only"):
        paired(first, [prediction("1", "en", True), prediction("1", "ar", True, "other")])
    with pytest.raises(ValueError, match="answered twice"):
        paired([*first, first[0]], [*second, second[0]])


ASKED = Questions(
    Question("1", "b", code, stem, dict(A="sand", B="sea"), "A")
    for code, stem in (("en", "Which is dry?"), ("ar", "أيها جاف؟"))
)


def test_predictions_are_read_with_their_benchmark(tmp_path):
    told = {"b": dict(plain=[prediction("1", "en", True), prediction("1", "ar", False)])}
    rows = prediction_rows(told, dict(b=ASKED))
    old = [{k: v for k, v in row.items() if k != "benchmark"} for row in rows]
    config = dict(name="r", key="k", profile="p")
    frames = []
    for key, kept in (("new", rows), ("old", old)):
        record = config | dict(key=key, config=vars(run_config(seed=len(frames))), metrics={})
        file = save_run(record, kept, tmp_path)
        frames.append(read_predictions(file.parent, file.stem))
    for frame in frames:
        assert list(zip(frame.benchmark, frame.language)) == [("b", "en"), ("b", "ar")]
    pairs = contrast(*frames)
    assert len(pairs) == 2 and (pairs.right_first == pairs.right_second).all()


def test_metrics_look_at_the_question_of_the_same_language():
    told = dict(plain=[prediction("1", "en", True), prediction("1", "ar", True)])
    cued = lambda q: "B" if q.language == "en" else None
    assert mode_metrics(told, ASKED, cued=cued)["plain"]["follows_cue"] == 0.0


def test_knobs_of_a_server_stand_in_a_table():
    config = run_config(
        **FILE | dict(teacher="endpoint:m"), **{"sampling.top_p": 0.9, "sampling.seed": 1}
    )
    rows = [
        dict(name="n", key=str(i), config=c, metrics=dict(accuracy=0.5))
        for i, c in enumerate([vars(config), vars(run_config())])
    ]
    table = results_frame(rows)
    assert Counter(table.sampling) == {Knobs(top_p=0.9, seed=1): 1, Knobs(): 1}


# real recordings

RATIONALES = os.environ.get("COT_DISTILL_RATIONALES")
real = pytest.mark.skipif(
    not (RATIONALES and os.environ.get("COT_DISTILL_HUB")),
    reason="COT_DISTILL_HUB and COT_DISTILL_RATIONALES name no data",
)
CF = "counterfactual.commonsense_qa.jsonl.gz"


@real
@pytest.mark.parametrize(
    "method, examples, kept",
    [
        ("cot", 534, None),
        ("multi-view", 1120, None),
        ("multi-view/no-nvc", 560, None),
        ("multi-view/no-pvc", 560, None),
        ("counterfactual", 1084, 550),
        ("counterfactual+multi-view", 2220, 550),
    ],
)
def test_the_recorded_counterfactual_pipeline(tmp_path, method, examples, kept):
    config = run_config(
        benchmark="commonsense_qa",
        teacher=f"recording:$COT_DISTILL_RATIONALES/{CF}",
        student="small:gpt2",
        method=method,
        only_recorded=True,
        paths=1,
    )
    run = Run(config, tmp_path)
    assert len(run.data.train) == 560 and len(run.examples) == examples
    assert absent(run.data.teacher) == {}
    assert kept is None or len(run.studied[1]) == kept


@real
def test_ordinary_questions_stand_for_recorded_counterfactuals(tmp_path):
    "Half of the recorded questions are studied; the other half is there to control with."
    settings = dict(
        benchmark="commonsense_qa",
        teacher=f"recording:$COT_DISTILL_RATIONALES/{CF}",
        student="small:gpt2",
        only_recorded=True,
        train_limit=280,
        paths=1,
    )
    sizes, samples = {}, []
    for method in ("counterfactual", "cot+ordinary"):
        for seed in (0, 1):
            run = Run(run_config(method=method, seed=seed, **settings), tmp_path)
            sizes[method, seed] = len(run.studied[0])
            samples.append({q.id for q in run.data.train})
    assert samples[0] == samples[2] != samples[1] == samples[3]
    assert all(sizes["counterfactual", s] == sizes["cot+ordinary", s] > 540 for s in (0, 1))


@real
@pytest.mark.parametrize("questions", ["ar", "en"])
@pytest.mark.parametrize("rationales", ["native", "en"])
@pytest.mark.parametrize("method", ["cot", pytest.param("multi-view", marks=pytest.mark.long)])
def test_explanations_of_people_in_two_languages(tmp_path, questions, rationales, method):
    folder = Path(RATIONALES).parent / "questions"
    for split in ("train", "test"):
        link = tmp_path / f"{split}.jsonl"
        link.symlink_to(folder / f"commonsense_qa_{questions}.{split}.jsonl")
    config = run_config(
        benchmark=f"file:{tmp_path}",
        teacher="recording:$COT_DISTILL_RATIONALES/ecqa.parallel.jsonl.gz",
        student="small:gpt2",
        method=method,
        rationale_language=rationales,
        saw_answer="yes",
    )
    run = Run(config, tmp_path)
    views = Counter(e.control for e in run.examples)
    assert len(run.data.train) == 2075 and len(run.data.test) == 1000
    assert absent(run.data.teacher) == {}
    if method == "cot":
        assert views == {None: 2075}
    else:  # 522 English eliminations name an option in words that are not the option's
        nvc = 2070 if questions == "ar" else 1553
        assert views == {"[Direct election]": 2075, "[Elimination method]": nvc}


def test_no_question_of_a_test_set_is_trained_on(tmp_path):
    mine, other = questions_file(tmp_path / "mine"), questions_file(tmp_path / "other")
    row = json.loads((tmp_path / "mine/train.jsonl").read_text().splitlines()[7])
    shown = dict(id="copy", stem=row["stem"].upper(), choices=row["choices"][::-1])
    with open(tmp_path / "other/test.jsonl", "a") as file:
        file.write("\n" + json.dumps(row | shown))
    config = run_config(
        benchmark=mine,
        tests=other,
        tests_limit=1,
        method="ft",
        teacher="none",
        student="small:gpt2",
    )
    train = open_data(config).train
    assert len(train) == 59 and "train7" not in {q.id for q in train}
    assert train.dropped == {"in a test set as well": 1}
