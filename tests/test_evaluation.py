"Batched decoding against one at a time, awkward answers, and scores worked out by hand."

import json
import random
from dataclasses import fields, replace
from types import SimpleNamespace

import pytest
import torch

from cot_distill import evaluation
from cot_distill.decoding import CausalDecoder, decoder_of, generate, generate_views, write
from cot_distill.evaluation import metrics, predict, rank, read_answer
from cot_distill.intervals import over_seeds, paired, wilson
from cot_distill.lab import World
from cot_distill.logprobs import plain_logps
from cot_distill.questions import Question
from cot_distill.records import Prediction
from cot_distill.students import ARCHITECTURES, CONTROL_TOKENS, small_student, target_text

torch.set_num_threads(1)  # on tensors this small threads only wait for each other
STEMS = [
    "Where?",
    "Where is the cold barn that they put the eggs in at night?",
    "Who put eggs there",
    "The hen is in the house and the weasel is not, so where are the eggs?",
    "Cold?",
]
CHOICES = dict(A="barn", B="hen house at night", C="the cold", D="not there")
QUESTIONS = [
    Question(f"q{i}", "t", "en", stem, dict(list(CHOICES.items())[: 2 + i % 3]), "A")
    for i, stem in enumerate(STEMS)
]


@pytest.fixture(scope="module")
def of():
    kept = {}

    def make(arch, answer_format="letter"):
        "Weights far from zero, so that what is written depends on what is read."
        student = small_student(
            arch,
            STEMS + list(CHOICES.values()) + ["(A) (B) (C) (D) Answer: A B C D"],
            width=32,
            layers=2,
            heads=2,
            answer_format=answer_format,
        )
        generator = torch.Generator().manual_seed(4)
        for p in student.model.parameters():
            if p.dim() > 1:
                p.data.normal_(std=0.4, generator=generator)
        if arch == "gemma3_text":  # or it repeats what it has just read
            student.model.get_input_embeddings().weight.data.mul_(0.2)
        return student

    return lambda *key: kept.setdefault(key, make(*key))


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_batched_decoding_equals_one_at_a_time(of, arch):
    student = of(arch)
    for control in (None, CONTROL_TOKENS[1]):
        alone = [generate(student, [q], control, max_new_tokens=10)[0] for q in QUESTIONS]
        assert all(
            generate(student, QUESTIONS, control, max_new_tokens=10, batch_size=size) == alone
            for size in (1, 2, 3, 4, 64)
        )
    assert len(set(alone)) > 1


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_free_places_are_taken(of, arch, monkeypatch):
    "Rows end at different times and others join; each is continued as if alone."
    student, rng = of(arch), random.Random(1)
    asked = [[[rng.randrange(4, 60) for _ in range(rng.randint(2, 40))]] for _ in range(12)]
    monkeypatch.setattr(student, "tokenizer", SimpleNamespace(pad_token_id=0, eos_token_id=-1))
    long = [write(student, [a], 30)[0] for a in asked]
    ends = max(
        range(4, 60),
        key=lambda token: len({ids.index(token) if token in ids else 30 for ids in long}),
    )
    student.tokenizer.eos_token_id = ends
    expected = [ids[: ids.index(ends)] if ends in ids else ids for ids in long]
    assert len({*map(len, expected)}) > 2
    joined, join = [], CausalDecoder.join
    monkeypatch.setattr(
        CausalDecoder, "join", lambda self, other: (joined.append(1), join(self, other))
    )
    assert all(write(student, asked, 30, batch_size=size) == expected for size in (2, 3, 4, 8))
    assert bool(joined) != student.seq2seq


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_views_share_what_they_read(of, arch):
    "Each writes what it would write alone."
    student, views = of(arch), [None, *CONTROL_TOKENS, CONTROL_TOKENS[0]]
    questions = [
        *QUESTIONS,
        replace(QUESTIONS[1], id="long", stem=" ".join(STEMS * 4)),
    ]  # longer than GPT-Neo's window
    alone = [
        [generate(student, [q], view, max_new_tokens=8)[0] for view in views] for q in questions
    ]
    assert all(
        generate_views(student, questions, views, max_new_tokens=8, batch_size=size) == alone
        for size in (1, 5, 9, 64)
    )
    assert len({*alone[1]}) > 1 and alone[1][1] == alone[1][3]
    assert [t for t, _ in generate_views(student, QUESTIONS, [None, None], max_new_tokens=8)] == [
        texts[0] for texts in alone[:5]
    ]


