"""A model behind a completions endpoint is measured and searched as the same model is here; the server is local."""

from __future__ import annotations

import math
import string
import traceback
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from conftest import character_tokenizer, tiny_model
from endpoint_server import CompletionsServer, serving
from transformers import ByT5Tokenizer

from hf_exposure import CanaryTemplate, Digits, Endpoint, draw_canaries, extract, log_perplexity, measure_exposure
from hf_exposure.errors import EndpointError, InputError, NonFiniteScoreError, RowInputError
from hf_exposure.extraction import build_automaton
from hf_exposure.runtime.processes import SINGLE_PROCESS
from hf_exposure.scoring import CausalScorer, EndpointScorer, PathQuery, make_scorer
from hf_exposure.testing import brute_force_bits, check_scorer, check_search

MODEL, TOKENIZER = tiny_model("gpt2"), ByT5Tokenizer()
DIALECTS = ["prompt_logprobs", "echo"]
TEXTS = ["pin 123", "pin 129", "pin 5", "pin one"]
SECRET = "pin 281265017"


@pytest.fixture
def server() -> Iterator[CompletionsServer]:
    with serving(MODEL, TOKENIZER) as one:
        yield one


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The client's waiting times between tries, without waiting."""
    seconds: list[float] = []
    monkeypatch.setattr("hf_exposure.scoring.endpoint.time.sleep", seconds.append)
    return seconds


def connected(server: CompletionsServer, **settings: Any) -> EndpointScorer:
    scorer = EndpointScorer(Endpoint(server.url, **settings), TOKENIZER)
    server.seen.clear()
    return scorer


def prompts(server: CompletionsServer) -> int:
    return sum(len(one["prompt"]) if isinstance(one["prompt"][0], list) else 1 for one in server.seen)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_it_satisfies_the_laws_of_a_scorer(server: CompletionsServer, dialect: str) -> None:
    server.dialects = {dialect}
    scorer = connected(server)
    assert scorer.mode == f"endpoint, {dialect}"
    check_scorer(scorer, TEXTS)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_search_is_brute_force(server: CompletionsServer, dialect: str) -> None:
    server.dialects = {dialect}
    scorer, template = connected(server), CanaryTemplate("pin {pin}", pin=Digits(1))
    texts = [f"pin {digit}" for digit in range(10)]
    costs = [brute_force_bits(MODEL, ids, first_scored=1) for ids in scorer.encode(texts).ids]
    np.testing.assert_allclose(log_perplexity(scorer.endpoint, TOKENIZER, texts), costs, atol=1e-4)
    check_search(scorer, build_automaton(template, scorer.encoder), texts, costs)


def test_a_measurement_is_that_of_the_model_here(server: CompletionsServer) -> None:
    endpoint = Endpoint(server.url, "tiny")
    canaries = draw_canaries(CanaryTemplate("pin {pin}", pin=Digits(2)), {1: 2}, controls=2, seed=0)
    for method in ("bounded", "importance", "sample"):
        options: dict[str, Any] = {} if method == "bounded" else {"references": 32}
        there, here = (measure_exposure(one, TOKENIZER, canaries, method, **options) for one in (endpoint, MODEL))
        for one, other in zip(there.estimates, here.estimates, strict=True):
            assert one.exposure_bits == pytest.approx(other.exposure_bits, abs=1e-4), method
            assert (one.method, one.bound) == (other.method, other.bound)
    assert there.model["name"] == f"tiny at {server.url}" and there.run.weights_sha256 is None
    assert any("its weights were not checked" in note for note in there.notes)


def test_the_likeliest_text_is_found_there(server: CompletionsServer) -> None:
    template = CanaryTemplate("pin {pin}", pin=Digits(2))
    there, here = (extract(one, TOKENIZER, template, top_k=3) for one in (Endpoint(server.url), MODEL))
    assert there.certified and [one.text for one in there.candidates] == [one.text for one in here.candidates]


def test_alternatives_spare_prompts(server: CompletionsServer) -> None:
    prefix, children = [ord(letter) + 3 for letter in "pin "], np.arange(10) + ord("0") + 3
    query, counts = PathQuery((), 0, children), []
    # All tokens of the vocabulary, some of them, one alone.
    server.most_alternatives = 384
    scorer = connected(server)
    own = CausalScorer(MODEL, TOKENIZER).path_bits(prefix, [query])[0].children_bits
    for scorer.endpoint.alternatives in (384, 150, 1):
        server.seen.clear()
        found = scorer.path_bits(prefix, [query])[0].children_bits
        np.testing.assert_allclose(found, own, atol=1e-4)
        counts.append(prompts(server))
    assert counts[0] == 1 and counts[2] == 10 and 1 < counts[1] < 10


def test_a_server_that_allows_fewer_alternatives_is_asked_for_one(server: CompletionsServer) -> None:
    server.most_alternatives = 5
    scorer = connected(server)
    assert scorer.endpoint.alternatives == 1
    check_scorer(scorer, TEXTS)


