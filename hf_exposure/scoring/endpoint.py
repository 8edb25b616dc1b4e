"""A model behind an OpenAI-compatible completions endpoint, which gets token ids and returns the bits of those tokens.

The log-probabilities of tokens that the caller chooses are needed, so an endpoint that only returns those of its own
output cannot be used. Servers have two dialects for this. vLLM's `prompt_logprobs` returns the log-probability of each
token of the prompt by its id, with the likeliest alternatives at its position. The older `echo` with `logprobs` is
only used for the token's own log-probability, since it names alternatives by text, and several tokens may have the
same text. `Endpoint.connect` finds out which dialect a server has.

A prompt is often secret, so no error quotes a prompt or the server's message about it, but only the status. The
exception are the first requests, whose texts are harmless.

Shapes: L tokens of a prompt.
"""

from __future__ import annotations

import http.client
import json
import math
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

import numpy as np
from torch import nn

from hf_exposure.checks import encodable_text, real_number, whole_number
from hf_exposure.errors import EndpointError, InputError, NonFiniteScoreError, first_line
from hf_exposure.limits import LARGEST_ANSWER_BYTES

Dialect = Literal["prompt_logprobs", "echo"]

_LONGEST_WAIT_S, _FIRST_WAIT_S = 60.0, 0.5
_TOO_BUSY = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
# vLLM's value for a probability of 0, for which JSON has no number.
_IMPOSSIBLE = -9999.0
_LONGEST_REASON, _LONGEST_URL = 200, 2000


@dataclass(frozen=True)
class PromptBits:
    """The results of an endpoint for one prompt of L tokens.

    Attributes:
        bits_L: `-log2 p` of each token given those before it; NaN for the first, which is not predicted.
        alternatives: for each position, the bits of the tokens that the answer lists there, by id; may be empty.
    """

    bits_L: np.ndarray
    alternatives: tuple[Mapping[int, float], ...]


