"Servers as they are: what they refuse, how they answer, what they bill, when they are not there."

import json
import sqlite3
import time

import pytest
from chat_server import error, plain

from cot_distill.diversity import select
from cot_distill.endpoint import (
    BatchTeacher,
    Complaint,
    EndpointTeacher,
    Unanswered,
    billed_tokens,
    check_key,
    failure_of,
    read_complaint,
    read_response,
    refused_settings,
    retry_after,
    server_url,
    wait_named,
)
from cot_distill.ledger import Ledger, Prompt, report_lines, rescue_files
from cot_distill.stress import as_stream, fault_server, full_disk, questions, strict_server
from cot_distill.teacher import Request, read_rationales

QS = questions(20)


def ask(n=1, qs=QS, temperature=0.7, **kw):
    return [Request(q, "en", n=n, temperature=temperature, **kw) for q in qs]


def teacher(url, tmp_path, kind=EndpointTeacher, model="gpt-4o-mini", **kw):
    usual = dict(server="tests", progress=False, timeout=30, tries=8)
    return kind(model, url, tmp_path / "ledger.sqlite", **usual | kw)


def response(text="It is wet.\nAnswer: (A)", usage=None, **choice):
    message = dict(role="assistant", content=text)
    choice = dict(index=0, finish_reason="stop", message=message) | choice
    return dict(choices=[choice], usage=usage or dict(prompt_tokens=9, completion_tokens=7))


# ---------------------------------------------------------------------------- answers of any kind

ODD = [
    "It is wet \ud83d\nAnswer: (B)",
    "\udc00",
    "\ud83d\ude00 joined by JSON",
    "a\0b",
    "",
    "\x1eescaped:\\u0041",
    "\u2028\u2029\x85",
    "١٢٣ עברית 日本語 🏳️‍🌈",
    "x" * 200_000,
]


@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
def test_any_text_is_kept_beside_others_and_reads_back(serve, tmp_path, text):
    text = json.loads(json.dumps(text))  # as it comes over the wire
    odd = lambda asked: "What is 3 +" in asked["messages"][-1]["content"]
    server = serve(lambda asked: plain(asked, text) if odd(asked) else plain(asked))
    first = teacher(server.url, tmp_path).complete(ask())
    assert len(first) == 20 == len(server.asked)
    assert [c.text for c in first if c.question_id == "q3"] == [text]
    t = teacher(server.url, tmp_path)
    assert t.complete(ask()) == first and len(server.asked) == 20
    other = Ledger(tmp_path / "other.sqlite")
    assert other.load(t.ledger.export(tmp_path / "out.parquet")) == 20
    assert sorted(r["text"] for r in other.rows("select text from completions")) == sorted(
        c.text for c in first
    )
    for r in read_rationales(first, QS):
        assert r.text.encode() is not None
    t.ledger.frame(None).to_html().encode()


BODIES = {
    "parts": (
        response([dict(type="text", text="It is "), dict(type="text", text="wet.")]),
        "It is wet.",
    ),
    "thinking parts": (
        response([dict(type="thinking", thinking="Hm."), dict(type="text", text="Wet.")]),
        "Wet.",
    ),
    "plain strings as parts": (response(["It is ", "wet."]), "It is wet."),
    "reasoning beside": (
        response(message=dict(content="Wet.", reasoning_content="Is it (B)?")),
        "Wet.",
    ),
    "reasoning only": (
        response(message=dict(content=None, reasoning="Is it"), finish_reason="length"),
        "",
    ),
    "a number": (response(42), "42"),
    "no content": (response(message=dict(role="assistant")), ""),
    "no message": (dict(choices=[dict(text="Wet.", finish_reason="stop")]), "Wet."),
    "an odd finish": (response("Wet.", finish_reason=3), "Wet."),
    "no usage": (dict(choices=[dict(message=dict(content="Wet."))]), "Wet."),
    "null usage": (response("Wet.") | dict(usage=None), "Wet."),
    "usage in words": (response("Wet.", dict(prompt_tokens="many", completion_tokens=-3)), "Wet."),
    "usage beyond all bounds": (
        response("Wet.", dict(prompt_tokens=1e300, completion_tokens=10**30)),
        "Wet.",
    ),
    "no choices, but a bill": (
        dict(choices=[], usage=dict(prompt_tokens=9, completion_tokens=0)),
        "",
    ),
    "a byte order mark": ("\ufeff" + json.dumps(response("Wet.")), "Wet."),
    "a stream": (
        'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\r\n\r\n'
        ": keep-alive\r\n\r\n"
        'data: {"choices":[{"index":0,"delta":{"content":"We\\u2028"}}]}\r\n\r\n'
        'data: {"choices":[{"index":0,"delta":{"content":"t."},"finish_reason":"stop"}]}\r\n\r\n'
        'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2}}\r\n\r\n'
        "data: [DONE]\r\n\r\n",
        "We\u2028t.",
    ),
    "a stream without an end mark": (
        'event: message\ndata: {"choices":[{"delta":{"content":"Wet."},"finish_reason":"stop"}]}\n',
        "Wet.",
    ),
}


