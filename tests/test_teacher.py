"The client path under faults, kills and several processes; the batch; the key; recordings."

import gzip
import json
import os
import signal
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from cot_distill import stress
from cot_distill.endpoint import BatchTeacher, EndpointTeacher, unanswered
from cot_distill.lab import World
from cot_distill.lab_server import LabServer, chat_response
from cot_distill.ledger import Ledger
from cot_distill.questions import Question, load_questions
from cot_distill.recordings import load_completions
from cot_distill.stress import fault_server, questions, read_books
from cot_distill.teacher import LabTeacher, RecordedTeacher, Request, read_rationales

KEY = "sk-canary-5d1f0c9e"
QS = questions(6)


def holds(rows):
    assert not [r for r in rows if not r.holds], rows


@pytest.fixture
def record(tmp_path):
    return tmp_path / "books.jsonl"


def ask(n=1, qs=QS, temperature=0.7, **kw):
    return [Request(q, "en", n=n, temperature=temperature, **kw) for q in qs]


def teacher(url, tmp_path, kind=EndpointTeacher, **kw):
    return kind(
        "gpt-4o-mini",
        url,
        tmp_path / "ledger.sqlite",
        server="faults",
        progress=False,
        **dict(timeout=2, tries=20) | kw,
    )


def test_under_faults():
    holds(stress.under_faults(requests=150))


def test_under_kills():
    holds(stress.under_kills(kills=2, prompts=300))


def test_two_processes():
    holds(stress.two_processes(prompts=150))


def test_a_server_that_none_of_us_wrote():
    pytest.importorskip("fastapi")
    holds(stress.foreign_server(prompts=2))


def test_as_many_are_under_way_as_may_be(serve, tmp_path):
    "No reply comes before eight requests are at the server; the very first goes alone."
    together = threading.Barrier(8, timeout=60)

    def reply(asked):
        if asked["temperature"] != 0.1:
            together.wait()
        return chat_response("m", ["It is wet.\nAnswer: (A)"], asked["messages"])

    t = teacher(serve(reply).url, tmp_path, concurrency=8, timeout=90)
    t.complete(ask(1, QS[:1], temperature=0.1))
    assert len(t.complete(ask(1, questions(16)))) == 16


def test_asking_for_eight_when_five_exist_asks_for_three(record, tmp_path):
    with fault_server(record) as url:
        for n in (5, 8, 8, 2):
            got = teacher(url, tmp_path).complete(ask(n, QS[:1]))
    assert [r["n"] for r in read_books(record)] == [5, 3] and [c.sample for c in got] == [0, 1]


def test_one_prompt_twice_in_a_call_is_asked_once(record, tmp_path):
    with fault_server(record) as url:
        got = teacher(url, tmp_path).complete([*ask(2, QS[:1]), *ask(3, QS[:1]), *ask(1, QS[1:2])])
    assert sorted(r["n"] for r in read_books(record)) == [1, 3]
    assert [(c.question_id, c.sample) for c in got] == [
        ("q0", 0),
        ("q0", 1),
        ("q0", 0),
        ("q0", 1),
        ("q0", 2),
        ("q1", 0),
    ]


def test_language_temperature_and_server_make_other_requests(record, tmp_path):
    with fault_server(record) as url:
        teacher(url, tmp_path).complete(
            [Request(QS[0], "en"), Request(QS[0], "bg"), Request(QS[0], "en", temperature=0.7)]
        )
        EndpointTeacher("gpt-4o-mini", url, tmp_path / "ledger.sqlite", progress=False).complete(
            [Request(QS[0], "en")]
        )
    assert [r["n"] for r in read_books(record)] == [1, 1, 1, 1]


def test_a_server_that_refuses_n_is_asked_one_by_one(record, tmp_path):
    with fault_server(record, refuse_n=True) as url:
        got = teacher(url, tmp_path, concurrency=1).complete(ask(3))
    assert len(got) == 18 and Counter(r["answered"] for r in read_books(record)) == {
        True: 18,
        False: 1,
    }  # it was tried once


def test_an_interrupt_waits_for_what_is_under_way(record, tmp_path):
    with fault_server(record, latency=0.5) as url:
        p = stress.client(url, tmp_path / "ledger.sqlite", 200, 8)
        p.stdout.readline()
        time.sleep(2.3)
        p.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in p.communicate(timeout=30)[1] and p.returncode != 0
    ledger, rows = Ledger(tmp_path / "ledger.sqlite"), read_books(record)
    assert 0 < len(rows) < 200 and ledger.bill().requests == len(rows) and ledger.lost() == (0, 0)


