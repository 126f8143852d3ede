"Counterfactuals and views from a local endpoint that goes wrong in every way, on everyday questions of our own."

from collections import Counter
from dataclasses import replace

import pytest
from cot_distill.endpoint import EndpointTeacher
from cot_distill.records import CONTROLS
from everyday import ASTRAY, LINES, QUESTIONS, ScriptServer

from cot_distill.counterfactual import (
    Rehearsal,
    counterfactuals,
    locate,
    mask,
    refill_fault,
    targets,
)
from cot_distill.prompts import MASK
from cot_distill.questions import Question
from cot_distill.teacher import read_rationales
from cot_distill.views import forgotten, view_examples, view_of, view_requests


@pytest.fixture(scope="module")
def server():
    server = ScriptServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def teacher(server, tmp_path_factory):
    return EndpointTeacher(
        "script",
        server.url,
        tmp_path_factory.mktemp("ledger") / "ledger.sqlite",
        price=(0, 0),
        progress=False,
    )


@pytest.fixture(scope="module")
def made(teacher):
    return counterfactuals(QUESTIONS, teacher, strategy="teacher")


def test_thirty_questions_and_every_fate():
    assert len(LINES) >= 30 and len({l.id for l in LINES}) == len(LINES)
    fates = {l.fate for l in LINES}
    assert {f.partition(":")[0] for f in fates} == {
        "kept",
        "topic words",
        "target",
        "refill",
        "paths",
    } and len(fates) == 19


def test_each_question_meets_its_fate(made):
    assert {a.original.id: a.reason or "kept" for a in made.attempts} == {
        l.id: l.fate for l in LINES
    }
    counts = made.counts
    assert (
        counts["questions"]
        == counts["attempts"]
        == len(LINES)
        == counts["kept"] + sum(counts["dropped"].values())
    )
    assert (
        counts["dropped"]
        == Counter(l.fate for l in LINES if l.fate != "kept")
        == dict(made.dropped)
    )


def test_what_is_kept(made):
    by = {l.id: l for l in LINES}
    for q in made:
        id, target = q.id.split("~")
        line = by[id]
        assert (
            q == replace(line.question, id=q.id, stem=line.refill, answer=line.target)
            and target == line.target
        )


def test_options_of_quarel_survive(made):
    "What the question offers is named in it as often as before."
    for q in made:
        if q.benchmark == "quarel":
            original = next(l.question for l in LINES if l.id == q.id.split("~")[0])
            for text in q.choices.values():
                assert len(locate(text, q.stem)) == len(locate(text, original.stem))


def test_inflected_and_missing_words(made):
    by = {a.original.id: a.masked for a in made.attempts}
    assert by["C2"].stem == f"The {MASK} the {MASK} at dawn, where do they grow?"
    assert by["C21"].missing == ("winter coat", "ice") and not by["C21"].spans
    assert by["Q3"].spared == ("thick", "thin") and by["Q3"].stem == by["Q3"].question.stem
    assert by["C5"].stem == f"{MASK} forgot her {MASK} and {MASK}'s {MASK}, where did {MASK} wait?"


def test_the_curve_falls(made):
    curve = made.curve()
    assert (
        list(curve.threshold) == [0.2, 0.4, 0.6, 0.8, 1.0]
        and curve.kept.is_monotonic_decreasing
        and curve.kept[3] == len(made) > curve.kept[4]
    )


def test_nothing_is_asked_twice(server, teacher, made):
    before = Counter(server.asked)
    again = counterfactuals(QUESTIONS, teacher, strategy="teacher")
    assert list(again) == list(made) and again.counts == made.counts and server.asked == before
    reached = lambda *stages: sum(
        l.fate.partition(":")[0] in stages or l.fate == "kept" for l in LINES
    )
    assert (
        before["topic"] == len(LINES)
        and before["target"] == reached("target", "refill", "paths")
        and before["refill"] == reached("refill", "paths")
        and before["cot"] == 5 * reached("paths")
    )


def test_a_rehearsal_asks_no_less(teacher, made, tmp_path):
    unknown = EndpointTeacher(
        "script", "http://127.0.0.1:9/v1", tmp_path / "ledger.sqlite", price=(0, 0)
    )
    for known, least in ((teacher, len(made.attempts)), (unknown, len(made.attempts))):
        rehearsal = Rehearsal(known)
        counterfactuals(QUESTIONS, rehearsal, strategy="teacher")
        asked = Counter(r.view for r in rehearsal.asked)
        assert asked["topic"] == least and asked["cot"] >= sum(
            bool(a.replies) for a in made.attempts
        )
    assert not teacher.quote([r for r in rehearsal.asked if r.view == "topic"]).prompts


def test_without_the_filter(server, teacher, made):
    before = server.asked["cot"]
    raw = counterfactuals(QUESTIONS, teacher, strategy="teacher", paths=0)
    assert (
        server.asked["cot"] == before
        and {q.id for q in raw} == {a.question.id for a in made.attempts if a.replies}
        and not len(raw.curve())
    )


def test_every_option_in_turn(teacher):
    "The script refills for one target only, so the other attempts fail, but none is lost."
    each = counterfactuals(QUESTIONS[:3], teacher, strategy="each")
    assert [a.question.id for a in each.attempts] == [
        f"C{i}~{t}" for i, q in enumerate(QUESTIONS[:3]) for t in q.choices if t != q.answer
    ]
    assert each.counts["questions"] == 3 and each.counts["attempts"] == 12


