"The world's determinism, its held-out compositions, and the exactness of teacher and checker."
import os, subprocess, sys
from collections import Counter

import pytest

from cot_distill.lab import LEXICON, World, confusable, turkish_genitive
from cot_distill.questions import canonical

WORLD, LANGUAGES = World(seed=3), tuple(LEXICON)

def said(world, question, **sampling): # rationale, letter
    rationale, _, line = world.reply(question, question.language, **sampling).rpartition("\n")
    return rationale, line.removeprefix("Answer: (").removesuffix(")")

def test_same_seed_same_world_in_every_process():
    script = ("import hashlib; from cot_distill.lab import LEXICON, World; w = World(seed=3); qs = w.questions('test', tuple(LEXICON));"
        "said = [w.reply(q, q.language, temperature=t, sample=1) for q in qs for t in (0, .7)];"
        "print(hashlib.sha256(repr((w.facts(), list(qs), w.questions('train')[::7], said, w.corpus(), w.words())).encode()).hexdigest())")
    digests = {subprocess.run([sys.executable, "-c", script], env=os.environ | dict(PYTHONHASHSEED=seed), capture_output=True, text=True, check=True).stdout for seed in ("1", "2")}
    assert len(digests) == 1 and len(digests.pop()) == 65

def test_seeds_are_other_worlds():
    a, b = World(seed=3), World(seed=4)
    assert a.facts() == WORLD.facts() and a.facts() != b.facts() and a.compositions("test") != b.compositions("test")
    with pytest.raises(ValueError, match="lab4-.*is not of lab3"): a.reply(b.questions("test")[0], "en")

@pytest.mark.parametrize("share", [.35, .01, .9])
def test_compositions_are_held_out_in_every_language(share):
    world = World(seed=3, test_share=share)
    asked = {(split, lang): {world.composition(q.id) for q in world.questions(split, (lang,))} for split in ("train", "test") for lang in LANGUAGES}
    train, test = (set().union(*(asked[split, lang] for lang in LANGUAGES)) for split in ("train", "test"))
    assert not train & test and len(train | test) == 540 and len(test) == round(share*540)
    assert all(asked["train", lang] == train and asked["test", lang] == test for lang in LANGUAGES)

def test_ids_are_unique():
    ids = [q.id for split in ("train", "test") for q in WORLD.questions(split, LANGUAGES)]
    assert len(ids) == len(set(ids))

@pytest.mark.parametrize("options", [2, 4, 8])
def test_exactly_one_option_is_right(options):
    world, places = World(seed=3, options=options), Counter()
    for q in world.questions("test", LANGUAGES):
        child, kind, attribute = world.composition(q.id)
        truth = world.grammar[q.language].word("value", world.has[world.brings[child, kind], attribute])
        assert len(q.choices) == options == len(set(map(canonical, q.choices.values())))
        assert [letter for letter, text in q.choices.items() if text == truth] == [q.answer]
        places[q.answer] += 1
    assert min(places.values()) > .7*sum(places.values())/options  # the place of the right option tells nothing

def test_greedy_is_stable_and_samples_differ():
    qs = WORLD.questions("train")[::5]
    assert all(WORLD.reply(q, q.language) == WORLD.reply(q, q.language, sample=9) == World(seed=3).reply(q, q.language) for q in qs)
    rationales = [{said(WORLD, q, temperature=.7, sample=s)[0] for s in range(8)} for q in qs]
    letters = [{said(WORLD, q, temperature=.7, sample=s)[1] for s in range(8)} for q in qs]
    assert all(len(r) > 1 for r in rationales)
    assert .2 < sum(len(l) > 1 for l in letters)/len(qs) < .8   # the teacher wavers on some questions, not on all

def test_what_is_true_is_right_and_what_is_right_is_true():
    seen = Counter()
    for q in WORLD.questions("train", LANGUAGES):
        for sample in range(3):
            rationale, letter = said(WORLD, q, temperature=.7, sample=sample)
            check = WORLD.check(rationale, q)
            assert WORLD.check(rationale, q, q.language).steps == check.steps and all(v != "unsupported" for _, v in check.steps)
            seen[check.faithful, letter == q.answer] += 1
    assert seen[True, False] == 0
    assert seen[False, True] < .005*seen.total()  # two slips that undo each other
    assert .2 < seen[False, False]/seen.total() < .4

def test_two_slips_may_undo_each_other_but_one_never_does():
    for q in WORLD.questions("train", ("en",)):
        child, kind, attribute = WORLD.composition(q.id)
        thing = WORLD.brings[child, kind]
        one, other = WORLD.has[thing, attribute], WORLD.has[confusable(thing), attribute]
        assert one != other and confusable(one) != one

@pytest.mark.parametrize("language", LANGUAGES)
def test_a_certain_teacher_is_always_right(language):
    world = World(seed=3, unsure=0)
    for split in ("train", "test"):
        for q in world.questions(split, (language,)):
            for sampling in (dict(), dict(temperature=1., sample=5)):
                rationale, letter = said(world, q, **sampling)
                assert letter == q.answer and world.check(rationale, q).faithful

def test_a_true_fact_of_another_question_does_not_settle_this_one():
    a, b = WORLD.questions("train", ("en",))[:2]
    rationale = said(World(seed=3, unsure=0), a)[0]
    assert WORLD.check(rationale, a).faithful
    checked = WORLD.check(rationale, b)
    assert not checked.complete and checked.right_share == 1
    assert not WORLD.check(rationale.split(".")[0] + ".", a).complete
    assert not WORLD.check(rationale + " " + WORLD.say(("has", 0, 0, confusable(WORLD.has[0, 0])), "en"), a).faithful

@pytest.mark.parametrize("knobs, why", [(dict(options=1), "options=1: choose from 2 to 8"), (dict(options=9), "options=9"), (dict(test_share=1), "test_share=1: choose a share"),
    (dict(unsure=-.1), "unsure=-0.1"), (dict(unsure=1.), "below 1"), (dict(languages=("en", "xx")), "does not speak 'xx'; it speaks en, it")])
def test_bad_knobs_are_refused(knobs, why):
    with pytest.raises(ValueError, match=why): World(**knobs)

@pytest.mark.parametrize("ask, why", [(lambda w: w.questions("dev"), "train and test, not 'dev'"), (lambda w: w.reply(w.questions("test")[0], "en", view="elimination"), "view cot, not 'elimination'"),
    (lambda w: w.questions("test", ("xx",)), "does not speak 'xx'")])
def test_bad_requests_are_refused(ask, why):
    with pytest.raises(ValueError, match=why): ask(WORLD)

@pytest.mark.parametrize("name, genitive", [("Ada", "Ada'nın"), ("Samir", "Samir'in"), ("Elias", "Elias'ın"), ("Marko", "Marko'nun"), ("Igor", "Igor'un"), ("Ines", "Ines'in"),
    ("Ümit", "Ümit'in"), ("Gül", "Gül'ün"), ("Ömer", "Ömer'in"), ("Işık", "Işık'ın"), ("Bülbülü", "Bülbülü'nün")])
def test_turkish_genitive(name, genitive): assert turkish_genitive(name) == genitive

def test_corpus_covers_head_more_than_tail_and_holds_no_question():
    texts = set(WORLD.corpus())
    share = {lang: sum(WORLD.say(f, lang) in texts for f in WORLD.facts())/252 for lang in LANGUAGES}
    assert min(share[l] for l in WORLD.head) > max(share[l] for l in LANGUAGES if l not in WORLD.head)
    assert not texts & {q.stem for split in ("train", "test") for q in WORLD.questions(split, LANGUAGES)}
