"Replies that the prompts notebook does not show, and the format in all languages."

import time

import pytest

from cot_distill.prompts import FORMAT, LANGUAGES, cot_messages, letter_options, parse_reply
from cot_distill.questions import Question

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
    assert len({l.instruction for l in LANGUAGES.values()}) == len(LANGUAGES) == 17
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


from cot_distill.prompts import MASK, PROMPTS, SHOWN, agreement, refilled, topic_words


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
