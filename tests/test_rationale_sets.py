"Public rationale sets, in files of a few lines that we wrote in their forms"

import json

import pytest

from cot_distill.rationale_sets import (
    few_shot_reply,
    letter_of,
    model_name,
    options_inside,
    question_of,
    read_ecqa,
    read_mario,
    read_step_by_step,
    read_thoughtsource,
)

WET = question_of("q1", "waters", "Which is wet?", ["sand", "the sea", "lava"], "the sea")


@pytest.mark.parametrize(
    "said,letter",
    [
        ("(b) the sea", "B"),
        ("(b)", "B"),
        ("b", "B"),
        ("B) The Sea.", "B"),
        ("the sea.", "B"),
        ("choice (c) lava", "C"),
        ("(c) the sea", None),
        ("(a) sand(b) the sea", None),
        ("(a), (b), and (c)", None),
        ("(f)", None),
        ("2", None),
        ("", None),
    ],
)
def test_an_answer_is_certain_or_open(said, letter):
    assert letter_of(said, WET) == letter


@pytest.mark.parametrize(
    "output,text,letter",
    [
        ("Water. So the answer is (b) the sea. Q: Next?", "Water.", "B"),
        ("Water. So the answer is: (b)\n\nQ: Next? So the answer is (a)", "Water.", "B"),
        ("Water, so the answer is (b).", "Water", "B"),
        ("FAQ: Water. So the answer is (b)", "FAQ: Water.", "B"),
        ("Water. So the answer is (a)(b).", "Water. So the answer is (a)(b).", None),
        ("It is water. Q: Next?", "It is water.", None),
        (". So the answer is (b) the sea", ".", "B"),
    ],
)
def test_a_few_shot_reply(output, text, letter):
    assert few_shot_reply(output, WET) == (text, letter)


@pytest.fixture
def cqa(tmp_path):
    def write(rows, *replies, split="train"):
        (tmp_path / "llm").mkdir(exist_ok=True)
        lines = [json.dumps(row | dict(extractive_explanation="")) for row in rows]
        (tmp_path / f"cqa_{split}.json").write_text("\n".join(lines) + "\n")
        for number, part in replies:
            (tmp_path / f"llm/{split}_CoT_{number}.json").write_text(json.dumps(part))
        return tmp_path

    return write


ROWS = [
    dict(id=f"id{n}", question=f"Which is {n}?", choices=[str(n), f"not {n}", "x"], answer=str(n))
    for n in range(12)
]
REPLY = "it is so. So the answer is (a)"


def test_step_by_step_follows_the_order_of_the_files(cqa):
    files = [(n, [f"{REPLY} {n}. Q: more"]) for n in range(12)]  # 10 comes after 9, not after 1
    read = read_step_by_step(cqa(ROWS, *files))
    assert [c.question_id for c in read.completions] == [row["id"] for row in ROWS]
    assert [c.predicted for c in read.completions] == ["A"] * 12
    assert {q.answer for q in read.questions} == {"A"} and not read.left_out
    assert {(c.teacher, c.language, c.saw_answer) for c in read.completions} == {
        ("PaLM-540B", "en", False)
    }


@pytest.mark.parametrize(
    "files,error",
    [
        ([(0, [REPLY] * 11)], "11 replies for 12 questions of train"),
        ([(0, [REPLY] * 6), (2, [REPLY] * 6)], "train_CoT_1.json: the replies follow"),
        ([], "train_CoT_0.json"),
    ],
)
def test_step_by_step_refuses_a_gap(cqa, files, error):
    with pytest.raises((ValueError, FileNotFoundError), match=error):
        read_step_by_step(cqa(ROWS, *files))


def test_step_by_step_leaves_out_a_question_with_its_reply(cqa):
    twice = dict(id="t", question="?", choices=["a b", "a b"], answer="a b")
    read = read_step_by_step(cqa([twice, ROWS[1]], (0, ["x So the answer is (b) y", REPLY])))
    assert [c.question_id for c in read.completions] == ["id1"]
    assert read.left_out == {"answer that is not one option": 1}


HEADER = "q_no,q_concept,q_text,q_op1,q_op2,q_op3,q_op4,q_op5,q_ans,taskA_pos,taskA_neg,taskB\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_ecqa_in_three_views(tmp_path, encoding):
    line = 'a1,c,Which?,"None, or ""any""",sea,NA,d,e,NA,"One.\nTwo.",Not a.,\n'
    (tmp_path / "cqa_data_train.csv").write_text(HEADER + line, encoding=encoding)
    read = read_ecqa(tmp_path / "cqa_data_train.csv")
    assert {(c.view, c.text) for c in read.completions} == {
        ("pvc", "One.\nTwo."),
        ("nvc", "Not a."),
    }
    assert all(c.saw_answer and c.predicted == "C" and c.sample == 0 for c in read.completions)
    assert read.questions[0].choices["A"] == 'None, or "any"'
    assert read.left_out == {"no rationale": 1}


def test_another_file_is_not_ecqa(tmp_path):
    (tmp_path / "other.csv").write_text("id,stem\n1,x\n")
    with pytest.raises(ValueError, match="no column q_no: the columns are id, stem"):
        read_ecqa(tmp_path / "other.csv")