class _Answer(NamedTuple):
    status: int
    body: bytes
    retry_after: str


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refuses redirects, which would send the key and the secrets to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Endpoint(nn.Module):
    """A model behind an HTTP API, instead of one that is loaded here.

    `log_perplexity`, `measure_exposure`, `extract` and `rank_bounds` accept it as their model, with the tokenizer of
    the served model. It has no weights here, so it can be measured but not trained. Canaries are sent to the server:
    use one that may see them.

    Args:
        url: the URL of the API, up to `/v1`, without user, password or query; requests are sent to `url/completions`.
        model: the name of the model on the server; by default the only model that it serves.
        key_variable: the name of the environment variable with the key; by default no key is sent. A key is only sent
            over https, or to this machine.
        prompts_per_request: the maximum number of prompts in one request; 1 for servers that accept only one.
        alternatives: the maximum number of likeliest tokens requested at each position, which save requests of a
            search. A server that allows fewer is asked for one.
        timeout_seconds: the time without a byte from the server after which a request has failed.
        retries: how often a request is repeated after a temporary failure: no connection, no response in time, or
            status 408, 409, 425, 429 and 500 to 504. Waiting times double from 0.5 s, or follow `Retry-After`, up to a
            minute.

    Attributes:
        dialect: the dialect of the server; None before the first use.
        longest: the maximum number of tokens in a prompt, if the server gives it (`max_model_len`).
        requests: the number of answered requests.

    Raises:
        InputError: the URL is invalid or contains a password, or a number is out of range.

    Example:
        >>> Endpoint("http://127.0.0.1:8000/v1", "my-model")     # measure_exposure(endpoint, tokenizer, canaries)
        Endpoint('http://127.0.0.1:8000/v1', 'my-model')
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        *,
        key_variable: str | None = None,
        prompts_per_request: int = 64,
        alternatives: int = 20,
        timeout_seconds: float = 120.0,
        retries: int = 4,
    ) -> None:
        super().__init__()
        self.url = _checked_url(url)
        self.served_name = None if model is None else encodable_text("model", model)
        self.key_variable = None if key_variable is None else encodable_text("key_variable", key_variable)
        host = urlsplit(self.url).hostname
        if key_variable is not None and not (self.url.startswith("https://") or host in _THIS_MACHINE):
            rule = "must begin with https:// if a key is sent"
            raise InputError("url", rule, self.url, "Use https, or leave key_variable out.")
        self.prompts_per_request = whole_number("prompts_per_request", prompts_per_request, 1, 4096)
        self.alternatives = whole_number("alternatives", alternatives, 1, 1000)
        rule = "must be above 0 and at most 3600"
        self.timeout_seconds = real_number(
            "timeout_seconds", timeout_seconds, rule, "Leave it out.", above=0, at_most=3600
        )
        self.retries = whole_number("retries", retries, 0, 20)
        self.dialect: Dialect | None = None
        self.longest: int | None = None
        self.requests = 0
        # For the description of the model in a report (`describe_model`).
        self.config = SimpleNamespace(_name_or_path=self._name)
        # Requests to this machine do not use a proxy.
        direct = [urllib.request.ProxyHandler({})] if host in _THIS_MACHINE else []
        self._opener = urllib.request.build_opener(_NoRedirect, *direct)

    def __repr__(self) -> str:
        return f"Endpoint({self.url!r}, {self.served_name!r})"

    @property
    def _name(self) -> str:
        return f"{self.served_name or 'the model served'} at {self.url}"

    def connect(self, text: str, ids: Sequence[int]) -> None:
        """Finds out which model is served and in which dialect, and checks that the server has the caller's tokenizer.

        Args:
            text: a harmless text.
            ids: its tokens, including special ones, by the caller's tokenizer.

        Raises:
            EndpointError: there is no such model, neither dialect returns log-probabilities of the prompt, or the
                server has other tokens for the text than `ids`.
        """
        if self.dialect is None:
            self._find_model()
            self._find_dialect(ids)
        self._check_tokenizer(text, ids)

    def _find_dialect(self, ids: Sequence[int]) -> None:
        tried: list[str] = []
        most = self.alternatives
        asked: list[tuple[Dialect, int]] = [("prompt_logprobs", most), ("prompt_logprobs", 1), ("echo", 1)]
        for dialect, alternatives in asked:
            answer = self._post(self._request(list(ids), dialect, alternatives))
            if answer.status == 200:
                choices = _choices(answer, 1)
                if _has_figures(choices[0], dialect):
                    _read(choices[0], ids, dialect)
                    self.dialect, self.alternatives = dialect, alternatives
                    return
                tried.append(f"{dialect}: the answer has no log-probabilities of the prompt")
            elif answer.status in (400, 404, 405, 415, 422, 501):
                tried.append(f"{dialect}: {_why(answer)}")
            else:
                raise self._refused(answer, _why(answer))
        raise EndpointError(
            f"{self._name} must return the log-probabilities of a prompt's tokens, but does not "
            f"({'; '.join(dict.fromkeys(tried))}). Serve the model with vLLM, or load it with from_pretrained."
        )

    def forward(
        self, prompts: Sequence[Sequence[int]] = (), *, alternatives: bool = False, **inputs: Any
    ) -> list[PromptBits]:
        """The bits of each prompt's tokens, by one request.

        Args:
            prompts: token ids, at least one each; at most `prompts_per_request` prompts.
            alternatives: whether to request the likeliest tokens at each position too.
            **inputs: none; code that passes inputs needs a model that is loaded here.

        Raises:
            InputError: it was called like a model that is loaded here.
            EndpointError: there was no response after all tries, its status was not 200, or it does not match the
                request.
            NonFiniteScoreError: a log-probability is NaN.
        """
        if inputs:
            rule = "must be loaded here for all but log-perplexities, exposure and search"
            raise InputError("model", rule, repr(self), "Load it with AutoModelForCausalLM.from_pretrained(...).")
        assert self.dialect is not None, "connect comes first"
        prompt = list(prompts[0]) if len(prompts) == 1 else [list(ids) for ids in prompts]
        answer = self._post(self._request(prompt, self.dialect, self.alternatives if alternatives else 1))
        if answer.status != 200:
            raise self._refused(answer, f"status {answer.status}")
        choices = _choices(answer, len(prompts))
        found = [_read(choice, ids, self.dialect) for choice, ids in zip(choices, prompts, strict=True)]
        if any(np.isnan(one.bits_L[1:]).any() for one in found):
            raise NonFiniteScoreError(where=f"at {self.url}")
        self.requests += 1
        return found

    def _request(self, prompt: str | list[Any], dialect: Dialect, alternatives: int) -> dict[str, Any]:
        # The server generates one token that is ignored, since some servers refuse 0.
        request: dict[str, Any] = {"model": self.served_name, "prompt": prompt, "max_tokens": 1, "temperature": 1.0}
        if dialect == "prompt_logprobs":
            return {**request, "prompt_logprobs": alternatives}
        return {**request, "echo": True, "logprobs": alternatives}

    def _find_model(self) -> None:
        """Gets the model's name and its longest prompt from the server's list; for a server without a list, the
        name must be given.
        """
        answer = self._send("models", None)
        served: list[Mapping[str, Any]] = []
        if answer.status == 200:
            listed = _json(answer).get("data")
            served = [one for one in listed if isinstance(one, Mapping)] if isinstance(listed, list) else []
        elif answer.status in (401, 403):
            raise self._refused(answer, _why(answer))
        names = [str(one.get("id")) for one in served]
        if self.served_name is None:
            if len(names) != 1:
                rule = "must be named unless the server has exactly one model"
                raise InputError("model", rule, names[:10], "Write Endpoint(url, 'name of the model').")
            self.served_name = names[0]
            self.config._name_or_path = self._name
        elif names and self.served_name not in names:
            rule = f"must be one that {self.url} serves"
            raise InputError("model", rule, self.served_name, f"It serves {names[:10]}.")
        longest = next((one.get("max_model_len") for one in served if one.get("id") == self.served_name), None)
        if isinstance(longest, int) and longest > 1:
            self.longest = longest - 1  # room for the token that is ignored

    def _check_tokenizer(self, text: str, ids: Sequence[int]) -> None:
        """Checks that the text gets the same tokens and figures as its ids."""
        assert self.dialect is not None
        answer = self._post(self._request(text, self.dialect, 1))
        if answer.status != 200:
            raise self._refused(answer, _why(answer))
        (own,) = self([ids])
        try:
            its = _read(_choices(answer, 1)[0], ids, self.dialect)
            same = np.allclose(its.bits_L[1:], own.bits_L[1:], rtol=0.01, atol=0.5)
        except EndpointError:
            same = False
        if not same:
            raise EndpointError(
                f"{self._name} encodes a text as other tokens than the given tokenizer does. Pass the tokenizer of "
                "the served model."
            )

    def _post(self, request: Mapping[str, Any]) -> _Answer:
        return self._send("completions", json.dumps(request).encode())

    def _send(self, path: str, body: bytes | None) -> _Answer:
        """The response to one request, whatever its status; temporary failures are retried."""
        headers = {"Content-Type": "application/json", "Accept": "application/json", **self._authorization()}
        request = urllib.request.Request(f"{self.url}/{path}", data=body, headers=headers)
        for tried in range(self.retries + 1):
            answer, failure = None, ""
            try:
                answer = self._once(request)
            except (
                OSError,
                http.client.HTTPException,
            ) as error:  # a refused connection, a timeout, or an incomplete response
                failure = _kind_of(error)
            if answer is not None and answer.status not in _TOO_BUSY:
                return answer
            if tried < self.retries:
                time.sleep(_wait_s(tried, answer))
        tries = f"{self.retries + 1} tries" if self.retries else "one try"
        why = failure or f"status {answer.status}" if answer is not None else failure
        raise EndpointError(
            f"{self.url} gave no answer in {tries} ({why}). Check that the server runs, or raise timeout_seconds= "
            "or retries=."
        )

    def _once(self, request: urllib.request.Request) -> _Answer:
        try:
            response = self._opener.open(request, timeout=self.timeout_seconds)
        except urllib.error.HTTPError as refused:  # this is a response too
            response = refused
        with response:
            body = response.read(LARGEST_ANSWER_BYTES + 1)
            if len(body) > LARGEST_ANSWER_BYTES:
                raise EndpointError(
                    f"{self.url} answered with more than {LARGEST_ANSWER_BYTES} bytes. Lower prompts_per_request="
                    f"{self.prompts_per_request} or alternatives={self.alternatives}."
                )
            return _Answer(int(response.status or 0), body, str(response.headers.get("Retry-After", "")))

    def _authorization(self) -> dict[str, str]:
        if self.key_variable is None:
            return {}
        key = os.environ.get(self.key_variable, "")
        if not key or not key.isascii() or any(character.isspace() for character in key):
            rule = "must name an environment variable that contains a key"
            raise InputError("key_variable", rule, self.key_variable, f"Type: export {self.key_variable}=...")
        return {"Authorization": f"Bearer {key}"}

    def _refused(self, answer: _Answer, why: str) -> EndpointError:
        if answer.status in (401, 403):
            has_key = "its key was refused" if self.key_variable else "it requires a key"
            return EndpointError(
                f"{self.url}: {has_key} (status {answer.status}). Put the key into an environment variable and write "
                "key_variable='ITS_NAME'."
            )
        if 300 <= answer.status < 400:
            return EndpointError(f"{self.url} redirects (status {answer.status}). Write the URL that it redirects to.")
        remedy = "Texts may be longer than its context, or prompts_per_request= larger than it accepts."
        return EndpointError(f"{self._name} refused a request ({why}). {remedy}")


_THIS_MACHINE = frozenset({"localhost", "127.0.0.1", "::1"})


def _checked_url(url: str) -> str:
    text = encodable_text("url", url).rstrip("/")
    remedy = "Write one such as http://127.0.0.1:8000/v1."
    try:
        parts = urlsplit(text)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        is_url = False
    # An invalid URL may be a key that was given by mistake, so it is not shown.
    if not is_url or len(text) > _LONGEST_URL or any(character.isspace() for character in text):
        rule = "must begin with http:// or https://, and name a host"
        raise InputError("url", rule, f"{len(text)} characters", remedy)
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        rule = "must contain neither a user or password nor a query"
        remedy = "Put a key into an environment variable, and name it: key_variable=."
        raise InputError("url", rule, f"a URL of {parts.hostname}", remedy)
    return text


def _wait_s(tried: int, answer: _Answer | None) -> float:
    try:
        wanted = float(answer.retry_after) if answer is not None else math.nan
    except ValueError:  # absent, or a date
        wanted = math.nan
    return min(wanted if wanted >= 0 else _FIRST_WAIT_S * 2**tried, _LONGEST_WAIT_S)


def _kind_of(error: BaseException) -> str:
    reason = getattr(error, "reason", None)
    inner = reason if isinstance(reason, BaseException) else error
    if isinstance(inner, TimeoutError):
        return "nothing was received in time"
    return getattr(inner, "strerror", None) or type(inner).__name__


def _why(answer: _Answer) -> str:
    """The server's own message, for the first requests only."""
    try:
        values = json.loads(answer.body)
        said = values.get("error", values)
        said = said.get("message", said.get("detail", "")) if isinstance(said, Mapping) else said
    except (ValueError, AttributeError):
        said = ""
    words = first_line(ValueError(said)) if isinstance(said, str) and said.strip() else ""
    return f"status {answer.status}{': ' + words[:_LONGEST_REASON] if words else ''}"


