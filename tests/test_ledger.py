"The ledger's books under several threads and at size; tokens against known counts."

import hashlib
import json
import sqlite3
import sys
import threading
from pathlib import Path

import pytest

from cot_distill import stress
from cot_distill.ledger import (
    MARK,
    Ledger,
    Owner,
    Prompt,
    Received,
    Response,
    Usage,
    cached_vocabulary,
    counter_of,
    grant,
    lose,
    most_prompt_tokens,
    price_of,
    prices,
    prompt_tokens,
    readable,
    release,
    request_key,
    rescue,
    rescue_files,
    restored,
    server_name,
    settle,
    storable,
    store,
    tokens_in,
)

P = Prompt("s", "m", [dict(role="user", content="1 + 1?")], dict(temperature=0.7))


def response(*texts):
    return Response([(t, "stop") for t in texts], 10, 5, "{}", 0.1)


def leave(ledger, n, owner="me", ceiling=None, prompt=P):
    return ledger.transact([(grant, (prompt, n, owner, lambda k: 0.1 * k, ceiling))])[0]


def test_at_a_moderate_size():
    rows = stress.ledger_size(20_000)
    assert [r.asked_for for r in rows] == ["under 1", "", "under 2", ""]


def test_two_writers_never_overwrite_each_other(tmp_path):
    ledgers, granted = [Ledger(tmp_path / "l.sqlite") for _ in range(2)], []

    def write(ledger, name):
        for i in range(50):
            if (c := leave(ledger, i + 1, name)).state == "granted":
                granted.append(c.n)
                ledger.transact([(settle, (c.attempt, response(*[name] * c.n), 0.1))])

    threads = [threading.Thread(target=write, args=a) for a in zip(ledgers, "ab")]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    rows = ledgers[0].get(P.key)
    assert (
        [r["sample"] for r in rows] == list(range(len(rows)))
        and sum(granted) == len(rows)
        and len(rows) >= 49
    )


def test_what_an_attempt_costs_at_most_stays_on_the_books(tmp_path):
    ledger = Ledger(tmp_path / "l.sqlite")
    a = leave(ledger, 2)
    assert ledger.exposure() == pytest.approx(0.2)
    ledger.transact([(lose, (a.attempt,))])
    assert (
        ledger.exposure() == pytest.approx(0.2) and leave(ledger, 2, ceiling=0.3).state == "ceiling"
    )
    b = leave(ledger, 2, ceiling=0.4)
    assert (b.state, b.n) == ("granted", 2)
    ledger.transact([(release, (b.attempt,))])
    assert ledger.exposure() == pytest.approx(0.2) and ledger.lost() == (1, pytest.approx(0.2))


def test_a_step_that_fails_undoes_its_transaction(tmp_path):
    ledger = Ledger(tmp_path / "l.sqlite")
    a = leave(ledger, 1)

    def fail(ledger):
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        ledger.transact([(settle, (a.attempt, response("two"), 0.01)), (fail, ())])
    assert ledger.count(P.key) == 0 and ledger.bill() == Usage()
    assert ledger.transact([(settle, (a.attempt, response("two"), 0.01))]) == [1]


def test_a_living_owner_is_not_lost_and_a_dead_one_is(tmp_path):
    one, two = Ledger(tmp_path / "l.sqlite"), Ledger(tmp_path / "l.sqlite")
    owner = Owner(one)
    leave(one, 1, owner.name)
    assert two.mark_lost() == 0 and leave(two, 1, "other").state == "wait"
    owner.lock.release()
    assert two.mark_lost() == 1 and leave(two, 1, "other").state == "granted"
    assert not list(tmp_path.glob("*.lock"))


