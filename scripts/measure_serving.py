#!/usr/bin/env python3
"""Measures how a server behaves under load and abuse: each command starts `planish serve` itself, on a free port of this machine.

    scripts/measure_serving.py PLANISH MODEL [ready|idle|overload|aborts|malformed|sigterm]…    (default: all)

Needs nothing but Python. The load and the server share the machine's cores, so that figures are those of both together.
COUNT=0.1 makes everything ten times smaller."""
import asyncio
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

SCALE = float(os.environ.get("COUNT", "1"))
HELLO = [{"role": "user", "content": "Tell me something about the sea."}]


class Server:
    """A running server; `seconds` is the time from start to ready."""

    def __init__(self, *flags):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.log = tempfile.TemporaryFile()
        command = [sys.argv[1], "serve", sys.argv[2], "--port", str(self.port), "--log-requests", "off", *flags]
        begin = time.monotonic()
        self.process = subprocess.Popen(command, stderr=self.log, stdout=subprocess.DEVNULL)
        while True:
            try:
                if b" 200 " in self.plain("/ready")[:20]:
                    break
            except OSError:
                pass
            if self.process.poll() is not None:
                self.log.seek(0)
                sys.exit(self.log.read().decode())
            time.sleep(0.002)
        self.seconds = time.monotonic() - begin

    def plain(self, path):
        """A request without anything around it."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as line:
            line.sendall(f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
            text = b""
            while part := line.recv(65536):
                text += part
            return text

    def metric(self, name):
        page = self.plain("/metrics").decode()
        return sum(float(value) for value in re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", page, re.M))

    def rss(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            return int(re.search(r"VmRSS:\s+(\d+)", status.read())[1]) / 1024

    def cpu(self):
        """CPU seconds so far."""
        fields = open(f"/proc/{self.process.pid}/stat").read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self):
        self.process.terminate()
        return self.process.wait(60)


def request(path, body, keep=False):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n"
    return (head + ("\r\n" if keep else "connection: close\r\n\r\n")).encode() + data


async def ask(port, data):
    """Status and whole answer, on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        text = await reader.read()
        return int(text[9:12] or 0), text
    finally:
        writer.close()


def completion(length, stream=False, n=1):
    ids = [random.randrange(1000, 9000) for _ in range(32)]
    return request("/v1/completions", {"prompt": ids, "max_tokens": length, "ignore_eos": True, "stream": stream, "n": n, "temperature": 0})


def ready():
    times = []
    for _ in range(10):
        server = Server("--log-level", "error")
        times.append(server.seconds)
        server.end()
    times.sort()
    print(f"ready: start to ready {times[0]:.3f} s at best, median {times[len(times) // 2]:.3f} s, of 10 (must: 1 s)")


def idle():
    server = Server()
    asyncio.run(ask(server.port, completion(8)))
    before, count = server.rss(), int(1000 * SCALE)
    lines = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(count)]
    for line in lines:
        # Each has asked something once, and stays.
        line.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert b"200" in line.recv(4096)
    after = server.rss()
    status, _ = asyncio.run(ask(server.port, completion(8)))
    print(f"idle: {count} connections that rest: {after - before:.1f} MiB more ({before:.0f} before); the next is answered {status} (must: 50 MB)")
    server.end()


async def closed_loop(port, streams, length, seconds):
    """Requests per second of so many callers, each asking again at once."""
    done, until = 0, time.monotonic() + seconds

    async def caller():
        nonlocal done
        while time.monotonic() < until:
            status, _ = await ask(port, completion(length))
            done += status == 200 and time.monotonic() < until

    await asyncio.gather(*(caller() for _ in range(streams)))
    return done / seconds


async def open_loop(port, rate, length, seconds):
    """Statuses of a Poisson stream, answers per second within its time, and the slowest refusal."""
    statuses, good, refusals, tasks = {}, 0, [], set()
    begin = time.monotonic()

    async def one():
        nonlocal good
        sent = time.monotonic()
        try:
            status, text = await ask(port, completion(length))
        except OSError as error:
            status, text = type(error).__name__, b""
        statuses[status] = statuses.get(status, 0) + 1
        good += status == 200 and time.monotonic() < begin + seconds
        if status == 429:
            assert b"retry-after: " in text
            refusals.append(time.monotonic() - sent)

    following = begin
    while following < begin + seconds:
        following += random.expovariate(rate)
        await asyncio.sleep(max(0, following - time.monotonic()))
        task = asyncio.create_task(one())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    refusals.sort()
    return statuses, good / seconds, refusals


