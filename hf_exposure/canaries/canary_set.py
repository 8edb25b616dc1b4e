"""A canary, the set of canaries that one experiment inserts and measures, and the file that stores the set.

The set refuses whatever would make a figure wrong later: a text outside the template, a repeated text or id, or
controls that were inserted. So nothing else checks canaries again. The file is JSON and contains the secrets: only its
owner may read it. Two hashes reveal changes by hand: `manifest_hash`, the public commitment to texts and repetitions,
and `file_hash`, which covers ids and seed too.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hf_exposure import __version__
from hf_exposure.canaries.space import Entropy, distinct_ids, distinct_indices
from hf_exposure.canaries.template import CanaryTemplate
from hf_exposure.checks import at_most, encodable_text, instance_of, list_of_texts, path_of, whole_number
from hf_exposure.errors import CanaryFileError, InputError, described
from hf_exposure.files import read_json, write_aside
from hf_exposure.limits import LARGEST_COUNT, LARGEST_SEED, MOST_CANARIES, MOST_INSERTIONS

_CANARY_FIELDS = ("id", "text", "repetitions", "coin")


@dataclass(frozen=True, kw_only=True)
class Canary:
    """One text of a template, and how often it occurs in the training data.

    Attributes:
        id: names the canary in publications. It is drawn from the system's entropy, never from the seed or the text:
            with an id from the seed's own stream, anyone could try seeds until the ids match, and so find the secrets.
        text: the whole text, which is secret. It is left out of `repr`, so that it does not end up in a log.
        template: the template of the text.
        repetitions: how many times it is inserted; 0 for a held-out control.
        coin: True or False if the canary's own fair coin decided between one repetition and none; None if the
            experiment fixed the repetitions. Coins give a lower bound on the epsilon of differential privacy
            (`epsilon_lower_bound`).
    """

    id: str = field(default_factory=lambda: secrets.token_hex(4), compare=False)
    text: str = field(repr=False)
    template: CanaryTemplate = field(repr=False)
    repetitions: int
    coin: bool | None = None

    @property
    def is_control(self) -> bool:
        """Whether the canary was held out, so that its exposure shows the chance level."""
        return self.repetitions == 0


@dataclass(frozen=True, kw_only=True, repr=False)
class CanarySet:
    """The canaries of one template: some inserted, some held out as controls.

    Iteration yields the inserted canaries, then the controls. Two sets are equal if their templates, texts,
    repetitions and seeds are; ids and salts are not compared.

    Attributes:
        inserted, controls: tuples of `Canary`.
        template: the template of all canaries.
        seed: the seed of the draw; None if nothing was drawn. Together with the template it reveals every text, so it
            is secret.
        salt: random hex that enters `manifest_hash`, so that a published hash cannot be matched against guessed texts.

    Raises:
        InputError: there is no inserted canary, a text or id is repeated, a text is outside the template, an inserted
            canary has no repetitions, or a control has some. The message gives the position, never the text.

    Example:
        >>> from hf_exposure import CanaryTemplate, Digits, draw_canaries
        >>> template = CanaryTemplate("The random number is {number}", number=Digits(9))
        >>> canaries = draw_canaries(template, repetitions={1: 2, 8: 2}, controls=3, seed=0)
        >>> len(canaries), canaries.total_insertions, canaries.repetition_counts
        (7, 18, (1, 8))
    """

    inserted: tuple[Canary, ...]
    controls: tuple[Canary, ...] = ()
    template: CanaryTemplate
    seed: int | None = None
    salt: str = field(default_factory=lambda: secrets.token_hex(16), compare=False)

    def __post_init__(self) -> None:
        remedy = "Make the set with draw_canaries."
        instance_of("template", self.template, CanaryTemplate, remedy)
        for group in ("inserted", "controls"):
            canaries = getattr(self, group)
            if isinstance(canaries, (str, bytes, Mapping)) or not isinstance(canaries, Iterable):
                raise InputError(group, "must be canaries in a list", type(canaries).__name__, remedy)
            vars(self)[group] = tuple(at_most(group, canaries, MOST_CANARIES))
        if self.seed is not None:
            vars(self).update(seed=whole_number("seed", self.seed, 0, LARGEST_SEED))
        encodable_text("salt", self.salt)
        if not self.inserted:
            raise InputError("inserted", "must hold at least one canary", (), "Draw some with repetitions={1: 4}.")
        _check_canaries("inserted", self.inserted, self.template)
        _check_canaries("controls", self.controls, self.template)
        check_size(len(self), self.total_insertions)
        if any(canary.coin is not None and canary.repetitions != int(canary.coin) for canary in self):
            raise InputError(
                "coin", "must agree with repetitions (1 for True, 0 for False)", "otherwise", "Draw again."
            )
        for what in ("text", "id"):
            _refuse_repeats(what, [getattr(canary, what) for canary in self])

    def __iter__(self) -> Iterator[Canary]:
        yield from self.inserted
        yield from self.controls

    def __len__(self) -> int:
        return len(self.inserted) + len(self.controls)

    def __repr__(self) -> str:
        return f"CanarySet({len(self.inserted)} inserted, {len(self.controls)} controls, {self.template!r})"

    @property
    def total_insertions(self) -> int:
        """The number of rows that inserting the set adds."""
        return sum(canary.repetitions for canary in self.inserted)

    @property
    def repetition_counts(self) -> tuple[int, ...]:
        """The distinct repetitions of the inserted canaries, ascending."""
        return tuple(sorted({canary.repetitions for canary in self.inserted}))

    @property
    def log2_space_size(self) -> float:
        """`log2 |R|` of the template, in bits."""
        return self.template.log2_space_size

    @property
    def manifest_hash(self) -> str:
        """SHA-256 in hex of the salt, template, texts and repetitions: a commitment that is safe to publish."""
        content = {
            "template": self.template.to_dict(),
            "canaries": [[canary.text, canary.repetitions, canary.coin] for canary in self],
        }
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256((self.salt + canonical).encode("utf-8")).hexdigest()

    @classmethod
    def from_secrets(
        cls,
        template: CanaryTemplate,
        texts: Iterable[str],
        repetitions: int | Sequence[int] = 1,
        controls: int = 0,
        seed: int | None = None,
    ) -> CanarySet:
        """Makes a set of secrets that the data already contain, as in the paper's Table 5.

        Args:
            template: the template of all secrets.
            texts: the secrets, whole texts of the template.
            repetitions: how often each occurs in the data: one number for all, or one for each.
            controls: the number of controls to draw from the rest of the space.
            seed: the seed of that draw; from the system's entropy by default.

        Raises:
            InputError: a text is outside the template or repeated, repetitions are below 1 or not one for each text,
                or the space is smaller than texts and controls together.
        """
        instance_of("template", template, CanaryTemplate, 'Write CanaryTemplate("pin {pin}", pin=Digits(4)).')
        # An iterator can be read only once.
        texts = tuple(list_of_texts("texts", texts, "Write [text].", MOST_CANARIES))
        counts = _one_for_each(repetitions, len(texts))
        if len(counts) != len(texts):
            raise InputError(
                "repetitions", f"must be one number or {len(texts)}", len(counts), "Give one for each text."
            )
        for count in counts:
            if isinstance(count, int) and count > LARGEST_COUNT:  # Python refuses to print larger numbers
                whole_number("repetitions", count, 1)
        pairs = zip(texts, counts, strict=True)
        entropy = Entropy(["secrets", [str(text) for text in texts], [str(count) for count in counts]])
        ids = distinct_ids(entropy)
        inserted = tuple(
            Canary(id=next(ids), text=text, template=template, repetitions=count) for text, count in pairs
        )
        known = cls(inserted=inserted, template=template, salt=entropy.hex(16))
        whole_number("controls", controls, 0)
        check_size(len(known) + controls, known.total_insertions)
        left = template.space_size - len(known)
        if left < controls:
            raise InputError(
                "controls", f"must be at most the number of remaining texts, {left}", controls, f"Write {left}."
            )
        if not controls:
            return known
        if seed is not None:
            seed = whole_number("seed", seed, 0, LARGEST_SEED)
        seed = entropy.seed() if seed is None else seed
        indices = distinct_indices(template.space_size, seed, (template.index_of(text) for text in texts))
        held_out = tuple(
            Canary(id=next(ids), text=template.text_at(next(indices)), template=template, repetitions=0)
            for _ in range(controls)
        )
        return cls(inserted=known.inserted, controls=held_out, template=template, seed=seed, salt=known.salt)

    def in_template(self, template: CanaryTemplate) -> CanarySet:
        """The same secrets in another template, to score a model with more or less of the surrounding text known.

        The inserted texts stay the same; only the texts that are scored change. With "number {pin}, thanks" inserted,
        a report on `canaries.in_template(CanaryTemplate("{pin}", pin=Digits(4)))` shows what an attacker learns
        without knowing the text around the number. Ids and repetitions are kept, so that reports can be compared
        canary by canary. The new set has no seed of a draw. Insert the original set, never this one.

        Args:
            template: a template with the same holes, filled from the same spaces, in any order.

        Raises:
            InputError: the template has other holes or spaces.

        Source: Carlini et al. 2019, Section 7.5 (the first four rows of Table 4 are one model).

        Example:
            >>> from hf_exposure import CanarySet, CanaryTemplate, Digits
            >>> inserted = CanaryTemplate("number {pin}, thanks", pin=Digits(4))
            >>> canaries = CanarySet.from_secrets(inserted, ["number 0042, thanks"])
            >>> canaries.in_template(CanaryTemplate("number {pin}", pin=Digits(4))).inserted[0].text
            'number 0042'
        """
        instance_of("template", template, CanaryTemplate, 'Write CanaryTemplate("pin {pin}", pin=Digits(4)).')
        if template.spaces != self.template.spaces:
            rule = f"must have the holes and spaces of {self.template.text!r}"
            raise InputError("template", rule, template.text, "Change only the fixed text.")

        def moved(canary: Canary) -> Canary:
            text = template.render(**self.template.parse(canary.text))
            return replace(canary, text=text, template=template)

        return CanarySet(
            inserted=tuple(map(moved, self.inserted)),
            controls=tuple(map(moved, self.controls)),
            template=template,
            salt=self.salt,
        )

    def save(self, path: str | Path) -> None:
        """Writes the set to a JSON file that only its owner may read. The file contains the secrets and the seed.

        Raises:
            InputError: the folder does not exist, or the path is a folder.
        """
        target = path_of("path", path)
        if not target.parent.is_dir():
            raise InputError(
                "path", "must be in a folder that exists", str(path), f"Make it: mkdir -p {target.parent}"
            )
        if target.is_dir():
            raise InputError("path", "must be a file, not a folder", str(path), f"Write {target / 'canaries.json'}.")
        write_aside(target, json.dumps(self.to_dict(), indent=1), private=True)

    @classmethod
    def load(cls, path: str | Path) -> CanarySet:
        """Reads a set that `save` wrote.

        Raises:
            InputError: there is no such file.
            CanaryFileError: the file is from a newer version, damaged, or was edited by hand.
        """
        shown = str(path_of("path", path))
        values, canaries = _read(path), None
        if values is _DAMAGED:
            rule = "must be complete JSON; this file is damaged or cut off"
            raise CanaryFileError("path", rule, shown, "Restore it from a copy.")
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            rule = f"must be a file of format {FORMAT!r}"
            raise CanaryFileError("path", rule, shown, "Give a file that canaries.save wrote.")
        _check_version(values.get("version"))
        # The errors may quote a secret, so ours is raised outside the handler, without a context.
        with suppress(Exception):  # a damaged file may contain values of any kind
            canaries = cls.from_dict(values)
        if canaries is None:
            rule = "must be as it was saved; this file is damaged or was edited by hand"
            raise CanaryFileError("path", rule, shown, "Restore it from a copy.")
        if canaries.manifest_hash != values.get("manifest_hash") or _file_hash(values) != values.get("file_hash"):
            rule = "must match its hashes; this file was edited by hand"
            raise CanaryFileError("path", rule, shown, "Restore it from a copy, or draw again and insert again.")
        return canaries

    def to_dict(self) -> dict[str, Any]:
        """The set as plain values for JSON, as `save` writes them. They contain the secrets and the seed."""
        values = {
            "format": FORMAT,
            "version": VERSION,
            "package_version": __version__,
            "seed": self.seed,
            "salt": self.salt,
            "manifest_hash": self.manifest_hash,
            "template": self.template.to_dict(),
            "canaries": [{name: getattr(canary, name) for name in _CANARY_FIELDS} for canary in self],
        }
        return {**values, "file_hash": _file_hash(values)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CanarySet:
        """The set from the values of `to_dict`. Hashes are not compared; `load` does that.

        Raises:
            InputError: the constructor refuses the values.
            KeyError, TypeError: the values are not those of `to_dict`.
        """
        template = CanaryTemplate.from_dict(values["template"])
        canaries = [
            Canary(template=template, **{name: item[name] for name in _CANARY_FIELDS}) for item in values["canaries"]
        ]
        return cls(
            inserted=tuple(canary for canary in canaries if canary.repetitions != 0),
            controls=tuple(canary for canary in canaries if canary.is_control),
            template=template,
            seed=values["seed"],
            salt=values["salt"],
        )


# The file.

FORMAT, VERSION = "hf-exposure canaries", 1
_DAMAGED = object()


def _read(path: str | Path) -> Any:
    try:
        return read_json(path)
    except OSError as error:
        rule = f"must be a canary file that can be read ({error.strerror})"
        raise InputError("path", rule, str(path), "Make one with canaries.save(path).") from None
    except ValueError:
        return _DAMAGED


def _check_version(version: object) -> None:
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise CanaryFileError(
            "version", "must be a whole number of at least 1", described(version), "Restore it from a copy."
        )
    if version > VERSION:
        rule = f"must be at most {VERSION}, what hf-exposure {__version__} reads"
        raise CanaryFileError("version", rule, version, "Upgrade: pip install --upgrade hf-exposure")


def _file_hash(values: Mapping[str, Any]) -> str:
    """SHA-256 of the whole content of the file, including ids and seed, which the manifest hash leaves out."""
    content = {name: value for name, value in values.items() if name != "file_hash"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode("utf-8")).hexdigest()


# The checks of a set.


def _one_for_each(repetitions: Any, texts: int) -> tuple[Any, ...]:
    if isinstance(repetitions, (str, bytes, Mapping)):
        raise InputError("repetitions", "must be whole numbers", type(repetitions).__name__, "Write repetitions=1.")
    # A NumPy scalar or an array without dimensions counts as one number.
    if not isinstance(repetitions, Iterable) or getattr(repetitions, "shape", None) == ():
        return (repetitions,) * texts
    return tuple(at_most("repetitions", repetitions, MOST_CANARIES))


def _check_canaries(argument: str, canaries: tuple[Canary, ...], template: CanaryTemplate) -> None:
    for position, canary in enumerate(canaries):
        where = f"{argument}[{position}]"
        instance_of(where, canary, Canary, "Make the set with draw_canaries.")
        encodable_text(f"{where}.text", canary.text)
        same = canary.template is template or canary.template == template
        if not same or not template.contains(canary.text):
            rule = f"must be a text of the template {template.text!r}"
            received: Any = f"a text of {len(canary.text)} characters"  # an error message must not contain a secret
            raise InputError(where, rule, received, "Check it with template.contains(text).")
        whole_number(f"{where}.repetitions", canary.repetitions, 1 if argument == "inserted" else 0)
        if canary.coin is not None and not isinstance(canary.coin, bool):
            rule = "must be True, False or None"
            raise InputError(f"{where}.coin", rule, type(canary.coin).__name__, "Draw with coin_flips=N.")
        encodable_text(f"{where}.id", canary.id)
        if argument == "controls" and canary.repetitions != 0:
            raise InputError(where, "must have 0 repetitions", canary.repetitions, "Put it among the inserted ones.")


def check_size(canaries: int, insertions: int) -> None:
    """Refuses a set that is larger than any experiment needs. It is called with the sizes, before the set is built."""
    if canaries > MOST_CANARIES:
        raise InputError(
            "canaries", f"must be at most {MOST_CANARIES}, controls and coins included", canaries, "Draw fewer."
        )
    if insertions > MOST_INSERTIONS:
        rule = f"must be inserted into at most {MOST_INSERTIONS} rows in all"
        raise InputError("repetitions", rule, insertions, "Use fewer repetitions.")


def _refuse_repeats(what: str, values: list[str]) -> None:
    first: dict[str, int] = {}
    for position, value in enumerate(values):
        if value in first:
            rule = f"must each have a {what} of their own"
            received = f"canary {position} with the {what} of canary {first[value]}"
            raise InputError("canaries", rule, received, "Remove one, and count it in the other's repetitions.")
        first[value] = position