@pytest.mark.parametrize("arch", ["t5", "gpt2"])
def test_the_shared_beginning_is_read_once(of, arch, monkeypatch):
    student, read = of(arch), []
    part = student.model.get_encoder() if student.seq2seq else student.model.base_model
    forward = part.forward
    monkeypatch.setattr(
        part,
        "forward",
        lambda *args, **kw: (read.append(kw["input_ids"].shape), forward(*args, **kw))[1],
    )
    prompt, other = [5, 6, 7, 8, 9, 10], [5, 6, 7, 8, 11]
    decoder_of(student, [[prompt] * 4])
    decoder_of(student, [[prompt, other]])
    decoder_of(student, [[prompt, [12, 13]]])
    assert [tuple(s) for s in read] == (
        [(1, 6), (2, 6), (2, 6)] if student.seq2seq else [(1, 6), (1, 4), (2, 2), (2, 5), (2, 1)]
    )


def test_samples(of):
    student = of("gpt2")
    ask = lambda **kw: generate_views(student, QUESTIONS[:2], [None] * 8, max_new_tokens=8, **kw)
    assert (
        ask(temperature=1.0, seed=1) == ask(temperature=1.0, seed=1) != ask(temperature=1.0, seed=2)
    )
    assert len({*ask(temperature=1.0)[0]}) > 3 and ask(temperature=1e-4) == ask()


@pytest.mark.parametrize("arch", ["t5", "gpt2"])
@pytest.mark.parametrize("answer_format", ["letter", "text"])
def test_the_best_option_is_the_likeliest(of, arch, answer_format):
    student, expected = of(arch, answer_format), []
    for q in QUESTIONS:
        rows = [
            student.collate(
                [
                    dict(
                        prompt=student.encode_prompt(q),
                        targets=[student.encode_target(target_text(q, letter, "", answer_format))],
                        positive=[True],
                    )
                ]
            )
            for letter in q.choices
        ]
        with torch.no_grad():
            logps = [plain_logps(student.model, **r)[0] for r in rows]
        expected.append(
            tuple(
                "ABCD"[max(range(len(logps)), key=lambda i: score(logps[i]))]
                for score in (torch.sum, torch.mean)
            )
        )
    assert rank(student, QUESTIONS) == rank(student, QUESTIONS, batch_size=2) == expected
    assert answer_format == "letter" or any(a != b for a, b in expected)


Q = Question(
    "pole",
    "t",
    "en",
    "Where is it coldest?",
    dict(A="at the equator", B="at the South Pole", C="a", D="В Париж", E="10 km² ½"),
    "B",
)


@pytest.mark.parametrize(
    "text, rationale, predicted, reason",
    [
        ("Cold. Answer: B", "Cold.", "B", None),
        ("Answer: b", "", "B", None),
        ("Cold.\nANSWER :\n  c \n", "Cold.", "C", None),
        ("Answer: A No. Answer: B", "A No.", "B", None),
        ("Answer: B Answer:", "B", None, "empty answer"),
        ("", "", None, "no answer"),
        ("  Cold B ", "Cold B", None, "no answer"),
        ("Answer: F", "", None, "not an option"),
        ("Answer: A B", "", None, "not an option"),
        ("Answer: BB", "", None, "not an option"),
        ("Answer: at the South Pole", "", None, "not an option"),
        ("The answer B", "The answer B", None, "no answer"),
    ],
)
def test_letters(text, rationale, predicted, reason):
    assert read_answer(text, Q) == (rationale, predicted, reason)


@pytest.mark.parametrize(
    "text, predicted",
    [
        ("Answer: at the South Pole", "B"),
        ("answer: AT  the south pole", "B"),
        ("Answer: a", "C"),
        ("Answer: A", "C"),
        ("Answer: в париж", "D"),
        ("Answer: at the pole", None),
        ("Answer: at the South Pole, of course", None),
        ("Answer: B", None),
        ("Answer: at the equator at the South Pole", None),
    ],
)
def test_words(text, predicted):
    assert read_answer(text, Q, "text").predicted == predicted


def test_words_of_another_language_count():
    french = {"au pôle Sud": "B", "at the equator": "E"}  # the question's own words come first
    read = lambda said, answer_format: (
        read_answer(f"Answer: {said}", Q, answer_format, french).predicted
    )
    assert [
        read(said, "text")
        for said in ("Au pôle  sud", "at the equator", "at the South Pole", "au pôle")
    ] == ["B", "A", "B", None]
    assert read("au pôle Sud", "letter") is None and read("B", "letter") == "B"


def test_words_survive_the_tokenizer():
    "What a tokenizer normalises away must not make an answer unreadable."
    for stem, option in (
        ("Area?", "10 km² ½"),
        ("Width?", "ＡＢ"),
        ("Màu?", "d\u0065\u0302\u0300"),
    ):
        q = Question("t", "t", "vi", stem, dict(A=option, B="none"), "A")
        said = target_text(q, "A", "So.", "text")
        student = small_student("t5", [said, "none"], width=16, layers=1, heads=2)
        assert (
            read_answer(
                student.tokenizer.decode(student.encode_target(said), skip_special_tokens=True),
                q,
                "text",
            ).predicted
            == "A"
        )