def test_totals_are_the_sum_of_the_responses(tmp_path):
    ledger = Ledger(tmp_path / "l.sqlite")
    for i, cost in enumerate((0.1, None, 0.3)):
        p = P._replace(model=f"m{i % 2}")
        a = leave(ledger, i + 1, prompt=p)
        ledger.transact([(settle, (a.attempt, response(*["x"] * a.n), cost))])
    responses = ledger.rows(
        "select count(*), sum(samples), sum(prompt_tokens), sum(completion_tokens), "
        "sum(cost), sum(cost is null) from responses"
    )[0]
    b = ledger.bill()
    assert (
        b.requests,
        b.samples,
        b.prompt_tokens,
        b.completion_tokens,
        b.cost,
        b.unpriced,
    ) == pytest.approx(tuple(responses)) and b.unpriced == 1


def test_usage_adds_up():
    a = Usage(1, 8, 100, 200, 0.01)
    assert (
        sum([a] * 1000).cost == pytest.approx(10)
        and sum([]) == 0
        and a + Usage() == a
        and "$0.0100" in str(a)
    )


def test_prices_are_dated_and_counted_by_a_known_encoding():
    for model, p in prices().items():
        assert (
            len(p.as_of) == 7
            and 0 < p.input < p.output
            and tokens_in("hello world", p.encoding) == 2
        ), model
    assert (
        price_of("gpt-4.1-2025-04-14") == price_of("gpt-4.1")
        and price_of("gpt-4.1-mini") != price_of("gpt-4.1")
        and price_of("gpt-4o-audio") is None
    )


@pytest.mark.parametrize(
    "text, cl100k, o200k",
    [
        ("", 0, 0),
        ("tiktoken is great!", 6, 6),
        ("antidisestablishmentarianism", 6, 6),
        ("2 + 2 = 4", 7, 7),
        ("お誕生日おめでとう", 9, 8),
    ],
)
def test_tokens_are_counted_as_openai_counts_them(
    text, cl100k, o200k
):  # counts that OpenAI's cookbook gives for its encodings
    assert (tokens_in(text, "cl100k_base"), tokens_in(text, "o200k_base")) == (cl100k, o200k)


def test_the_bound_passes_every_estimate():
    for text in ("Where does an egg keep?", "Къде се запазва яйцето?", "أين تبقى البيضة؟"):
        asked = [dict(role="user", content=text)]
        assert prompt_tokens(asked) < most_prompt_tokens(asked)


def test_a_key_does_not_depend_on_order_and_a_server_on_its_secrets():
    assert request_key("s", "m", [dict(role="user", content="é")], dict(a=1, b=2)) == request_key(
        "s", "m", [dict(content="é", role="user")], dict(b=2, a=1)
    )
    assert server_name("https://user:sk-1@host:8000/openai/v1?key=sk-1") == "host:8000/openai"


def test_an_export_is_checked(tmp_path):
    import pandas as pd

    pd.DataFrame([dict(text="x")]).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="no ledger's export: it has no column"):
        Ledger(tmp_path / "l.sqlite").load(tmp_path / "x.parquet")


def test_only_what_nobody_has_or_asks_for_is_granted(tmp_path):
    ledger = Ledger(tmp_path / "l.sqlite")
    first, second = leave(ledger, 2, "a"), leave(ledger, 5, "b")
    assert (first.n, second.n, leave(ledger, 5, "c").state) == (2, 3, "wait")
    assert ledger.transact([(settle, (second.attempt, response(*"xyz"), 0.1))] * 2) == [3, 0]
    ledger.transact([(release, (first.attempt,))])
    assert leave(ledger, 5, "c").n == 2 and [r["sample"] for r in ledger.get(P.key)] == [0, 1, 2]


TEXTS = [
    "plain",
    "",
    "\ud83d",
    "\ud83d\ude00",
    "a\0b",
    MARK,
    MARK + "\\u0041",
    "\\u0041",
    "\x1f\x85",
    "é",
]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_any_text_goes_in_and_comes_out(tmp_path, text):
    ledger = Ledger(tmp_path / "l.sqlite")
    g = leave(ledger, 1)
    ledger.transact([(settle, (g.attempt, response(text)._replace(raw=text), 0.1))])
    assert ledger.get(P.key)[0]["text"] == text == restored(storable(text))
    assert ledger.rows("select raw from responses")[0]["raw"] == text
    assert storable(text).encode() is not None and "\0" not in storable(text)
    readable(text).encode()
    odd = P._replace(messages=[dict(role="user", content=text)])
    assert leave(ledger, 1, prompt=odd).state == "granted"
    assert json.loads(ledger.rows("select messages from prompts")[1][0])[0]["content"].encode(
        "utf8", "surrogatepass"
    ) == readable(text).encode() or text != readable(text)
    ledger.frame()


