"Replies that the prompts notebook does not show, and the format in all languages."

import gzip
import json
import os
import time
from pathlib import Path

import pytest

from cot_distill.prompts import (
    FORMAT,
    LANGUAGES,
    MASK,
    PROMPTS,
    SHOWN,
    Language,
    agreement,
    cot_messages,
    letter_options,
    parse_reply,
    refilled,
    topic_words,
)
from cot_distill.questions import BENCHMARKS, Question, load_questions

Q = Question(
    "q",
    "test",
    "en",
    "Where?",
    {"A": "house", "B": "the sea", "C": "garden", "D": "none of these"},
    "B",
)

SENTENCES = dict(
    en="The sea is wet. The correct answer is (B).",
    ar="البحر رطب. الإجابة الصحيحة هي (B).",
    bg="Морето е мокро. Верният отговор е (B).",
    de="Das Meer ist nass. Die richtige Antwort ist (B).",
    es="El mar moja. La respuesta correcta es (B).",
    fr="La mer mouille. La réponse correcte est (B).",
    hr="More je mokro. Točan odgovor je (B).",
    hu="A tenger nedves. A helyes válasz a (B).",
    it="Il mare bagna. La risposta corretta è (B).",
    lt="Jūra šlapia. Teisingas atsakymas yra (B).",
    mk="Морето е мокро. Точниот одговор е (B).",
    pl="Morze jest mokre. Prawidłowa odpowiedź to (B).",
    pt="O mar molha. A resposta correta é (B).",
    sq="Deti është i lagësht. Përgjigjja e saktë është (B).",
    sr="Море је мокро. Тачан одговор је (B).",
    tr="Deniz ıslaktır. Doğru cevap (B)'dir.",
    vi="Biển thì ướt. Đáp án đúng là (B).",
)


@pytest.mark.parametrize("code", LANGUAGES)
def test_every_language_is_asked_and_read(code):
    system, user = cot_messages(Q, code)
    assert system["content"].endswith(f"\n{FORMAT}") and user["content"].endswith(
        "(D) none of these"
    )
    reply = parse_reply(SENTENCES[code], Q)
    assert reply.predicted == "B" and reply.rationale == SENTENCES[code].split(". ")[0] + "."


def test_instructions_are_distinct_and_in_their_script():
    assert len({one.instruction for one in LANGUAGES.values()}) == len(LANGUAGES) == 17
    for code in ("bg", "mk", "sr"):
        assert sum("\u0400" <= c <= "\u04ff" for c in LANGUAGES[code].instruction) > 150
    assert sum("\u0600" <= c <= "\u06ff" for c in LANGUAGES["ar"].instruction) > 100


@pytest.mark.parametrize(
    "text, predicted, reason",
    [
        ("Wet.\nAnswer: (B)  ", "B", None),
        ("Wet.\nAnswer: B", "B", None),
        ("Wet.\nAnswer: [B]", "B", None),
        ("Wet.\nAnswer:(b)", "B", None),
        ("Wet.\nFinal answer: B) the sea", "B", None),
        ("Wet.\n`Answer: (B)`", "B", None),
        ("Wet.\n## Answer: **B**", "B", None),
        ("Wet. The answer is sea.", "B", None),
        ("Wet.\nAnswer: none of these", "D", None),
        ("Wet.\nthe sea", "B", None),
        ("B", "B", None),
        ("Option (A) is dry. Option (B) is wet.\nAnswer: (B)", "B", None),
        ("Answer (A) is dry.\nAnswer: (B)", "B", None),
        ("So the answer is (B).\nAnswer: (B)", "B", None),
        ("Answer: B, of all the places, so the answer is B", "B", None),
        ("Answer: the sea, not the house", None, "not an option"),
        ("Wet.\nAnswer: (A) and (B)", None, "several answers"),
        ("Wet.\nAnswer: A/B", None, "several answers"),
        ("Wet.\nAnswer: A, B", None, "several answers"),
        ("Answer: (B). A house is dry.", "B", None),
        ("Отговор: (Б) В морето", "B", None),
        ("Wet.\nОтговор: А и Б", None, "several answers"),
        ("Wet.\nОтговор: (А)", "A", None),
        ("Wet.\nОтговор: г)", "D", None),
        ("Wet.\nAnswer: (E)", None, "not an option"),
        ("The answer is not (A).", None, "no answer line"),
        ("A house is dry. B", None, "no answer line"),
        ("A and B are dry.", None, "no answer line"),
        ("The answer must be wet.", None, "no answer line"),
        ("As an AI, I have no opinion.", None, "refusal"),
        ("Sorry, I would rather not.", None, "refusal"),
        ("I can't wash at home, so I look for water.", None, "no answer line"),
        (None, None, "empty"),
    ],
)
def test_forms(text, predicted, reason):
    reply = parse_reply(text, Q)
    assert (reply.predicted, reply.reason) == (predicted, reason)
    if reason:
        assert reply.rationale == (text or "").strip()