@pytest.mark.parametrize("strict", [False, True])
def test_no_log_probabilities_of_a_prompt(server: CompletionsServer, strict: bool) -> None:
    server.dialects, server.strict = set(), strict
    with pytest.raises(EndpointError, match="must return the log-probabilities of a prompt's tokens") as caught:
        log_perplexity(Endpoint(server.url), TOKENIZER, [SECRET])
    assert ("unknown field prompt_logprobs" if strict else "the answer has no log-probabilities") in str(caught.value)
    assert "and more" not in str(caught.value) and "vLLM" in str(caught.value)


def test_the_tokenizer_must_be_that_of_the_server(server: CompletionsServer) -> None:
    other = character_tokenizer(string.printable)
    endpoint = Endpoint(server.url)
    for tokenizer in (other, other, TOKENIZER, other):  # whatever was known before
        if tokenizer is TOKENIZER:
            EndpointScorer(endpoint, tokenizer)
            continue
        with pytest.raises(EndpointError, match="tokenizer of the served model"):
            EndpointScorer(endpoint, tokenizer)


def test_no_proxy_is_used_between_programs_of_one_machine(
    server: CompletionsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    assert log_perplexity(Endpoint(server.url), TOKENIZER, [SECRET]).shape == (1,)


def test_which_model(server: CompletionsServer) -> None:
    server.names = ["one", "two"]
    with pytest.raises(InputError, match="must be named"):
        log_perplexity(Endpoint(server.url), TOKENIZER, [SECRET])
    with pytest.raises(InputError, match="It serves"):
        log_perplexity(Endpoint(server.url, "three"), TOKENIZER, [SECRET])
    assert log_perplexity(Endpoint(server.url, "two"), TOKENIZER, [SECRET]).shape == (1,)
    server.names = []  # if a server lists no models, the caller's name is used
    assert log_perplexity(Endpoint(server.url, "two"), TOKENIZER, [SECRET]).shape == (1,)


def test_a_busy_server_is_asked_again(server: CompletionsServer, waits: list[float]) -> None:
    scorer = connected(server)
    server.failures = [(429, {"Retry-After": "7"}), (503, {}), (500, {"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"})]
    expected = CausalScorer(MODEL, TOKENIZER)
    found = scorer.sequence_bits(scorer.encode([SECRET]))
    np.testing.assert_allclose(found, expected.sequence_bits(expected.encode([SECRET])), atol=1e-4)
    assert waits == [7.0, 1.0, 2.0]


def test_it_gives_up(server: CompletionsServer, waits: list[float]) -> None:
    scorer = connected(server, retries=2)
    server.failures = [(503, {"Retry-After": "1e9"})] * 3
    with pytest.raises(EndpointError, match=r"no answer in 3 tries \(status 503\)"):
        scorer.sequence_bits(scorer.encode([SECRET]))
    assert waits == [60.0, 60.0] and len(server.seen) == 3


def test_silence(server: CompletionsServer, waits: list[float]) -> None:
    scorer = connected(server, timeout_seconds=0.2, retries=1)
    server.failures = [None, None]
    with pytest.raises(EndpointError, match=r"no answer in 2 tries \(nothing was received in time\)"):
        scorer.sequence_bits(scorer.encode([SECRET]))
    server.failures = [None]
    assert scorer.sequence_bits(scorer.encode([SECRET])).shape == (1,)


def test_nobody_there(waits: list[float]) -> None:
    with pytest.raises(EndpointError, match=r"no answer in one try \(Connection refused\)"):
        log_perplexity(Endpoint("http://127.0.0.1:9/v1", retries=0), TOKENIZER, [SECRET])


def test_a_refusal_is_not_repeated_and_quotes_nothing(server: CompletionsServer, waits: list[float]) -> None:
    scorer = connected(server)
    server.failures = [(400, {})]
    with pytest.raises(EndpointError, match=r"refused a request \(status 400\)") as caught:
        scorer.sequence_bits(scorer.encode([SECRET]))
    assert waits == [] and "try later" not in str(caught.value) and SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda answer: b"<html>", "not a JSON object"),
        (lambda answer: [answer], "not a JSON object"),
        (lambda answer: {"choices": answer["choices"][1:]}, "answered 0 of 1 prompts"),
        (lambda answer: {"choices": [{"index": 0, "prompt_logprobs": None}]}, "not those of the"),
        (lambda answer: {"choices": [{"index": 0, "prompt_logprobs": [None]}]}, "not those of the"),
        (
            lambda answer: {"choices": [{"prompt_logprobs": [None, *[{"5": {"logprob": "x"}}] * 14]}]},
            "not those of the",
        ),
    ],
)
def test_answers_to_nothing_that_was_asked(server: CompletionsServer, spoil: Any, message: str) -> None:
    scorer = connected(server)
    server.changed = spoil
    with pytest.raises(EndpointError, match=message) as caught:
        scorer.sequence_bits(scorer.encode([SECRET]))
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_probabilities_of_zero_and_nan(server: CompletionsServer) -> None:
    scorer = connected(server)
    for figure, expected in ((-math.inf, math.inf), (-9999.0, math.inf), (1e-9, 0.0)):

        def changed(answer: Any, figure: float = figure) -> Any:
            for choice in answer["choices"]:
                for place in choice["prompt_logprobs"][1:]:
                    for one in place.values():
                        one["logprob"] = figure
            return answer

        server.changed = changed
        assert scorer.sequence_bits(scorer.encode([SECRET])) == [expected]
    server.changed = lambda answer: changed(answer, math.nan)
    with pytest.raises(NonFiniteScoreError, match="127.0.0.1"):
        scorer.sequence_bits(scorer.encode([SECRET]))


