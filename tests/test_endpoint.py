"Servers change: a setting that was refused once is tried again, and one request finds out."

import pytest
from chat_server import error, plain
from typer.testing import CliRunner

from cot_distill.cli import app, open_ledger
from cot_distill.endpoint import BatchTeacher, EndpointTeacher
from cot_distill.ledger import LEARNT_DAYS, Ledger, learn, learnt_lines, unlearn
from cot_distill.stress import questions
from cot_distill.teacher import Request

QS = questions(20)
REFUSED = {"max_tokens": "max_completion_tokens", "temperature": "", "n": ""}


def ask(n):
    return [Request(q, "en", n=n, temperature=0.7) for q in QS]


def teacher(url, folder, kind=EndpointTeacher, **kw):
    usual = dict(server="tests", progress=False, timeout=30)
    return kind("tiny", url, folder / "ledger.sqlite", **usual | kw)


def strict(asked):
    "A server that refuses each of `REFUSED`."
    for name in REFUSED:
        if name in asked:
            return error(f"Unsupported parameter: '{name}' is not supported.", param=name)
    return plain(asked)


def grow_older(ledger, days):
    ledger.db.execute("update learnt set since = datetime('now', ?)", [f"-{days} days"])


@pytest.fixture
def known(serve, tmp_path):
    "A server, and a ledger that knows how it wants to be asked."
    server = serve(strict)
    t = teacher(server.url, tmp_path)
    t.complete(ask(2))
    assert t.learnt == REFUSED
    server.asked.clear()
    return server


@pytest.mark.parametrize("days, again", [(0, False), (LEARNT_DAYS - 1, False), (LEARNT_DAYS, True)])
def test_a_refused_setting_is_tried_afresh_after_some_days(known, tmp_path, days, again):
    grow_older(Ledger(tmp_path / "ledger.sqlite"), days)
    t = teacher(known.url, tmp_path)
    assert t.learnt == ({} if again else REFUSED)
    t.complete(ask(4))
    refused = [a for a in known.asked if REFUSED.keys() & a.keys()]
    assert len(refused) == again * len(REFUSED)  # one request for each, of sixty
    assert len(known.asked) - len(refused) == 40 and t.learnt == REFUSED
    assert Ledger(tmp_path / "ledger.sqlite").learnt("tests", "tiny") == REFUSED  # with a new date


@pytest.mark.parametrize("way", ["in time", "by the flag", "by the step"])
def test_an_updated_server_is_asked_as_at_first(known, tmp_path, way):
    known.reply, ledger = plain, Ledger(tmp_path / "ledger.sqlite")
    if way == "in time":
        grow_older(ledger, LEARNT_DAYS + 1)
    if way == "by the step":
        ledger.transact([(unlearn, ("tests", "tiny"))])
    t = teacher(known.url, tmp_path, retry_refused=way == "by the flag")
    t.complete(ask(4))
    assert all(REFUSED.keys() <= asked.keys() for asked in known.asked) and len(known.asked) == 20
    assert t.learnt == {} == teacher(known.url, tmp_path).learnt


@pytest.mark.parametrize("kind", [EndpointTeacher, BatchTeacher])
def test_a_bound_on_money_is_never_forgotten(tmp_path, kind):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    for setting, value in [("overrun", "31"), ("temperature", "")]:
        ledger.transact([(learn, ("tests", "tiny", setting, value, "said"))])
    grow_older(ledger, 1000)
    for retry in (False, True):
        t = teacher("http://localhost:9/v1", tmp_path, kind, price=(1, 1), retry_refused=retry)
        assert t.learnt == {"overrun": "31"}
        assert t.worst([], 100, 1) == pytest.approx((16 + 3100) / 1e6 / (2 if t.batch else 1))


def test_forgetting_is_for_one_server_and_one_model(tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    places = [("tests", "tiny"), ("tests", "other"), ("elsewhere", "tiny")]
    ledger.transact([(learn, (*place, "n", "", "said")) for place in places])
    ledger.db.execute("update learnt set since = '2026-05-04 12:00:00'")
    ledger.transact([(unlearn, places[0])])
    assert learnt_lines(ledger) == [
        "learnt: other at tests: n → left out (2026-05-04)",
        "learnt: tiny at elsewhere: n → left out (2026-05-04)",
    ]


def test_the_command_has_a_model_asked_again(known, tmp_path, monkeypatch):
    (tmp_path / "settings.ini").write_text("[quick]\n")
    monkeypatch.chdir(tmp_path)
    ledger = open_ledger(tmp_path)
    new = lambda: teacher(known.url, ledger.path.parent)
    filtered = lambda asked: "What is 3 +" in asked["messages"][-1]["content"]
    known.reply = lambda a: error("flagged", code="content_filter") if filtered(a) else strict(a)
    first = new().complete(ask(1))
    assert [c.finish_reason for c in first].count("content_filter") == 1
    known.reply = plain
    call = lambda *more: CliRunner().invoke(app, ["ledger", *more])
    wrong = call("--forget-refusals", "tinny")
    assert wrong.exit_code == 1 and "models that refuse something: tiny" in wrong.output
    done = call("--forget-refusals", "tiny")
    assert done.exit_code == 0 and "tiny will be asked again: 1 prompts, 2 settings" in done.output
    known.asked.clear()
    assert all(c.text for c in new().complete(ask(1))) and len(known.asked) == 1
    assert set(REFUSED) - {"n"} <= known.asked[0].keys()
    assert ledger.bill().samples == 20
    assert call("--forget-refusals", "tiny").exit_code == 1