def test_option_texts_that_look_like_letters():
    blood = Question(
        "b", "test", "en", "Which blood group?", {"A": "AB", "B": "A", "C": "0", "D": "B"}, "C"
    )
    assert [parse_reply(f"Answer: {t}", blood).predicted for t in ("(A)", "A", "0", "AB")] == [
        "A",
        "A",
        "C",
        "A",
    ]


def test_duplicate_texts_are_told_apart_by_letter_only():
    twice = Question("t", "test", "en", "What?", {"A": "plate", "B": "plate", "C": "cup"}, "A")
    assert parse_reply("Answer: plate", twice).reason == "several answers"
    assert parse_reply("Answer: (B) plate", twice).predicted == "B"


def test_cut_off_by_length():
    assert parse_reply("Wet.\nAnswer: (B)", Q, "length").predicted == "B"
    assert (
        parse_reply("", Q, "length").reason
        == parse_reply("Answer: (B)\nIt is", Q, "length").reason
        == "truncated"
    )


@pytest.mark.parametrize(
    "letter, n, expected",
    [
        ("В", 2, "B"),
        ("В", 3, "BC"),
        ("Е", 5, "E"),
        ("Е", 6, "EF"),
        ("F", 3, ""),
        ("ج", 4, "C"),
        ("ß", 4, ""),
    ],
)
def test_letters_by_look_and_place(letter, n, expected):
    assert letter_options(letter, dict.fromkeys("ABCDEFGH"[:n])) == set(expected)


def test_what_is_read_is_cut_and_nothing_else():
    text = "First line.\n\n  indented (B)  \nCO₂ and ﬁsh stay as written, so the answer is (B)."
    assert (
        parse_reply(text, Q).rationale
        == "First line.\n\n  indented (B)  \nCO₂ and ﬁsh stay as written"
    )


def test_every_view_is_a_prompt_and_it_is_known_which_show_the_answer():
    masked = Question("q", "test", "en", f"Where is {MASK}?", Q.choices, "B")
    for view, messages in PROMPTS.items():
        system, user = messages(masked, "en")
        assert (system["role"], user["role"]) == ("system", "user") and "(D) none of these" in user[
            "content"
        ]
        assert (user["content"].endswith("Right option: (B) the sea")) == (view in SHOWN)
    with pytest.raises(ValueError, match="shows the right option, and the question has none"):
        PROMPTS["pvc"](Question("q", "t", "en", "?", Q.choices), "en")
    with pytest.raises(ValueError, match="nothing is masked"):
        PROMPTS["refill"](Q, "en")
    for view in SHOWN - {"target"}:
        assert "in Bulgarian" in PROMPTS[view](Q, "bg")[0]["content"]


@pytest.mark.parametrize(
    "text, words",
    [
        ("1. wet fish\n2) Sea", ["wet fish", "Sea"]),
        ("«sea», \n• SEA", ["SEA"]),
        ("**a wet fish**, the sea; fish", ["a wet fish", "the sea", "fish"]),
        ("Topic words:\n- sea", ["Topic words", "sea"]),
        ("---\n", []),
        ("", []),
        (None, []),
    ],
)
def test_topic_words_are_read_as_they_are_named(text, words):
    assert topic_words(text) == words