def overload():
    length, seconds = 32, 60 * SCALE
    server = Server("--max-concurrent-requests", "64", "--max-batch", "32")
    best = {}
    for streams in (16, 32, 48):
        best[streams] = asyncio.run(closed_loop(server.port, streams, length, max(seconds / 3, 5)))
    peak = max(best.values())
    cpu = server.cpu()
    statuses, good, refusals = asyncio.run(open_loop(server.port, 10 * peak, length, seconds))
    cpu = server.cpu() - cpu
    again = asyncio.run(closed_loop(server.port, max(best, key=best.get), length, max(seconds / 3, 5)))
    shown = ", ".join(f"{streams}: {rate:.1f}" for streams, rate in best.items())
    print(f"overload: best load {peak:.2f} answers/s (by callers: {shown}), after it {again:.2f}")
    p = lambda q: refusals[int(q * (len(refusals) - 1))] * 1e3 if refusals else 0
    print(f"overload: {10 * peak:.0f} requests/s for {seconds:.0f} s: {statuses}; goodput {good:.2f} answers/s = {good / peak:.2f} of the best before,"
          f" {good / again:.2f} of that after (must: 0.90); refusals p50 {p(0.5):.1f} ms, p99 {p(0.99):.1f} ms; server's CPU {cpu / seconds:.2f} cores")
    server.end()


