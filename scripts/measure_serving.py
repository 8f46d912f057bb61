#!/usr/bin/env python3
"""Measures how a server behaves under load and abuse: each part starts `planish serve` itself, on a free port of this machine.

    scripts/measure_serving.py PLANISH MODEL [ready|idle|lag|throughput|overload|aborts|malformed|sigterm]…    (default: all, 7 minutes)

Needs nothing but Python. The load and the server share the machine's cores, so that figures are those of both together. Ends with a
table for docs/performance.md. COUNT=0.1 makes everything ten times smaller."""
import atexit
import gc
import json
import math
import os
import random
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time

SCALE = float(os.environ.get("COUNT", "1"))
# Of runs of the engine alone and over HTTP: processes differ by some percent from one another, whatever they run.
PAIRS = int(os.environ.get("PAIRS", "8"))
# Seconds between two looks of an open loop.
LOOK = 0.005
HELLO = [{"role": "user", "content": "Tell me something about the sea."}]
# Of the table: what, must, aim, found, how.
rows = []
# A cache for 64 sequences of this length, in place of the longest that the model can: gigabytes whose memory a server touches for the first
# time, page after page, in its first minutes. That is slower than what follows, so that two loads one after the other would not compare.
SMALL_CACHE = ["--max-model-len", "288"]


def tell(what, must, aim, found, how):
    """A row of the table, and at once a line for whoever waits."""
    rows.append((what, must, aim, found, f"{how}; load {os.getloadavg()[0]:.1f}"))
    print(f"{what}: {found} (must: {must}, aim: {aim}); {rows[-1][-1]}", flush=True)


