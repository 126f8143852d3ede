"Questions of one's own: files as people have them, read or refused"

import gzip
import json
import os

import pytest

from cot_distill import questions as Q
from cot_distill.own import options_of
from cot_distill.questions import load_questions
from cot_distill.tables import decode, read_table

SEA = dict(A="sand", B="the sea", C="None")


@pytest.fixture
def send(tmp_path, monkeypatch):
    "A function that writes a file and reads the questions of all its splits"
    monkeypatch.chdir(tmp_path)

    def send(name, content, said=""):
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
        benchmark = f"file:{name.partition('/')[0]}{said or '?language=en'}"
        read = Q.read_own(benchmark, Q.benchmark_of(benchmark))
        return {split: records for split, records in sorted(read.splits.items())}

    return send


def flat(splits):
    return [record for records in splits.values() for record in records]


HEAD = "id,stem,A,B,C,answer\n"


@pytest.mark.parametrize("key", ["B", "b", " B ", "(B)", "B.", "b)", "Option B", "the sea",
                                 "The  Sea", "B) the sea", "(b) The sea"])  # fmt: skip
def test_an_answer_that_is_certain(send, key):
    (q,) = flat(send("q.csv", f'{HEAD}1,Which is wet?,sand,the sea,None,"{key}"\n'))
    assert (q.id, q.choices, q.answer) == ("1", SEA, "B")


CHOICES = {
    "list": ["sand", "the sea", "None"],
    "object": SEA,
    "object in another order": dict(C="None", A="sand", B="the sea"),
    "lower case": {k.lower(): v for k, v in SEA.items()},
    "from 0": {str(n): v for n, v in enumerate(SEA.values())},
    "from 1": {str(n): v for n, v in enumerate(SEA.values(), 1)},
    "labels": dict(label=list("ABC"), text=list(SEA.values())),
    "plural": dict(labels=[1, 2, 3], texts=list(SEA.values())),
    "objects": [dict(label=k, text=v) for k, v in SEA.items()],
    "small objects": [{k: v} for k, v in SEA.items()],
    "texts in objects": [dict(text=v) for v in SEA.values()],
    "padded": SEA | dict(D=None, E=None),
}
PRINTS = [json.dumps, repr, lambda cell: cell, lambda cell: json.dumps(cell, indent=1)]


@pytest.mark.parametrize("written", PRINTS, ids=["json", "python", "data", "indented"])
@pytest.mark.parametrize("form", CHOICES)
def test_choices_in_every_form(send, form, written):
    row = dict(id=1, question="Which is wet?", options=written(CHOICES[form]), answer="the sea")
    (q,) = flat(send("q.jsonl", json.dumps(row)))
    assert (q.choices, q.answer) == (SEA, "B")


@pytest.mark.parametrize(
    "options,found",
    [
        ("sand, the sea", "is not a list of options"),
        ("['sand' 'the sea']", "no comma between them"),
        ("__import__('os').getcwd()", "is not a list of options"),
        ("[print(1), 2]", "is not a list of options"),
        (["sand"], "holds 1 option"),
        (["sand", None, "sea"], "no text for option 2"),
        (["sand", ""], "no text for option 2"),
        (dict(label=["A", "A"], text=["x", "y"]), "label"),
        (dict(label=["A"], text=["x", "y"]), ""),
        ([["a"], ["b"]], "where one value is wanted"),
        (NotImplemented, "is empty"),
    ],
)
def test_choices_that_are_not_certain(send, options, found):
    row = dict(id=1, stem="?", options=None if options is NotImplemented else options, answer="A")
    with pytest.raises(ValueError, match=f"not one of 1 rows.*'options'.*{found}.*row 1"):
        send("q.jsonl", json.dumps(row))


def keyed(keys, texts=("10", "20", "30", "40")):
    options = json.dumps(texts)
    rows = [json.dumps(dict(id=n, stem="?", options=options, label=k)) for n, k in enumerate(keys)]
    return "\n".join(rows)


@pytest.mark.parametrize(
    "keys,said,letters",
    [
        ([0, 1, 3, 2], "", "ABDC"),
        ([1, 2, 4], "", "ABD"),
        (["0", "1"], "", "AB"),
        ([1.0, 0.0], "", "BA"),
        (["1.0", "4.0"], "", "AD"),
        ([1, 2], "?index=1", "AB"),
        ([1, 2], "?index=0", "BC"),
        ([10, 20], "", "AB"),
        (["b", "40"], "", "BD"),
        ([["B"], ["C"]], "", "BC"),
    ],
)
def test_an_index_from_0_or_1(send, keys, said, letters):
    found = flat(send("q.jsonl", keyed(keys), (said or "?answer=label") + "&language=en"))
    assert "".join(q.answer for q in sorted(found, key=lambda q: q.id)) == letters


