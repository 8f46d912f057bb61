"""Two servers behind nginx with deploy/nginx.conf: conversations stay with their server, streams are not collected, and a
server that drains takes nobody's answer with it. Starts and stops servers and nginx itself: PLANISH names the program,
PLANISH_TINY a model, ROOM a folder for logs."""
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

os.environ.setdefault("PLANISH_URL", "unused")
from run_checks import run

HERE = Path(__file__).resolve().parent.parent.parent
ROOM = Path(os.environ["ROOM"])


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ask(port, body, session=None, path="/v1/completions"):
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    headers = {"content-type": "application/json", **({"x-session-id": session} if session else {})}
    line.request("POST" if body else "GET", path, json.dumps(body) if body else None, headers)
    answer = line.getresponse()
    return answer.status, answer.read().decode()


def accepted(port):
    page = ask(port, None, path="/metrics")[1]
    return float(re.search(r"^planish_requests_accepted_total\{.*\} (\S+)$", page, re.M)[1])


class Farm:
    """Two servers and a balancer."""

    def __enter__(self):
        self.ports = [free_port(), free_port()]
        self.front = free_port()
        flags = ["--device", "cpu", "--threads", "1", "--log-level", "error"]
        program = [os.environ["PLANISH"], "serve", os.environ["PLANISH_TINY"], *flags, "--port"]
        self.servers = [subprocess.Popen([*program, str(port)]) for port in self.ports]
        text = (HERE / "deploy/nginx.conf").read_text()
        for theirs, ours in zip((23333, 23334, 8080), (*self.ports, self.front)):
            text = text.replace(f"127.0.0.1:{theirs}", f"127.0.0.1:{ours}")
        (ROOM / "planish.conf").write_text(text)
        temp = " ".join(f"{kind}_temp_path {ROOM}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        (ROOM / "nginx.conf").write_text(
            f"daemon off; pid {ROOM}/nginx.pid; error_log {ROOM}/nginx.log; worker_processes 1; events {{ worker_connections 1024; }}\n"
            f"http {{ access_log off; {temp} include {ROOM}/planish.conf; }}\n"
        )
        self.nginx = subprocess.Popen(["nginx", "-c", str(ROOM / "nginx.conf")], stderr=subprocess.DEVNULL)
        for port in (*self.ports, self.front):
            for _ in range(3000):
                try:
                    if ask(port, None, path="/ready")[0] == 200:
                        break
                except OSError:
                    pass
                time.sleep(0.1)
            else:
                raise AssertionError(f"nothing answers on {port}")
        return self

    def __exit__(self, *_):
        for process in (*self.servers, self.nginx):
            process.terminate()
            process.wait(300)


def check_conversations_stay_and_spread():
    with Farm() as farm:
        body = {"prompt": "p" * 100, "max_tokens": 1}
        homes = set()
        for session in range(16):
            before = [accepted(port) for port in farm.ports]
            for _ in range(3):
                assert ask(farm.front, body, f"session-{session}")[0] == 200
            # A server shows its numbers after the step in which it answered.
            for _ in range(1000):
                gained = [accepted(port) - count for port, count in zip(farm.ports, before)]
                if sum(gained) == 3:
                    break
                time.sleep(0.01)
            assert sorted(gained) == [0, 3], gained
            homes.add(gained.index(3))
        assert homes == {0, 1}, "all sessions went to one server"
        assert ask(farm.front, None, path="/metrics")[0] == 404


def check_tokens_come_as_they_are_made():
    with Farm() as farm:
        line = http.client.HTTPConnection("127.0.0.1", farm.front, timeout=600)
        body = {"prompt": "x", "max_tokens": 700, "ignore_eos": True, "stream": True}
        line.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
        answer = line.getresponse()
        first = answer.read1()
        assert b"data: " in first and b"[DONE]" not in first, "the stream was collected"
        assert answer.read().endswith(b"data: [DONE]\n\n")


def check_nobody_notices_a_server_that_drains():
    with Farm() as farm:
        found, over = [], threading.Event()

        def talk(session):
            while not over.is_set():
                stream = {"prompt": "Hello", "max_tokens": 60, "ignore_eos": True, "stream": True}
                status, text = ask(farm.front, stream, f"s{session}")
                found.append((status, text.endswith("data: [DONE]\n\n")))

        talkers = [threading.Thread(target=talk, args=(n,)) for n in range(8)]
        [talker.start() for talker in talkers]
        time.sleep(1)
        farm.servers[0].send_signal(signal.SIGTERM)
        assert farm.servers[0].wait(300) == 0
        time.sleep(1)
        over.set()
        [talker.join() for talker in talkers]
        assert len(found) > 20 and set(found) == {(200, True)}, {each: found.count(each) for each in set(found)}


run(sys.modules["__main__"])