class Server:
    """A running server; `seconds` is the time from start to ready."""

    def __init__(self, *flags):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.log = tempfile.TemporaryFile()
        command = [sys.argv[1], "serve", sys.argv[2], "--port", str(self.port), "--log-requests", "off", *flags]
        begin = time.monotonic()
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=self.log, stdout=subprocess.DEVNULL)
        atexit.register(self.process.kill)
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
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as line:
            line.sendall(f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
            text = b""
            while part := line.recv(65536):
                text += part
            return text

    def ask(self, data):
        """Status and whole answer of one request."""
        crowd, found = Crowd(self.port), []
        crowd.send(data, lambda *answer: found.append(answer))
        while not found:
            crowd.turn(60)
        crowd.close()
        return found[0]

    def rss(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            return int(re.search(r"VmRSS:\s+(\d+)", status.read())[1]) / 1024

    def cpu(self, name=""):
        """CPU seconds so far of the threads whose names begin so."""
        total = 0
        for task in os.listdir(f"/proc/{self.process.pid}/task"):
            try:
                comm, fields = open(f"/proc/{self.process.pid}/task/{task}/stat").read().rsplit(")", 1)
            except OSError:
                continue
            if comm.split("(", 1)[1].startswith(name):
                total += int(fields.split()[11]) + int(fields.split()[12])
        return total / os.sysconf("SC_CLK_TCK")

    def end(self):
        self.process.terminate()
        return self.process.wait(120)


def request(path, body, keep=False):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n"
    return (head + ("\r\n" if keep else "connection: close\r\n\r\n")).encode() + data


def completion(length, stream=False, n=1, keep=False):
    ids = [random.randrange(1000, 9000) for _ in range(32)]
    body = {"prompt": ids, "max_tokens": length, "ignore_eos": True, "stream": stream, "n": n, "temperature": 0}
    return request("/v1/completions", body, keep)


class Caller:
    """One request on its connection; `done` hears status (0 for none) and answer."""

    def __init__(self, line, done):
        self.line, self.done, self.text, self.size, self.closes = line, done, bytearray(), None, False

    def is_whole(self):
        """Whether the answer has come to its end."""
        if self.size is None:
            at = self.text.find(b"\r\n\r\n")
            if at < 0:
                return False
            head = bytes(self.text[:at])
            self.closes = b"connection: close" in head
            found = re.search(rb"content-length: (\d+)", head)
            self.size = at + 4 + int(found[1]) if found else 0
        return len(self.text) >= self.size if self.size else self.text.endswith(b"\r\n0\r\n\r\n")


class Crowd:
    """Any number of callers in one loop. Connections are used again where both sides allow it: callers cost little beside the server."""

    def __init__(self, port):
        self.port, self.poll, self.busy, self.idle = port, select.epoll(), {}, {}

    def send(self, data, done):
        """Sends a request."""
        if self.idle:
            fd, line = self.idle.popitem()
        else:
            line = socket.create_connection(("127.0.0.1", self.port))
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            fd = line.fileno()
            self.poll.register(fd, select.EPOLLIN)
        self.busy[fd] = Caller(line, done)
        try:
            line.sendall(data)
        except OSError:
            pass  # What the server said before is read, and then the end.

    def turn(self, seconds):
        """Reads what has come, or waits for it so long at most."""
        for fd, _ in self.poll.poll(seconds):
            line = self.idle.get(fd) or self.busy[fd].line
            try:
                part = line.recv(1 << 18)
            except OSError:
                part = b""
            if fd not in self.busy:
                self.drop(fd, line)
                continue
            caller = self.busy[fd]
            caller.text += part
            if not part:
                self.drop(fd, line)
            elif not caller.is_whole():
                continue
            elif caller.closes:
                self.drop(fd, line)
            else:
                del self.busy[fd]
                self.idle[fd] = line
            caller.done(int(caller.text[9:12] or 0), bytes(caller.text))

    def drop(self, fd, line):
        self.busy.pop(fd, None)
        self.idle.pop(fd, None)
        self.poll.unregister(fd)
        line.close()

    def close(self):
        for fd, line in [*self.idle.items(), *((fd, caller.line) for fd, caller in self.busy.items())]:
            self.drop(fd, line)
        self.poll.close()


def ready():
    times = []
    for _ in range(10):
        server = Server("--log-level", "error")
        times.append(server.seconds)
        server.end()
    times.sort()
    tell("start to ready, warm page cache", "1 s", "0.3 s", f"{times[5]:.2f} s", f"median of 10, {times[0]:.2f} to {times[-1]:.2f}")


def idle():
    server, count = Server(), int(1000 * SCALE)
    server.ask(completion(8))
    before = server.rss()
    lines = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(count)]
    for line in lines:
        # Each has asked something once, and stays.
        line.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert b"200" in line.recv(4096)
    after = server.rss()
    status, _ = server.ask(completion(8))
    found = f"{(after - before) * 1.048576:.1f} MB"
    tell(f"{count:,} idle connections that have each asked once: extra memory", "50 MB", "20 MB", found, f"the next request: {status}")
    server.end()


def lags(page):
    """`planish_http_lag_seconds`: for each bound in ms, how many tokens waited no longer."""
    return {float(bound) * 1e3: int(count) for bound, count in re.findall(r'^planish_http_lag_seconds_bucket\{le="(\S+)"\} (\d+)$', page, re.M)}


def difference(after, before):
    """What was counted between."""
    return {bound: count - before[bound] for bound, count in after.items()}


def metric(page, name):
    """One number of `/metrics`."""
    return float(re.search(rf"^{name}(?:\{{.*\}})? (\S+)$", page, re.M)[1])


def median(values):
    values = sorted(values)
    return (values[(len(values) - 1) // 2] + values[len(values) // 2]) / 2


def percentile(counts, q):
    """A percentile of such counts, as Prometheus works it out."""
    rank, low, under = counts[float("inf")] * q / 100, 0.0, 0
    for bound, count in counts.items():
        if count >= rank:
            return low + (bound - low) * (rank - under) / max(count - under, 1)
        low, under = bound, count


def lag():
    """What the HTTP layer adds to each token, with few and with many streams."""
    for together, requests in ((1, 10), (8, 48), (32, 128)):
        server = Server()
        server.ask(completion(8))
        before = lags(server.plain("/metrics").decode())
        made, rate, _ = streams(server.port, [128] * max(together, int(requests * SCALE)), together)
        counts = difference(lags(server.plain("/metrics").decode()), before)
        within = ", ".join(f"{100 * counts[bound] / counts[math.inf]:.1f} % within {bound:g} ms" for bound in (0.5, 1, 2, 3, 5, 10))
        found = ", ".join(f"p{q} {percentile(counts, q):.2f} ms" for q in (50, 99, 99.9))
        tell(f"added latency of the HTTP layer per streamed token, {together} streams", "p99 3 ms", "0.5 ms", found, f"{within}; {made} tokens, {rate:.0f}/s")
        server.end()


def streams(port, lengths, together):
    """Tokens of streamed answers, tokens per second and CPU seconds of the callers: so many at once, in this order, the next asked when
    one ends."""
    crowd, made = Crowd(port), 0
    # Made before the clock runs; the last is asked first.
    waiting = [stream_of(length) for length in reversed(lengths)]

    def ended(status, text):
        nonlocal made
        assert status == 200 and b"data: [DONE]" in text[-40:], text[-400:]
        made += int(re.findall(rb'"completion_tokens":(\d+)', text)[-1])
        if waiting:
            crowd.send(waiting.pop(), ended)

    begin, cpu = time.monotonic(), time.process_time()
    for _ in range(together):
        crowd.send(waiting.pop(), ended)
    while crowd.busy:
        crowd.turn(60)
    crowd.close()
    return made, made / (time.monotonic() - begin), time.process_time() - cpu


def stream_of(length):
    """128 random tokens, and an answer of so many, streamed."""
    body = {"prompt": [random.randrange(100, 40000) for _ in range(128)], "max_tokens": length, "ignore_eos": True, "temperature": 0}
    return request("/v1/completions", {**body, "stream": True, "stream_options": {"include_usage": True}}, keep=True)


def as_bench_sends(items, seed=42):
    """The order in which `planish bench` sends a list of lengths: SplitMix64 and Fisher-Yates, as there. Another order ends with another
    number of steps that are not full."""
    items, state, most = list(items), seed, 2**64 - 1
    for last in range(len(items) - 1, 0, -1):
        state = state + 0x9E3779B97F4A7C15 & most
        z = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & most
        z = (z ^ z >> 27) * 0x94D049BB133111EB & most
        other = (z ^ z >> 31) % (last + 1)
        items[last], items[other] = items[other], items[last]
    return items


def throughput():
    """The engine alone, then over HTTP, and again: the same lengths in the same order, in closed loops of 32, with the same cache."""
    lengths = [random.Random(number).randrange(64, 161) for number in range(max(32, int(96 * SCALE)))]

    def bench(*words):
        ran = subprocess.run([sys.argv[1], "bench", *words, "--json", "--concurrency", "32"], stdin=subprocess.DEVNULL, capture_output=True, check=True)
        return json.loads(ran.stdout)

    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.writelines(f"128:{length}\n" for length in lengths)
        file.flush()
        load = ["--lengths", file.name, "--num-prompts", str(len(lengths))]
        found = []
        for pair in range(PAIRS):
            alone, server = bench("throughput", sys.argv[2], *load, *SMALL_CACHE), Server(*SMALL_CACHE)
            server.ask(completion(8))  # To warm up, as the engine's own benchmark does.
            page, http = server.plain("/metrics").decode(), server.cpu("planish-http")
            made, rate, callers = streams(server.port, as_bench_sends(lengths), 32)
            http, after = server.cpu("planish-http") - http, server.plain("/metrics").decode()
            waited = percentile(difference(lags(after), lags(page)), 99)
            # Three times will do.
            threads = bench("serve", f"http://127.0.0.1:{server.port}", *load)["output_tokens_per_s"] if pair < 3 else None
            server.end()
            steps = (alone["steps"], metric(after, "planish_steps_total") - metric(page, "planish_steps_total"))
            assert made == alone["completion_tokens"] == sum(lengths)
            found.append((alone["output_tokens_per_s"], rate, threads, http / made * 1e6, callers / made * 1e6, waited, steps))
            print(f"  {rate:.0f} against {alone['output_tokens_per_s']:.0f} tokens/s, {steps[1]:.0f} against {steps[0]} steps", flush=True)
    alone, rates, threads, http, callers, waited, steps = zip(*found)
    shown = ", ".join(f"{rate:.0f} against {one:.0f}" for one, rate in zip(alone, rates))
    what = "output tokens/s over HTTP at 32 streams against the engine alone"
    tell(what, "0.93x", "0.99x", f"{median([rate / one for one, rate in zip(alone, rates)]):.3f}x", f"median of {PAIRS} pairs, the client on the same cores: {shown}; steps {median([b for _, b in steps]):.0f} against {median([a for a, _ in steps]):.0f}")
    tell(f"{what}, client `planish bench serve` (a thread for each request, on the same cores)", "–", "–", f"{median([rate / one for one, rate in zip(alone, threads) if rate]):.3f}x", "median of 3, on the server that has just had the load above: it touches no memory for the first time")
    tell("added latency of the HTTP layer per streamed token, p99", "3 ms", "0.5 ms", f"{median(waited):.2f} ms", f"at that load, `planish_http_lag_seconds`, median of {PAIRS}")
    tell("CPU time of the HTTP threads per streamed token", "–", "–", f"{median(http):.0f} µs", f"at that load, with its system calls; of the client {median(callers):.0f} µs")


def closed_loop(port, streams, length, seconds):
    """Answers per second of so many callers, each asking again at once."""
    crowd, done, until = Crowd(port), 0, time.monotonic() + seconds

    def ended(status, _):
        nonlocal done
        if time.monotonic() < until:
            done += status == 200
            crowd.send(completion(length, keep=True), ended)

    for _ in range(streams):
        crowd.send(completion(length, keep=True), ended)
    while crowd.busy:
        crowd.turn(1)
    crowd.close()
    return done / seconds


def open_loop(port, rate, length, seconds):
    """Statuses of a Poisson stream, answers per second within its time, how long refusals took, and how many cores the callers."""
    crowd, statuses, good, refusals = Crowd(port), {}, 0, []
    # Made before the clock runs, for they cost more than sending them.
    ready = [completion(length, keep=True) for _ in range(int(1.1 * rate * seconds))]
    begin, cpu = time.monotonic(), time.process_time()

    def ended(sent):
        def note(status, text):
            nonlocal good
            now = time.monotonic()
            statuses[status] = statuses.get(status, 0) + 1
            good += status == 200 and now < begin + seconds
            if status == 429:
                assert b"retry-after: " in text
                refusals.append(now - sent)

        return note

    following = begin
    while (now := time.monotonic()) < begin + seconds or crowd.busy:
        # Whoever comes within some milliseconds comes together, and looks for its answer so often: the loop is to cost little, for each
        # time that it runs it takes a core from the engine, whose other thread then waits.
        while now < begin + seconds and following <= now:
            crowd.send(ready.pop() if ready else completion(length, keep=True), ended(now))
            following += random.expovariate(rate)
        time.sleep(LOOK)
        crowd.turn(0)
    crowd.close()
    refusals.sort()
    return statuses, good / seconds, refusals, (time.process_time() - cpu) / (time.monotonic() - begin)


def overload():
    length, seconds = 32, 60 * SCALE
    server = Server("--max-concurrent-requests", "64", "--max-batch", "32", *SMALL_CACHE)
    best = {streams: closed_loop(server.port, streams, length, max(seconds / 6, 5)) for streams in (16, 32, 48)}
    peak = max(best.values())
    cpu = server.cpu("planish-http")
    statuses, good, refusals, callers = open_loop(server.port, 10 * peak, length, seconds)
    cpu = (server.cpu("planish-http") - cpu) / seconds
    again = closed_loop(server.port, max(best, key=best.get), length, max(seconds / 6, 5))
    p = lambda q: refusals[int(q * (len(refusals) - 1))] * 1e3 if refusals else 0
    others = sum(count for status, count in statuses.items() if status not in (200, 429))
    what, how = f"10x overload for {seconds:.0f} s", f"{10 * peak:.0f} requests/s, {statuses}"
    tell(f"{what}: answers other than 200 and 429", "0", "0", str(others), f"{how}; refusals p50 {p(0.5):.1f} ms, p99 {p(0.99):.1f} ms, looked for every {LOOK * 1e3:.0f} ms")
    shown = ", ".join(f"{streams} callers {rate:.1f}" for streams, rate in best.items())
    share = good / max(peak, again)
    tell(f"{what}: goodput against the best load", "90 %", "98 %", f"{100 * share:.1f} %", f"{good:.1f} answers/s against {shown}, after it {again:.1f}; HTTP threads {cpu:.2f} cores, callers {callers:.2f}")
    server.end()


def leave(server, phase, body):
    """Goes away in a phase of a request; the seconds until all pages are back and every place is free."""
    line = socket.create_connection(("127.0.0.1", server.port))
    line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    line.sendall(body if phase != "sending" else body[: len(body) // 2])
    if phase == "reading" and b'"stream": true' in body:
        line.settimeout(60)
        line.recv(1)
    else:
        time.sleep({"sending": 0.0, "queued": 0.0, "prefill": 0.01, "decode": 0.08, "reading": 0.15}[phase])
    line.close()
    left = time.monotonic()
    while True:
        page = server.plain("/metrics").decode()
        value = lambda name: metric(page, name)
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
    for number in range(count):
        phase, (stream, n) = phases[number % 5], kinds[number // 5 % 4]
        times.setdefault(phase, []).append(leave(server, phase, completion(400, stream, n)))
    every = sorted(sum(times.values(), []))
    late, later = (sum(seconds > limit for seconds in every) for limit in (0.2, 0.05))
    worst = ", ".join(f"{phase} {max(found) * 1e3:.0f}" for phase, found in times.items())
    status, _ = server.ask(completion(8))
    found = f"{count - late:,} within 200 ms, {count - later:,} within 50 ms"
    how = f"p50 {every[len(every) // 2] * 1e3:.1f} ms, p99 {every[int(len(every) * 0.99)] * 1e3:.1f} ms; slowest by phase in ms: {worst}; the next request: {status}"
    tell(f"{count:,} client aborts over all phases: pages back", "all within 200 ms", "50 ms", found, how)
    assert server.end() == 0


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
    # What is measured is the server: no pauses of our own.
    gc.disable()
    for _ in range(count):
        path = random_.choice(list(goods))
        body = spoil(random_, goods[path])
        data, begin = request(path, body), time.monotonic()
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as line:
            line.sendall(data)
            text = b""
            while part := line.recv(65536):
                text += part
        spent, status = time.monotonic() - begin, int(text[9:12] or 0)
        statuses[status] = statuses.get(status, 0) + 1
        if status != 200:
            slow.append((spent, path, body[:60]))
            error = json.loads(text.split(b"\r\n\r\n", 1)[1])["error"]
            wrong += set(error) != {"message", "type", "param", "code"} or not error["message"]
    gc.enable()
    slow.sort(key=lambda found: found[0])
    fives = sum(found for status, found in statuses.items() if not 200 <= status < 500)
    ranks = ", ".join(f"p{q} {slow[int(len(slow) * q / 100)][0] * 1e3:.1f} ms" for q in (50, 99))
    found = f"{fives}; {wrong}; {slow[-1][0] * 1e3:.1f} ms"
    tell(f"{count:,} malformed bodies: 5xx; wrong error shape; slowest", "0; 0; 50 ms", "–", found, f"{statuses}, {ranks}, the slowest {slow[-1][1]} {slow[-1][2]}")
    server.end()


def fate(status, text):
    """What became of a stream."""
    tail = text.rstrip(b"0\r\n")
    if status != 200:
        return str(status) if status else "refused or reset before an answer"
    if tail.endswith(b"data: [DONE]"):
        return "complete"
    return "told by an error event" if b'data: {"error"' in tail[-400:] else "cut"


def sigterm():
    exits, ends, slowest = {}, {}, 0.0
    for number in range(max(1, int(50 * SCALE))):
        server = Server("--drain-timeout", "0.5" if number % 2 else "20")
        crowd, begin = Crowd(server.port), time.monotonic()

        def ended(status, text):
            ends[fate(status, text)] = ends.get(fate(status, text), 0) + 1

        for _ in range(24):
            crowd.send(completion(random.choice([8, 32, 128]), stream=True), ended)
        until = begin + random.uniform(0.1, 0.8)
        while time.monotonic() < until:
            crowd.turn(0.01)
        server.process.send_signal(signal.SIGTERM)
        while crowd.busy:
            crowd.turn(1)
        crowd.close()
        code = server.process.wait(60)
        exits[code] = exits.get(code, 0) + 1
        slowest = max(slowest, time.monotonic() - begin)
    tell(f"SIGTERM under load, {sum(exits.values())} times: streams cut without an error event", "0", "0", str(ends.get("cut", 0)), f"24 streams each: {ends}; exit codes {exits}; slowest end {slowest:.1f} s")


ALL = {"ready": ready, "idle": idle, "lag": lag, "throughput": throughput, "overload": overload, "aborts": aborts, "malformed": malformed, "sigterm": sigterm}
if __name__ == "__main__":
    if len(sys.argv) < 3 or not set(sys.argv[3:]) <= set(ALL):
        sys.exit(__doc__)
    start = time.monotonic()
    for name in sys.argv[3:] or ALL:
        ALL[name]()
    print(f"\n{time.monotonic() - start:.0f} s in all\n\n| figure | must | aim | measured | how |\n|---|---|---|---|---|")
    for row in rows:
        print("| " + " | ".join(row) + " |")