@pytest.mark.parametrize("body, text", BODIES.values(), ids=BODIES)
def test_an_answer_is_an_answer_in_any_form(serve, tmp_path, body, text):
    server = serve(lambda asked: body)
    t = teacher(server.url, tmp_path)
    got = t.complete(ask(qs=QS[:3]))
    assert [c.text for c in got] == [text] * 3 and len(server.asked) == 3
    assert t.ledger.bill().requests == 3 and t.ledger.lost() == (0, 0)
    raw = t.ledger.rows("select raw from responses")[0][0]
    assert raw == (body if isinstance(body, str) else json.dumps(body))


def test_a_stream_keeps_the_choices_apart():
    pieces = [(1, "b"), (0, "a"), (1, "B"), (0, "A")]
    lines = [
        json.dumps(dict(choices=[dict(index=i, delta=dict(content=t), finish_reason="stop")]))
        for i, t in pieces
    ]
    body = "".join(f"data: {line}\n\n" for line in lines)
    assert [s[0] for s in read_response(body, [], 0.1).samples] == ["aA", "bB"]


# ------------------------------------------------- deterministic answers are not asked for again

WRONG = {
    "an error with status 200": (200, dict(error=dict(message="bad template")), {}),
    "words with status 200": (200, '"I am not a chat server"', {}),
    "null": (200, "null", {}),
    "no choices": (200, dict(choices=[]), {}),
    "an unknown form": (200, dict(output=[dict(text="Wet.")]), {}),
    "an error in a stream": (200, 'data: {"error": {"message": "bad template"}}\n\n', {}),
    "a web page": (200, "<!doctype html><html><body>Log in</body></html>", {}),
    "a bad request": error("bad template"),
    "an unknown path": (404, "404 page not found", {}),
    "an unknown model": error("The model `gpt-9` does not exist", code="model_not_found"),
    "no permission": error("You may not", 403),
    "a wrong key": error("Incorrect API key provided", 401),
    "not implemented": error("no", 501),
}


@pytest.mark.parametrize("reply", WRONG.values(), ids=WRONG)
def test_nothing_deterministic_is_asked_more_than_three_times(serve, tmp_path, reply):
    server = serve(lambda asked: reply)
    t = teacher(server.url, tmp_path)
    with pytest.raises(RuntimeError, match="20 of 20 prompts failed|of 20 prompts failed"):
        t.complete(ask())
    assert 1 <= len(server.asked) <= 3 and t.ledger.lost() == (0, 0)
    assert not t.ledger.rows("select 1 from refusals")  # nothing was learnt of any prompt


@pytest.mark.parametrize("body", ['{"choices": [{"mess', "", 'data: {"choices": [{"del'])
def test_a_garbled_body_is_tried_three_times_and_then_said(serve, tmp_path, body):
    server = serve(lambda asked: body)
    with pytest.raises(RuntimeError, match="does not answer as a server of this kind"):
        teacher(server.url, tmp_path).complete(ask())
    assert len(server.asked) == 3


def test_a_busy_server_that_says_so_with_status_200_is_asked_again(serve, tmp_path):
    seen = set()

    def reply(asked):
        prompt = asked["messages"][-1]["content"]
        first = prompt not in seen
        seen.add(prompt)
        return dict(error=dict(message="overloaded", code=503)) if first else plain(asked)

    server = serve(reply)
    assert len(teacher(server.url, tmp_path).complete(ask(qs=QS[:3]))) == 3
    assert len(server.asked) == 6


# ---------------------------------------------------------------------- prompts that are refused

REFUSALS = {
    "OpenAI's filter": (error("flagged", code="content_policy_violation"), "content_filter"),
    "Azure's filter": (
        error("The response was filtered due to the prompt triggering", code="content_filter"),
        "content_filter",
    ),
    "moderation": (error("Your input was flagged by moderation", 403), "content_filter"),
    "in other words": (error("Data may contain inappropriate content"), "content_filter"),
    "unprocessable": ((422, dict(detail="cannot be read"), {}), "refusal"),
    "for legal reasons": ((451, "not here", {}), "refusal"),
    "too long": (
        error("This model's maximum context length is 10 tokens. However, you requested 99"),
        "refusal",
    ),
    "too long, vLLM": (
        error("'max_tokens' or 'max_completion_tokens' is too large: 512. This model's maximum "
              "context length is 600 tokens and your request has 99 input tokens"),
        "refusal",
    ),
    "too large a body": ((413, "Payload Too Large", {}), "refusal"),
    "an error in a body with status 200": ((200, dict(error="cannot"), {}), "refusal"),
}  # fmt: skip


