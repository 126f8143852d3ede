"Real questions through tokenisation; skipped where no mirror of the hub is at hand."

import os
import re
import unicodedata
from collections import Counter
from dataclasses import replace

import pytest

from cot_distill.questions import EXAMS_LANGUAGES, load_questions
from cot_distill.students import prompt_text, small_student

pytestmark = pytest.mark.skipif(
    not os.environ.get("COT_DISTILL_HUB"), reason="COT_DISTILL_HUB names no mirror of the hub"
)


@pytest.mark.parametrize("arch", ["gpt2", "t5"])
def test_unknown_tokens_of_all_exams_languages_are_the_unseen_characters(arch):
    "A tokenizer does not know exactly the characters that its training languages never use."
    train, test = load_questions("exams", "train"), load_questions("exams", "test", limit=3000)
    student = small_student(
        arch,
        [prompt_text(q) for q in train],
        width=32,
        layers=2,
        heads=2,
        vocab=4000,
        max_prompt=4000,
    )
    seen = {c for q in train for c in unicodedata.normalize("NFKC", prompt_text(q))}
    assert {q.language for q in test} == set(EXAMS_LANGUAGES.values())
    unknown, unseen = Counter(), Counter()
    for q in test:
        unknown[q.language] += student.encode_prompt(q).count(student.tokenizer.unk_token_id)
        unseen[q.language] += sum(
            c not in seen for c in unicodedata.normalize("NFKC", prompt_text(q))
        )
    assert unknown == unseen and unknown["ar"] > 1000 and not student.cut


from cot_distill.counterfactual import locate, mask, option_spans, refill_fault
from cot_distill.prompts import MASK, refilled
from cot_distill.views import forgotten, view_of


def masked_everywhere(q):
    return mask(q, re.findall(r"[^\W_]{4,}", q.stem)[1:])


@pytest.mark.parametrize(
    "benchmark", ["commonsense_qa", "quarel", "qasc", "arc_easy", "arc_challenge"]
)
def test_masks_and_refills_of_all_questions(benchmark):
    "Options stay in sight; the original's own words in place of the masks are refused as such."
    questions, hidden = load_questions(benchmark, "train", limit=3000), 0
    for q in questions:
        masked = masked_everywhere(q)
        for start, end in option_spans(q):
            assert not any(a < end and start < b for a, b in masked.spans), q
        assert MASK.join(masked.parts[::2]) == masked.stem and "".join(masked.parts) == q.stem
        if not masked.spans:
            continue
        hidden += 1
        stem, why = refilled(f"Question: {' '.join(q.stem.split())}", replace(q, stem=masked.stem))
        assert (
            why is None
            and unicodedata.normalize("NFKC", stem).split()
            == unicodedata.normalize("NFKC", q.stem).split()
        ), q
        assert (
            refill_fault(stem, masked.stem, q, "A" if q.answer != "A" else "B")
            == "same as the original"
        )
    assert hidden > 0.95 * len(questions)


def test_options_inside_quarel():
    "In half of QuaRel the question names both options; a refill that keeps them tells nothing."
    questions = load_questions("quarel", "train")
    inside = [q for q in questions if all(locate(text, q.stem) for text in q.choices.values())]
    assert 0.4 < len(inside) / len(questions) < 0.6
    for q in inside:
        masked, other = masked_everywhere(q), "AB".replace(q.answer, "")
        if masked.spans:
            assert refill_fault(masked.stem.replace(MASK, "xyz"), masked.stem, q, other) in (
                None,
                "not well formed",
            )


@pytest.mark.parametrize(
    "benchmark, most",
    [("commonsense_qa", 5), ("quarel", 2), ("qasc", 8), ("arc_easy", 5), ("arc_challenge", 5)],
)
def test_negative_views_of_every_number_of_options(benchmark, most):
    questions = load_questions(benchmark, "train", limit=500)
    assert max(len(q.choices) for q in questions) <= most
    for q in questions:
        wrong = [letter for letter in q.choices if letter != q.answer]
        assert (
            view_of(" ".join(f"({letter}) fails." for letter in wrong), q, q.answer) == "nvc"
            and forgotten(" ".join(f"({letter}) fails." for letter in wrong[1:]), q) == wrong[:1]
        )
