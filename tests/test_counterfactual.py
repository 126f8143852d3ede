"Counterfactuals and views from an endpoint that goes wrong in every way, on our own questions."

import os
import sys
from collections import Counter
from dataclasses import replace
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
from everyday import ASTRAY, LINES, QUESTIONS, ScriptServer

from cot_distill.counterfactual import (
    Rehearsal,
    base_forms,
    counterfactuals,
    inflects_in,
    locate,
    mask,
    refill_fault,
    targets,
)
from cot_distill.diversity import select
from cot_distill.endpoint import EndpointTeacher
from cot_distill.prompts import MASK
from cot_distill.questions import Question, load_questions
from cot_distill.records import CONTROLS, Completion, Rationale
from cot_distill.teacher import RecordedTeacher, read_rationales
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
    assert len(LINES) >= 30 and len({line.id for line in LINES}) == len(LINES)
    fates = {line.fate for line in LINES}
    assert {f.partition(":")[0] for f in fates} == {
        "kept",
        "topic words",
        "target",
        "refill",
        "paths",
    } and len(fates) == 19


def test_each_question_meets_its_fate(made):
    assert {a.original.id: a.reason or "kept" for a in made.attempts} == {
        line.id: line.fate for line in LINES
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
        == Counter(line.fate for line in LINES if line.fate != "kept")
        == dict(made.dropped)
    )


def test_what_is_kept(made):
    by = {line.id: line for line in LINES}
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
            original = next(line.question for line in LINES if line.id == q.id.split("~")[0])
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
        line.fate.partition(":")[0] in stages or line.fate == "kept" for line in LINES
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
    with pytest.raises(ValueError, match="share benchmark, language and id"):
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


# dictionaries

LEMMAS = dict(en=dict(children="child", kept="keep"), hbs=dict(djeca="dijete"), xx={})


def lemmatize(word, lang):
    if lang not in LEMMAS:
        raise ValueError(f"no language {lang}")
    return LEMMAS[lang].get(word, word).title()


@pytest.fixture(params=["with a dictionary", "without"])
def dictionary(request, monkeypatch):
    known = request.param == "with a dictionary"
    module = SimpleNamespace(lemmatize=lemmatize) if known else None
    monkeypatch.setitem(sys.modules, "simplemma", module)
    base_forms.cache_clear()
    yield known
    base_forms.cache_clear()


def test_irregular_forms_come_from_the_dictionary(dictionary):
    meet = lambda a, b, language: bool(base_forms(a, language) & base_forms(b, language))
    pairs = [("children", "child", "en"), ("Kept", "keep", "en"), ("djeca", "dijete", "hr")]
    assert [meet(*pair) for pair in pairs] == [dictionary] * 3
    assert meet("eggs", "egg", "en") and meet("eggs", "egg", "vi")  # with or without
    assert not meet("children", "child", None) and not meet("djeca", "dijete", "vi")


def test_the_dictionary_serves_benchmarks_and_never_the_lab(dictionary):
    q = Question("q", "arc_easy", "en", "Where do children play?", dict(A="inn", B="yard"), "B")
    assert mask(q, ["child"]).missing == (() if dictionary else ("child",))
    assert len(locate("child", q.stem, inflects_in(q))) == dictionary
    for benchmark in ("lab", "lab:shelter"):
        assert mask(replace(q, benchmark=benchmark), ["child"]).missing == ("child",)
    text = "(A) no. Children sleep there."
    child = replace(q, choices=dict(A="inn", B="yard", C="child"))
    assert forgotten(text, child) == ([] if dictionary else ["C"])
    refill = "Where do kept dogs play?"
    keep = replace(q, choices=dict(A="keep", B="yard"))
    fault = refill_fault(refill, f"Where do {MASK} play?", keep, "A")
    assert fault == ("names the answer" if dictionary else None)


@pytest.mark.skipif(not find_spec("simplemma"), reason="simplemma is not installed")
@pytest.mark.parametrize(
    "language, pairs",
    [
        ("en", "knives knife, children child, kept keep, geese goose, wrote write"),
        ("de", "Häuser Haus, ging gehen, Kinder Kind"),
        ("bg", "конят коня, децата дете, къщата къща"),
        ("it", "uova uovo, andò andare, coltelli coltello"),
    ],
)
def test_forms_of_simplemma(language, pairs):
    for pair in pairs.split(", "):
        a, b = (base_forms(word, language) for word in pair.split())
        assert a & b, pair


# questions that share an id