@pytest.mark.parametrize(
    "keys,texts",
    [
        ([1, 2], ("10", "20", "30")),  # from 0 or from 1?
        ([0, 1, 4], ("10", "20", "30", "40")),  # a 0 and a 4
        (["2", "3"], ("2", "3", "4", "5")),  # text or index?
        (["A", "B"], ("0", "A", "B", "AB")),  # blood groups
    ],
)
def test_two_readings_are_refused(send, keys, texts):
    with pytest.raises(ValueError, match=r"q.jsonl, row \d.*can be read in two ways.*say which"):
        send("q.jsonl", keyed(keys, texts))


def test_the_rest_of_the_column_decides(send):
    groups = ("0", "A", "B", "AB")
    found = flat(send("q.jsonl", keyed(["A", "C", "D"], groups)))
    assert sorted(q.answer for q in found) == ["A", "C", "D"]
    found = flat(send("q.jsonl", keyed(["A", "B"], groups), "?answers=text&language=en"))
    assert sorted(q.answer for q in found) == ["B", "C"]


@pytest.mark.parametrize("key", ["Q", "E", "sea", "", "-1", "9", "A,B"])
def test_a_wrong_answer_is_counted_and_named(send, key):
    lines = f'{HEAD}1,?,sand,lake,,A\n2,?,sand,lake,,"{key}"\n3,?,sand,lake,,B\n'
    found = flat(send("q.csv", lines))
    (dropped,) = [q for q in found if isinstance(q, Q.Dropped)]
    assert len(found) == 3 and "column 'answer'" in dropped.reason
    assert dropped.where.startswith("row 2 (line 3)") and key in dropped.where


def test_identical_options_have_no_text(send):
    lines = f"{HEAD}1,?,sea,sea,lake,sea\n2,?,sea,Sea,lake,Sea\n3,?,sea,Sea,lake,SEA\n4,?,a,b,c,B\n"
    found = {getattr(q, "id", q): q for q in flat(send("q.csv", lines))}
    assert found["2"].answer == "B" and found["4"].answer == "B"
    dropped = [q for q in found.values() if isinstance(q, Q.Dropped)]
    assert [d.where.split()[1] for d in dropped] == ["1", "3"]


@pytest.mark.parametrize(
    "header",
    [
        "id,stem,choices,answer",
        "ID,Question,Options,Correct Answer",
        "qid,query,answer_choices,answerKey",
        "Question ID,Question Text,Candidates?,key",
        "uid,problem,endings,label",
        "text,prompt,Answer Options,gold_label",
    ],
)
def test_columns_by_the_names_people_give(send, header):
    header = header.replace("Candidates?", "alternatives")
    (q,) = flat(send("q.csv", f'{header}\n1,Wet?,"[""sand"", ""sea""]",B\n'))
    assert (q.stem, q.answer_text) == ("Wet?", "sea")


@pytest.mark.parametrize(
    "columns",
    ["A,B", "a,b", "Option A,Option B", "option_a,option_b", "choice1,choice2", "opa,opb",
     "ending0,ending1", "answer_1,answer_2", "q_op1,q_op2"],
)  # fmt: skip
def test_an_option_a_column(send, columns):
    (q,) = flat(send("q.csv", f"id,question,{columns},correct\n1,Wet?,sand,sea,sea\n"))
    assert q.choices == dict(A="sand", B="sea") and q.answer == "B"


@pytest.mark.parametrize(
    "header,said,message",
    [
        ("nr,frage,A,B,antwort", "", "no column is known as the stem.*nr, frage, A, B, antwort"),
        ("id,stem,antwort", "", "no column is known as the choices: the columns are id, stem"),
        ("id,stem,A,B,antwort", "", "no column is known as the answer.*antwort"),
        ("id,stem,A,B,antwort", "?answer=antwrt", "did you mean 'antwort'"),
        ("id,stem,A,B,answer", "?anwser=answer", "did you mean 'answer'"),
        ("id,stem,A,B,answer", "?index=2", "index '2' is none of 0, 1"),
        ("id,stem,A,B,answer", "?index", "name=value"),
        ("id,stem,A,B,answer", "?language=Klingonisch", "is not a language"),
        ("id,stem,A,A,answer", "", "the column 'A' stands twice"),
    ],
)
def test_a_column_that_is_not_known(send, header, said, message):
    cells = ["1", "?", "y", "z"][: header.count(",")]
    with pytest.raises(ValueError, match=message):
        send("q.csv", f"{header}\n{','.join(cells)},A\n", said)


