"A judge's prompt, its strict parser, its agreement with the exact checker, and people's marks."

import json
import re
import threading
from dataclasses import replace
from http.server import ThreadingHTTPServer

import pytest

from cot_distill.endpoint import EndpointTeacher
from cot_distill.judge import (
    VERDICTS,
    Judgement,
    LabJudge,
    agreement,
    judge,
    judge_messages,
    judge_request,
    load_marks,
    read_marks,
    split_steps,
)
from cot_distill.lab import FAMILIES, World
from cot_distill.lab_server import ChatHandler, chat_response
from cot_distill.lexicon import LEXICON
from cot_distill.questions import Question

EGGS = Question("q1", "kitchen", "en", "Where do eggs keep?", dict(A="oven", B="fridge"), "B")
UOVA = replace(EGGS, language="it", stem="Dove si tengono le uova?", choices=dict(A="x", B="y"))
TEXT = "Eggs spoil when warm. A fridge is cold."


@pytest.mark.parametrize(
    "text, steps",
    [
        (TEXT, 2),
        ("One\n\ntwo\n- three", 3),
        ("It weighs 2.5 kg. Good", 2),
        ("Is it? Yes! So (B)", 3),
        ("…\n---\n", 0),
        ("", 0),
        ("هل هو بارد؟ نعم.", 2),
    ],
)
def test_steps(text, steps):
    assert len(split_steps(text)) == steps


RIGHT, WRONG = ("right", "wrong"), ("wrong", "wrong")


@pytest.mark.parametrize(
    "text, n, marks, why",
    [
        ("1: right\n2: wrong", 2, RIGHT, None),
        (" 1. Right \n\n2) WRONG.\n", 2, RIGHT, None),
        ("2: wrong\n1: right", 2, RIGHT, None),
        ("**1: right**\n**Step 2: wrong**", 2, RIGHT, None),
        ("１：right\n２：wrong", 2, RIGHT, None),
        ("1: right", 2, None, "a step is not marked"),
        ("1: right\n3: wrong", 2, None, "no such step"),
        ("0: right\n1: wrong\n2: wrong", 2, None, "no such step"),
        ("1: right\n1: wrong", 2, None, "a step is marked twice"),
        ("1: right\n2: wrong\n2: wrong", 2, None, "a step is marked twice"),
        ("1: right\n2: maybe", 2, None, "other words"),
        ("1: right or wrong\n2: wrong", 2, None, "other words"),
        ("1: not right\n2: wrong", 2, None, "other words"),
        ("1: right, since it is cold\n2: wrong", 2, None, "other words"),
        ("Here are the marks:\n1: right\n2: wrong", 2, None, "other words"),
        ("right\nwrong", 2, None, "other words"),
        ("I'm sorry, I cannot help with that.", 2, None, "refusal"),
        ("", 2, None, "empty"),
        (" \n", 2, None, "empty"),
    ],
)
def test_marks_are_read_strictly(text, n, marks, why):
    assert read_marks(text, n) == (marks, why)


@pytest.mark.parametrize("finish", ["length", "refusal", "content_filter"])
def test_a_reply_that_did_not_end_is_unread(finish):
    why = "truncated" if finish == "length" else "refusal"
    assert read_marks("1: right", 1, finish) == (None, why)


def test_the_prompt_shows_everything_once():
    steps = split_steps(TEXT)
    system, user = (m["content"] for m in judge_messages(EGGS, steps, "it"))
    assert all(verdict in system for verdict in VERDICTS)
    assert [user.count(part) for part in (EGGS.stem, "(A) oven", "1. Eggs", "2. A fridge")] == [
        1
    ] * 4
    assert "Right option: (B)" in user and "in Italian" in user
    unknown = judge_messages(replace(EGGS, answer=None), steps, "en")[1]["content"]
    assert "Right option" not in unknown
    assert "1. two lines\n" in judge_messages(EGGS, ("two\nlines", "b"), "en")[1]["content"] + "\n"


class MarkingServer(ThreadingHTTPServer):
    "Marks the first step right and all others wrong, over a socket."

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), ChatHandler)
        self.url, self.asked = f"http://127.0.0.1:{self.server_port}/v1", []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def answer(self, asked):
        self.asked.append(asked["messages"])
        user = asked["messages"][1]["content"]
        n = len(re.findall(r"(?m)^\d+\. ", user.partition("steps, in")[2]))
        marks = "\n".join(f"{i}: {'right' if i == 1 else 'wrong'}" for i in range(1, n + 1))
        return chat_response("marker", [marks], asked["messages"])


