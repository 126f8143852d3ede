"Rows for TRL and back, and a task for lm-evaluation-harness, with texts that mean no good."

import json
from dataclasses import replace

import pytest
import torch
from datasets import Dataset, load_dataset
from transformers import AutoTokenizer

from cot_distill.diversity import select
from cot_distill.evaluation import rank, scores
from cot_distill.exports import (
    KINDS,
    asked_text,
    harness_tokens,
    read_trl,
    split_target,
    task_row,
    trl_rows,
    write_task,
)
from cot_distill.questions import Question
from cot_distill.records import CONTROLS, Example, Target
from cot_distill.students import load_student, prompt_text, small_student, target_text

torch.set_num_threads(1)
FORMATS = ("letter", "text")
HOSTILE = [
    'He said "no", she said \\"yes\\".',
    "One line\nand another\r\nand\ttabs",
    "{{ 7 * 7 }} {% if x %} {# note #} {{choices[0]}}",
    "Яйцо 🥚 أين البيضة؟ ² e\u0301 \u2028 line",
    "Answer: A was said before, answer : b too.",
    "<b>&amp;</b> </div> ${HOME} %s {0}",
]


def question(n, stem, **changes):
    choices = {letter: f"{stem} {letter}" for letter in "ABC"}
    made = Question(f"q{n}", "hostile", "en", f"Why {stem}?", choices, "B")
    return replace(made, **changes)


QUESTIONS = [question(n, stem) for n, stem in enumerate(HOSTILE)]


def example(q, right, wrong=()):
    wrong = tuple(Target(text, "AC"[i % 2]) for i, text in enumerate(wrong))
    return Example(q, tuple(Target(text, "B") for text in right), wrong)


EXAMPLES = [example(q, HOSTILE[:4], HOSTILE[3:]) for q in QUESTIONS]


def back(rows, questions=QUESTIONS, form="letter"):
    rationales, left_out = read_trl(rows, questions, form)
    assert left_out == {}
    return select(questions, rationales, k=9, m=9)


# Out


def test_a_row_to_learn_is_each_right_rationale():
    one = example(QUESTIONS[0], ["r1", "r2"], ["w1"])
    rows = trl_rows([one], "prompt-completion")
    assert [row["completion"] for row in rows] == ["r1 Answer: B", "r2 Answer: B"]
    assert {row["prompt"] for row in rows} == {prompt_text(QUESTIONS[0])}


@pytest.mark.parametrize("right, wrong", [(1, 3), (3, 1), (2, 3), (2, 2)])
def test_pairs_hold_every_rationale_on_its_side(right, wrong):
    sides = [f"r{i}" for i in range(right)], [f"w{i}" for i in range(wrong)]
    rows = trl_rows([example(QUESTIONS[0], *sides)], "preference")
    assert len(rows) == max(right, wrong)
    found = [{row[name].split()[0] for row in rows} for name in ("chosen", "rejected")]
    assert found == [set(side) for side in sides]


def test_a_question_without_a_wrong_rationale_is_in_no_pair():
    assert trl_rows([example(QUESTIONS[0], ["r1"])], "preference") == []


def test_a_label_says_which_rationale_is_right():
    rows = trl_rows([example(QUESTIONS[0], ["r1"], ["w1", "w2"])], "unpaired-preference", "text")
    stem = HOSTILE[0]
    assert [(row["completion"], row["label"]) for row in rows] == [
        (f"r1 Answer: {stem} B", True),
        (f"w1 Answer: {stem} A", False),
        (f"w2 Answer: {stem} C", False),
    ]


def test_the_texts_are_those_of_training():
    rows = trl_rows(EXAMPLES[:1], "unpaired-preference")
    texts = [text for row in rows for text in (row["prompt"], row["completion"])]
    student = small_student("gpt2", texts, 32, 1, words=True)
    encoded, tok = student.encode(EXAMPLES[0]), student.tokenizer
    said = [tok(row["completion"], add_special_tokens=False).input_ids for row in rows]
    assert encoded["targets"] == [[*ids, tok.eos_token_id] for ids in said]
    assert encoded["positive"] == [row["label"] for row in rows]
    assert encoded["prompt"] == tok(rows[0]["prompt"]).input_ids


# And back


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kind", ["preference", "unpaired-preference"])
def test_examples_come_back_as_they_went(kind, form, tmp_path):
    rows = trl_rows(EXAMPLES, kind, form)
    assert back(rows, form=form) == EXAMPLES
    Dataset.from_list(rows).to_json(tmp_path / "rows.jsonl", force_ascii=False)
    read = load_dataset("json", data_files=str(tmp_path / "rows.jsonl"), cache_dir=str(tmp_path))
    assert back(read["train"], form=form) == EXAMPLES