@pytest.mark.parametrize("first", [False, True], ids=["in the middle", "first"])
@pytest.mark.parametrize("refusal, reason", REFUSALS.values(), ids=REFUSALS)
def test_a_refused_prompt_is_recorded_and_the_others_are_answered(
    serve, tmp_path, refusal, reason, first
):
    number = 0 if first else 3
    odd = lambda asked: f"What is {number} +" in asked["messages"][-1]["content"]
    server = serve(lambda asked: refusal if odd(asked) else plain(asked))
    t = teacher(server.url, tmp_path)
    got = t.complete(ask(qs=QS[:6]))
    assert [c.text for c in got].count("") == 1 and len(got) == 6
    assert [c.finish_reason for c in got if not c.text] == [reason]
    assert select(QS[:6], read_rationales(got, QS)).left_out["rationales unread"] == 1
    assert teacher(server.url, tmp_path).complete(ask(qs=QS[:6])) == got
    assert len(server.asked) == 6  # a new start asks for nothing
    assert "refused: 1 prompts" in "\n".join(report_lines(t.ledger))
    server.reply = plain
    again = teacher(server.url, tmp_path, retry_refused=True).complete(ask(qs=QS[:6]))
    assert len(server.asked) == 7 and all(c.text for c in again)


@pytest.mark.parametrize("refused, share, stops", [(4, 0.2, False), (5, 0.2, True), (5, 0.5, False),
                                                   (1, 0.0, False), (20, 1.0, False)])  # fmt: skip
def test_too_many_refusals_stop_the_run(serve, tmp_path, refused, share, stops):
    odd = lambda asked: int(asked["messages"][-1]["content"].split()[2]) >= 20 - refused
    server = serve(lambda a: error("flagged", code="content_filter") if odd(a) else plain(a))
    t = teacher(server.url, tmp_path, max_refused=share)
    if not stops:
        assert [bool(c.text) for c in t.complete(ask())] == [True] * (20 - refused) + [
            False
        ] * refused
        return
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"5 of 20 prompts failed.*20% may be .max_refused"):
            t.complete(ask())
    assert len(server.asked) == 20 and t.ledger.bill().samples == 15


def test_a_refused_batch_line_is_recorded(tmp_path):
    with fault_server(tmp_path / "books.jsonl") as url:
        t = teacher(url, tmp_path, BatchTeacher)
        t._open(t.wanted(ask(qs=QS[:2])))
        ids = [r["id"] for r in t.ledger.rows("select id from attempts order by id")]
        body = dict(error=dict(message="flagged", code="content_filter"))
        said = t._collect(dict(custom_id=str(ids[0]), response=dict(status_code=400, body=body)))
        taken = t._collect(dict(custom_id="999", response=dict(status_code=200, body=response())))
    assert said is taken is None
    assert len(t.ledger.rows("select 1 from refusals")) == 1


# --------------------------------------------------------- how servers want to be asked this year

MAX = (
    "max_tokens",
    "Unsupported parameter: 'max_tokens' is not supported with this model. "
    "Use 'max_completion_tokens' instead.",
)
ONE = (
    "temperature",
    "Unsupported value: 'temperature' does not support 0.7 with this model. "
    "Only the default (1) value is supported.",
)
PYDANTIC = dict(type="extra_forbidden", loc=["body", "n"], msg="Extra inputs are not permitted")
STRICT = {
    "max_tokens renamed": ([MAX], {}, {"max_tokens": "max_completion_tokens"}),
    "temperature fixed": ([ONE], {}, {"temperature": ""}),
    "both": ([MAX, ONE], {}, {"max_tokens": "max_completion_tokens", "temperature": ""}),
    "n, pydantic": ([("n", [PYDANTIC])], {}, {"n": ""}),
    "n, in words": ([("n", "n > 1 is not supported")], {}, {"n": ""}),
    "n, unnamed": ([("n", "Only one completion choice is allowed")], {}, {"n": ""}),
    "n, at most one": ([("n", "'n' : number must be at most 1")], {}, {"n": ""}),
    "reasoning_effort unknown": (
        [("reasoning_effort", "Unrecognized request argument supplied: reasoning_effort")],
        dict(reasoning_effort="low"),
        {"reasoning_effort": ""},
    ),
    "reasoning_effort of another kind": (
        [("reasoning_effort", "Invalid value: 'minimal'. Supported values are: 'low' and 'high'.")],
        dict(reasoning_effort="minimal"),
        {"reasoning_effort": ""},
    ),
    "top_p": (
        [("top_p", "`temperature` and `top_p` cannot both be specified: `top_p` is deprecated")],
        dict(top_p=0.9),
        None,
    ),
    "an extra setting": (
        [("top_k", "property 'top_k' is unsupported")], dict(extra=dict(top_k=40)), {"top_k": ""},
    ),
    "a system message": ([("system", "System role not supported")], {}, {"system": "user"}),
}  # fmt: skip


