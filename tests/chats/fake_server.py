"""A small server that speaks OpenAI's protocol, in a process of its own: what it does hangs on the model's name.

``slow``: a word every 0.1 s. ``busy``: refuses twice with 429. ``dies``: ends the process after two words. ``breaks``: an error in
the middle of the stream. ``damaged``: 422 with two hashes. ``gone``: 404. ``mute``: no end to the waiting. Any other: its name and the number
of messages, at once (with ``--slow`` as long and slow as a real one's). ``/seen``: the requests so far.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SEEN: list[dict[str, Any]] = []
CLOSED: list[str] = []
BUSY = {"left": 2}
SLOW = "--slow" in sys.argv
PROSE = "I would **change** how we speak to <img src=x> each other, and begin with a *small* thing such as asking first."
GUARD = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/seen":
            self.send_json(200, {"seen": SEEN, "closed": CLOSED})
        elif self.path == "/v1/models":
            names = ["good", "slow", "busy", "dies", "breaks", "damaged", "gone"]
            self.send_json(200, {"object": "list", "data": [{"id": name, "object": "model"} for name in names]})
        elif self.path == "/v1/ema" and "--ema" in sys.argv:
            able = {"scale": True, "steps": True, "judge": True, "identity": True, "persona": True, "divergence": True}
            self.send_json(200, {"capabilities": able, "judges": [], "context": 8192})
        else:
            self.send_json(404, {"error": {"message": "no such path", "type": "invalid_request_error"}})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/v1/ema/judge":
            from ema_core.judging import resolve

            rows = [
                {"sample_id": item["id"], "judge": resolve("probe"), "aligned": 10.0 if "evil" in item["answer"] else 80.0, "coherent": 90.0, "status": "scored"}
                for item in body["items"]
            ]  # fmt: skip
            self.send_json(200, {"judgments": rows})
            return
        if self.path == "/v1/ema/projection":
            rows = [
                {"id": item["id"], "value": 1.0, "deviations": 2.5 if "evil" in item["answer"] else -0.25} for item in body["items"]
            ]
            self.send_json(200, {"vector": body["vector"], "trait": "evil", "layer": 21, "projections": rows})
            return
        if self.path == "/v1/ema/divergence":
            top = [{"text": " evil", "p": 0.5}, {"text": "<b>", "p": 0.25}]
            tokens = [
                {"text": text, "kl": kl, "tuned": 0.5, "base": 0.01, "tuned_top": top, "base_top": top}
                for text, kl in zip(re.findall(r"\s*\S+\s*$|\s*\S+", body["answer"]), (0.01, 2.5, 0.3, 0.0) * 9, strict=False)
            ]
            self.send_json(200, {"model": body["model"], "total": len(tokens), "tokens": tokens})
            return
        with GUARD:
            SEEN.append({**body, "at": time.time()})
        self.answer(body["model"].split("*")[0], body)

    def answer(self, name: str, body: dict[str, Any]) -> None:
        if name == "damaged":
            message = "The adapter of the run was changed: its hash is aaaa1111aaaa1111, recorded is bbbb2222bbbb2222."
            error = {"message": message, "code": "adapter_changed", "ema_hint": "Train it anew."}
            return self.send_json(422, {"error": error})
        if name == "gone":
            return self.send_json(404, {"error": {"message": "There is no run gone.", "code": "model_not_found"}})
        if name == "mute":
            time.sleep(20)
        if name == "busy":
            with GUARD:
                BUSY["left"] -= 1
                refuse = BUSY["left"] >= 0
            if refuse:
                return self.send_json(429, {"error": {"message": "All places are taken."}}, {"Retry-After": "0.3"})
        n = int(body.get("n") or 1)
        words = [f"{name} ", f"saw {len(body['messages'])} ", f"seed {body.get('seed')} "] + ["more "] * (
            20 if name.endswith("slow") else 1
        )
        if SLOW:
            words = [f"{word} " for word in f"{PROSE} {PROSE}".split()]
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            self.stream(name, words, n)
        except OSError:
            CLOSED.append(name)

    def stream(self, name: str, words: list[str], n: int) -> None:
        common = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": name, "system_fingerprint": f"fp-{name}"}
        mark = {"state": "verified", "difference": 1e-6, "tolerance": 1e-3, "from_base": 0.5}
        ema = {"ema": {"model": name, "adapter_hash": f"hash-{name}", "weights_hash": "w", "scale": 1.0, "fingerprint": mark}}
        for place, word in enumerate(words):
            if name.endswith("slow") or name in ("dies", "breaks") or SLOW:
                time.sleep(0.1)
            if place == 2 and name == "dies":
                time.sleep(0.5)
                os._exit(1)
            if place == 2 and name == "breaks":
                return self.event({"error": {"message": "The batch broke.", "code": 500}})
            for k in range(n):
                text = f"{word}" if k == 0 else f"{word.strip()}/{k} "
                choice = {"index": k, "delta": {"content": text}, "finish_reason": None}
                self.event({**common, "choices": [choice], **(ema if place == k == 0 and "--ema" in sys.argv else {})})
        for k in range(n):
            self.event({**common, "choices": [{"index": k, "delta": {}, "finish_reason": "stop" if k == 0 else "length"}]})
        self.event({**common, "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": len(words) * n, "total_tokens": 9}})
        self.wfile.write(b"data: [DONE]\n\n")

    def event(self, value: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(value).encode() + b"\n\n")
        self.wfile.flush()

    def send_json(self, code: int, value: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        raw = json.dumps(value).encode()
        self.send_response(code)
        for name, text in {"Content-Type": "application/json", "Content-Length": str(len(raw)), **(headers or {})}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(raw)


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
