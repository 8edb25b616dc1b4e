"""What the processes of a job must have in common to measure together, as short values that give no secret away."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from hf_exposure.canaries import CanarySet
from hf_exposure.measures.settings import MeasureSettings
from hf_exposure.scoring import EncodedTexts

REMEDIES = {
    "": "Pass the same value on every process.",
    "canaries": (
        "Draw the canaries by the same call on every process, or draw once, save the set, and load it everywhere."
    ),
    "tokenizer": "Load the same tokenizer, with the same tokens added, on every process.",
    "encoded ids": "Load the same tokenizer, and the same version of transformers, on every process.",
}


def in_common(
    canaries: CanarySet,
    settings: MeasureSettings,
    tokenizer: Any,
    encoded: Iterable[EncodedTexts],
    others: Mapping[str, object],
) -> dict[str, object]:
    """Values by name: equal on two processes where these measure the same texts in the same way.

    Whatever canaries could be guessed from is hashed with the set's salt. The settings are compared one by one, so
    that an error can name the one that differs.

    Args:
        canaries, settings, tokenizer: of the measurement.
        encoded: the canaries with what they are compared with, as far as it is encoded yet.
        others: values that are no settings.
    """

    def digest(*parts: bytes) -> str:
        found = hashlib.sha256(canaries.salt.encode())
        for part in parts:
            found.update(hashlib.sha256(part).digest())
        return found.hexdigest()[:16]

    ids = [canary.id.encode() for canary in canaries]
    matrices = [part for one in encoded for part in (one.matrix_NL.tobytes(), repr(one.matrix_NL.shape).encode())]
    texts = {name: digest(repr(value).encode()) for name, value in asdict(settings).items() if _is_text(name)}
    plain = {name: value for name, value in asdict(settings).items() if not _is_text(name)}
    return {
        "canaries": digest(canaries.manifest_hash.encode(), *ids),
        **plain,
        **texts,
        **others,
        "tokenizer": digest(_tokenizer_state(tokenizer)),
        "encoded ids": digest(*matrices),
    }


def _is_text(name: str) -> bool:
    return name in ("source", "context")


def _tokenizer_state(tokenizer: Any) -> bytes:
    """All that the encoding of a text depends on, as far as the tokenizer can say it.

    Truncation and padding are left out: a fast tokenizer keeps those of its last call, which a process whose dataset
    came from a cache has not made.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        state = json.loads(backend.to_str())
        return json.dumps({**state, "truncation": None, "padding": None}, sort_keys=True).encode()
    vocabulary = tokenizer.get_vocab() if hasattr(tokenizer, "get_vocab") else {}
    special = getattr(tokenizer, "special_tokens_map", {})
    return repr((type(tokenizer).__name__, sorted(vocabulary.items()), sorted(special.items(), key=str))).encode()