LINES = "id,lang,stem,A,B,answer\r\n1,de,Größe?,groß,klein,A\r\n"


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"]
)
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_encodings_and_separators(send, encoding, delimiter):
    text = LINES.replace(",", delimiter)
    (q,) = flat(send("q.csv", text.encode(encoding)))
    assert (q.id, q.language, q.stem, q.choices["A"]) == ("1", "de", "Größe?", "groß")


@pytest.mark.parametrize(
    "language,stem,encoding,read",
    [
        ("fr", "Où est le père de l’élève ?", "cp1252", True),  # French is written in cp1252
        ("es", "¿Qué año?", "cp1252", True),
        ("hu", "Melyik erdő?", "cp1250", False),
        ("pl", "Żaba?", "cp1250", False),
        ("bg", "Кое е мокро?", "cp1251", False),
        ("tr", "Hangisi ıslak şu?", "cp1254", False),
    ],
)
def test_a_code_page_is_read_where_it_is_certain(send, language, stem, encoding, read):
    data = f"id,lang,stem,A,B,answer\n1,{language},{stem},x,y,A\n".encode(encoding)
    said = f"?encoding={encoding}"
    assert flat(send("q.csv", data, said))[0].stem == stem
    if read:
        assert flat(send("q.csv", data))[0].stem == stem
    else:
        with pytest.raises(ValueError, match="not in UTF-8, and line 2 holds the byte.*encoding="):
            send("q.csv", data)


def test_a_wrong_encoding_is_refused():
    with pytest.raises(ValueError, match="it is not utf-8"):
        decode("Größe".encode("cp1252"), "utf-8")
    with pytest.raises(ValueError, match="it is not klingon"):
        decode(b"x", "klingon")


ROWS = [dict(id=n, stem=f"?{n}", choices=["x", "y"], answer="AB"[n % 2]) for n in range(3)]
COLUMN = {key: [row[key] for row in ROWS] for key in ROWS[0]}


@pytest.mark.parametrize(
    "name,content",
    [
        ("q.jsonl", "\n".join(map(json.dumps, ROWS))),
        ("q.jsonl", "\r\n".join(map(json.dumps, ROWS)) + "\r\n\r\n"),
        ("q.json", "\n".join(map(json.dumps, ROWS))),
        ("q.json", json.dumps(ROWS, indent=2)),
        ("q.jsonl", json.dumps(ROWS)),
        ("q.json", json.dumps(dict(version="1", data=ROWS))),
        ("q.json", json.dumps(COLUMN)),
        ("q.json", json.dumps({k: dict(enumerate(v)) for k, v in COLUMN.items()})),
        ("q.json", json.dumps({f"id{row['id']}": row for row in ROWS})),
        ("q.jsonl.gz", gzip.compress("\n".join(map(json.dumps, ROWS)).encode(), mtime=0)),
        ("q.json", ("\ufeff" + json.dumps(ROWS)).encode("utf-8")),
    ],
)
def test_json_in_every_layout(send, name, content):
    found = flat(send(name, content))
    assert sorted((q.id, q.answer) for q in found) == [("0", "A"), ("1", "B"), ("2", "A")]


def test_parquet_and_its_gaps(send, tmp_path):
    import pandas as pd

    frame = pd.DataFrame(
        dict(id=[1, None, 3], stem="?", A=["None", "x", "x"], B=["NA", "y", None], answer="A")
    )
    frame.to_parquet(tmp_path / "q.parquet")
    found = flat(send("q.parquet", (tmp_path / "q.parquet").read_bytes()))
    (question,) = [q for q in found if isinstance(q, Q.Question)]
    assert question.id == "1" and question.choices == dict(A="None", B="NA")
    reasons = sorted(q.reason for q in found if isinstance(q, Q.Dropped))
    assert reasons[0].startswith("column 'A' holds 1 option") and "'id' is empty" in reasons[1]