def test_a_judge_behind_a_socket_is_asked_once(tmp_path):
    server = MarkingServer()
    ledger = tmp_path / "ledger.sqlite"
    teacher = EndpointTeacher("marker", server.url, ledger, price=(1, 1), progress=False)
    rationales = [(EGGS, TEXT), (UOVA, TEXT), (EGGS, "It is cold."), (EGGS, TEXT), (EGGS, "")]
    assert teacher.quote([judge_request(*r) for r in rationales[:3]]).prompts == 3
    first = judge(rationales, teacher)
    assert [j.marks for j in first] == [RIGHT, RIGHT, ("right",), RIGHT, None]
    assert [j.reason for j in first] == [None] * 4 + ["no steps"]
    assert [j.question for j in first] == [q for q, _ in rationales]
    assert judge(rationales, teacher) == first and len(server.asked) == 3
    server.shutdown()
    server.server_close()


class Mute:
    name = "mute"

    def complete(self, requests):
        return []


def test_no_reply_is_no_mark():
    (found,) = judge([(EGGS, TEXT)], Mute())
    assert found.marks is None and found.reason == "no reply" and found.right_share is None
    assert "unread: no reply" in found._repr_html_()


FAIR = World(seed=3, families=tuple(FAMILIES), cue=0.9, misconceptions=0.1)


@pytest.mark.parametrize("language", LEXICON)
def test_a_judge_who_knows_everything_is_the_checker(language):
    questions = FAIR.questions("train", (language,))[::9]
    views = [
        (q, FAIR.reply(q, language, view, temperature=0.7).partition("\n")[0])
        for q in questions
        for view in ("cot", "nvc")
    ]
    exact = [FAIR.judgement(*each) for each in views]
    certain = judge(views, LabJudge(replace(FAIR, unsure=0.0, misconceptions=0.0)))
    assert [j.marks for j in certain] == [j.marks for j in exact]
    for j, (q, text) in zip(exact, views):
        assert list(zip(j.steps, j.marks)) == FAIR.check(text, q).steps
    erring = agreement(judge(views, LabJudge(FAIR)), exact)
    assert 0 < erring["kappa"] < 1 and 0 < erring["wrong_found"] < 1
    assert LabJudge(FAIR).mark("Nobody knows.", language) == "unsupported"


def test_agreement_is_counted_by_hand():
    marks = lambda *lists: [Judgement(EGGS, ("s",) * len(m), m, "by") for m in lists]
    r, w, u = VERDICTS
    judged, known = marks((r, r, w), (w, u, r)), marks((r, w, w), (w, u, u))
    found = agreement(judged, known)
    assert found["steps"] == 6 and found["agreed"] == pytest.approx(4 / 6)
    chance = (3 * 1 + 2 * 3 + 1 * 2) / 36
    assert found["kappa"] == pytest.approx((4 / 6 - chance) / (1 - chance))
    assert found["wrong_found"] == pytest.approx(2 / 3) and found["right_doubted"] == 0
    unread = replace(judged[0], marks=None, reason="refusal")
    assert agreement([unread, judged[1]], known)["unread"] == 1
    assert agreement([], [])["agreed"] is None
    other = replace(known[0], steps=("t",) * 3)
    with pytest.raises(ValueError, match="marked different steps of 'q1'"):
        agreement(judged, [other, known[1]])
    with pytest.raises(ValueError):
        agreement(judged, known[:1])


ROW = dict(benchmark="kitchen", language="en", id="q1", steps=["a", "b"], marks=["right", "wrong"])
ROW |= dict(by="a reader")


def test_marks_of_people_belong_to_their_question(tmp_path):
    path = tmp_path / "marks.jsonl"
    rows = [ROW, ROW | dict(language="it", marks=["wrong", "wrong"])]
    path.write_text("\ufeff" + "\n\n".join(map(json.dumps, rows)), encoding="utf-8")
    found = load_marks(path, [UOVA, EGGS])
    assert [(j.question, j.marks, j.by) for j in found] == [
        (EGGS, RIGHT, "a reader"),
        (UOVA, WRONG, "a reader"),
    ]


@pytest.mark.parametrize(
    "line, why",
    [
        ("{", "no JSON"),
        ("[]", "benchmark is missing or no str"),
        (json.dumps({k: v for k, v in ROW.items() if k != "by"}), "by is missing"),
        (json.dumps(ROW | dict(steps="a")), "steps is missing or no list"),
        (json.dumps(ROW | dict(marks=["right"])), "marks: give 2 of right, wrong, unsupported"),
        (json.dumps(ROW | dict(marks=["right", "ok"])), "marks: give 2 of right"),
        (json.dumps(ROW | dict(language="de")), "no question kitchen/de/q1 .*load its split"),
    ],
)
def test_faults_of_a_file_of_marks_are_named(tmp_path, line, why):
    path = tmp_path / "marks.jsonl"
    path.write_text(f"{json.dumps(ROW)}\n{line}\n")
    with pytest.raises(ValueError, match=f"marks.jsonl, line 2: {why}"):
        load_marks(path, [EGGS])
