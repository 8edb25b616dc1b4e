"""A local completions server for a tiny model, with the faults that a test asks for."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch


class CompletionsServer(ThreadingHTTPServer):
    """Serves `model`; each request is answered from a plain forward pass of one prompt.

    Attributes:
        dialects: which of "prompt_logprobs" and "echo" it understands; it ignores the others.
        strict: refuses what it does not understand with status 400, and a message.
        most_alternatives: a request for more of them is refused.
        key: what the Authorization header must be, if anything.
        refusal: the error message in the answers of `failures`.
        failures: answers of the next requests: a status, with the headers that come with it; None is silence.
        seen: bodies of all requests for completions; `keys` their Authorization headers.
        changed: a function that spoils an answer.
    """

    daemon_threads = True

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.model, self.tokenizer = model.eval(), tokenizer
        self.dialects: set[str] = {"prompt_logprobs"}
        self.strict, self.most_alternatives, self.names, self.max_model_len = False, 20, ["tiny"], None
        self.key: str | None = None
        self.refusal = "try later"
        self.failures: list[tuple[int, dict[str, str]] | None] = []
        self.seen: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.changed: Any = lambda answer: answer
        self.silence = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def log_probabilities(self, ids: list[int]) -> torch.Tensor:
        with torch.no_grad():
            return torch.log_softmax(self.model(input_ids=torch.tensor([ids])).logits[0].double(), dim=-1)


@contextmanager
def serving(model: Any, tokenizer: Any) -> Iterator[CompletionsServer]:
    server = CompletionsServer(model, tokenizer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.silence.set()
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)


class _Handler(BaseHTTPRequestHandler):
    server: CompletionsServer
    timeout = 20

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        if not self._allowed():
            return
        length = {} if self.server.max_model_len is None else {"max_model_len": self.server.max_model_len}
        self._answer(200, {"data": [{"id": name, **length} for name in self.server.names]})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.keys.append(self.headers.get("Authorization"))
        if not self._allowed():
            return
        self.server.seen.append(request)
        if self.server.failures:
            failure = self.server.failures.pop(0)
            if failure is None:
                self.server.silence.wait(10)
                return
            self._answer(failure[0], {"error": {"message": self.server.refusal}}, failure[1])
            return
        dialects = {"prompt_logprobs", "echo"}
        unknown = sorted(dialects & set(request) - self.server.dialects)
        if self.server.strict and unknown:
            self._answer(400, {"error": {"message": f"unknown field {unknown[0]}\nand more"}})
            return
        if request.get("prompt_logprobs", 0) > self.server.most_alternatives:
            self._answer(400, {"error": {"message": f"at most {self.server.most_alternatives} log-probabilities"}})
            return
        prompt = request["prompt"]
        if isinstance(prompt, str):
            prompts = [self.server.tokenizer(prompt)["input_ids"]]
        else:
            prompts = [prompt] if isinstance(prompt[0], int) else prompt
        choices = [self._choice(index, ids, request) for index, ids in enumerate(prompts)]
        self._answer(200, self.server.changed({"choices": choices[::-1]}))  # in any order

    def _allowed(self) -> bool:
        if self.server.key is not None and self.headers.get("Authorization") != self.server.key:
            self._answer(401, {"error": {"message": "who are you"}})
            return False
        return True

    def _choice(self, index: int, ids: list[int], request: dict[str, Any]) -> dict[str, Any]:
        figures = self.server.log_probabilities(ids)
        own = [None, *(float(figures[at - 1, ids[at]]) for at in range(1, len(ids)))]
        choice: dict[str, Any] = {"index": index, "text": "?"}
        if "prompt_logprobs" in self.server.dialects and "prompt_logprobs" in request:
            places: list[Any] = [None]
            for at in range(1, len(ids)):
                top = figures[at - 1].topk(request["prompt_logprobs"])
                named = {ids[at]: own[at], **dict(zip(top.indices.tolist(), top.values.tolist(), strict=True))}
                places.append({str(token): {"logprob": max(value, -9999.0)} for token, value in named.items()})
            choice["prompt_logprobs"] = places
        if "echo" in self.server.dialects and request.get("echo"):
            choice["logprobs"] = {"token_logprobs": [*own, -1.0], "tokens": ["?"] * (len(ids) + 1)}
        elif "logprobs" in request:
            choice["logprobs"] = {"token_logprobs": [-1.0], "tokens": ["?"]}
        return choice

    def _answer(self, status: int, values: Any, headers: dict[str, str] | None = None) -> None:
        body = values if isinstance(values, bytes) else json.dumps(values).encode()
        try:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:  # the client has given up
            pass