async def leave(server, phase, body):
    """Goes away in a phase of a request; the seconds until all pages are back and every place is free."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(body if phase != "sending" else body[: len(body) // 2])
    if phase == "reading":
        await asyncio.wait_for(reader.read(1), 5) if b'"stream": true' in body else await asyncio.sleep(0.15)
    else:
        await asyncio.sleep({"sending": 0.0, "queued": 0.0, "prefill": 0.01, "decode": 0.08}[phase])
    writer.transport.abort()
    left = time.monotonic()
    while True:
        page = server.plain("/metrics").decode()
        value = lambda name: float(re.search(rf"^{name}(?:\{{.*\}})? (\S+)$", page, re.M)[1])
        busy = value("planish_http_requests_inside") + value("planish_requests_running") + value("planish_requests_waiting")
        if busy == 0 and value("planish_pages_free") + value("planish_pages_cached") == value("planish_pages_total"):
            return time.monotonic() - left
        if time.monotonic() - left > 30:
            return float("inf")
        time.sleep(0.001)


def aborts():
    server, times, count = Server(), {}, int(1000 * SCALE)
    phases = ["sending", "queued", "prefill", "decode", "reading"]
    kinds = [(stream, n) for stream in (False, True) for n in (1, 4)]

    async def all_of_them():
        for number in range(count):
            phase, (stream, n) = phases[number % 5], kinds[number // 5 % 4]
            times.setdefault(phase, []).append(await leave(server, phase, completion(400, stream, n)))

    asyncio.run(all_of_them())
    every = sorted(sum(times.values(), []))
    late = sum(seconds > 0.2 for seconds in every)
    worst = ", ".join(f"{phase} {max(found) * 1e3:.0f}" for phase, found in times.items())
    print(f"aborts: {count}: pages back p50 {every[len(every) // 2] * 1e3:.1f} ms, p99 {every[int(len(every) * 0.99)] * 1e3:.1f} ms, later than 200 ms: {late}"
          f" (must: 0); slowest by phase in ms: {worst}")
    status, _ = asyncio.run(ask(server.port, completion(8)))
    print(f"aborts: the next request is answered {status}; exit {server.end()}")


def spoil(random_, good):
    """A body that was good, in one of many ways no more."""
    text = json.dumps(good).encode()
    kind = random_.randrange(8)
    at = random_.randrange(len(text))
    if kind == 0:
        return text[:at]
    if kind == 1:
        return text[:at] + bytes([random_.randrange(256)]) + text[at + 1 :]
    if kind == 2:
        return random_.randbytes(random_.randrange(200))
    if kind == 3:
        return b"[" * random_.randrange(1, 5000)
    field = random_.choice(list(good) + ["stop", "n", "logit_bias", "tools", "response_format", "stream_options", "seed", "top_logprobs"])
    odd = [None, -1, 0, 1e308, 2**63, 1.5, "x", "", [], {}, [[]], [None], {"a": 1}, True, "\ud83d", "9" * 50, [1, "a"], -(2**70)]
    value = random_.choice(odd)
    if kind == 4:
        return json.dumps({**good, field: value}).encode()
    if kind == 5:
        return text.replace(b'"', b"'", random_.randrange(1, 4))
    if kind == 6:
        return json.dumps([good]).encode() if random_.random() < 0.5 else json.dumps({k: v for k, v in good.items() if k != field}).encode()
    return json.dumps({**good, "messages": random_.choice(odd), "prompt": random_.choice(odd), field: random_.choice(odd)}).encode()


def malformed():
    # What turns out to be good after all gets a short answer.
    server, count, random_ = Server("--max-model-len", "64"), int(10000 * SCALE), random.Random(1)
    goods = {
        "/v1/chat/completions": {"messages": HELLO, "max_tokens": 1, "temperature": 0},
        "/v1/completions": {"prompt": "Hello", "max_tokens": 1},
        "/v1/responses": {"input": "Hello", "max_output_tokens": 1},
        "/v1/messages": {"messages": HELLO, "max_tokens": 1},
        "/tokenize": {"prompt": "Hello"},
        "/detokenize": {"tokens": [1, 2]},
    }
    statuses, wrong, slow = {}, 0, []

    async def all_of_them():
        nonlocal wrong
        for _ in range(count):
            path = random_.choice(list(goods))
            body = spoil(random_, goods[path])
            begin = time.monotonic()
            status, text = await ask(server.port, request(path, body))
            spent = time.monotonic() - begin
            statuses[status] = statuses.get(status, 0) + 1
            if status != 200:
                slow.append((spent, path, body[:80]))
                error = json.loads(text.split(b"\r\n\r\n", 1)[1])["error"]
                wrong += set(error) != {"message", "type", "param", "code"} or not error["message"]

    asyncio.run(all_of_them())
    slow.sort(key=lambda found: found[0])
    print(f"malformed: {count} bodies: {statuses}; errors of another shape: {wrong} (must: 0, no 5xx); slowest refusal {slow[-1][0] * 1e3:.1f} ms,"
          f" p99 {slow[int(len(slow) * 0.99)][0] * 1e3:.1f} ms (must: 50 ms)")
    server.end()


def sigterm():
    cut, exits, ends, slowest = 0, {}, {}, 0.0
    for number in range(max(1, int(50 * SCALE))):
        server = Server("--drain-timeout", "1" if number % 2 else "20")

        async def load():
            callers = [asyncio.create_task(ask(server.port, completion(random.choice([8, 64, 256]), stream=True))) for _ in range(24)]
            await asyncio.sleep(random.uniform(0.2, 1.0))
            server.process.send_signal(signal.SIGTERM)
            return await asyncio.gather(*callers, return_exceptions=True)

        begin = time.monotonic()
        for answer in asyncio.run(load()):
            if isinstance(answer, Exception):
                kind = "refused or reset before an answer" if isinstance(answer, OSError) else repr(answer)
            else:
                status, text = answer
                tail = text.rstrip(b"0\r\n")
                if status != 200:
                    kind = str(status)
                elif tail.endswith(b"data: [DONE]"):
                    kind = "complete"
                elif b'data: {"error"' in tail[-400:]:
                    kind = "told by an error event"
                else:
                    kind, cut = "cut", cut + 1
            ends[kind] = ends.get(kind, 0) + 1
        code = server.process.wait(60)
        exits[code] = exits.get(code, 0) + 1
        slowest = max(slowest, time.monotonic() - begin)
    print(f"sigterm: {sum(exits.values())} times under 24 streams: {ends}; cut without a word: {cut} (must: 0); exit codes {exits}; slowest end {slowest:.1f} s")


ALL = {"ready": ready, "idle": idle, "overload": overload, "aborts": aborts, "malformed": malformed, "sigterm": sigterm}
if __name__ == "__main__":
    if len(sys.argv) < 3 or not set(sys.argv[3:]) <= set(ALL):
        sys.exit(__doc__)
    for name in sys.argv[3:] or ALL:
        ALL[name]()
        sys.stdout.flush()