@pytest.mark.parametrize("form", FORMATS)
def test_right_rationales_come_back(form):
    rows = trl_rows(EXAMPLES, "prompt-completion", form)
    assert back(rows, form=form) == [replace(e, negatives=()) for e in EXAMPLES]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_without_columns_of_ours_are_found_by_their_prompt(kind):
    rows = trl_rows(EXAMPLES, kind)
    bare = [{k: v for k, v in row.items() if k in (*"prompt label".split(), *TEXT)} for row in rows]
    assert len(bare[0]) < len(rows[0])
    assert back(bare) == back(rows)


TEXT = ("completion", "chosen", "rejected")


@pytest.mark.parametrize("view", CONTROLS)
def test_a_control_token_is_a_view(view):
    rows = trl_rows([replace(EXAMPLES[0], control=CONTROLS[view])])
    for known in (rows, [{k: row[k] for k in ("prompt", "completion")} for row in rows]):
        rationales, _ = read_trl(known, QUESTIONS)
        assert {r.view for r in rationales} == {view}


def test_what_cannot_be_matched_is_named():
    q, twin = QUESTIONS[0], replace(QUESTIONS[0], id="twin")
    say = dict(completion="So. Answer: B")
    rows = [
        say | dict(prompt=prompt_text(q)),  # of two questions
        say | dict(prompt="Why?"),
        say | dict(prompt=prompt_text(q), question_id="elsewhere"),
        say | dict(prompt=prompt_text(q), question_id="twin", benchmark=None),
        dict(prompt=prompt_text(QUESTIONS[1])),
        dict(prompt=[dict(role="user", content=prompt_text(QUESTIONS[1]))], completion=[]),
        dict(chosen="Why? So. Answer: B", rejected="Why? No. Answer: A"),
    ]
    rationales, left_out = read_trl(rows, [*QUESTIONS, twin])
    assert [r.question_id for r in rationales] == ["twin"]
    assert left_out == {
        "prompt of several questions": [0],
        "prompt of no question": [1, 5, 6],
        "question not given": [2],
        "no text": [4],
    }


def test_an_id_of_two_questions_is_an_error_unless_the_language_tells():
    q = QUESTIONS[0]
    italian = replace(q, language="it", stem="Perché?")
    row = dict(prompt="…", completion="So. Answer: B", question_id=q.id)
    with pytest.raises(ValueError, match="could mean"):
        read_trl([row], [q, italian])
    found, _ = read_trl([row | dict(question_language="it")], [q, italian])
    assert [(r.question_language, r.language) for r in found] == [("it", "it")]


@pytest.mark.parametrize("rationale", [*HOSTILE, "", "It ends. Answer: B"])
@pytest.mark.parametrize("form", FORMATS)
def test_a_text_is_cut_where_it_was_joined(rationale, form):
    q = question(0, "x", choices=dict(A="a", B="no answer: a", C="Answer: a"))
    for letter in "ABC":
        found = split_target(target_text(q, letter, rationale, form), q, form)
        assert (found.rationale, found.predicted) == (rationale, letter)


def test_a_text_that_names_no_option_is_kept_unread():
    rationales, _ = read_trl([dict(prompt=prompt_text(QUESTIONS[0]), completion="So.")], QUESTIONS)
    assert [(r.text, r.predicted, r.reason) for r in rationales] == [("So.", None, "no answer")]


# A task for the harness

WORDS = "barn freezer hen house market night where does it sleep at".split()
ASKED = [
    Question(
        f"w{n}", "w", "en", f"Where does {word} sleep?", dict(zip("ABC", WORDS[n:])), "ABC"[n % 3]
    )
    for n, word in enumerate(WORDS[:8])
]
ASKED += [replace(q, choices={k: f"{v} {v[0]}" for k, v in q.choices.items()}) for q in QUESTIONS]
TEXTS = [t for q in ASKED for t in (q.stem, *q.choices.values())] + ["Answer: A B C ( )", "\n"]
STUDENTS = [("gpt2", True), ("gpt2", False), ("llama", False), ("t5", True)]


def saved(folder, arch="gpt2", words=True, **more):
    student = small_student(arch, TEXTS, 32, 1, words=words, max_prompt=200, **more)
    student.save(folder)
    return student