@pytest.mark.parametrize("bad", [0, 3, 7])
def test_a_step_that_fails_leaves_the_others(tmp_path, bad):
    ledger = Ledger(tmp_path / "l.sqlite")
    prompts = [P._replace(model=f"m{i}") for i in range(8)]
    grants = [leave(ledger, 1, prompt=p) for p in prompts]
    steps = [(settle, (g.attempt, response("fine"), 0.1)) for g in grants]
    steps[bad] = settle, (grants[bad].attempt, response("odd"), object())
    results = ledger.commit_each(steps)
    assert [r for i, r in enumerate(results) if i != bad] == [1] * 7
    assert isinstance(results[bad], sqlite3.Error) and ledger.bill().samples == 7
    assert [ledger.count(p.key) for p in prompts] == [int(i != bad) for i in range(8)]
    assert ledger.rows("select count(*) from attempts")[0][0] == 1  # it may be settled later


def rescued(ledger, texts):
    g = leave(ledger, len(texts))
    return Received(P, g.attempt, response(*texts), 0.1)


def test_a_rescued_answer_is_taken_in_once(tmp_path):
    ledger = Ledger(tmp_path / "l.sqlite")
    came = rescued(ledger, ["a", "b \ud83d", "\ud83d\ude00", "\0"])
    files = [rescue(ledger.path, [came]) for _ in range(2)]  # written twice
    assert [f.name for f in rescue_files(ledger.path)] == sorted(Path(f).name for f in files)
    again = Ledger(ledger.path)
    assert [r["text"] for r in again.get(P.key)] == ["a", "b \ud83d", "\ud83d\ude00", "\0"]
    assert again.bill().requests == 1 and again.exposure() == pytest.approx(0.1)
    assert not rescue_files(ledger.path)


def test_a_rescued_answer_goes_into_another_ledger_in_its_place(tmp_path):
    "The file was damaged and is gone; attempts have other numbers now."
    ledger = Ledger(tmp_path / "l.sqlite")
    rescue(ledger.path, [rescued(ledger, ["a"])])
    ledger.db.close()
    for file in tmp_path.glob("l.sqlite*"):
        if "rescue" not in file.name:
            file.unlink()
    new = Ledger(tmp_path / "l.sqlite")
    other = P._replace(model="another")
    assert leave(new, 1, prompt=other).state == "granted"
    assert [r["text"] for r in new.get(P.key)] == ["a"]
    assert new.rows("select count(*) from attempts")[0][0] == 1


def test_a_rescue_file_that_cannot_be_read_stays(tmp_path):
    ledger = Ledger(tmp_path / "l.sqlite")
    (file := tmp_path / "l.sqlite.rescue-x.jsonl").write_text("not JSON\n")
    with pytest.warns(UserWarning, match="could not be taken into"):
        Ledger(ledger.path)
    assert file.exists()


