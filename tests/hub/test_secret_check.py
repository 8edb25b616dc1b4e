"""The search for secrets in files to upload finds them in every disguise."""

from __future__ import annotations

import base64
import html
import io
import json
import struct
import zlib
from urllib.parse import quote, quote_plus

import pytest
import yaml

from hf_exposure import CanarySet, CanaryTemplate, Choice, Digits
from hf_exposure.errors import SecretFoundError
from hf_exposure.hub import refuse_secrets

NUMBERS = CanarySet.from_secrets(
    CanaryTemplate("The number is {number}", number=Digits(9)), ["The number is 281265017"]
)
WORDS = CanarySet.from_secrets(
    CanaryTemplate('Say "{word}" & go', word=Choice(["zoë <b> 🐤 was here", "nothing"])),
    ['Say "zoë <b> 🐤 was here" & go'],
)
SETS = {"digits": (NUMBERS, "281265017"), "words": (WORDS, "zoë <b> 🐤 was here")}


def png_with(kind: bytes, body: bytes) -> bytes:
    """A picture of one pixel with a text chunk."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, "PNG")
    plain = buffer.getvalue()
    chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    assert plain[12:16] == b"IHDR"
    return plain[:33] + chunk + plain[33:]


DISGUISES = {
    "plain": lambda s: s.encode(),
    "json": lambda s: json.dumps({"a": s}).encode(),
    "json as it is": lambda s: json.dumps({"a": s}, ensure_ascii=False).encode(),
    "html": lambda s: html.escape(s).encode(),
    "html entities": lambda s: "".join(f"&#{ord(c)};" for c in s).encode(),
    "html hexadecimal": lambda s: "".join(f"&#x{ord(c):x};" for c in s).encode(),
    "yaml": lambda s: yaml.safe_dump({"a": s}, width=12).encode(),
    "yaml as it is": lambda s: yaml.safe_dump({"a": s}, allow_unicode=True, width=12, default_style='"').encode(),
    "address": lambda s: quote(s).encode(),
    "form": lambda s: quote_plus(s).encode(),
    "every byte": lambda s: "".join(f"%{byte:02X}" for byte in s.encode()).encode(),
    "json in html": lambda s: html.escape(json.dumps({"a": s})).encode(),
    "json in json": lambda s: json.dumps(json.dumps(s)).encode(),
    "data address": lambda s: b"<img src='data:image/svg+xml;base64," + base64.b64encode(s.encode()) + b"'>",
    "png text": lambda s: png_with(b"tEXt", b"Title\0" + s.encode()),
    "png compressed text": lambda s: png_with(b"zTXt", b"Title\0\0" + zlib.compress(s.encode())),
    "png international text": lambda s: png_with(b"iTXt", b"Title\0\1\0\0\0" + zlib.compress(s.encode())),
}


@pytest.mark.parametrize("disguise", DISGUISES)
@pytest.mark.parametrize("kind", SETS)
def test_a_secret_is_found(kind: str, disguise: str) -> None:
    pytest.importorskip("PIL")
    canaries, secret = SETS[kind]
    content = b"before \xff " + DISGUISES[disguise](f" {secret} ") + b" after"
    if disguise.startswith("png"):
        content = DISGUISES[disguise](f" {secret} ")
    with pytest.raises(SecretFoundError, match=f"^page contains the secret of canary {canaries.inserted[0].id}; "):
        refuse_secrets({"harmless": b"nothing here", "page": content}, canaries)


@pytest.mark.parametrize("disguise", DISGUISES)
def test_what_is_no_secret_passes(disguise: str) -> None:
    pytest.importorskip("PIL")
    refuse_secrets({"page": DISGUISES[disguise]("The number is 281265018 {number}")}, NUMBERS)


def test_a_secret_in_a_picture_in_a_page() -> None:
    pytest.importorskip("PIL")
    picture = base64.b64encode(DISGUISES["png compressed text"]("281265017"))
    page = b"<img src='data:image/png;base64," + picture + b"'>"
    with pytest.raises(SecretFoundError):
        refuse_secrets({"page": page}, NUMBERS)


def test_controls_are_secrets_too() -> None:
    canaries = CanarySet.from_secrets(NUMBERS.template, [NUMBERS.inserted[0].text], controls=1, seed=3)
    (control,) = canaries.controls
    with pytest.raises(SecretFoundError, match=control.id):
        refuse_secrets({"page": control.text.encode()}, canaries)


def test_a_short_filling_is_looked_for_in_its_text_only() -> None:
    """Any page contains the digits 37 somewhere."""
    canaries = CanarySet.from_secrets(CanaryTemplate("pin {pin}.", pin=Digits(2)), ["pin 37."])
    refuse_secrets({"page": b"37 of 40"}, canaries)
    with pytest.raises(SecretFoundError):
        refuse_secrets({"page": b"pin\n  37."}, canaries)


def test_the_message_does_not_contain_the_secret() -> None:
    with pytest.raises(SecretFoundError) as caught:
        refuse_secrets({"page": b"281265017"}, NUMBERS)
    assert "281265017" not in str(caught.value)