def test_a_budget_is_not_passed_by_what_is_under_way(record, tmp_path):
    with fault_server(record, latency=0.1, faults=0.2, stall=3) as url:
        t = teacher(url, tmp_path, budget=0.002, concurrency=32, timeout=0.5)
        with pytest.raises(RuntimeError, match="the budget is reached"):
            t.complete(ask(3, questions(200), max_tokens=40))
    billed = sum(
        t.price.of(*r["billed"]) for r in read_books(record)
    )  # with those whose answer was lost
    assert 0.0002 < billed <= 0.002 and t.ledger.exposure() <= 0.002


def test_no_budget_without_a_price(tmp_path):
    with pytest.raises(ValueError, match="a budget needs the price of 'm'"):
        EndpointTeacher(
            "m", "http://127.0.0.1:9/v1", tmp_path / "l.sqlite", budget=1.0, progress=False
        ).complete(ask())


def test_a_server_that_is_not_there(tmp_path):
    t = teacher("http://127.0.0.1:9/v1", tmp_path, tries=2)
    with pytest.raises(RuntimeError, match="6 of 6 prompts failed.*Connection"):
        t.complete(ask())
    assert t.ledger.exposure() == 0  # nothing was sent, so nothing can have been billed


def test_replay_without_key_or_server(record, tmp_path, monkeypatch):
    with fault_server(record) as url:
        first = (t := teacher(url, tmp_path)).complete(ask(2))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    file = t.ledger.export(tmp_path / "recording.parquet")
    other = EndpointTeacher(
        "gpt-4o-mini",
        "https://api.openai.com/v1",
        tmp_path / "other.sqlite",
        server="faults",
        progress=False,
    )
    other.ledger.load(file)
    assert other.complete(ask(2)) == first
    with pytest.raises(RuntimeError, match="OPENAI_API_KEY"):
        other.complete(ask(3))


def test_batch(record, tmp_path):
    "The server leaves out the last line of each batch; an answer costs half, and comes once."
    with fault_server(record) as url:
        t = teacher(url, tmp_path, BatchTeacher)
        t.poll = 0.05
        with pytest.raises(
            RuntimeError, match="1 of 6 prompts failed.*1 of its requests were not answered"
        ):
            t.complete(ask(2))
        assert len(t.complete(ask(2))) == 12
    rows = read_books(record)
    assert sum(r["samples"] for r in rows) == 12 and len({r["prompt"] for r in rows}) == 6
    assert t.ledger.bill().cost == pytest.approx(sum(t.price.of(*r["billed"]) for r in rows) / 2)


@pytest.mark.parametrize("where", ["_submit", "_look", "_collect"])
def test_a_batch_survives_a_kill(record, tmp_path, where):
    "Killed after submitting but before that was noted, before collecting, or in the middle of it."

    class Killed(BaseException):
        pass

    class Dying(BatchTeacher):
        pass

    real, calls = getattr(BatchTeacher, where), []

    async def submit(self, *a):
        await real(self, *a)
        raise Killed

    async def look(self, *a):
        raise Killed

    def collect(self, line):
        if len(calls) == 2:
            raise Killed
        calls.append(line)
        return real(self, line)

    setattr(Dying, where, dict(_submit=submit, _look=look, _collect=collect)[where])
    with fault_server(record) as url:
        with pytest.raises(BaseException):
            teacher(url, tmp_path, Dying).complete(ask(2))
        t = teacher(url, tmp_path, BatchTeacher)
        t.poll = 0.05
        for _ in range(3):
            try:
                got = t.complete(ask(2))
                break
            except RuntimeError:
                pass
    rows = read_books(record)
    assert len(got) == 12 and sum(r["samples"] for r in rows) == 12 == t.ledger.bill().samples


def test_what_an_open_batch_asks_is_not_asked_besides(record, tmp_path):
    with fault_server(record) as url:
        batch = teacher(url, tmp_path, BatchTeacher)
        batch._open({k: v for k, v in batch.wanted(ask(2)).items()})
        with pytest.raises(RuntimeError, match="6 of 6 .* part of an open batch"):
            teacher(url, tmp_path).complete(ask(2))
    assert not read_books(record)