@pytest.mark.parametrize("ids", ["1,2,3", "1.0,2.0,3.0", "007,08,9", "a b,c,d", "1.1,1.0,2.0"])
def test_ids_are_text(send, ids):
    body = "".join(f"{id},?{n},x,y,,A\n" for n, id in enumerate(ids.split(",")))
    found = sorted(q.id for q in flat(send("q.csv", HEAD + body)))
    assert found == sorted(["1", "2", "3"] if ids == "1.0,2.0,3.0" else ids.split(","))


def test_a_file_without_ids_gets_lasting_ones(send):
    body = "stem,A,B,answer\n?1,x,y,A\n?2,x,y,B\n"
    before = {q.stem: q.id for q in flat(send("q.csv", body))}
    after = {q.stem: q.id for q in flat(send("q.csv", body.replace("?1", "?0,x,y,A\n?1")))}
    assert before.items() < after.items()


@pytest.mark.parametrize(
    "name,content,message",
    [
        ("q.csv", "", "q.csv has no rows"),
        ("q.csv", HEAD, "q.csv has no rows"),
        ("q.json", "[]", "q.json has no rows"),
        ("q.jsonl", '{"id": 1, "st', "q.jsonl: line 1 is not JSON"),
        ("q.jsonl", '{"id": 1}\n\n{"id": 2', "q.jsonl: line 3 is not JSON"),
        ("q.json", "[1, 2]", "q.json: row 1 is 1, not an object"),
        ("q.csv", HEAD + "1,a, b, c,x,y,z,A\n", r"row 1 \(line 2\) has 8 cells for 6 columns"),
        ("q.csv", HEAD + '1,"a" b,x,y,z,A\n', "line 2: a quote opens"),
        ("q.csv", HEAD + '1,"a,x,y,z,A\n2,b,x,y,z,A\n', "line 2: a quote opens"),
        ("q.xlsx", "PK", "save a spreadsheet as CSV"),
        ("q.csv", HEAD + "1,a,x,y,,A\n1,b,x,y,,A\n", r"row 1 .* and row 2 .* share the id '1'"),
    ],
)
def test_a_file_that_cannot_be_read(send, name, content, message):
    with pytest.raises(ValueError, match=message):
        send(name, content)


def test_blank_rows_of_a_spreadsheet(send):
    found = flat(send("q.csv", HEAD + "\n1,?,x,y,,A\n,,,,,\n2,?2,x,y,,B,,\n"))
    assert sorted(q.id for q in found) == ["1", "2"]


PARALLEL = "id,lang,stem,A,B,answer\n" + "".join(
    f"q{n},{code},{code} {n}?,x,y,{'AB'[n % 2]}\n" for n in range(200) for code in ("en", "bg")
)


def test_a_file_is_dealt_out_by_id(send):
    splits = send("q.csv", PARALLEL)
    sizes = {split: len(rows) for split, rows in splits.items()}
    assert sum(sizes.values()) == 400
    assert sizes["train"] > sizes["test"] > sizes["validation"] > 0
    for rows in splits.values():  # translations fall on the same side
        by_language = [{q.id for q in rows if q.language == code} for code in ("en", "bg")]
        assert by_language[0] == by_language[1]


def test_all_languages_unless_asked(send):
    send("q.csv", PARALLEL)
    assert set(load_questions("file:q.csv").counts().index) == {"en", "bg"}
    assert set(load_questions("file:q.csv", languages="bg").counts().index) == {"bg"}
    assert len(load_questions("file:q.csv", limit=10)) == 10
    assert {q.benchmark for q in load_questions("file:q.csv")} == {"file:q.csv"}
    with pytest.raises(ValueError, match="'de' is none of bg, en"):
        load_questions("file:q.csv", languages=["bg", "de"])


@pytest.mark.parametrize(
    "cells,code",
    [("BG", "bg"), ("bg-BG", "bg"), ("pt_BR", "pt"), ("Bulgarian", "bg"), ("english", "en")],
)
def test_a_language_is_a_code(send, cells, code):
    (q,) = flat(send("q.csv", f"id,Language,stem,A,B,answer\n1,{cells},?,x,y,A\n"))
    assert q.language == code


def test_an_18th_language(send):
    (q,) = flat(send("q.csv", HEAD + "1,?,x,y,,A\n", "?language=sw"))
    assert q.language == "sw"