@pytest.mark.parametrize("form", [0, 1])
@pytest.mark.parametrize("twin", [False, True])
def test_requests_of_older_ledgers_are_found(tmp_path, form, twin):
    "Under a whole number as their temperature, as JSON wrote it then; asked in both forms or one."
    ledger = Ledger(tmp_path / "l.sqlite")
    new = P._replace(sampling=dict(temperature=float(form), max_tokens=64))
    old = P._replace(sampling=dict(temperature=form, max_tokens=64), model="m")
    if twin:
        g = leave(ledger, 2, prompt=new)
        ledger.transact([(settle, (g.attempt, response("n0", "n1"), 0.1))])
    sent = [old.server, old.model, old.messages, old.sampling]
    canonical = json.dumps(sent, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    key = hashlib.sha256(canonical.encode()).hexdigest()  # as it was made then
    row = ledger.db.execute(
        "insert or ignore into prompts (key, server, model, messages, sampling) "
        "values (?, ?, ?, ?, ?)",
        [key, old.server, old.model, json.dumps(old.messages), json.dumps(old.sampling)],
    ).lastrowid
    if key != new.key:
        ledger.transact([(store, (row, response("o0", "o1"), 0.1))])
    ledger.db.execute("pragma user_version = 0")
    ledger.db.close()
    texts = [r["text"] for r in Ledger(tmp_path / "l.sqlite").get(new.key)]
    assert texts == ["n0", "n1"] * twin + ["o0", "o1"] * (key != new.key)
    rows = Ledger(tmp_path / "l.sqlite").get(new.key)
    assert [r["sample"] for r in rows] == list(range(len(rows)))


FILES = {
    "a text file": (b"hello, I am no ledger at all", "cannot be opened as a ledger"),
    "a folder": (None, "cannot be opened as a ledger"),
}


@pytest.mark.parametrize("content, message", FILES.values(), ids=FILES)
def test_a_file_that_is_no_ledger_is_said(tmp_path, content, message):
    path = tmp_path / "l.sqlite"
    path.mkdir() if content is None else path.write_bytes(content * 100)
    with pytest.raises(ValueError, match=message):
        Ledger(path)
    with pytest.raises(ValueError, match="is no ledger's export"):
        Ledger(tmp_path / "x.sqlite").load(tmp_path / "nosuch.parquet")
    with pytest.raises(ValueError, match="cannot be written"):
        Ledger(tmp_path / "x.sqlite").export(tmp_path / "no" / "such" / "out.parquet")


PRICES = {
    "a line": ("model,input,output\nm,1,2\n", (1, 2)),
    "from a spreadsheet": ("\ufeff# mine\r\nmodel,input,output,cached\r\nm, 1 ,2,0.5\r\n", (1, 2)),
    "a correction": ("model,input,output\ngpt-4o-mini,9,9\nm,1,2\n", (1, 2)),
    "words": ("model,input,output\nm,cheap,2\n", "prices.csv:m: a price is model,input,output"),
    "no column": ("model,price\nm,1\n", "prices.csv:m: a price is"),
    "nothing": ("", None),
}


@pytest.mark.parametrize("text, found", PRICES.values(), ids=PRICES)
def test_a_price_table_of_ones_own(tmp_path, monkeypatch, text, found):
    (file := tmp_path / "prices.csv").write_text(text)
    monkeypatch.setenv("COT_DISTILL_PRICES", str(file))
    if isinstance(found, str):
        with pytest.raises(ValueError, match=found):
            price_of("m")
        return
    price = price_of("m")
    assert (price and price[:2]) == found and price_of("gpt-4o").output == 10
    with pytest.raises(ValueError, match="no price file"):
        price_of("m", tmp_path / "nosuch.csv")


def test_counting_needs_no_package_and_no_network(tmp_path, monkeypatch):
    "Without tiktoken's file and without quicktok a token is a byte, which is never too few."
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setitem(sys.modules, "quicktok", None)
    counter_of.cache_clear()
    try:
        assert tokens_in("hello wörld", "o200k_base") == len("hello wörld".encode())
    finally:
        counter_of.cache_clear()


def test_a_cached_vocabulary_is_preferred(tmp_path, monkeypatch):
    import types

    encoding = types.SimpleNamespace(encode=lambda text, disallowed_special: text.split())
    fake = types.SimpleNamespace(get_encoding=lambda name: encoding)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setitem(sys.modules, "tiktoken", fake)
    cached_vocabulary("o200k_base").write_text("")
    counter_of.cache_clear()
    try:
        assert tokens_in("it is wet", "o200k_base") == 3
    finally:
        counter_of.cache_clear()
