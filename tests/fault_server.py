"""An OpenAI-compatible server that fails on purpose, and keeps its own books: `python tests/fault_server.py --record FILE`.

It prints its address, and writes one JSON line for every request: what was asked, what happened, what it billed, and whether the
whole reply went out. It knows nothing of the package except how tokens are counted, so that a bill can be compared token by token.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter

from cot_distill.ledger import prompt_tokens, tokens_in

# what may go wrong; the first six leave the client without a reply, the others are replies that were paid for
UNANSWERED = (
    "429 with Retry-After",
    "429 without",
    "500",
    "dropped in mid-body",
    "stall",
    "malformed JSON",
)
ANSWERED = ("missing usage", "empty content", "refusal", "truncation", "fewer choices")
STATUS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    422: "Unprocessable",
    429: "Too Many Requests",
    500: "Internal Server Error",
}


class Books:
    "What was asked and billed, one JSON line a request."

    def __init__(self, path):
        self.file = open(path, "a", buffering=1) if path else None

    def write(self, **row):
        if self.file:
            self.file.write(json.dumps(dict(at=time.time(), **row)) + "\n")


class FaultServer:
    "Answers after `latency` seconds; a share `faults` of the requests meets a fault."

    def __init__(
        self,
        record=None,
        latency=0.0,
        faults=0.0,
        stall=3.0,
        refuse_n=False,
        echo=False,
        seed=0,
        kinds=UNANSWERED + ANSWERED,
    ):
        self.books, self.latency, self.faults, self.stall, self.refuse_n, self.echo, self.kinds = (
            Books(record),
            latency,
            faults,
            stall,
            refuse_n,
            echo,
            kinds,
        )
        self.random, self.given, self.files, self.batches = random.Random(seed), Counter(), {}, {}

    async def serve(self, port=0):
        server = await asyncio.start_server(self.connection, "127.0.0.1", port, backlog=512)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        return server

    async def connection(self, reader, writer):
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode("latin1").split("\r\n")
                headers = {
                    k.lower(): v for k, v in (l.split(": ", 1) for l in lines[1:] if ": " in l)
                }
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                method, path, _ = lines[0].split(" ")
                if not await self.route(
                    method, path.partition("?")[0].removeprefix("/v1"), headers, body, writer
                ):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def route(self, method, path, headers, body, writer):  # False: the connection ends
        if path == "/chat/completions":
            return await self.chat(json.loads(body), headers, writer)
        if path == "/files":
            return await self.send(writer, 200, self.keep(body))
        if path.startswith("/files/"):
            return await self.send(writer, 200, self.files[path.split("/")[2]])
        if path == "/batches" and method == "POST":
            return await self.send(writer, 200, self.batch(json.loads(body)))
        if path == "/batches":
            return await self.send(
                writer, 200, dict(object="list", data=list(self.batches.values()), has_more=False)
            )
        if path.startswith("/batches/"):
            return await self.send(writer, 200, self.batches[path.split("/")[2]])
        return await self.send(writer, 404, dict(error=dict(message=f"no {path}")))

    async def send(self, writer, status, body, headers="", cut=False):
        data = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
        writer.write(
            f"HTTP/1.1 {status} {STATUS[status]}\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n{headers}\r\n".encode()
            + (data[: len(data) // 2] if cut else data)
        )
        await writer.drain()
        return not cut

    def reply(self, asked, fault=None):
        "A response, as it is billed."
        n = asked.get("n", 1) if fault != "fewer choices" else max(1, asked.get("n", 1) - 1)
        prompt, texts = asked["messages"][-1]["content"], []
        for _ in range(n):
            self.given[prompt] += 1
            texts.append(
                ""
                if fault in ("empty content", "refusal")
                else f"Reply {self.given[prompt]}.\nAnswer: (A)"
                if fault != "truncation"
                else "It is cold there, and"
            )
        said = [
            dict(
                index=i,
                finish_reason="length" if fault == "truncation" else "stop",
                message=dict(
                    role="assistant",
                    content=None if fault == "refusal" else t,
                    refusal="I would rather not." if fault == "refusal" else None,
                ),
            )
            for i, t in enumerate(texts)
        ]
        words = ["I would rather not."] * n if fault == "refusal" else texts
        used = (
            prompt_tokens(asked["messages"], "o200k_base"),
            sum(tokens_in(w, "o200k_base") for w in words),
        )
        body = dict(
            id="chat",
            object="chat.completion",
            created=0,
            model=asked["model"],
            choices=said,
            usage=dict(prompt_tokens=used[0], completion_tokens=used[1], total_tokens=sum(used)),
        )
        if fault == "missing usage":
            del body["usage"]
        return body, used, n

    async def chat(self, asked, headers, writer):
        prompt, n = asked["messages"][-1]["content"], asked.get("n", 1)
        fault = self.random.choice(self.kinds) if self.random.random() < self.faults else None
        row = dict(prompt=prompt, n=n, fault=fault)
        if self.latency:
            await asyncio.sleep(self.latency)
        if self.echo:
            return await self.send(
                writer,
                400 if "3 + 1" in prompt else 200,
                self.reply(asked)[0]
                | dict(
                    error=dict(message=f"heard {headers['authorization']}"),
                    heard=headers["authorization"],
                ),
            )
        if self.refuse_n and "n" in asked:
            return await self.refuse(writer, row, 422, "Unexpected field: n")
        if fault in ("429 with Retry-After", "429 without"):
            return await self.refuse(
                writer, row, 429, "too fast", "Retry-After: 0.2\r\n" if "with R" in fault else ""
            )
        if fault == "500":
            return await self.refuse(writer, row, 500, "the server is unwell")
        body, used, samples = self.reply(asked, fault)
        answered = fault not in UNANSWERED
        self.books.write(
            **row, billed=used, samples=samples, answered=answered, counted=fault != "missing usage"
        )
        if fault == "stall":
            await asyncio.sleep(self.stall)
            return False
        return await self.send(
            writer,
            200,
            json.dumps(body).encode()[:-9] if fault == "malformed JSON" else body,
            cut=fault == "dropped in mid-body",
        )

    async def refuse(self, writer, row, status, message, headers=""):
        self.books.write(**row, billed=[0, 0], samples=0, answered=False)
        return await self.send(
            writer, status, dict(error=dict(message=message, type="error")), headers
        )

    def keep(self, body):
        "A file that was uploaded: what stands between the last part's head and the last boundary."
        content = (
            next(p for p in body.split(b"\r\n\r\n") if p.startswith(b"{")).rpartition(b"\r\n--")[0]
            or body
        )
        content = content[: content.rfind(b"}") + 1]
        self.files[name := f"file-{len(self.files)}"] = content
        return dict(
            id=name,
            object="file",
            bytes=len(content),
            created_at=0,
            filename="requests.jsonl",
            purpose="batch",
            status="processed",
        )

    def batch(self, asked):
        "A batch, answered at once and all but its last line."
        lines, out = (
            [json.loads(l) for l in self.files[asked["input_file_id"]].decode().splitlines()],
            [],
        )
        for line in lines[:-1] or lines:
            body, used, samples = self.reply(line["body"])
            self.books.write(
                prompt=line["body"]["messages"][-1]["content"],
                n=line["body"].get("n", 1),
                fault=None,
                billed=used,
                samples=samples,
                answered=True,
                counted=True,
                batch=True,
            )
            out.append(
                dict(
                    id=f"r{len(out)}",
                    custom_id=line["custom_id"],
                    response=dict(status_code=200, request_id="r", body=body),
                    error=None,
                )
            )
        self.files[result := f"file-{len(self.files)}"] = "\n".join(map(json.dumps, out)).encode()
        name = f"batch-{len(self.batches)}"
        self.batches[name] = dict(
            id=name,
            object="batch",
            endpoint=asked["endpoint"],
            input_file_id=asked["input_file_id"],
            completion_window="24h",
            created_at=0,
            metadata=asked.get("metadata"),
            status="completed",
            output_file_id=result,
            error_file_id=None,
        )
        return self.batches[name]


async def main(port, **settings):
    server = await (faults := FaultServer(**settings)).serve(port)
    print(faults.url, flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    options = argparse.ArgumentParser()
    for name, kind in dict(
        record=str, latency=float, faults=float, stall=float, seed=int, port=int
    ).items():
        options.add_argument(
            f"--{name}", type=kind, default=0 if name == "port" else argparse.SUPPRESS
        )
    for name in ("refuse_n", "echo"):
        options.add_argument(f"--{name}", action="store_true")
    try:
        asyncio.run(main(**vars(options.parse_args())))
    except KeyboardInterrupt:
        sys.exit(0)