@pytest.mark.parametrize("param", [True, False], ids=["named apart", "in words"])
@pytest.mark.parametrize("faults, settings, learnt", STRICT.values(), ids=STRICT)
def test_what_a_server_refuses_is_learnt_once(serve, tmp_path, faults, settings, learnt, param):
    def reply(asked):
        roles = {m["role"] for m in asked["messages"]}
        for name, words in faults:
            if name in asked or name in roles:
                if isinstance(words, list):
                    return 422, dict(detail=words), {}
                named = param or name == "reasoning_effort" and "Invalid" in words
                return error(words, param=name if named and name != "system" else None)
        return plain(asked)

    server = serve(reply)
    t = teacher(server.url, tmp_path, concurrency=8)
    requests = ask(2, **settings)
    assert len(t.complete(requests)) == 40
    refused = [a for a in server.asked if any(name in a for name, _ in faults)]
    if faults[0][0] != "system":
        assert len(refused) <= len(faults) * (2 if "top_p" in settings else 1)
    if learnt:
        assert t.learnt == learnt == Ledger(tmp_path / "ledger.sqlite").learnt("tests", t.name)
    asked = len(server.asked)
    later = teacher(server.url, tmp_path)
    later.complete(ask(3, **settings))
    assert len(server.asked) - asked == 20  # one sample each, none refused
    assert later.read(requests) == t.read(requests)  # the key is that of the request as it was made


def test_the_first_request_goes_alone_until_the_server_has_spoken(serve, tmp_path):
    under_way, most = [], []

    def reply(asked):
        under_way.append(asked)
        most.append(len(under_way))
        time.sleep(0.2)
        under_way.remove(asked)
        return error(MAX[1], param="max_tokens") if "max_tokens" in asked else plain(asked)

    teacher(serve(reply).url, tmp_path).complete(ask())
    assert most[:2] == [1, 1] and max(most) > 1


def test_a_server_that_ignores_n_is_asked_one_by_one(serve, tmp_path):
    server = serve(lambda asked: plain(asked | dict(n=1)))
    t = teacher(server.url, tmp_path, concurrency=1)
    assert len(t.complete(ask(4))) == 80 == len(server.asked) and t.learnt == {"n": ""}
    assert sum("n" in a for a in server.asked) == 3


def test_a_value_out_of_range_is_the_readers_to_mend(serve, tmp_path):
    server = serve(lambda asked: error("temperature must be less than or equal to 1"))
    with pytest.raises(RuntimeError, match="temperature: choose another value"):
        teacher(server.url, tmp_path).complete(ask(temperature=1.5))
    assert len(server.asked) == 1


STREAM_ONLY = [
    "This model only support stream mode, please enable the stream parameter to access the model.",
    "stream must be set to true",
    "Streaming is required for this model",
    "Only streaming requests are accepted",
]


@pytest.mark.parametrize("words", STREAM_ONLY)
def test_a_server_that_only_streams_is_asked_to_stream(serve, tmp_path, words):
    def reply(asked):
        return as_stream(plain(asked)).decode() if asked.get("stream") else error(words)

    server = serve(reply)
    t = teacher(server.url, tmp_path)
    got = t.complete(ask(2))
    assert [c.text for c in got] == ["It is wet.\nAnswer: (A)"] * 40
    assert len(server.asked) == 21 and t.ledger.bill().estimated == 0
    assert server.asked[-1]["stream_options"] == dict(include_usage=True)


CIRCLES = ["System role not supported", "Unsupported parameter: 'n'", ONE[1], STREAM_ONLY[1]]


@pytest.mark.parametrize("words", CIRCLES)
def test_a_refusal_that_no_other_way_of_asking_ends_is_a_refusal(serve, tmp_path, words):
    "Three prompts are enough to see it, and nobody asks in circles."
    server = serve(lambda asked: error(words))
    with pytest.raises(RuntimeError, match="the first prompts were all refused"):
        teacher(server.url, tmp_path).complete(ask())
    assert len(server.asked) <= 5


def test_a_limit_that_no_name_fits_is_said(serve, tmp_path):
    names = ("max_tokens", "max_completion_tokens")
    refuse = lambda asked: next(
        (error(f"Unsupported parameter: '{n}'") for n in names if n in asked), None
    )
    server = serve(lambda asked: refuse(asked) or plain(asked))
    with pytest.raises(RuntimeError, match="takes max_tokens under neither name"):
        teacher(server.url, tmp_path).complete(ask())
    assert len(server.asked) == 2