def test_texts_longer_than_the_context_are_not_sent(server: CompletionsServer) -> None:
    server.max_model_len = 32
    scorer = connected(server)
    with pytest.raises(RowInputError, match="context of 31 tokens"):
        scorer.sequence_bits(scorer.encode(["pin 1", "x" * 32]))
    assert not server.seen
    assert scorer.sequence_bits(scorer.encode(["x" * 31])).shape == (1,)


def test_alone_is_a_separate_request(server: CompletionsServer) -> None:
    scorer = connected(server, prompts_per_request=3)
    encoded = scorer.encode(TEXTS)
    scorer.sequence_bits(encoded)
    assert [len(one["prompt"]) for one in server.seen] == [3, len(TEXTS[-1])]  # the last one is a prompt, not a list
    server.seen.clear()
    scorer.alone_bits(encoded)
    assert len(server.seen) == 4
    server.seen.clear()
    assert not scorer.lost_trust
    scorer.distrust_batches()
    scorer.sequence_bits(encoded)
    assert len(server.seen) == 4 and scorer.lost_trust


def test_noise_of_the_server_is_its_tolerance(server: CompletionsServer) -> None:
    def noisy(answer: Any) -> Any:
        for choice in answer["choices"]:
            shift = 0.01 * len(answer["choices"])  # more prompts in a request make each token less likely
            for place in choice["prompt_logprobs"][1:]:
                for one in place.values():
                    one["logprob"] -= shift
        return answer

    server.changed = noisy
    # A request has seven more texts than one alone, and 23 tokens of the longest probe are scored.
    assert connected(server).tolerance_bits == pytest.approx(4 * 0.07 / math.log(2) * 23, rel=0.01)


def test_the_key_comes_from_the_environment(
    server: CompletionsServer, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.key = "Bearer sk-very-secret"
    endpoint = Endpoint(server.url, key_variable="MY_KEY")
    with pytest.raises(InputError, match="export MY_KEY="):
        log_perplexity(endpoint, TOKENIZER, [SECRET])
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    assert log_perplexity(endpoint, TOKENIZER, [SECRET]).shape == (1,)
    assert set(server.keys) == {"Bearer sk-very-secret"}
    server.key = "Bearer another"
    errors = []
    for one in (endpoint, Endpoint(server.url, key_variable="MY_KEY"), Endpoint(server.url)):
        with pytest.raises(EndpointError, match="status 401") as caught:
            log_perplexity(one, TOKENIZER, [SECRET])
        errors.append("".join(traceback.format_exception(caught.value)))
    assert "its key was refused" in errors[1] and "it requires a key" in errors[2]
    assert not any("sk-very" in text for text in [*errors, repr(endpoint), str(vars(endpoint))])


def test_a_redirect_is_not_followed(server: CompletionsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = connected(server)
    server.failures = [(302, {"Location": f"{server.url}/completions"})]
    with pytest.raises(EndpointError, match="redirects"):
        scorer.sequence_bits(scorer.encode([SECRET]))
    assert len(server.seen) == 1


NO_URLS = ["127.0.0.1:8000", "ftp://host/v1", "sk-a-key", "http://", "http://host:0/v1", "http://a b", ""]


@pytest.mark.parametrize("url", NO_URLS)
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(InputError, match="must begin with http") as caught:
        Endpoint(url)
    assert "sk-a-key" not in str(caught.value)


def test_what_does_not_go_with_an_endpoint(server: CompletionsServer) -> None:
    for url in ("https://me:word@host/v1", "https://host/v1?key=word"):
        with pytest.raises(InputError, match="neither a user or password nor a query") as caught:
            Endpoint(url)
        assert "word@" not in str(caught.value) and "=word" not in str(caught.value)
    with pytest.raises(InputError, match="must begin with https"):
        Endpoint("http://example.com/v1", key_variable="MY_KEY")
    for name, value in (("prompts_per_request", 0), ("alternatives", -1), ("timeout_seconds", 0), ("retries", 1.5)):
        with pytest.raises(InputError, match=name):
            Endpoint(server.url, **{name: value})
    endpoint = Endpoint(server.url)
    for name, setting in (("source", "x"), ("max_batch_tokens", 10)):
        with pytest.raises(InputError, match=f"{name}: does not go with an endpoint"):
            make_scorer(endpoint, TOKENIZER, **{name: setting})
    two = type("Two", (type(SINGLE_PROCESS),), {"count": 2})
    with pytest.raises(InputError, match="from one process"):
        make_scorer(endpoint, TOKENIZER, processes=two.__new__(two))
    assert not server.seen