@pytest.mark.parametrize(
    "model,name",
    [
        ("{'name': 'gpt-4', 'temperature': 0}", "gpt-4"),
        ("command-xlarge", "command-xlarge"),
        ("", "ann"),
        (None, "ann"),
        ("__import__('os')", "__import__('os')"),
    ],
)
def test_the_model_of_a_generated_text(model, name):
    assert model_name(dict(model=model, author="ann")) == name


def thought(id, **change):
    generated = [
        dict(cot=f"text {n}", model="{'name': 'm'}", answers=[dict(answer=a)] if a else [])
        for n, a in enumerate(["B", "C) not", None, "A) x and B) y"])
    ]
    return dict(
        id=id, type="multiplechoice", question="Which?", choices=["x", "y", "not"], answer=["y"],
        cot=["one", "two"], generated_cot=generated,
    ) | change  # fmt: skip


def test_thoughtsource(tmp_path):
    items = [
        thought("1"),
        thought("2", cot=[], generated_cot=[]),
        thought("3", type="number", choices=[], answer=["7"]),
        thought("4", answer=["x", "y"]),
        thought("5", type="bool", choices=["True", "False"], answer=["True"]),
    ]
    file = tmp_path / "t.json"
    file.write_text(json.dumps(dict(csqa=dict(train=items, test=[thought("6")]), other=dict())))
    read = read_thoughtsource(file, splits=("train",))
    assert [q.id for q in read.questions] == ["1", "2", "5"]
    mine = [c for c in read.completions if c.question_id == "1"]
    assert [(c.teacher, c.sample, c.predicted, c.saw_answer) for c in mine] == [
        ("people", 0, "B", True),
        *(("m", n, letter, False) for n, letter in enumerate(["B", "C", None, None])),
    ]
    assert mine[0].text == "one\ntwo"
    assert read.left_out["question that is not one of multiple choice"] == 2
    assert len(read_thoughtsource(file, datasets=("csqa",)).questions) == 4


ASKED = "Which is wet? \n (A) sand (B) the sea (C) lava"
GPT3 = [
    dict(question=ASKED, gold_label="(b)", predicted_label="(b)", predicted_rationale="Water."),
    dict(question=ASKED, gold_label="(b)", predicted_label="(c)", predicted_rationale="Hot."),
    dict(
        question="Do birds fly?", gold_label="yes", predicted_label="no", predicted_rationale="No."
    ),
    dict(question=ASKED, gold_label="(b)", predicted_label="(b)", predicted_rationale=""),
]
RAW = [dict(question=ASKED, rationale=text, answer="(B)") for text in ("Water.", "Wet.", "dummy")]
LLAMA = [
    dict(question=ASKED, rationale="dummy", answer="(b)", full_output="…", trunc_output=text)
    for text in ("Hot. So the answer is: (c)", "I do not know")
]


@pytest.mark.parametrize(
    "rows,written,samples",
    [
        (GPT3, lambda rows: json.dumps(dict(enumerate(rows))),
         [(0, "Water.", "B"), (1, "Hot.", "C"), (0, "No.", "B")]),
        (RAW, lambda rows: json.dumps(dict(enumerate(rows))),
         [(0, "Water.", "B"), (1, "Wet.", "B")]),
        (LLAMA, lambda rows: "\n".join(map(json.dumps, rows)),
         [(0, "Hot.", "C"), (1, "I do not know", None)]),
    ],
    ids=["gpt3", "raw", "llama"],
)  # fmt: skip
def test_mario_in_its_three_forms(tmp_path, rows, written, samples):
    (tmp_path / "m.jsonl").write_text(written(rows))
    read = read_mario(tmp_path / "m.jsonl", "waters", "m")
    assert [(c.sample, c.text, c.predicted) for c in read.completions] == samples
    assert read.questions[0].choices == WET.choices and read.questions[0].stem == WET.stem
    assert len({q.id for q in read.questions}) == len(read.questions)


def test_mario_takes_the_ids_of_known_questions(tmp_path):
    (tmp_path / "m.jsonl").write_text(json.dumps(dict(enumerate(RAW))))
    read = read_mario(tmp_path / "m.jsonl", "quarel", known=[WET])
    assert {c.question_id for c in read.completions} == {"q1"} and read.questions == [WET]


@pytest.mark.parametrize(
    "text,stem,texts",
    [
        ("Which? (a) x (b) y.", "Which?", ["x", "y."]),
        ("Which?\nAnswer choices: (A) x (B) y", "Which?", ["x", "y"]),
        ("Is it (b) or not?", "Is it (b) or not?", []),
        (
            "A _____ is (A) more resistance or (B) less",
            "A _____ is",
            ["more resistance or", "less"],
        ),
    ],
)
def test_options_inside_a_question(text, stem, texts):
    assert options_inside(text) == (stem, texts)


def test_a_set_is_a_recording(tmp_path):
    try:
        from cot_distill.teacher import load_completions, save_completions
    except ImportError:
        from cot_distill.recordings import load_completions, save_completions

    (tmp_path / "m.jsonl").write_text(json.dumps(dict(enumerate(GPT3))))
    read = read_mario(tmp_path / "m.jsonl", "waters", "m")
    save_completions(read.completions, tmp_path / "recording.jsonl.gz")
    assert load_completions(tmp_path / "recording.jsonl.gz") == read.completions