def test_settings_are_sent_and_only_when_set(serve, tmp_path):
    server = serve(plain)
    t = teacher(server.url, tmp_path, sampling=dict(reasoning_effort="low"))
    t.complete(
        ask(qs=QS[:1], top_p=0.9, extra=dict(chat_template_kwargs=dict(enable_thinking=False)))
    )
    sent = {k: v for k, v in server.asked[0].items() if k not in ("model", "messages")}
    assert sent == dict(
        temperature=0.7,
        max_tokens=512,
        top_p=0.9,
        reasoning_effort="low",
        chat_template_kwargs=dict(enable_thinking=False),
    )
    teacher(server.url, tmp_path).complete(ask(qs=QS[:1]))
    assert set(server.asked[1]) == {"model", "messages", "temperature", "max_tokens"}


UNREFUSED = ["I don't know", "messages: not supported", "an unsupported image", "n is a letter"]


@pytest.mark.parametrize("words", UNREFUSED)
def test_words_about_something_else_are_not_about_a_setting(words):
    assert refused_settings(Complaint(words), ("n", "temperature", "max_tokens")) == {}


# -------------------------------------------------------------------------------------- the bill

USAGES = {
    "plain": (dict(prompt_tokens=9, completion_tokens=7, total_tokens=16), (9, 7, 0)),
    "reasoning inside": (
        dict(prompt_tokens=9, completion_tokens=700, total_tokens=709,
             completion_tokens_details=dict(reasoning_tokens=650)), (9, 700, 0)),
    "reasoning outside, in the total": (
        dict(prompt_tokens=9, completion_tokens=50, total_tokens=709,
             completion_tokens_details=dict(reasoning_tokens=650)), (9, 700, 0)),
    "reasoning outside, no total": (
        dict(prompt_tokens=9, completion_tokens=50,
             completion_tokens_details=dict(reasoning_tokens=650)), (9, 700, 0)),
    "reasoning outside the total as well": (
        dict(prompt_tokens=9, completion_tokens=50, total_tokens=59,
             completion_tokens_details=dict(reasoning_tokens=650)), (9, 700, 0)),
    "reasoning on the top": (
        dict(prompt_tokens=9, completion_tokens=50, reasoning_tokens=650), (9, 700, 0)),
    "only in the total": (
        dict(prompt_tokens=9, completion_tokens=50, total_tokens=709), (9, 700, 0)),
    "other names": (
        dict(input_tokens=9, output_tokens=700, output_tokens_details=dict(reasoning_tokens=1)),
        (9, 700, 0)),
    "cached": (
        dict(prompt_tokens=90, completion_tokens=7, prompt_tokens_details=dict(cached_tokens=64)),
        (90, 7, 64)),
    "cached, otherwise": (
        dict(prompt_tokens=90, completion_tokens=7, prompt_cache_hit_tokens=64), (90, 7, 64)),
    "cached, null": (
        dict(prompt_tokens=90, completion_tokens=7, prompt_tokens_details=None), (90, 7, 0)),
    "digits": (dict(prompt_tokens="9", completion_tokens=7.0), (9, 7, 0)),
    "a bool": (dict(prompt_tokens=True, completion_tokens=7), (None, 7, 0)),
    "nothing": ({}, (None, None, 0)),
    "not even a dictionary": ([1], (None, None, 0)),
}  # fmt: skip


@pytest.mark.parametrize("usage, tokens", USAGES.values(), ids=USAGES)
def test_tokens_are_booked_as_they_are_billed(usage, tokens):
    assert billed_tokens(usage) == tokens


def test_a_budget_holds_where_reasoning_is_counted_apart(serve, tmp_path):
    "A reply costs thirty times as much as its limit allows: one request may find that out."
    usage = dict(
        prompt_tokens=9, completion_tokens=40, completion_tokens_details=dict(reasoning_tokens=1200)
    )
    server = serve(lambda asked: response(usage=usage))
    t = teacher(server.url, tmp_path, price=(1.0, 10.0), budget=0.02, concurrency=16)
    with pytest.raises(RuntimeError, match="the budget is reached"):
        t.complete(ask(max_tokens=40))
    billed = len(server.asked) * (9 * 1.0 + 1240 * 10.0) / 1e6
    assert t.ledger.bill().cost == pytest.approx(billed) and billed <= 0.02
    assert float(Ledger(tmp_path / "ledger.sqlite").learnt("tests", t.name)["overrun"]) == 31.0


def test_cached_tokens_cost_less_where_the_table_says_so(serve, tmp_path):
    usage = dict(
        prompt_tokens=1000, completion_tokens=0 + 10, prompt_tokens_details=dict(cached_tokens=800)
    )
    (file := tmp_path / "prices.csv").write_text("model,input,output,cached\nm,1,2,0.1\n")
    t = teacher(serve(lambda a: response(usage=usage)).url, tmp_path, model="m", prices=file)
    t.complete(ask(qs=QS[:1]))
    assert t.ledger.bill().cost == pytest.approx((200 * 1 + 800 * 0.1 + 10 * 2) / 1e6)