def test_random_targets():
    drawn = [[targets(q, seed=s)[0] for q in QUESTIONS] for s in range(40)]
    assert drawn[0] == [targets(q)[0] for q in QUESTIONS] and all(
        t in q.choices and t != q.answer for ts in drawn for t, q in zip(ts, QUESTIONS)
    )
    shares = Counter(ts[0] for ts in drawn)
    assert set(shares) == set("ABDE") and max(shares.values()) < 20


def test_requests_that_cannot_be():
    with pytest.raises(ValueError, match="did you mean 'random'"):
        counterfactuals(QUESTIONS, None, strategy="randm")
    with pytest.raises(ValueError, match="share an id"):
        counterfactuals([QUESTIONS[0]] * 2, None)


class Silent:
    "A teacher that answers nothing."

    name = "silent"

    def complete(self, requests):
        return []


def test_no_replies_and_no_answers():
    unknown = replace(QUESTIONS[0], id="unknown", answer=None)
    assert counterfactuals([*QUESTIONS[:2], unknown], Silent()).dropped == {
        "topic words: no reply": 2,
        "no answer": 1,
    }


# eight options, and options as long as sentences


def test_other_forms():
    qasc = Question(
        "8",
        "qasc",
        "en",
        "What can wind cause?",
        dict(zip("ABCDEFGH", "waves heat gold rust ice salt moss sand".split())),
        "A",
    )
    assert sorted(targets(qasc, "each")) == list("BCDEFGH") and {
        targets(qasc, seed=s)[0] for s in range(60)
    } == set("BCDEFGH")
    arc = Question(
        "3",
        "arc_easy",
        "en",
        "A ball falls. Why?",
        dict(A="The Earth pulls it.", B="The air pushes it.", C="It likes to fall."),
        "A",
    )
    assert (
        mask(arc, ["A ball", "falls"]).stem == f"A {MASK}. Why?"
        and forgotten("(B) is weak. It likes to fall: no.", arc) == []
    )


@pytest.mark.parametrize(
    "phrase, found",
    [
        ("EGGS", ["eggs", "egg"]),
        ("the eggs", ["eggs", "egg"]),
        ("boil", ["boiled", "boiling"]),
        ("egg cup", ["egg-cup"]),
        ("cup. Then", []),
        ("", []),
        ("...", []),
        ("gg", []),
        ("kept", []),
    ],
)
def test_locate(phrase, found):
    text = "She keeps boiled eggs in an egg-cup. Then she stops boiling."
    assert [text[a:b] for a, b in locate(phrase, text)] == found


def test_words_of_other_scripts_are_found_as_they_stand():
    assert (
        locate("къщата", "Къде е къщата на Ада?")
        and locate("منزل", "أين منزل آدا؟")
        and not locate("къща", "Къде е къщата?")
    )


@pytest.mark.parametrize(
    "stem, why",
    [
        ("Where is a warm oven?", None),
        ("Where is a warm  TEA?", "same as the original"),
        ("Where is a warm cup?", "names the answer"),
        ("Where is a warm cups holder?", "names the answer"),
        ("Where is a warm warm oven?", "not well formed"),
        ("Where is a warm [x]?", "not well formed"),
        ("Where is a warm what? or?", "not well formed"),
    ],
)
def test_faults_of_a_refill(stem, why):
    q = Question("q", "t", "en", "Where is a warm tea?", dict(A="pot", B="cup"), "A")
    assert refill_fault(stem, f"Where is a warm {MASK}?", q, "B") == why


# views


@pytest.fixture(scope="module")
def views(teacher, made):
    questions = [*QUESTIONS, *made]
    return questions, read_rationales(teacher.complete(view_requests(questions)), questions)


def test_views_of_originals_and_counterfactuals(views):
    questions, rationales = views
    examples = view_examples(questions, rationales)
    lost = {
        ("C0", "nvc"): "forgets an option",
        ("C1", "pvc"): "ends in another option",
        ("C2", "nvc"): "contradicts itself",
        ("C3", "pvc"): "no reasoning",
        ("C4", "nvc"): "refusal",
        ("C5", "pvc"): "no answer line",
        ("Q1", "nvc"): "forgets an option",
        ("Q2", "nvc"): "empty",
    }
    assert lost.keys() == ASTRAY.keys() and examples.left_out == Counter(
        f"{view}: {why}" for (_, view), why in lost.items()
    )
    assert {(e.question.id, e.control) for e in examples} == {
        (q.id, c) for q in questions for v, c in CONTROLS.items() if (q.id, v) not in lost
    }
    for e in examples:
        (target,) = e.positives
        assert (
            target.answer == e.question.answer
            and not e.negatives
            and (
                e.control == CONTROLS["pvc"]
                or view_of(target.text, e.question, e.question.answer) == "nvc"
            )
        )


def test_views_without_tokens_and_one_view(views):
    questions, rationales = views
    both, bare, one = (
        view_examples(questions, rationales, *how)
        for how in ((), (("pvc", "nvc"), False), (("nvc",),))
    )
    assert [replace(e, control=None) for e in both] == list(bare) and list(one) == [
        e for e in both if e.control == CONTROLS["nvc"]
    ]


@pytest.mark.parametrize(
    "text, left",
    [
        ("(A) no. (C) no.", ""),
        ("A: no\nC. no", ""),
        ("Option A and option C fail.", ""),
        ("A cat has C in it.", "AC"),
        ("Pots break; lids too.", ""),
        ("", "AC"),
    ],
)
def test_every_way_to_speak_of_an_option(text, left):
    q = Question("q", "t", "en", "What holds tea?", dict(A="pot", B="cup", C="lid"), "B")
    assert "".join(forgotten(text, q)) == left