def _json(answer: _Answer) -> Mapping[str, Any]:
    try:
        values = json.loads(answer.body)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, Mapping):
        raise EndpointError("the endpoint's answer is not a JSON object. Write a URL that ends before /completions.")
    return values


def _choices(answer: _Answer, prompts: int) -> list[Mapping[str, Any]]:
    """One choice for each prompt, in the order of the prompts."""
    listed = _json(answer).get("choices")
    choices = [one for one in listed if isinstance(one, Mapping)] if isinstance(listed, list) else []
    by_index = {one.get("index", place): one for place, one in enumerate(choices)}
    if len(choices) != prompts or set(by_index) != set(range(prompts)):
        raise EndpointError(
            f"the endpoint answered {len(choices)} of {prompts} prompts. If it accepts only one at a time, write "
            "prompts_per_request=1."
        )
    return [by_index[row] for row in range(prompts)]


def _has_figures(choice: Mapping[str, Any], dialect: Dialect) -> bool:
    if dialect == "prompt_logprobs":
        return isinstance(choice.get("prompt_logprobs"), list)
    logprobs = choice.get("logprobs")
    figures = logprobs.get("token_logprobs") if isinstance(logprobs, Mapping) else None
    # Without echo there is only the figure of the generated token.
    return isinstance(figures, list) and len(figures) > 1