@pytest.mark.parametrize("one, other", [
    (dict(temperature=0), dict(temperature=0.0)),
    (dict(temperature=1), dict(temperature=1.0)),
    (dict(temperature=-0.0), dict(temperature=0)),
    (dict(max_tokens=512.0), dict(max_tokens=512)),
    (dict(top_p=1), dict(top_p=1.0)),
    (dict(extra=dict(top_k=40)), dict(extra=dict(top_k=40.0))),
])  # fmt: skip
def test_one_request_has_one_key(serve, tmp_path, one, other):
    server = serve(plain)
    t = teacher(server.url, tmp_path)
    for settings in (one, other):
        t.complete([Request(QS[0], "en", **settings)])
    assert len(server.asked) == 1
    keys = {
        Prompt("s", "m", [], Request(QS[0], "en", **settings).sampling).key
        for settings in (one, other)
    }
    assert len(keys) == 1


@pytest.mark.parametrize("budget", [-5, float("nan")])
def test_a_budget_is_a_number_from_zero_up(tmp_path, budget):
    with pytest.raises(ValueError, match="a budget is a number of USD from 0 up"):
        teacher("http://127.0.0.1:9/v1", tmp_path, budget=budget)


# ------------------------------------------------------- nobody there, no funds, hours of waiting

BROKE = {
    "402": error("Insufficient Balance", 402),
    "OpenAI": error("You exceeded your current quota", 429, code="insufficient_quota"),
    "Anthropic": error("Your credit balance is too low to access the API"),
    "hard limit": error("Billing hard limit has been reached", code="billing_hard_limit_reached"),
    "forbidden": error("Please add credits to your account: billing", 403),
    "with status 200": (200, dict(error=dict(message="Insufficient credits", code=402)), {}),
}


@pytest.mark.parametrize("reply", BROKE.values(), ids=BROKE)
def test_a_lack_of_funds_is_met_once(serve, tmp_path, reply):
    server = serve(lambda asked: reply)
    with pytest.raises(RuntimeError, match="20 of 20 .*First error: the account has no funds left"):
        teacher(server.url, tmp_path).complete(ask())
    assert len(server.asked) == 1


def test_a_quota_of_a_minute_is_waited_for(serve, tmp_path):
    words = "You exceeded your current quota, check your plan and billing. Please retry in 0.05s"
    first = []

    def reply(asked):
        first.append(asked)
        return error(words, 429) if len(first) == 1 else plain(asked)

    assert len(teacher(serve(reply).url, tmp_path).complete(ask())) == 20


@pytest.mark.parametrize("headers, words", [
    ({"Retry-After": "7200"}, "slow down"),
    ({"Retry-After": "Fri, 31 Dec 2100 23:59:59 GMT"}, "slow down"),
    ({}, "Rate limit reached for requests per day. Please try again in 6h0m12s."),
])  # fmt: skip
def test_hours_of_waiting_are_said_once(serve, tmp_path, headers, words):
    server = serve(lambda asked: error(words, 429, headers))
    with pytest.raises(RuntimeError, match="the server asks to wait until .*start again then"):
        teacher(server.url, tmp_path).complete(ask())
    assert len(server.asked) == 1


@pytest.mark.parametrize("text, seconds", [
    ("Please try again in 20s.", 20), ("try again in 1m30s", 90), ("again in 250ms", 0.25),
    ("Please retry in 2.5 seconds", 2.5), ('{"retryDelay": "38s"}', 38), ("try again later", None),
    ("Please Retry in 20 seconds", 20), ("Please try again in 1m26.4s. Visit", 86.4),
    ("Try again in 500ms", 0.5), ("wait for 250 milliseconds", 0.25), ("RETRY IN 3 MIN", 180),
    ("Please retry after 20 seconds.", 20), ("Please wait 2 minutes", 120),
    ("Please try again in 6h0m.", 21600), ("retry after 1 hour and 5 minutes", 3900),
    ("The limit resets in 2 days, 3 hours", 183600), ("Retry-After: 20", 20),
    ('{"retry_after": 0.529, "global": false}', 0.529), (r'{\"retryDelay\": \"38s\"}', 38),
    ("try again in 2 months", None), ("retry after 2026-05-04", None), ("retry after 14:05", None),
    ("try again in 2.5 months", None), ("It waited 30 s", None), ("", None),
])  # fmt: skip
def test_a_wait_is_read_from_words(text, seconds):
    assert wait_named(text) == (seconds and pytest.approx(seconds))


