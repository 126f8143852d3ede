"Real questions through tokenisation; skipped where no mirror of the hub is at hand."
import os, unicodedata
from collections import Counter

import pytest

from cot_distill.questions import EXAMS_LANGUAGES, load_questions
from cot_distill.students import prompt_text, small_student

pytestmark = pytest.mark.skipif(not os.environ.get("COT_DISTILL_HUB"), reason="COT_DISTILL_HUB names no mirror of the hub")

@pytest.mark.parametrize("arch", ["gpt2", "t5"])
def test_unknown_tokens_of_all_exams_languages_are_the_unseen_characters(arch):
    "A tokenizer that learnt the training languages does not know exactly the characters that these never use."
    train, test = load_questions("exams", "train"), load_questions("exams", "test", limit=3000)
    student = small_student(arch, [prompt_text(q) for q in train], width=32, layers=2, heads=2, vocab=4000, max_prompt=4000)
    seen = {c for q in train for c in unicodedata.normalize("NFKC", prompt_text(q))}
    assert {q.language for q in test} == set(EXAMS_LANGUAGES.values())
    unknown, unseen = Counter(), Counter()
    for q in test:
        unknown[q.language] += student.encode_prompt(q).count(student.tokenizer.unk_token_id)
        unseen[q.language] += sum(c not in seen for c in unicodedata.normalize("NFKC", prompt_text(q)))
    assert unknown == unseen and unknown["ar"] > 1000 and not student.cut
