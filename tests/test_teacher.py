"The ledger under repetition, failure and several processes; the key; real and malformed recordings."
import gzip, json, os, sqlite3, subprocess, sys, threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
import pytest
from cot_distill.questions import Question, load_questions
from cot_distill.teacher import EndpointTeacher, Ledger, RecordedTeacher, Request, load_completions, read_rationales, request_key

KEY = "sk-canary-5d1f0c9e"
QS = [Question(f"q{i}", "test", "en", f"What is {i} + 1?", {"A": str(i + 1), "B": str(i)}, "A") for i in range(6)]

@pytest.fixture
def server(monkeypatch):
    "Answers on a real socket; `plan(asked)` may cap n, or return an HTTP status to fail with."
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked, headers = json.loads(self.rfile.read(int(self.headers["Content-Length"]))), self.headers
            status, n = self.server.plan(asked)
            self.server.asked.append((asked, status))
            body = dict(error=dict(message=f"refused {headers['Authorization']}")) if status != 200 else dict(
                id="1", object="chat.completion", created=0, model=asked["model"], usage=dict(prompt_tokens=1, completion_tokens=n, total_tokens=n + 1),
                choices=[dict(index=i, finish_reason="stop", message=dict(role="assistant", content="One more.\nAnswer: (A)")) for i in range(n)])
            body = json.dumps(body).encode()
            self.send_response(status)
            for h in (("Content-Type", "application/json"), ("Content-Length", str(len(body)))): self.send_header(*h)
            self.end_headers(); self.wfile.write(body)
        def log_message(self, *_): pass
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.asked, http.plan, http.url = [], lambda asked: (200, asked["n"]), f"http://127.0.0.1:{http.server_port}/v1"
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield http
    http.shutdown(); http.server_close()

def teacher(server, tmp_path, **kw): return EndpointTeacher("m", server.url, tmp_path/"ledger.sqlite", progress=False, **kw)
def ns(server): return sorted(a["n"] for a, status in server.asked if status == 200)

def test_asking_for_eight_when_five_exist_asks_for_three(server, tmp_path):
    for n in (5, 8, 8, 2): got = teacher(server, tmp_path).complete([Request(QS[0], "en", n=n, temperature=0.7)])
    assert ns(server) == [3, 5] and [c.sample for c in got] == [0, 1]

def test_one_prompt_twice_in_a_call_is_asked_once(server, tmp_path):
    got = teacher(server, tmp_path).complete([Request(QS[0], "en", n=2), Request(QS[0], "en", n=3), Request(QS[1], "en")])
    assert ns(server) == [1, 3] and [(c.question_id, c.sample) for c in got] == [("q0", 0), ("q0", 1), ("q0", 0), ("q0", 1), ("q0", 2), ("q1", 0)]

def test_language_and_temperature_are_other_requests(server, tmp_path):
    teacher(server, tmp_path).complete([Request(QS[0], "en"), Request(QS[0], "bg"), Request(QS[0], "en", temperature=0.7)])
    assert ns(server) == [1, 1, 1]

def test_a_server_that_gives_one_at_a_time_is_asked_again(server, tmp_path):
    server.plan = lambda asked: (200, 1)
    got = teacher(server, tmp_path).complete([Request(QS[0], "en", n=3, temperature=1.0)])
    assert [c.sample for c in got] == [0, 1, 2] and ns(server) == [1, 2, 3]
    assert sum(c.usage["completion_tokens"] for c in got) == 3

def test_one_failing_prompt_keeps_all_other_answers(server, tmp_path):
    server.plan = lambda asked: (400, 0) if "3 + 1" in asked["messages"][1]["content"] else (200, asked["n"])
    with pytest.raises(RuntimeError, match="1 of 6 prompts failed") as e: teacher(server, tmp_path).complete([Request(q, "en") for q in QS])
    assert KEY not in str(e.value) and "[key]" in str(e.value) and e.value.__cause__ is None
    server.plan = lambda asked: (200, asked["n"])
    assert len(teacher(server, tmp_path).complete([Request(q, "en") for q in QS])) == 6
    assert len(ns(server)) == 6  # five at first, the sixth on asking again