EGGS = Question("q1", "kitchen", "en", "Where do eggs keep?", dict(A="oven", B="fridge"), "B")
UOVA = replace(EGGS, language="it", stem="Dove si tengono le uova?", answer="A")
OTHER = replace(EGGS, benchmark="farm", stem="Where are eggs found?", answer="A")
PARALLEL = [EGGS, UOVA, OTHER]


def rationale_of(q, view="cot", **changes):
    says = dict(pvc="It is right.", nvc="(A) no. (B) no.").get(view, "So it is.")
    text = f"{q.benchmark} {q.language}: {says}"
    return Rationale(
        q.id, q.language, view, "t", 0, text, q.answer, None, True, q.benchmark, q.language
    )


@pytest.mark.parametrize("order", [PARALLEL, PARALLEL[::-1]])
def test_questions_of_one_id_keep_their_rationales(order):
    rationales = [rationale_of(q, view) for q in PARALLEL for view in ("cot", "pvc", "nvc")]
    plain = select(order, [r for r in rationales if r.view == "cot"], k=3, m=3)
    assert [e.question for e in plain] == order and not plain.left_out
    for e in [*plain, *view_examples(order, rationales)]:
        (target,) = e.positives
        assert target.answer == e.question.answer and not e.negatives
        assert target.text.startswith(f"{e.question.benchmark} {e.question.language}:")


def test_a_rationale_that_could_mean_two_questions_is_refused():
    vague = replace(rationale_of(EGGS), benchmark=None, question_language=None)
    for compose in (select, lambda qs, rs: view_examples(qs, rs, ("cot",))):
        with pytest.raises(ValueError, match="could mean kitchen/en/q1 or kitchen/it/q1"):
            compose([EGGS, UOVA], [vague])
        assert compose([EGGS], [vague])[0].question == EGGS


class Polyglot:
    "Answers each question in its own words; the last asked comes first."

    name = "polyglot"
    asked = ()

    def complete(self, requests):
        self.asked = [*self.asked, *requests]
        return [c for r in requests[::-1] for c in self.replies(r)]

    def replies(self, r):
        q = r.question
        topics = dict(en="eggs", it="uova")[q.language]
        refill = q.stem.replace(MASK, dict(kitchen="rolls", farm="nuts")[q.benchmark])
        said = dict(topic=topics, refill=f"Question: {refill}")
        text = said.get(r.view, f"Yes.\nAnswer: ({q.answer})")
        of = dict(benchmark=q.benchmark, question_language=q.language, finish_reason="stop")
        return [Completion(q.id, self.name, i, text, r.language, r.view, **of) for i in range(r.n)]


def test_counterfactuals_of_questions_that_share_an_id():
    made = counterfactuals(PARALLEL, Polyglot())
    assert [(q.key, q.stem) for q in made] == [
        (("kitchen", "en", "q1~A"), "Where do rolls keep?"),
        (("kitchen", "it", "q1~B"), "Dove si tengono le rolls?"),
        (("farm", "en", "q1~B"), "Where are nuts found?"),
    ]
    assert made.counts["questions"] == made.counts["kept"] == 3
    with pytest.raises(ValueError, match="share benchmark, language and id"):
        counterfactuals([*PARALLEL, UOVA], Polyglot())
    rehearsal = Rehearsal(Polyglot())
    assert len(counterfactuals(PARALLEL, rehearsal).attempts) == 3


# recorded replies


@pytest.mark.skipif(
    not (os.environ.get("COT_DISTILL_RATIONALES") and os.environ.get("COT_DISTILL_HUB")),
    reason="COT_DISTILL_RATIONALES or COT_DISTILL_HUB is not set",
)
def test_recorded_counterfactuals_of_commonsense_qa():
    recording = f"{os.environ['COT_DISTILL_RATIONALES']}/counterfactual.commonsense_qa.jsonl.gz"
    teacher = RecordedTeacher(recording)
    train = load_questions("commonsense_qa", "train")
    questions = [q for q in train if q.id in teacher.by_id]
    made = counterfactuals(questions, teacher, paths=1, agree=1.0)
    assert len(questions) == 560 and len(made) + made.dropped.total() == 560
    assert set(made.dropped) == {"refill: other words changed", "paths: they disagree"}
    assert len(made) == 550 or find_spec("simplemma") and len(made) > 540
    assert made.counts["words_missing"] == 0
    both = [*questions, *made]
    rationales = read_rationales(teacher.complete(view_requests(both)), both)
    examples = view_examples(both, rationales)
    assert len(examples) == 2 * len(both) and not examples.left_out
