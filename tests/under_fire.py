"""The teacher under faults, kills and load. The tests run these at small size, the notebook `bench_teacher` at full size.

Each measurement returns a list of (setting, measure, value, bound, holds), where `bound` says in words what is asked for.
"""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

from cot_distill.endpoint import EndpointTeacher

from cot_distill.ledger import Answer, Ledger, Prompt, claim, settle
from cot_distill.questions import Question
from cot_distill.teacher import Request

HERE = Path(__file__).parent
PRICE = (0.15, 0.60)  # USD per million tokens in and out


def table(rows):
    "What a measurement found, for a notebook."
    import pandas as pd

    found = pd.DataFrame([r[1:] for r in rows], columns=["measure", "value", "asked for", "holds"])
    found["holds"] = [
        "" if not asked else "yes" if holds else "no"
        for asked, holds in zip(found["asked for"], found.holds)
    ]
    return found.style.hide(axis="index").set_caption(rows[0][0]).format({"value": "{:,.6g}"})


def questions(n):
    return [
        Question(f"q{i}", "test", "en", f"What is {i} + 1?", {"A": str(i + 1), "B": str(i)}, "A")
        for i in range(n)
    ]


@contextmanager
def fault_server(record=None, **settings):
    "A fault server in a process of its own."
    flags = [
        a for k, v in settings.items() for a in ([f"--{k}"] if v is True else [f"--{k}", str(v)])
    ]
    process = subprocess.Popen(
        [
            sys.executable,
            str(HERE / "fault_server.py"),
            *(["--record", str(record)] if record else []),
            *flags,
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()


def books(record):
    return (
        [json.loads(l) for l in Path(record).read_text().splitlines()]
        if Path(record).exists()
        else []
    )


def teacher(url, path, **settings):
    return EndpointTeacher(
        "gpt-4o-mini",
        url,
        path,
        server="faults",
        progress=False,
        **dict(price=None, timeout=1.5, tries=20, concurrency=64) | settings,
    )


def asked_again(
    rows, wanted
):  # prompts that were asked for after all their samples had been answered
    have, again = Counter(), Counter()
    for r in rows:
        if have[r["prompt"]] >= wanted:
            again[r["prompt"]] += 1
        have[r["prompt"]] += r["samples"] * r["answered"]
    return again


def under_faults(requests=200, samples=2, share=0.1, concurrency=64, progress=False):
    "Every kind of fault, in a tenth of the requests."
    with tempfile.TemporaryDirectory() as folder:
        record, setting = (
            f"{folder}/books.jsonl",
            f"{requests:,} prompts, {samples} samples each, {share:.0%} faults",
        )
        with fault_server(record, faults=share, latency=0.02) as url:
            t, start = (
                teacher(url, f"{folder}/ledger.sqlite", concurrency=concurrency),
                time.perf_counter(),
            )
            t.progress = progress
            got = t.complete(
                [Request(q, "en", n=samples, temperature=0.7) for q in questions(requests)]
            )
            seconds = time.perf_counter() - start
        rows, bill = books(record), t.ledger.bill()
        paid = [sum(r["billed"][i] for r in rows if r["answered"]) for i in (0, 1)]
        unseen = sum(t.price.of(*r["billed"]) for r in rows if not r["answered"])
        present = Counter((c.question_id, c.sample) for c in got)
        return [
            (setting, *row)
            for row in [
                ("requests at the server", len(rows), "", True),
                ("faults met", sum(r["fault"] is not None for r in rows), "", True),
                (
                    "kinds of fault",
                    len({r["fault"] for r in rows} - {None}),
                    "all 11",
                    requests < 1000 or len({r["fault"] for r in rows} - {None}) == 11,
                ),
                (
                    "samples missing",
                    requests * samples - len(present),
                    "0",
                    len(present) == requests * samples,
                ),
                (
                    "samples twice",
                    sum(v > 1 for v in present.values()),
                    "0",
                    max(present.values()) == 1,
                ),
                (
                    "prompt tokens, server's bill less ledger's",
                    paid[0] - bill.prompt_tokens,
                    "0",
                    paid[0] == bill.prompt_tokens,
                ),
                (
                    "completion tokens, server's bill less ledger's",
                    paid[1] - bill.completion_tokens,
                    "0",
                    paid[1] == bill.completion_tokens,
                ),
                (
                    "requests without usage, server less ledger",
                    sum(not r.get("counted", True) for r in rows) - bill.estimated,
                    "0",
                    sum(not r.get("counted", True) for r in rows) == bill.estimated,
                ),
                (
                    "requests repeated after they were answered",
                    sum(asked_again(rows, samples).values()),
                    "0",
                    not asked_again(rows, samples),
                ),
                (
                    "lost requests, USD: server's bill less ledger's upper bound",
                    unseen - t.ledger.lost()[1],
                    "at most 0",
                    unseen <= t.ledger.lost()[1],
                ),
                ("seconds", round(seconds, 1), "", True),
            ]
        ]


CLIENT = """
import sys; sys.path.insert(0, sys.argv[1])
import openai
from under_fire import Request, questions, teacher
t = teacher(sys.argv[2], sys.argv[3], concurrency=int(sys.argv[5]))
print("go", flush=True)
t.complete([Request(q, "en", n=2, temperature=0.7) for q in questions(int(sys.argv[4]))])
"""


def client(url, path, prompts, concurrency):
    return subprocess.Popen(
        [sys.executable, "-c", CLIENT, str(HERE), url, str(path), str(prompts), str(concurrency)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def under_kills(kills=3, prompts=400, concurrency=16, latency=0.2, seed=0):
    "SIGKILL at random moments of the asking, restarted each time; then two processes at once."
    rng, setting = (
        random.Random(seed),
        f"{kills} kills, {prompts:,} prompts, concurrency {concurrency}",
    )
    with tempfile.TemporaryDirectory() as folder:
        record, path = f"{folder}/books.jsonl", f"{folder}/ledger.sqlite"
        with fault_server(record, latency=latency) as url:
            integrity, died, in_ledger = [], 0, 0
            for _ in range(kills):
                p = client(url, path, prompts, concurrency)
                p.stdout.readline()
                time.sleep(rng.uniform(0.2, 2.5))
                p.send_signal(signal.SIGKILL)
                died += p.wait() == -signal.SIGKILL
                p.communicate()
                db = sqlite3.connect(path)
                integrity.append(db.execute("pragma integrity_check").fetchone()[0])
                db.close()
            t = teacher(url, path, concurrency=concurrency)
            got = t.complete([Request(q, "en", n=2, temperature=0.7) for q in questions(prompts)])
        rows = [r for r in books(record) if r["answered"]]
        extra, lost = len(rows) - t.ledger.bill().requests, t.ledger.lost()[0]
        present = Counter((c.question_id, c.sample) for c in got)
        return [
            (setting, *row)
            for row in [
                ("processes killed while they asked", died, f"{kills}", died == kills),
                (
                    "samples missing or twice",
                    2 * prompts - len(present) + sum(v > 1 for v in present.values()),
                    "0",
                    len(present) == 2 * prompts and max(present.values()) == 1,
                ),
                (
                    "samples in the ledger beyond those wanted",
                    t.ledger.bill().samples - 2 * prompts,
                    "0",
                    t.ledger.bill().samples == 2 * prompts,
                ),
                (
                    "answers of the server that no ledger holds",
                    extra,
                    f"at most those under way at a kill: {lost}",
                    extra <= lost,
                ),
                (
                    "most requests under way at a kill, of all kills",
                    lost,
                    f"at most {kills * concurrency}",
                    lost <= kills * concurrency,
                ),
                (
                    "integrity checks that are not ok",
                    sum(i != "ok" for i in integrity),
                    "0",
                    set(integrity) == {"ok"},
                ),
            ]
        ]


def two_processes(prompts=300, concurrency=16, latency=0.05):
    "The same requests from two processes on one ledger."
    setting = f"2 processes, {prompts:,} prompts"
    with tempfile.TemporaryDirectory() as folder:
        record, path = f"{folder}/books.jsonl", f"{folder}/ledger.sqlite"
        with fault_server(record, latency=latency) as url:
            both = [client(url, path, prompts, concurrency) for _ in range(2)]
            said = [p.communicate(timeout=300) for p in both]
        rows, asked = books(record), Ledger(path).bill()
        return [
            (setting, *row)
            for row in [
                (
                    "processes that failed",
                    sum(p.returncode != 0 for p in both),
                    "0",
                    all(p.returncode == 0 for p in both),
                ),
                (
                    "samples that the server gave",
                    sum(r["samples"] for r in rows),
                    f"{2 * prompts:,}",
                    sum(r["samples"] for r in rows) == 2 * prompts,
                ),
                (
                    "samples in the ledger",
                    asked.samples,
                    f"{2 * prompts:,}",
                    asked.samples == 2 * prompts,
                ),
            ]
        ]


def throughput(seconds=20, concurrency=64, latency=0.5):
    "Requests per second against concurrency over latency."
    prompts = int(seconds * concurrency / latency)
    with tempfile.TemporaryDirectory() as folder, fault_server(latency=latency) as url:
        t = teacher(url, f"{folder}/ledger.sqlite", concurrency=concurrency, timeout=30)
        t.complete(
            [Request(q, "en", temperature=0.7) for q in questions(concurrency)]
        )  # connections, imports
        requests = [Request(q, "en", temperature=0.8) for q in questions(prompts)]
        t.wanted(requests)
        start = time.perf_counter()
        t.complete(requests)
        rate = prompts / (time.perf_counter() - start)
    share = rate * latency / concurrency
    setting = f"concurrency {concurrency}, {latency} s a reply, {prompts:,} requests"
    return [
        (
            setting,
            "requests per second",
            round(rate, 1),
            f"{concurrency / latency:.0f} at best",
            True,
        ),
        (
            setting,
            "share of concurrency over latency",
            round(share, 4),
            "at least 0.95",
            share >= 0.95,
        ),
    ]


def big_ledger(path, rows):
    "A ledger with so many completions, written through its own steps."
    ledger, text = (
        Ledger(path),
        "Cold slows decay, but ice would crack the shell, so the fridge is best. " * 6,
    )
    ledger.db.execute("pragma synchronous=off")
    body = json.dumps(
        dict(
            id="chat",
            choices=[dict(message=dict(role="assistant", content=text), finish_reason="stop")],
            usage=dict(prompt_tokens=150, completion_tokens=100),
        )
    )

    def one(l, i):
        p = Prompt(
            "faults",
            "gpt-4o-mini",
            [
                dict(role="system", content="Reason step by step. " * 10),
                dict(role="user", content=f"Question {i}? (A) yes (B) no"),
            ],
            dict(temperature=0.7, max_tokens=512),
        )
        return settle(
            l,
            claim(l, p, 1, "filler", lambda n: 1e-4).attempt,
            Answer([(text, "stop")], 150, 100, body, 0.5),
            8.25e-5,
        )

    for start in range(0, rows, 5000):
        ledger.transact([(one, (i,)) for i in range(start, min(rows, start + 5000))])
    ledger.db.close()


def ledger_size(rows=20_000, path=None, more=2_000, together=64):
    "Overhead of a completion, and of opening and summarising, in a ledger of so many rows."
    with tempfile.TemporaryDirectory() as folder:
        path, setting = path or f"{folder}/ledger.sqlite", f"{rows:,} rows"
        big_ledger(path, rows)
        start = time.perf_counter()
        ledger = Ledger(path)
        summary, ends = ledger.summary(), ledger.finishes()
        opening = time.perf_counter() - start
        assert int(summary.samples.sum()) == rows == sum(ends.values())
        body = "{}" * 400
        prompts = [
            Prompt(
                "faults",
                "gpt-4o-mini",
                [dict(role="user", content=f"New question {i}?")],
                dict(temperature=0.7, max_tokens=512),
            )
            for i in range(more)
        ]
        start = time.perf_counter()
        for i in range(0, more, together):
            group = prompts[i : i + together]
            ledger.sync()
            leave = ledger.transact([(claim, (p, 1, "me", lambda n: 1e-4, 1e6)) for p in group])
            ledger.transact(
                [
                    (
                        settle,
                        (l.attempt, Answer([("text" * 100, "stop")], 150, 100, body, 0.5), 8.25e-5),
                    )
                    for l in leave
                ]
            )
        overhead = (time.perf_counter() - start) / more * 1000
        start = time.perf_counter()
        for p in prompts:
            ledger.count(p.key)
        reading = (time.perf_counter() - start) / more * 1000
        size = Path(path).stat().st_size / 2**20
        ledger.db.close()
        return [
            (setting, *row)
            for row in [
                (
                    f"ms a completion, leave and writing, {together} under way",
                    round(overhead, 3),
                    "under 1",
                    overhead < 1,
                ),
                ("ms to look a prompt up", round(reading, 4), "", True),
                ("seconds to open and summarise", round(opening, 3), "under 2", opening < 2),
                ("MB on disk", round(size), "", True),
            ]
        ]


def tiny_model(folder):
    "A random Llama with a byte vocabulary, as a folder that a server can load."
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bare = Tokenizer(
        models.BPE(vocab={c: i for i, c in enumerate([*alphabet, "<s>", "</s>"])}, merges=[])
    )
    bare.pre_tokenizer, bare.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bare, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "
    )
    torch.manual_seed(0)
    size = dict(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=2048,
    )
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), bos_token_id=256, eos_token_id=257, pad_token_id=257, **size
        )
    )
    for part in (model, tokenizer):
        part.save_pretrained(folder)