CRASH = """
import os, sys
from cot_distill.teacher import EndpointTeacher, Ledger, Request
from cot_distill.questions import Question
put, done = Ledger.put, []
def crash_after_two(self, *a):
    put(self, *a); done.append(a)
    if len(done) == 2: os._exit(9)
Ledger.put = crash_after_two
qs = [Question(f"q{i}", "test", "en", f"What is {i} + 1?", {"A": str(i + 1), "B": str(i)}, "A") for i in range(6)]
EndpointTeacher("m", sys.argv[1], sys.argv[2], concurrency=1, progress=False).complete([Request(q, "en") for q in qs])
"""

def test_a_crash_between_answers_keeps_what_was_answered(server, tmp_path):
    died = subprocess.run([sys.executable, "-c", CRASH, server.url, str(tmp_path/"ledger.sqlite")], capture_output=True, text=True)
    assert died.returncode == 9, died.stderr
    answered = len(server.asked)
    assert answered == 2
    assert len(teacher(server, tmp_path).complete([Request(q, "en") for q in QS])) == 6
    assert len(server.asked) == 6  # the two answered before the crash are not asked again
    assert sqlite3.connect(tmp_path/"ledger.sqlite").execute("pragma integrity_check").fetchone() == ("ok",)

def test_two_writers_never_overwrite_each_other(tmp_path):
    one, two = Ledger(tmp_path/"l.sqlite"), Ledger(tmp_path/"l.sqlite")
    row = dict(model="m", messages=[], sampling={}, finish_reason="stop", usage=None, response=None)
    def write(ledger, name):
        for i in range(50): ledger.put("k", [row | dict(text=f"{name}{i}")])
    threads = [threading.Thread(target=write, args=a) for a in ((one, "a"), (two, "b"))]
    for t in threads: t.start()
    for t in threads: t.join()
    rows = one.get("k")
    assert [r["sample"] for r in rows] == list(range(100)) and len({r["text"] for r in rows}) == 100

def test_the_key_is_nowhere(server, tmp_path, capsys, monkeypatch):
    t = teacher(server, tmp_path)
    got = t.complete([Request(QS[0], "en", n=2)])
    files = [p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()]
    assert files and not any(KEY.encode() in b for b in files)
    assert KEY not in repr(got) + repr(vars(t)) + "".join(capsys.readouterr())
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(RuntimeError, match="OPENAI_API_KEY"): t.complete([Request(QS[1], "en")])

def test_a_key_does_not_depend_on_order():
    assert request_key("m", [dict(role="user", content="é")], dict(a=1, b=2)) == request_key("m", [dict(content="é", role="user")], dict(b=2, a=1))

GOOD = dict(question_id="q0", teacher="t", sample=0, text="One more.\nAnswer: (A)")