@pytest.mark.parametrize("header, seconds", [
    ("20", 20), ("0.5", 0.5), ("-3", 0), ("Thu, 01 Jan 1970 00:17:40 GMT", 60),
    ("Thu, 01 Jan 1970 00:00:10 GMT", 0), ("soon", None), ("", None), (None, None),
])  # fmt: skip
def test_a_wait_is_read_from_a_header(monkeypatch, header, seconds):
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    assert retry_after(header) == seconds


def test_a_dead_server_is_met_once(tmp_path):
    t = teacher("http://127.0.0.1:9/v1", tmp_path, concurrency=8)
    start = time.monotonic()
    with pytest.raises(RuntimeError, match="20 of 20 .*Is it running, and is this its address"):
        t.complete(ask())
    assert t.ledger.exposure() == 0 and not t.ledger.rows("select 1 from attempts")
    assert time.monotonic() - start < 60  # and not 20 prompts after one another, minutes each


# ------------------------------------------------------------------------- addresses and keys

ADDRESSES = {
    "": "base_url is empty",
    "  ": "base_url is empty",
    "localhost:8000/v1": "'http://localhost:8000/v1'",
    "127.0.0.1:8000/v1": "'http://127.0.0.1:8000/v1'",
    "gpu-box:8000/v1": "'http://gpu-box:8000/v1'",
    "api.openai.com/v1": "'https://api.openai.com/v1'",
    "//api.openai.com/v1": "'https://api.openai.com/v1'",
    "https//api.openai.com/v1": "'https://api.openai.com/v1'",
    "https:/api.openai.com/v1": "'https://api.openai.com/v1'",
    "htps://api.openai.com/v1": "'https://api.openai.com/v1'",
    "https://api.openai.com": "'https://api.openai.com/v1'",
    "https://api.openai.com/": "'https://api.openai.com/v1'",
    "https://openrouter.ai/api": "'https://openrouter.ai/api/v1'",
    "http://localhost:11434": "'http://localhost:11434/v1'",
    "https://api.openai.com/v1/chat/completions": "'https://api.openai.com/v1'",
    "https://api.openai.com/v1/chat/completions/": "'https://api.openai.com/v1'",
    "https://api.anthropic.com/v1/messages": "'https://api.anthropic.com/v1'",
    "“https://api.openai.com/v1”": "'https://api.openai.com/v1'",
    "'https://api.openai.com/v1'": "'https://api.openai.com/v1'",
    "https://api. openai.com/v1": "'https://api.openai.com/v1'",
}


@pytest.mark.parametrize("url, meant", ADDRESSES.items())
@pytest.mark.parametrize("from_environment", [False, True])
def test_an_address_that_cannot_be_right_is_refused(
    tmp_path, monkeypatch, url, meant, from_environment
):
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    with pytest.raises(ValueError) as e:
        teacher(None if from_environment else url, tmp_path)
    meant = meant.replace("base_url", "OPENAI_BASE_URL") if from_environment else meant
    assert meant in str(e.value)


@pytest.mark.parametrize("url", [
    "https://api.openai.com/v1", "http://localhost:8000/v1/", "https://openrouter.ai/api/v1",
    "https://generativelanguage.googleapis.com/v1beta/openai/", "https://api.deepseek.com",
    "https://api.groq.com/openai/v1", "https://x.openai.azure.com/openai/v1/",
    "https://api.perplexity.ai", "http://[::1]:8000/v1", "https://me:pw@host/v1",
    "https://gateway.ai.cloudflare.com/v1/a/g/openai", "https://open.bigmodel.cn/api/paas/v4",
])  # fmt: skip
def test_an_address_that_people_use_is_taken(url):
    assert server_url(url) == url


KEYS = {
    "“sk-1a2b3c4d”": "quotation mark",
    "'sk-1a2b3c4d'": "quotation mark",
    "sk-1a2b 3c4d": "a space",
    " sk-1a2b3c4d": "a space",
    "sk-1a2b3c4d\n": "a line break",
    "sk-1a2b3c4d\r\n": "a line break",
    "Bearer sk-1a2b3c4d": "the word Bearer",
    "OPENAI_API_KEY=sk-1a2b3c4d": "the name of a variable",
    "ѕk-1a2b3c4d": "a character that no key has",
    "sk-1a2b3c4d\u200b": "a character that no key has",
    "sk-1a...3c4d": "dots",
}


@pytest.mark.parametrize("key, why", KEYS.items())
def test_a_key_that_cannot_be_right_is_refused_unseen(serve, tmp_path, monkeypatch, key, why):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    server = serve(plain)
    with pytest.raises(ValueError, match=why) as e:
        teacher(server.url, tmp_path).complete(ask())
    assert not server.asked and "1a2b" not in str(e.value)


def test_a_key_that_people_have_is_taken():
    for key in ("sk-proj-Ab_1-x", "gsk_abc", "hf_AbC", "AIzaSyA-b_c", "none", "a.b/c+d=="):
        assert check_key(key) == key