@contextmanager
def transformers_serve(model):
    "Hugging Face's own server with that model, on this machine."
    import socket
    import urllib.request

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [
        str(Path(sys.executable).parent / "transformers"),
        "serve",
        str(model),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--device",
        "cpu",
        "--dtype",
        "float32",
    ]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | dict(HF_HUB_OFFLINE="1"),
    )
    try:
        for _ in range(600):
            if process.poll() is not None:
                raise RuntimeError(process.stdout.read()[-2000:])
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                break
            except OSError:
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


def foreign_server(prompts=4, samples=2):
    "A server that none of us wrote. It refuses `n`, so its samples are asked for one by one."
    setting = "transformers serve, a random model"
    with tempfile.TemporaryDirectory() as folder:
        tiny_model(f"{folder}/model")
        with transformers_serve(f"{folder}/model") as url:
            t = EndpointTeacher(
                f"{folder}/model",
                url,
                f"{folder}/ledger.sqlite",
                server="transformers",
                price=(0, 0),
                concurrency=2,
                progress=False,
            )
            requests = [
                Request(q, "en", n=samples, temperature=0.7, max_tokens=8)
                for q in questions(prompts)
            ]
            first = t.complete(requests)
            bill = t.ledger.bill()
        again = t.complete(requests)  # the server is gone
        present, used = (
            len({(c.question_id, c.sample) for c in first}),
            t.ledger.rows(
                "select json_extract(raw, '$.usage.completion_tokens') as n from responses"
            ),
        )
        return [
            (setting, *row)
            for row in [
                (
                    "samples",
                    present,
                    f"{prompts * samples}",
                    present == prompts * samples == bill.samples,
                ),
                (
                    "requests",
                    bill.requests,
                    f"{prompts * samples}",
                    bill.requests == prompts * samples,
                ),
                (
                    "completion tokens, server's usage less ledger's bill",
                    sum(r["n"] for r in used) - bill.completion_tokens,
                    "0",
                    sum(r["n"] for r in used) == bill.completion_tokens > 0,
                ),
                (
                    "requests when asked again",
                    t.ledger.bill().requests - bill.requests,
                    "0",
                    again == first,
                ),
            ]
        ]
