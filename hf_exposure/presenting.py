"""Lets a record be shown, saved and published without knowing its presenters.

Pages, tables and uploads import the records that they show, so importing them from the records would be circular.
Instead, the root of the package, which always runs first, registers the presenters of each kind of record, as
functions that import them on first use. `Presented` gives the records their thin methods.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

Action = Literal["text", "html", "frame", "save", "push", "card"]

_loaders: dict[tuple[str, Action], Callable[[], Callable[..., Any]]] = {}


def register_presenter(kind: str, action: Action, load: Callable[[], Callable[..., Any]]) -> None:
    """Registers the function that `load` returns for an action on records of a kind. It is called with the record.

    Args:
        kind: the `kind` of the record's class.
        action: "text", "html" and "frame" return the record as a string, as HTML and as a pandas DataFrame; "save"
            writes its files, "push" uploads it, and "card" returns its part of a model card, where it is also given
            the card's `pipeline_tag` or None.
        load: imports the function and returns it; it is called each time, so it should be fast the second time.

    Example:
        >>> class Temperature(Presented):
        ...     kind, degrees = "temperature", 21
        >>> register_presenter("temperature", "text", lambda: lambda record: f"{record.degrees} degrees")
        >>> print(Temperature())
        21 degrees
    """
    _loaders[kind, action] = load


class Presented:
    """A record that can be shown in a terminal, in a notebook and as a table. Its class defines its `kind`."""

    kind: ClassVar[str]

    @classmethod
    def can_be(cls, action: Action) -> bool:
        """Whether something is registered for an action on records of this kind."""
        return (cls.kind, action) in _loaders

    def presented(self, action: Action, *arguments: Any, **named: Any) -> Any:
        """Calls the function registered for an action on records of this kind, and returns its result.

        Raises:
            NotImplementedError: no function is registered.
        """
        load = _loaders.get((self.kind, action))
        if load is None:
            raise NotImplementedError(f"nothing is registered for {action!r} of a {self.kind} record")
        return load()(self, *arguments, **named)

    def __str__(self) -> str:
        return str(self.presented("text")) if (self.kind, "text") in _loaders else repr(self)

    def _repr_html_(self) -> str | None:
        return self.presented("html") if (self.kind, "html") in _loaders else None

    def to_pandas(self) -> Any:
        """The table that `print` shows, as a pandas DataFrame with one row for each of its lines.

        Cells are the printed texts: "≥ 7.0" is a lower bound. For computations, use the numbers in `groups` and
        `estimates`.
        """
        return self.presented("frame")