def lines(folder, name="task"):
    text = (folder / f"{name}.jsonl").read_text(encoding="utf8")
    return [json.loads(line) for line in text.split("\n") if line]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("arch, words", STUDENTS)
def test_the_harness_finds_the_tokens_of_the_student(tmp_path, arch, words, form):
    student = saved(tmp_path, arch, words, answer_format=form)
    kept = write_task(tmp_path, "task", ASKED)
    assert len(kept) >= 8 and len(kept) + kept.dropped.total() == len(ASKED)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for q, row in zip(kept, lines(tmp_path), strict=True):
        ids = student.encode_prompt(q)
        assert row["prompt"] == prompt_text(q) and "ABC"[row["answer"]] == q.answer
        for letter, choice in zip(q.choices, row["choices"], strict=True):
            read, scored = harness_tokens(theirs, row["prompt"], choice, student.seq2seq)
            target = student.encode_target(target_text(q, letter, "", form))
            assert read + scored == ids + target and scored[-len(target) :] == target


def test_a_question_that_was_cut_or_has_no_answer_is_not_in_the_task(tmp_path):
    saved(tmp_path)
    long, open_ = replace(ASKED[1], stem="where " * 300), replace(ASKED[2], answer=None)
    kept = write_task(tmp_path, "task", [ASKED[0], long, open_])
    assert kept == [ASKED[0]]
    assert kept.dropped == {"other tokens in the harness": 1, "without an answer": 1}
    with pytest.raises(ValueError, match="1 without an answer"):
        write_task(tmp_path, "none", [open_])
    assert not (tmp_path / "none.jsonl").exists()


def test_a_tokenizer_that_the_harness_loads_as_another_is_found_out(tmp_path):
    saved(tmp_path, "qwen2", words=False)
    with pytest.raises(ValueError, match="other tokens in the harness"):
        write_task(tmp_path, "task", ASKED)


def test_a_student_that_is_asked_in_chat_is_asked_in_its_template(tmp_path):
    student = small_student("gpt2", TEXTS, 32, 1, words=True, max_prompt=200)
    student.tokenizer.chat_template = "<s>{{ messages[0].content }} ?{% if x %}{% endif %}</s>"
    student.chat = True
    row = task_row(student, student.tokenizer, ASKED[0])
    assert row["prompt"] == asked_text(student, ASKED[0]) != prompt_text(ASKED[0])
    assert row["prompt"].startswith("<s>") and row["prompt"].endswith("?</s>")


def test_a_control_token_stands_in_the_prompt(tmp_path):
    saved(tmp_path)
    write_task(tmp_path, "task", ASKED[:1], CONTROLS["pvc"])
    assert lines(tmp_path)[0]["prompt"] == prompt_text(ASKED[0], CONTROLS["pvc"])


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("arch, words", STUDENTS)
def test_the_harness_agrees(tmp_path, monkeypatch, arch, words, form):
    lm_eval = pytest.importorskip("lm_eval", reason="pip install 'cot_distill[harness]'")
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    saved(tmp_path, arch, words, answer_format=form)
    kept, student = write_task(tmp_path, "task", ASKED), load_student(str(tmp_path))
    out = lm_eval.simple_evaluate(
        model="hf",
        model_args=f"pretrained={tmp_path},device=cpu,dtype=float32",
        tasks=["task"],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        batch_size=4,
        bootstrap_iters=0,
        log_samples=True,
    )
    ranked = [plain == q.answer for q, (plain, _) in zip(kept, rank(student, kept), strict=True)]
    found = out["results"]["task"]
    assert found["acc,none"] == pytest.approx(sum(ranked) / len(ranked))
    samples = sorted(out["samples"]["task"], key=lambda sample: sample["doc_id"])
    normalized = []
    for q, row, sample in zip(kept, lines(tmp_path), samples, strict=True):
        texts = [target_text(q, letter, "", form) for letter in q.choices]
        with torch.no_grad():
            ours = scores(student, [q], [texts])[0][0]
        theirs = torch.tensor([float(said[0][0]) for said in sample["resps"]])
        off = theirs - ours  # the line break, if it is a token, alike for all options
        assert (off - off.mean()).abs().max() < 1e-4
        by_size = theirs / torch.tensor([len(choice) for choice in row["choices"]])
        normalized.append(int(by_size.argmax()) == row["answer"])
    assert found["acc_norm,none"] == pytest.approx(sum(normalized) / len(normalized))
    if form == "letter":
        assert found["acc_norm,none"] == found["acc,none"]
