"The ledger's books under several threads and at size; tokens against known counts."

import threading

import pytest

from cot_distill import stress
from cot_distill.ledger import (
    Ledger,
    Owner,
    Prompt,
    Response,
    Usage,
    grant,
    lose,
    price_of,
    prices,
    release,
    request_key,
    server_name,
    settle,
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

    def fail(l):
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
        "select count(*), sum(samples), sum(prompt_tokens), sum(completion_tokens), sum(cost), sum(cost is null) from responses"
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