@pytest.mark.parametrize(
    "text, stem",
    [
        ("Question: Does a dry cat like milk?", "Does a dry cat like milk?"),
        ("**Question:** does a dry cat like milk?", "Does a dry cat like milk?"),
        ("Sure!\nQuestion: Does a  cat like milk?", "Does a cat like milk?"),
        ("Question: Does an owl like milk?", "Does an owl like milk?"),
        ('Question: "Does a cat like milk?"', "Does a cat like milk?"),
        ("Question: Does the cat like milk?", None),
        ("Question: Does a cat like milk? Yes.", None),
        ("Question: Does a like ?", None),
        ("Question: Does a cat likemilk?", None),
        ("Question: Does another cat like milk?", None),
        ("I cannot.", None),
        ("", None),
        (None, None),
    ],
)
def test_a_refill_keeps_the_other_words(text, stem):
    got, why = refilled(
        text, Question("q", "t", "en", f"Does a {MASK} like {MASK}?", Q.choices, "B")
    )
    assert (got, got is None) == (stem, bool(why))


def test_agreement():
    assert (
        agreement([], "A") == 0
        and agreement(
            [parse_reply(t, Q) for t in ("Answer: (A)", "", "Answer: (B)", "Answer: (A)")], "A"
        )
        == 0.5
    )


@pytest.mark.parametrize(
    "masked, said, stem",
    [
        ("The _____ is [MASK]", "Question: The _____ is smoother", "The _____ is smoother"),
        ("The _____ is [MASK]", "Question: The ___ is smoother", "The _____ is smoother"),
        ("[MASK] ran  on [MASK].", "Question: Ann ran on sand.", "Ann ran  on sand."),
        ("At 5 m² [MASK]", "Question: At 5 m2 it rains", "At 5 m² it rains"),
        ("[MASK]", "Question: anything", "anything"),
    ],
)
def test_what_was_not_masked_stays_to_the_letter(masked, said, stem):
    assert refilled(said, Question("q", "t", "en", masked, Q.choices, "B")) == (stem, None)


def test_many_masks_are_read_in_no_time():
    masked = " the ".join([MASK] * 40) + " end"
    start = time.perf_counter()
    assert refilled(
        "Question: " + "a the b the " * 60 + "no", Question("q", "t", "en", masked, Q.choices, "B")
    ) == (None, "other words changed")
    assert (
        refilled(
            "Question: " + " the ".join("x" * 40) + " end",
            Question("q", "t", "en", masked, Q.choices, "B"),
        )[0]
        == " the ".join("x" * 40) + " end"
    )
    assert time.perf_counter() - start < 1


def replies():
    "The lines of replies.txt: language, part, question, letter or None, reply."
    sections = (Path(__file__).parent / "replies.txt").read_text("utf8").split("\n[")[1:]
    for section in sections:
        head, *lines = section.splitlines()
        code, texts = head.split("] ")
        question = Question(code, "replies", code, "?", dict(zip("ABCDE", texts.split(" | "))))
        part = "tuned"
        for line in filter(None, lines):
            if line.startswith("## "):
                part = line[3:]
            else:
                yield code, part, question, line[0].strip("-") or None, line[2:].replace("⏎", "\n")


@pytest.mark.parametrize("code", LANGUAGES)
def test_ways_to_state_an_answer(code):
    "Nothing is read wrongly, and nearly everything is read."
    rows = [row[2:] for row in replies() if row[0] == code]
    meant = [(q, want, text) for q, want, text in rows if want]
    assert len({text for _, _, text in meant}) >= 40 and len(rows) - len(meant) >= 12
    found = [(text, want, parse_reply(text, q).predicted) for q, want, text in rows]
    assert [row for row in found if row[2] not in (row[1], None)] == []
    assert sum(read is not None for _, want, read in found if want) > 0.98 * len(meant)


@pytest.mark.parametrize(
    "text, predicted, reason, rationale",
    [
        ("<think>It is (A). Answer: (A)</think>Wet.\nAnswer: (B)", "B", None, "Wet."),
        ("<think>\nOr (C)?\n</think>\n\nThe answer is (B).", "B", None, ""),
        ("Or (A)? Answer: (A)</think>Wet.\nAnswer: (B)", "B", None, "Wet."),
        ("<think>a</think>Wet.<thinking>b</thinking>\nAnswer: B", "B", None, "Wet."),
        ("<think>It is (A). Answer: (A)", None, "no answer line", ""),
        ("Wet.\n<think>Answer: (A)", None, "no answer line", "Wet."),
        ("<think></think>", None, "no answer line", ""),
        ("I think (A) is dry.\nAnswer: (B)", "B", None, "I think (A) is dry."),
    ],
)
def test_thoughts_are_no_answer_and_no_rationale(text, predicted, reason, rationale):
    reply = parse_reply(text, Q)
    assert (reply.predicted, reply.reason, reply.rationale) == (predicted, reason, rationale)