def test_no_language_is_said(send):
    send("q.csv", HEAD + "".join(f"{n},?{n},x,y,,A\n" for n in range(30)))
    with pytest.warns(UserWarning, match="taken as English"):
        assert {q.language for q in load_questions("file:q.csv")} == {"en"}


def test_a_split_column(send):
    body = "id,stem,A,B,answer,split\n1,?,x,y,A,train\n2,?,x,y,B,dev\n3,?,x,y,A,Test\n4,?,x,y,A,?\n"
    splits = send("q.csv", body)
    named = {split: [getattr(q, "id", q.__class__) for q in rows] for split, rows in splits.items()}
    assert named == dict(train=["1", Q.Dropped], validation=["2"], test=["3"])


def test_a_folder_of_splits(send):
    line = json.dumps(dict(id=1, stem="?", choices=["x", "y"], answer="A"))
    send("own/train.jsonl", line)
    send("own/notes_de.jsonl", line)  # no split in its name
    send("own/physics_en.dev.csv", "id,stem,A,B,answer\n1,?,x,y,A\n")
    splits = send("own/physics_bg.dev.csv", "id,lang,stem,A,B,answer\n1,bg,?,x,y,A\n")
    assert {split: len(rows) for split, rows in splits.items()} == dict(train=1, validation=2)
    with pytest.raises(ValueError, match=r"no question in test \(it has train 1, validation 2\)"):
        load_questions("file:own?language=en", "test")
    with pytest.raises(ValueError, match="train.csv, row 1.*train.jsonl, row 1.* share the id '1'"):
        send("own/train.csv", "id,stem,A,B,answer\n1,?,x,y,A\n")


def test_a_folder_without_splits(send):
    with pytest.raises(ValueError, match="own holds a.csv: name its files train"):
        send("own/a.csv", "id,stem,A,B,answer\n1,?,x,y,A\n")


def test_a_file_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no file or folder .*nowhere.csv"):
        load_questions("file:nowhere.csv")
    with pytest.raises(ValueError, match="did you mean 'file:nowhere.csv'"):
        load_questions("nowhere.csv")


def test_an_edit_of_a_file_is_seen(send, tmp_path):
    splits = send("q.csv", PARALLEL)
    assert len(load_questions("file:q.csv", "test")) == len(splits["test"])
    status = os.stat(tmp_path / "q.csv")
    (tmp_path / "q.csv").write_text(PARALLEL.replace("en 7?", "en 8!"))
    os.utime(tmp_path / "q.csv", ns=(status.st_atime_ns, status.st_mtime_ns))
    stems = {q.stem for split in Q.OFFICIAL for q in load_questions("file:q.csv", split)}
    assert "en 8!" in stems and "en 7?" not in stems


def test_wrong_rows_are_said_once_with_their_numbers(send):
    body = "".join(f"{n},?{n},x,y,,{'Q' if n > 2 else 'A'}\n" for n in range(12))
    send("own/train.csv", HEAD + body)
    with pytest.warns(UserWarning) as said:
        found = load_questions("file:own?language=en")
    assert len(said) == 1 and found.dropped.total() == 9
    assert "row 4 (line 5) 'Q'" in str(said[0].message) and "4 more" in str(said[0].message)


def test_a_data_set_of_the_hub(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "me/medical"
    folder.mkdir(parents=True)
    row = dict(question="?", opa="x", opb="y", opc="z", opd=None)
    for split, keys in dict(train=[0, 1], dev=[2, 0], test=[-1, -1]).items():
        rows = [row | dict(id=f"{split}{n}", cop=key) for n, key in enumerate(keys)]
        datasets.Dataset.from_list(rows).to_parquet(folder / f"{split}.parquet")
    load = lambda split: load_questions("hf:me/medical?language=en", split, hub=tmp_path)
    assert [q.answer for q in load("train")] == ["A", "B"]
    assert [q.answer for q in load("validation")] == ["C", "A"]
    with pytest.warns(UserWarning, match="2 of 2 rows dropped"), pytest.raises(ValueError):
        load("test")


def test_what_cannot_be_run_is_not(tmp_path):
    (tmp_path / "q.jsonl").write_text(json.dumps(dict(choices="[open('made', 'w')]")))
    table = read_table(tmp_path / "q.jsonl")
    with pytest.raises(ValueError):
        options_of(table.rows[0].cells["choices"])
    assert not (tmp_path / "made").exists()
