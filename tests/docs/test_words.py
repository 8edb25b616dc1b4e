"""Words that this project replaces, looked for in everything that a person reads.

That is pages, docstrings, comments, help texts, errors, labels: all prose of the repository, and all strings of its
Python files. Code in backticks, addresses, identifiers and names of files are left alone.
`python tests/docs/test_words.py` lists what is found.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Maps a regular expression of whole words in lower case to the words to write instead.
REPLACED = {
    r"strangers?": "an attacker",
    r"(?:gets?|got|getting) (?:\S+ ){1,6}?out(?= of (?:it|the model|a model)\b|[.,;:?)]|$)": "extracts",
    r"pull(?:s|ed|ing)? (?:\S+ ){0,3}?(?:back )?out": "extracts",
    r"(?:the )?likeliest secrets? of (?:its|their|the|a) template": "ranks first",
    r"behaves? as chance": "is at chance level",
    r"no memori[sz]ation was shown": "No memorization detected",
    r"how sure": "with what confidence, how certain",
    r"dear(?:er|est)?": "unlikely, high-cost",
    r"cheap(?:er|est)? (?:texts?|secrets?|candidates?|fillings?)": "likely, low-cost",
    r"anew": "again",
    r"beside": "next to",
    r"lest": "so that ... not",
    r"(?<!are )(?<!is )(?<!were )all the same(?! \w)": "still",
    r"for ever": "indefinitely",
    r"by (?:itself|themselves)": "alone",
    r"moments? (?:of|in|during) (?:a |the )?training": "checkpoint, step",
    r"(?:the )?ways? that (?:was|were) taken": "the backend used",
    r"(?:the )?mean of one never seen": "chance level (1.44 bits)",
    r"fewer than \S+ effective hits?": "estimate rests on few samples; use more references",
    r"hand(?:s|ed|ing)? on": "pass on, return",
    # American spelling.
    r"[a-z]*(?:anonym|author|categor|central|character|crit[iy]c|custom|discret|emphas|equal|factor|final|general|harmon|"
    r"ideal|initial|linear|local|maxim|memor|minim|modern|normal|optim|organ|parallel|parameter|penal|polar|popular|"
    r"priorit|quant|random|real|recogn|regular|sanit|serial|special|stabil|standard|summar|symbol|synchron|token|util|"
    r"vector|visual)is(?:e|es|ed|ing|er|ers|ation|ations|able)": "-iz-",
    r"[a-z]*analys(?:e|ed|ing)": "analyze",
    r"[a-z]*(?:behavi|col|fav|flav|harb|hon|lab|neighb|rum|vig)our[a-z]*": "-or-",
    r"[a-z]*(?:cancel|fuel|label|level|model|signal|total|travel)l(?:ed|ing|ings|er|ers)": "one l",
    r"(?:cent|fib|lit|met|theat)res?": "-er",
    r"licence[sd]?": "license",
    r"artefacts?|catalogues?|defences?|fulfil|grey|judgements?|learnt|practise[ds]?|programmes?|sceptic[a-z]*|spelt|"
    r"whilst|amongst": "the American word",
}
# Sentences that begin like this have no subject of their own.
FRAGMENTS = {
    r"Who [^?]*?[.;]": "Anyone who ...",
    r"As many [^?]*?[.;]": "The number of ...",
}
SUFFIXES = {".md", ".py", ".toml", ".yml", ".yaml", ".cff", ".html", ".jinja", ".j2", ".css", ".js", ".tex"}
PLACES = ("hf_exposure", "docs", "examples", "benchmarks", "proofs", "spaces", ".github")

_WORDS = re.compile(
    r"(?<![\w/.])(?:" + "|".join(f"(?P<w{n}>{pattern})" for n, pattern in enumerate(REPLACED)) + r")(?![\w/]|\.\w)",
    re.IGNORECASE,
)
_FRAGMENTS = re.compile(
    r"(?:^|(?<=[.:;] ))(?:" + "|".join(f"(?P<w{n}>{pattern})" for n, pattern in enumerate(FRAGMENTS)) + ")",
    re.MULTILINE,
)
_CODE = re.compile(r"``.*?``|\bid=\"[^\"]*\"|`[^`\n]*`|https?:\S+|\]\([^)]*\)|^\[[^\]]*\]: \S+", re.MULTILINE)
_KEY = re.compile(r"""(["'])[a-z0-9_]+\1""")  # a key of a mapping: some keys of stored results contain the old words


def files() -> list[Path]:
    inside = [path for place in PLACES for path in sorted((ROOT / place).rglob("*"))]
    top = [path for path in sorted(ROOT.iterdir()) if path.is_file()]
    named = [path for path in top if path.name in ("Makefile", "Dockerfile")]
    return [
        path
        for path in [*top, *inside]
        if (path.suffix in SUFFIXES or path in named) and path.is_file() and "results" not in path.parts[-2:-1]
    ]


def prose_of(path: Path) -> Iterator[tuple[int, str]]:
    """Stretches of prose, each with the number of its first line."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield 1, text
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string.lstrip("# ")
        elif _KEY.fullmatch(token.string):
            continue
        elif token.type == tokenize.STRING or tokenize.tok_name[token.type] == "FSTRING_MIDDLE":
            yield token.start[0], token.string


def found_in(text: str) -> Iterator[tuple[int, str, str]]:
    """The offset, the words and their replacement."""
    text = _CODE.sub(lambda code: re.sub(r"[^\n]", "_", code[0]), text)
    for pattern, table in ((_WORDS, REPLACED), (_FRAGMENTS, FRAGMENTS)):
        replacements = list(table.values())
        for match in pattern.finditer(text):
            assert match.lastgroup is not None
            yield match.start(), match[0], replacements[int(match.lastgroup[1:])]


def hits(path: Path) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line + prose.count(chr(10), 0, place)}: {words!r}, write: {instead}"
        for line, prose in prose_of(path)
        for place, words, instead in found_in(prose)
    ]


@pytest.mark.parametrize("place", ["", *PLACES])
def test_no_word_is_used_that_we_replace(place: str) -> None:
    ours = [path for path in files() if (path.parent == ROOT if not place else path.is_relative_to(ROOT / place))]
    found = [hit for path in ours for hit in hits(path)]
    assert not found, "\n".join(found)


def test_words_are_found_where_people_read_them(tmp_path: Path) -> None:
    def words(text: str) -> list[str]:
        return [words for _, words, _ in found_in(text)]

    assert words("A stranger reads it anew, for ever.") == ["stranger", "anew", "for ever"]
    assert words("it is memorised by neighbours; Tokenisers are modelled") == [
        "memorised",
        "neighbours",
        "Tokenisers",
        "modelled",
    ]
    assert words("pulls them back out. He gets 4 of 12 canaries out.") == [
        "pulls them back out",
        "gets 4 of 12 canaries out",
    ]
    assert words("Who knows it knows all. Who is it? It is he who knows.") == ["Who knows it knows all."]
    # Code, addresses, names of files, and words that only look alike.
    assert (
        words("`anew` and [x](anew.md) https://a.example/anew memorisation.yml a_stranger besides strangeness") == []
    )
    assert words("promise, precise, realistic, exercise, all the same length, analyses, level") == []
    page = tmp_path / "x.py"
    page.write_text('"""Doc anew."""\n\nanew = 1  # lest it fails\nlog(f"beside {x}")\n')
    assert [(line, text) for line, text in prose_of(page)][1] == (3, "lest it fails")
    assert [words(text) for _, text in prose_of(page)] == [["anew"], ["lest"], ["beside"]]


if __name__ == "__main__":
    print("\n".join(hit for path in files() for hit in hits(path)))