@pytest.mark.parametrize("change, where", [
    (dict(text=None), ":text: must be str, got None"), (dict(sample=True), ":sample: must be int, got True"), (dict(sample="0"), ":sample: must be int"),
    (dict(predicted=1), ":predicted: must be str or null, got 1"), (dict(saw_answer="no"), ":saw_answer: must be bool or null"),
    ("text", ":text: missing"), ("question_id", ":question_id: missing"), (dict(), ":sample: repeats sample 0 of question q0 by t from line 1")])
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_malformed_lines_say_where(tmp_path, change, where, suffix):
    row = {k: v for k, v in GOOD.items() if k != change} if isinstance(change, str) else GOOD | change
    path = tmp_path/f"r{suffix}"
    with (gzip.open if suffix.endswith("gz") else open)(path, "wt") as f: f.write(json.dumps(GOOD) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(ValueError) as e: load_completions(path)
    assert str(e.value).startswith(f"{path}:2{where}")

def test_malformed_parquet_and_other_files(tmp_path):
    import pandas as pd
    pd.DataFrame([GOOD | dict(source="kept out"), GOOD | dict(sample=1, source="x")]).to_parquet(good := tmp_path/"r.parquet")
    assert [c.sample for c in load_completions(good)] == [0, 1]
    pd.DataFrame([{k: v for k, v in GOOD.items() if k != "teacher"}]).to_parquet(bad := tmp_path/"b.parquet")
    with pytest.raises(ValueError, match="b.parquet:1:teacher: missing"): load_completions(bad)
    with pytest.raises(ValueError, match="a recording is .jsonl"): load_completions(tmp_path/"r.csv")

def test_recordings_of_other_languages_and_wrong_options(tmp_path):
    path = tmp_path/"r.jsonl"
    path.write_text("\n".join(json.dumps(GOOD | d) for d in (dict(), dict(language="bg"), dict(sample=1, predicted="F"))))
    t = RecordedTeacher(path)
    assert [len(t.complete([Request(QS[0], code, n=9)])) for code in ("en", "bg", "vi")] == [2, 1, 0] and t.missing == 7 + 8 + 9
    assert [r.reason for r in read_rationales(load_completions(path), QS)] == [None, None, "not an option"]
    with pytest.raises(ValueError, match="unknown question 'q0'"): read_rationales(load_completions(path), QS[1:])
    with pytest.raises(ValueError, match="no teacher 'T'; there are t"): RecordedTeacher(path, teacher="T")

@pytest.fixture(scope="module")
def recording():
    folder = os.environ.get("COT_DISTILL_RATIONALES")
    if not folder: pytest.skip("COT_DISTILL_RATIONALES names no folder of recordings")
    return next(Path(folder).glob("commonsense_qa.train.jsonl*"))

def test_real_recording(recording):
    "Streams that did not see the answer, right and wrong, each reply once; ours and the recorded reading agree."
    everything = load_completions(recording)
    assert len(everything) == 69_377 and Counter(c.saw_answer for c in everything) == {True: 38_933, False: 30_444}
    ids = list(dict.fromkeys(c.question_id for c in everything))
    qs = [Question(i, "commonsense_qa", "en", "?", dict.fromkeys("ABCDE", "…"), None) for i in ids]
    for saw, n in ((False, 30_444), (True, 38_933)):
        t = RecordedTeacher(recording, saw_answer=saw)
        got = t.complete([Request(q, "en", n=99, temperature=0.7) for q in qs])
        assert len(got) == n == len({(c.question_id, c.teacher, c.sample) for c in got})
    greedy = RecordedTeacher(recording, teacher="PaLM-540B (few-shot CoT)").complete([Request(q, "en") for q in qs])
    assert {c.sample for c in greedy} == {0} and len(greedy) == 9_741

def test_our_reading_agrees_with_the_recorded_one(recording):
    if not os.environ.get("COT_DISTILL_HUB"): pytest.skip("COT_DISTILL_HUB names no mirror of the hub")
    from dataclasses import replace
    qs = {q.id: q for split in ("train", "test") for q in load_questions("commonsense_qa", split=split)}
    said = [c for c in load_completions(recording) if c.teacher.startswith("nvidia") and c.question_id in qs]
    ours = read_rationales([replace(c, predicted=None) for c in said], qs.values())
    both = [(c.predicted, r.predicted) for c, r in zip(said, ours) if c.predicted and r.predicted]
    assert len(both) > 12_000 and sum(a == b for a, b in both) / len(both) > 0.999
    kept = read_rationales(said, qs.values())
    assert len(kept) == len(said) and all(r.predicted == c.predicted for c, r in zip(said, kept) if c.predicted)
    assert all((r.predicted is None) == bool(r.reason) for r in kept)