def test_a_thought_that_runs_into_the_limit_is_truncated():
    assert parse_reply("<think>It is (A). Answer: (A)", Q, "length").reason == "truncated"


@pytest.mark.parametrize(
    "choices, text, predicted, reason",
    [
        (("AABb", "AABB"), "AABB", "B", None),
        (("AABb", "AABB"), "AABb.", "A", None),
        (("AABb", "AABB"), "aabb", None, "several answers"),
        (("plate", "plate"), "plate", None, "several answers"),
        (("energy", "Energy."), "Energy.", "B", None),
        (("a house", "A house"), "A house", "B", None),
        (("yeast", "E. coli"), "E. coli", "B", None),
        (("1.6", "-1.6"), "-1.6", "B", None),
        (("call", "answer a call"), "answer a call", "B", None),
        (("one", "two\nlines"), "two\nlines", "B", None),
        (("В) Рим", "А) Париж"), "А) Париж", "B", None),
        (("2^3", "23"), "23", "B", None),
        (("a*b", "ab"), "a*b", "A", None),
    ],
)
def test_an_option_given_by_its_text(choices, text, predicted, reason):
    question = Question("t", "test", "en", "?", dict(zip("AB", choices)))
    reply = parse_reply(f"Answer: {text}", question)
    assert (reply.predicted, reply.reason) == (predicted, reason)


@pytest.mark.parametrize("words", ["the answer ", "is the ", "(A) ", "not ", "so, the, "])
def test_a_reply_that_repeats_itself_is_unread(words):
    assert parse_reply(words * 3000, Q).predicted is None


def test_a_language_that_is_added_is_read_at_once():
    question = Question("s", "test", "cs", "Kde?", {"A": "dům", "B": "moře"})
    text = "Tam je mokro. Správná odpověď zní (B)."
    assert parse_reply(text, question).reason == "no answer line"
    LANGUAGES["cs"] = Language("Czech", "čeština", "Odpověz:", "odpověď", "zní", "správná")
    try:
        assert parse_reply(text, question).predicted == "B"
        assert cot_messages(question, "cs")[0]["content"] == f"Odpověz:\n{FORMAT}"
    finally:
        del LANGUAGES["cs"]
    assert parse_reply(text, question).reason == "no answer line"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_options_of_real_questions_read_back(benchmark):
    "Each text of every fourth question, but for those that options share or that are letters."
    if not os.environ.get("COT_DISTILL_HUB"):
        pytest.skip("COT_DISTILL_HUB names no mirror of the hub")
    for split in BENCHMARKS[benchmark].splits:
        for question in load_questions(benchmark, split)[::4]:
            texts = [text.split() for text in question.choices.values()]
            for letter, text in question.choices.items():
                found = parse_reply(f"Wet.\nAnswer: {text}", question)
                if texts.count(text.split()) > 1:
                    assert found.reason == "several answers", question
                elif len(text.strip(" .")) > 1:
                    assert found.predicted == letter, (question, found)


def test_recorded_replies_to_our_own_prompts_are_read():
    folder, hub = (os.environ.get(f"COT_DISTILL_{name}") for name in ("RATIONALES", "HUB"))
    if not (folder and hub):
        pytest.skip("COT_DISTILL_RATIONALES or COT_DISTILL_HUB is unset")
    questions = {q.id: q for q in load_questions("commonsense_qa", "train")}
    with gzip.open(
        Path(folder) / "counterfactual.commonsense_qa.jsonl.gz", "rt", encoding="utf8"
    ) as f:
        rows = [row for row in map(json.loads, f) if row["view"] in ("cot", "pvc", "nvc")]
    for row in rows:
        question = questions[row["question_id"].split("~")[0]]
        assert parse_reply(row["text"], question, row["finish_reason"]).predicted, row