# ------------------------------------------------------------------ the ledger cannot be written


def failing(kind, path, t):
    "Make the ledger of a teacher fail to take answers."
    if kind == "full":
        pages = t.ledger.rows("pragma page_count")[0][0]
        t.ledger.db.execute(f"pragma max_page_count = {pages}")
    if kind == "read-only":
        t.ledger.db.execute("pragma query_only = on")
    if kind == "locked":
        t.ledger.db.execute("pragma busy_timeout = 50")
        other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        other.execute("begin immediate")
        return lambda: other.execute("rollback")
    if kind == "gone":
        t.ledger.db.execute("drop table responses")
        return lambda: None
    return lambda: None


@pytest.mark.parametrize("kind", ["full", "read-only", "locked", "gone"])
def test_an_answer_that_cannot_be_written_is_rescued(serve, tmp_path, kind):
    "It fails while the answers are under way; the message says where they are."
    path, undo = tmp_path / "ledger.sqlite", []

    def reply(asked):
        if "What is 5 +" in asked["messages"][-1]["content"]:
            undo.append(failing(kind, path, t))
        time.sleep(0.3)
        return plain(asked, "Because it is wet. " * 2000)

    server = serve(reply)
    t = teacher(server.url, tmp_path, concurrency=8)
    with pytest.raises(RuntimeError, match="cannot be written.*answers that came are kept") as e:
        t.complete(ask())
    files = rescue_files(path)
    assert files and all(str(f) in str(e.value) for f in files)
    undo[0]()
    t.ledger.db.close()
    asked = len(server.asked)
    if kind == "gone":
        return
    server.reply = plain
    later = teacher(server.url, tmp_path)
    assert later.ledger.bill().samples == asked and not rescue_files(path)
    assert len(later.complete(ask())) == 20 == len(server.asked)
    assert later.ledger.lost() == (0, 0)


def test_a_folder_that_takes_nothing_is_not_the_only_place(serve, tmp_path, monkeypatch):
    "The temporary files are the next; the answers come back from there as well."
    import cot_distill.ledger as ledger

    (elsewhere := tmp_path / "tmp").mkdir()
    real = ledger.write_durably

    def write(path, text):
        if path.parent != elsewhere:
            raise OSError(28, "No space left on device")
        real(path, text)

    monkeypatch.setattr(ledger, "write_durably", write)
    monkeypatch.setattr(ledger.tempfile, "gettempdir", lambda: str(elsewhere))
    undo = []

    def reply(asked):
        undo.append(failing("read-only", None, t))
        return plain(asked)

    server = serve(reply)
    t = teacher(server.url, tmp_path, concurrency=1)
    with pytest.raises(RuntimeError, match=str(elsewhere)):
        t.complete(ask())
    assert len(rescue_files(tmp_path / "ledger.sqlite")) == 1
    assert Ledger(tmp_path / "ledger.sqlite").bill().samples == 1 == len(server.asked)


def test_a_disk_that_is_full_and_one_that_is_strict():
    for rows in (full_disk(150), strict_server(30)):
        assert not [r for r in rows if not r.holds], rows


# ------------------------------------------------------------------------- errors in all words

COMPLAINTS = {
    '{"error": {"message": "m", "code": "c", "type": "t", "param": "p"}}': ("m", "c t", ("p",)),
    '{"error": {"message": "m", "param": "messages[0].content"}}': ("m", "", ("content",)),
    '{"error": "m"}': ("m", "", ()),
    '{"error": "m", "message": "more"}': ("m more", "", ()),
    '{"object": "error", "message": "m", "code": 400}': ("m", "400", ()),
    '{"message": "m"}': ("m", "", ()),
    '{"detail": "m"}': ("m", "", ()),
    '{"detail": [{"loc": ["body", "n"], "msg": "m", "type": "t"}]}': ("n: m", "t", ("n",)),
    '[{"error": {"message": "m", "status": "S"}}]': ("m", "S", ()),
    '{"error": {"message": "m", "metadata": {"raw": "inner"}}}': ("m inner", "", ()),
    "<html><h1>502</h1> Bad Gateway</html>": ("502 Bad Gateway", "", ()),
    "plain words": ("plain words", "", ()),
}


@pytest.mark.parametrize("body, read", COMPLAINTS.items())
def test_errors_are_read_in_all_their_forms(body, read):
    c = read_complaint(body)
    assert (c.words, c.codes, c.settings) == read
    assert read_complaint("") is read_complaint('{"choices": []}') is None


def test_a_failure_of_a_prompt_too_long_is_none_of_the_server():
    e = failure_of(500, "the request exceeds the available context size")
    assert (e.refusal, e.again) == ("refusal", False)
    with pytest.raises(Unanswered):
        read_response("[]", [], 0.1)
