"The language check on real text of all sixteen languages."

import os
import random

import pytest

from cot_distill.languages import GROUPS, add_language, group_of, language_of, language_rates
from cot_distill.prompts import LANGUAGES, Language
from cot_distill.questions import load_questions


def test_instructions_are_in_their_own_language():
    assert {code: language_of(one.instruction) for code, one in LANGUAGES.items()} == {
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


CZECH = Language("Czech", "čeština", "Odpověz na otázku:", "odpověď")


def test_a_language_that_is_added_has_a_group_and_is_identified():
    text = "Chlad zpomaluje kažení, ale led rozbije skořápku."
    assert language_of(text) != "cs"
    before = dict(GROUPS)
    try:
        add_language("cs", CZECH, "head")
        assert (language_of(text), group_of("cs")) == ("cs", "head")
    finally:
        del LANGUAGES["cs"]
        GROUPS.update(before)
    assert group_of("cs") == "tail" and language_of(text) != "cs"


@pytest.mark.parametrize(
    "code, group, message",
    [
        ("en", None, "there already"),
        ("czech", None, "ISO 639-1"),
        ("cs", "body", "choose one of head, tail"),
    ],
)
def test_a_language_that_cannot_be_added_changes_nothing(code, group, message):
    before = dict(LANGUAGES), dict(GROUPS)
    with pytest.raises(ValueError, match=message):
        add_language(code, CZECH, group)
    assert (LANGUAGES, GROUPS) == before


def test_a_language_that_nobody_identifies_does_not_stop_the_others():
    LANGUAGES["xx"] = CZECH
    try:
        assert language_of("Cold slows decay, but ice cracks the shell.") == "en"
        assert group_of("xx") == "tail"
    finally:
        del LANGUAGES["xx"]