def test_the_lab_behind_a_socket_says_what_the_lab_says(tmp_path):
    world = World(seed=3)
    server, qs = LabServer(world), world.questions("train", ("en", "bg"))[::40]
    try:
        over = EndpointTeacher(
            world.name,
            server.url,
            tmp_path / "l.sqlite",
            server="lab",
            price=(0, 0),
            progress=False,
        )
        for n, temperature in ((1, 0.0), (4, 0.7)):
            requests = [
                Request(q, code, n=n, temperature=temperature)
                for q in qs
                for code in (q.language, "tr")
            ]
            assert [c.text for c in over.complete(requests)] == [
                c.text for c in LabTeacher(world).complete(requests)
            ]
        views = [
            Request(q, q.language, view=view) for q in qs[:4] for view in ("pvc", "nvc", "topic")
        ]
        views += [
            Request(
                replace(
                    q,
                    stem=q.stem.replace(LabTeacher(world).complete([v])[0].text, "[MASK]"),
                    answer=letter,
                ),
                q.language,
                view="refill",
            )
            for q, v in zip(qs, views[2::3])
            for letter in q.choices
        ]
        assert [c.text for c in over.complete(views)] == [
            c.text for c in LabTeacher(world).complete(views)
        ] and any(c.text.startswith("Question: ") for c in over.complete(views))
        with pytest.raises(RuntimeError, match="no such question"):
            over.complete([Request(QS[0], "en")])
    finally:
        server.close()


def test_the_key_is_nowhere(tmp_path, monkeypatch, capsys, caplog):
    "A server that repeats the key; a whole run, its files, logs, exceptions and the report."
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    caplog.set_level("DEBUG")
    from cot_distill.ledger import report_lines

    with fault_server(tmp_path / "books.jsonl", echo=True) as url:
        t = teacher(url, tmp_path)
        got = t.complete(ask())
        (refused,) = [c for c in got if not c.text]
        t.max_refused = 0.0  # now the one refusal is too many
        with pytest.raises(RuntimeError, match="2 of 7 prompts failed") as e:
            t.complete(ask() + [Request(QS[3], "bg")])
    assert len(got) == 6 and "[key]" in str(e.value) and refused.finish_reason == "refusal"
    import traceback

    shown = (
        "".join(traceback.format_exception(e.value))
        + repr(got)
        + repr(vars(t))
        + "\n".join(report_lines(t.ledger))
        + t.ledger.frame(None).to_html()
        + "".join(capsys.readouterr())
        + caplog.text
    )
    t.ledger.export(tmp_path / "recording.parquet")
    t.ledger.db.close()
    files = [p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()]
    assert len(files) > 1 and not any(KEY.encode() in b for b in files) and KEY not in shown


GOOD = dict(question_id="q0", teacher="t", sample=0, text="One more.\nAnswer: (A)")