def _read(choice: Mapping[str, Any], ids: Sequence[int], dialect: Dialect) -> PromptBits:
    """The figures of a prompt's tokens; those after them belong to the generated text."""
    try:
        if dialect == "echo":
            figures = choice["logprobs"]["token_logprobs"]
            if not len(ids) <= len(figures) <= len(ids) + 1:
                raise ValueError("other tokens")
            bits = [math.nan, *(_bits(figure) for figure in figures[1 : len(ids)])]
            return PromptBits(np.array(bits), ({},) * len(ids))
        places = choice["prompt_logprobs"]
        if len(places) != len(ids):
            raise ValueError("other tokens")
        alternatives: list[Mapping[int, float]] = [{}]
        alternatives += [{int(token): _bits(one["logprob"]) for token, one in place.items()} for place in places[1:]]
        bits = [math.nan, *(at[token] for at, token in zip(alternatives[1:], ids[1:], strict=True))]
        return PromptBits(np.array(bits), tuple(alternatives))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise EndpointError(
            f"the endpoint's {dialect} are not those of the {len(ids)} tokens that were sent. Pass the tokenizer of "
            "the served model."
        ) from None


def _bits(log_probability: object) -> float:
    if isinstance(log_probability, bool) or not isinstance(log_probability, (int, float)):
        raise TypeError("no number")
    if log_probability <= _IMPOSSIBLE:
        return math.inf
    # Rounding may give a certain token slightly more than certainty.
    return max(0.0, -log_probability / math.log(2.0)) if not math.isnan(log_probability) else math.nan