@pytest.mark.parametrize(
    "said, predicted, reason",
    [
        ("x", "C", None),
        ("X", "B", None),
        (" x ", "C", None),
        ("y", None, "ambiguous"),
        ("Z  z", "F", None),
        ("z Z", None, "ambiguous"),
        ("w", None, "not an option"),
    ],
)
def test_equal_options(said, predicted, reason):
    "Exact before folded; words that fit two options name none."
    choices = dict(A="y", B="X", C="x", D="y", E="Z z", F="Z  z")
    q = Question("t", "t", "en", "?", choices, "B")
    found = read_answer(f"Answer: {said}", q, "text")
    assert (found.predicted, found.reason) == (predicted, reason)


def test_predictions_and_metrics(of, monkeypatch):
    world = World(seed=2, unsure=0, languages=("en", "bg"))
    asked = [*world.questions("test", ("en",))[:3], *world.questions("test", ("bg",))[:2]]
    unanswered = Question("no key", "lab", "en", "?", dict(A="x", B="y"), None)
    told = [world.reply(q, q.language).rpartition("\n")[0] for q in asked]
    other = lambda q: next(letter for letter in q.choices if letter != q.answer)
    outputs = [
        f"{told[0]} Answer: {asked[0].answer}",
        f"{told[1]} Answer: {other(asked[1])}",
        told[2],
        f"Bananas. Answer: {asked[3].answer}",
        "Answer: Z",
    ]
    monkeypatch.setattr(
        evaluation, "generate", lambda student, questions, control, **kw: outputs[: len(questions)]
    )
    monkeypatch.setattr(
        evaluation,
        "rank",
        lambda student, questions, control: [(q.answer, other(q)) for q in questions],
    )
    said = predict(of("gpt2"), [unanswered, *asked], check=world.check)
    assert [p.question_id for p in said] == [q.id for q in asked]
    assert [p.right for p in said] == [
        True,
        False,
        False,
        True,
        False,
    ]  # what cannot be read is wrong
    assert [p.reason for p in said] == [None, None, "no answer", None, "not an option"]
    assert [p.faithful for p in said] == [True, True, True, False, False] and [
        p.steps_right for p in said
    ] == [1, 1, 1, 0, 0]
    found = metrics(said, world.group_of)
    assert (
        dict(
            accuracy=0.4,
            right=2,
            n=5,
            unread=2,
            ranked=1.0,
            ranked_normalized=0.0,
            faithful=0.2,
            steps_right=0.6,
        ).items()
        <= found.items()
    )
    assert found["by_language"] == dict(
        bg=dict(right=1, n=2, group="tail"), en=dict(right=1, n=3, group="head")
    )
    assert json.loads(json.dumps(found)) == found and 0 < found["low"] < 0.4 < found["high"] < 1
    assert (
        predict(of("gpt2"), asked[:1])[0].faithful,
        metrics(predict(of("gpt2"), asked[:1]), world.group_of)["faithful"],
    ) == (None, None)


def test_a_real_prediction_fills_every_field(of):
    said = predict(of("t5"), QUESTIONS, max_new_tokens=5)
    assert len(said) == 5 and {f.name for f in fields(Prediction)} == set(vars(said[0]))
    for q, p in zip(QUESTIONS, said):
        assert (
            p.predicted in (None, *q.choices)
            and p.ranked in q.choices
            and p.ranked_normalized in q.choices
        )
        assert p.right == (p.predicted == q.answer) and (p.predicted is None) == bool(p.reason)


@pytest.mark.parametrize(
    "right, n, low, high",
    [
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (5, 10, 0.2366, 0.7634),
        (81, 263, 0.2553, 0.3662),
    ],
)
def test_wilson(right, n, low, high):
    assert wilson(right, n) == pytest.approx((low, high), abs=1e-4)


def test_intervals_over_seeds():
    "Two seeds .1 apart have s = .1/sqrt(2), and the half-width t(.975, 1)*s/sqrt(2) is 12.706*.05."
    assert over_seeds([0.5, 0.6]).high - 0.55 == pytest.approx(12.7062 * 0.05, abs=1e-4)
    assert (
        str(over_seeds([0.5])).endswith("over 1 seed")
        and over_seeds([0.5]).low != over_seeds([0.5]).low
    )


def test_pairing_is_by_question_not_by_place():
    at = lambda name, right: Prediction(name, "en", "A", "A", right, None, "", "A", "A")
    first, second = (
        [at("a", True), at("b", False), at("c", True)],
        [at("c", False), at("a", True), at("b", False)],
    )
    assert paired(first, second) == (pytest.approx(1 / 3), 1, 0, 1.0)
    with pytest.raises(ValueError, match="2 questions were answered by one run only"):
        paired(first[:2], [at("a", True), at("d", True)])
    assert paired([], []) == (0.0, 0, 0, 1.0)