@pytest.mark.parametrize(
    "change, where",
    [
        (dict(text=None), ":text: must be str, got None"),
        (dict(sample=True), ":sample: must be int, got True"),
        (dict(sample="0"), ":sample: must be int"),
        (dict(predicted=1), ":predicted: must be str or null, got 1"),
        (dict(saw_answer="no"), ":saw_answer: must be bool or null"),
        ("text", ":text: missing"),
        ("question_id", ":question_id: missing"),
        (dict(), ":sample: repeats sample 0 of question q0 by t from line 1"),
    ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_malformed_lines_say_where(tmp_path, change, where, suffix):
    row = (
        {k: v for k, v in GOOD.items() if k != change} if isinstance(change, str) else GOOD | change
    )
    path = tmp_path / f"r{suffix}"
    with (gzip.open if suffix.endswith("gz") else open)(path, "wt") as f:
        f.write(json.dumps(GOOD) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(ValueError) as e:
        load_completions(path)
    assert str(e.value).startswith(f"{path}:2{where}")


def test_malformed_parquet_and_other_files(tmp_path):
    import pandas as pd

    pd.DataFrame([GOOD | dict(source="kept out"), GOOD | dict(sample=1, source="x")]).to_parquet(
        good := tmp_path / "r.parquet"
    )
    assert [c.sample for c in load_completions(good)] == [0, 1]
    pd.DataFrame([{k: v for k, v in GOOD.items() if k != "teacher"}]).to_parquet(
        bad := tmp_path / "b.parquet"
    )
    with pytest.raises(ValueError, match="b.parquet:1:teacher: missing"):
        load_completions(bad)
    with pytest.raises(ValueError, match="a recording is .jsonl"):
        load_completions(tmp_path / "r.csv")


def test_recordings_of_other_languages_and_wrong_options(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text(
        "\n".join(
            json.dumps(GOOD | d)
            for d in (dict(), dict(language="bg"), dict(sample=1, predicted="F"))
        )
    )
    t = RecordedTeacher(path)
    assert [len(t.complete([Request(QS[0], code, n=9)])) for code in ("en", "bg", "vi")] == [
        2,
        1,
        0,
    ] and t.missing == 7 + 8 + 9
    assert [r.reason for r in read_rationales(load_completions(path), QS)] == [
        None,
        None,
        "not an option",
    ]
    with pytest.raises(ValueError, match="unknown question 'q0'"):
        read_rationales(load_completions(path), QS[1:])
    with pytest.raises(ValueError, match="no teacher 'T'; there are t"):
        RecordedTeacher(path, teacher="T")


@pytest.fixture(scope="module")
def recording():
    folder = os.environ.get("COT_DISTILL_RATIONALES")
    if not folder:
        pytest.skip("COT_DISTILL_RATIONALES names no folder of recordings")
    return next(Path(folder).glob("commonsense_qa.train.jsonl*"))


def test_real_recording(recording):
    "Streams that did not see the answer, right and wrong, each reply once; both readings agree."
    everything = load_completions(recording)
    assert len(everything) == 69_377 and Counter(c.saw_answer for c in everything) == {
        True: 38_933,
        False: 30_444,
    }
    ids = list(dict.fromkeys(c.question_id for c in everything))
    qs = [Question(i, "commonsense_qa", "en", "?", dict.fromkeys("ABCDE", "…"), None) for i in ids]
    for saw, n in ((False, 30_444), (True, 38_933)):
        t = RecordedTeacher(recording, saw_answer=saw)
        got = t.complete([Request(q, "en", n=99, temperature=0.7) for q in qs])
        assert len(got) == n == len({(c.question_id, c.teacher, c.sample) for c in got})
    greedy = RecordedTeacher(recording, teacher="PaLM-540B (few-shot CoT)").complete(
        [Request(q, "en") for q in qs]
    )
    assert {c.sample for c in greedy} == {0} and len(greedy) == 9_741


@pytest.mark.long
def test_our_reading_agrees_with_the_recorded_one(recording):
    if not os.environ.get("COT_DISTILL_HUB"):
        pytest.skip("COT_DISTILL_HUB names no mirror of the hub")
    from dataclasses import replace

    qs = {
        q.id: q
        for split in ("train", "test")
        for q in load_questions("commonsense_qa", split=split)
    }
    said = [
        c
        for c in load_completions(recording)
        if c.teacher.startswith("nvidia") and c.question_id in qs
    ]
    ours = read_rationales([replace(c, predicted=None) for c in said], qs.values())
    both = [(c.predicted, r.predicted) for c, r in zip(said, ours) if c.predicted and r.predicted]
    # read by eye: the 20 that differ state another option in words than their recorded letter
    assert len(both) > 13_000 and sum(a != b for a, b in both) <= 20
    kept = read_rationales(said, qs.values())
    assert len(kept) == len(said) and all(
        r.predicted == c.predicted for c, r in zip(said, kept) if c.predicted
    )
    assert all((r.predicted is None) == bool(r.reason) for r in kept)


@pytest.mark.parametrize(
    "status, code, again, halt",
    [
        (400, None, False, False),
        (401, None, False, True),
        (403, None, False, True),
        (404, None, False, True),
        (408, None, True, False),
        (409, None, True, False),
        (422, None, False, False),
        (429, "rate_limit_exceeded", True, False),
        (429, "insufficient_quota", True, True),
        (500, None, True, False),
        (503, None, True, False),
    ],
)
def test_what_an_error_means(status, code, again, halt):
    import openai

    error = openai.AsyncOpenAI(api_key="none")._make_status_error_from_response(
        openai._base_client.httpx2.Response(
            status,
            json=dict(error=dict(message="no", code=code, type=code)),
            headers={"retry-after": "7"},
            request=openai._base_client.httpx2.Request("POST", "http://localhost"),
        )
    )
    u = unanswered(error)
    assert (u.again, u.halt, u.billed, u.after) == (again, halt, False, 7.0)


# ---------------------------------------------------------------- recordings as people have them

CELLS = {
    "upper case": ("B", "B", None),
    "lower case": ("b", "B", None),
    "in brackets": ("(B)", "B", None),
    "with a stop and spaces": (" b. ", "B", None),
    "the option's text": ("3", "B", None),
    "empty": ("", "A", None),
    "blank": ("  ", "A", None),
    "none": ("None", "A", None),
    "missing": (None, "A", None),
    "not an option": ("F", None, "not an option"),
    "words": ("the second", None, "not an option"),
}


@pytest.mark.parametrize("cell, predicted, reason", CELLS.values(), ids=CELLS)
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_recorded_letter_is_read_as_people_write_it(tmp_path, cell, predicted, reason, suffix):
    "The text ends in (A); the question is 3 + 1 with the options 4 and 3."
    import pandas as pd

    rows = [GOOD | dict(question_id="q3", predicted=cell)]
    path = tmp_path / f"r{suffix}"
    if suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        pd.DataFrame(rows + [rows[0] | dict(sample=1, predicted="A")]).to_parquet(path)
    (r, *_) = read_rationales(load_completions(path), QS)
    assert (r.predicted, r.reason) == (predicted, reason)
    assert r.question_key == QS[3].key


FORMS = {
    "a byte order mark": "\ufeff{}\n{}\n",
    "line ends of another system": "{}\r\n{}\r\n",
    "empty lines": "\n{}\n\n{}\n  \n",
    "no last line end": "{}\n{}",
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_file_is_read_in_the_forms_it_comes_in(tmp_path, form):
    rows = [GOOD | dict(question_id=7), GOOD | dict(question_id="7", sample=1)]
    (path := tmp_path / "r.jsonl").write_bytes(form.format(*map(json.dumps, rows)).encode())
    assert [(c.question_id, c.sample) for c in load_completions(path)] == [("7", 0), ("7", 1)]


def test_numbers_and_gaps_of_a_spreadsheet(tmp_path):
    import pandas as pd

    rows = [GOOD | dict(question_id=7, sample=0, view=None), GOOD | dict(question_id=8, view="pvc")]
    table = pd.DataFrame(rows).astype(dict(sample=float)).assign(language=float("nan"))
    table.to_parquet(path := tmp_path / "r.parquet")
    got = load_completions(path)
    assert [(c.question_id, c.sample, c.language, c.view) for c in got] == [
        ("7", 0, None, None),
        ("8", 0, None, "pvc"),
    ]


def parallel():
    "One id: in English and Italian, with the options in another order, and in another benchmark."
    en = Question("q1", "sums", "en", "1 + 1?", dict(A="two", B="three"), "A")
    it = replace(en, language="it", stem="1 + 1 fa?", choices=dict(A="tre", B="due"), answer="B")
    other = replace(en, benchmark="riddles", stem="Who?", choices=dict(A="you", B="me"), answer="B")
    return en, it, other


@pytest.mark.parametrize("kind", ["lab", "endpoint", "recording"])
def test_questions_that_share_an_id_are_kept_apart(serve, tmp_path, kind):
    "Each is answered with its own right option, read as its own, and selected as its own."
    from cot_distill.recordings import save_completions
    from cot_distill.records import QuestionIndex

    qs = parallel()

    class Knows:
        name = "knows"

        def reply(self, q, language, view, temperature, sample):
            return f"So it is {q.answer_text}.\nAnswer: ({q.answer})"

    if kind == "endpoint":
        find = lambda asked: next(q for q in qs if q.stem in asked["messages"][-1]["content"])
        reply = lambda asked: chat_response(
            "m", [Knows().reply(find(asked), "", "", 0, 0)], asked["messages"]
        )
        t = teacher(serve(reply).url, tmp_path)
    else:
        t = LabTeacher(Knows())
    requests = [Request(q, q.language) for q in qs]
    got = t.complete(requests)
    if kind == "recording":
        got = RecordedTeacher(save_completions(got, tmp_path / "r.jsonl")).complete(requests)
    read = read_rationales(got, qs)
    assert [r.predicted for r in read] == ["A", "B", "B"]
    assert [r.question_key for r in read] == [q.key for q in qs] == [c.question_key for c in got]
    groups = QuestionIndex(qs).group(read)
    assert {key: [r.predicted for r in group] for key, group in groups.items()} == {
        q.key: [q.answer] for q in qs
    }


def test_a_recording_that_cannot_tell_two_questions_apart_says_so(tmp_path):
    qs, path = parallel(), tmp_path / "r.jsonl"
    path.write_text(json.dumps(GOOD | dict(question_id="q1")))
    assert len(RecordedTeacher(path).complete([Request(qs[0], "en")])) == 1
    with pytest.raises(ValueError, match="could be about any of riddles/en/q1, sums/en/q1"):
        RecordedTeacher(path).complete([Request(q, "en") for q in (qs[0], qs[2])])
    with pytest.raises(ValueError, match="could mean sums/en/q1 or sums/it/q1"):
        read_rationales(load_completions(path), qs[:2])
    path.write_text(json.dumps(GOOD | dict(question_id="q1", benchmark="riddles")))
    (c,) = RecordedTeacher(path).complete([Request(q, "en") for q in (qs[0], qs[2])])
    assert c.question_key == qs[2].key


MANY = [
    GOOD | dict(teacher=name, sample=i, language=code, view=view, saw_answer=saw, text=f"{name}{i}")
    for name in "ab"
    for i in range(2)
    for code, view, saw in (
        ("en", "cot", False),
        ("bg", "cot", False),
        ("en", "nvc", True),
        ("en", "cot", True),
    )
]
CHOICES = {
    "all": ({}, "a0 b0 a1 b1", "a0 b0 a1 b1"),
    "one teacher": (dict(teacher="b"), "b0 b1", "b0 b1"),
    "two, in another order": (dict(teacher=["b", "a"]), "b0 a0 b1 a1", "b0 a0 b1 a1"),
    "one view": (dict(views="cot"), "a0 b0 a1 b1", ""),
    "the other view": (dict(views=["nvc"]), "", "a0 b0 a1 b1"),
    "with the answer in view": (dict(saw_answer=True), "a0 b0 a1 b1", "a0 b0 a1 b1"),
    "both": (dict(saw_answer=None), "a0 a0 b0 b0 a1 a1 b1 b1", "a0 b0 a1 b1"),
}


@pytest.mark.parametrize("settings, cot, nvc", CHOICES.values(), ids=CHOICES)
def test_a_recording_of_several_teachers_languages_and_views(tmp_path, settings, cot, nvc):
    (path := tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, MANY)))
    t = RecordedTeacher(path, **settings)
    asked = [("en", "cot"), ("en", "nvc"), ("vi", "cot")]
    got = {
        key: [c.text for c in t.complete([Request(QS[0], key[0], n=9, view=key[1])])]
        for key in asked
    }
    assert got == dict(zip(asked, (cot.split(), nvc.split(), [])))
    assert t.absent == {key: 9 - len(texts) for key, texts in got.items()}
    assert t.missing == sum(t.absent.values())


@pytest.mark.parametrize("settings, message", [
    (dict(teacher="c"), "no teacher 'c'; there are a, b"),
    (dict(teacher=["a", "B"]), "no teacher 'B'; there are a, b"),
    (dict(views="pvc"), "no view 'pvc'; there are cot, nvc"),
])  # fmt: skip
def test_a_name_that_a_recording_does_not_have(tmp_path, settings, message):
    (path := tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, MANY)))
    with pytest.raises(ValueError, match=message):
        RecordedTeacher(path, **settings)


@pytest.mark.parametrize("settings, message", [
    (dict(n=0), "n and max_tokens start at 1"),
    (dict(temperature=float("nan")), "temperature at 0"),
    (dict(temperature=-1), "temperature at 0"),
    (dict(top_p=0), "top_p lies above 0"),
    (dict(top_p=1.5), "top_p lies above 0"),
    (dict(extra=dict(n=3)), "extra holds n, which a request sets itself"),
    (dict(extra=dict(stream=True)), "extra holds stream"),
])  # fmt: skip
def test_a_setting_that_makes_no_sense_is_said(settings, message):
    with pytest.raises(ValueError, match=message):
        Request(QS[0], "en", **settings)
