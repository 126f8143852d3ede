"The language check on real text of all sixteen languages."

import os
import random

import pytest

from cot_distill.languages import GROUPS, language_of, language_rates
from cot_distill.prompts import LANGUAGES
from cot_distill.questions import load_questions


def test_instructions_are_in_their_own_language():
    assert {code: language_of(l.instruction) for code, l in LANGUAGES.items()} == {
        code: code for code in LANGUAGES
    }


def test_empty_and_short_texts_are_not_identified():
    assert [language_of(t) for t in ("", "B", "(А) 12 + 13 = 25", "a" * 19)] == [None] * 4


@pytest.mark.filterwarnings("ignore:exams")
def test_real_questions_in_sixteen_languages():
    if not os.environ.get("COT_DISTILL_HUB"):
        pytest.skip("COT_DISTILL_HUB names no mirror of the hub")
    rng, by_language = random.Random(0), {}
    for q in load_questions("exams", "test"):
        by_language.setdefault(q.language, []).append(q)
    assert set(by_language) == {c for codes in GROUPS.values() for c in codes}
    from collections import namedtuple

    Said = namedtuple("Said", "language text")
    rates = language_rates(
        Said(code, f"{q.stem} {' '.join(q.choices.values())}")
        for code, qs in by_language.items()
        for q in rng.sample(qs, 150)
    )
    assert rates.n.sum() == 2400 and rates.share.mean() > 0.985 and rates.share.min() > 0.88, rates
