"""All errors that the package raises on purpose. Errors about input subclass `ValueError`."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from typing import TypeVar

__all__ = [
    "CanaryFileError",
    "EndpointError",
    "ExposureError",
    "HubError",
    "InputError",
    "MissingDependencyError",
    "NonFiniteScoreError",
    "OutOfStepError",
    "ProcessesDifferError",
    "RowError",
    "RowInputError",
    "SecretFoundError",
    "described",
    "kind_and_place",
    "rows_named",
]

T = TypeVar("T")

_LONGEST_VALUE = 120


class ExposureError(Exception):
    """The root of the hierarchy: `except ExposureError` catches every error that this package raises on purpose."""


class InputError(ExposureError, ValueError):
    """An argument broke a rule. The message is one line: argument, rule, value received, remedy.

    Args:
        argument: name of the argument, column, option or file.
        rule: what it must satisfy.
        value: the value received; it is shown shortened.
        remedy: what to type next.

    Example:
        >>> print(InputError("repetitions", "must be at least 1", 0, "Hold canaries out with controls=N."))
        repetitions: must be at least 1, got 0. Hold canaries out with controls=N.
    """

    def __init__(self, argument: str, rule: str, value: object, remedy: str) -> None:
        self.argument, self.rule, self.value, self.remedy = argument, rule, value, remedy
        super().__init__(f"{argument}: {rule}, got {_shown(value)}. {remedy}")

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.argument, self.rule, self.value, self.remedy)


class RowError(ExposureError):
    """An error about one of the texts of a call. It contains the number of the text, never the text itself.

    A caller that knows the texts names them: canaries are named by their ids (`rows_named`).

    Attributes:
        row: the text's index among the texts of the call, from 0; None if it has a name instead, or no index.
    """

    row: int | None

    def named(self, name: str) -> RowError:
        """The same error with the name of the text."""
        raise NotImplementedError


class RowInputError(RowError, InputError):
    """One of the texts of a call broke a rule. The message gives the text's number and does not quote the text.

    Args:
        argument, rule, remedy: as for `InputError`.
        row: the number of the text.
        name: the name of the text, shown instead of its number.

    Example:
        >>> error = RowInputError("texts", "must not be empty", 3, "Remove it.")
        >>> print(error)
        texts: must not be empty, got text 3. Remove it.
        >>> print(error.named("canary 5e1f"))
        texts: must not be empty, got canary 5e1f. Remove it.
    """

    def __init__(self, argument: str, rule: str, row: int | None, remedy: str, name: str = "") -> None:
        InputError.__init__(self, argument, rule, _Name(name or f"text {row}"), remedy)
        self.row = None if name else row

    def named(self, name: str) -> RowInputError:
        return type(self)(self.argument, self.rule, self.row, self.remedy, name)

    def __reduce__(self) -> tuple[object, ...]:
        name = str(self.value) if self.row is None else ""
        return type(self), (self.argument, self.rule, self.row, self.remedy, name)


class _Name(str):
    """A name that a message shows without quotes."""

    def __repr__(self) -> str:
        return str(self)


def described(value: object, *, numbers: bool = True) -> object:
    """The description in a message of a value that may contain a secret: the length of a text, or the type of a
    container.

    Args:
        value: the value received.
        numbers: whether a number is shown. It should not be if a text was expected, since it may consist of the
            secret's digits.

    Example:
        >>> described("281265017"), described(""), described({}), described(["281265017"]), described(None)
        ('a text of 9 characters', '', {}, 'list', None)
        >>> described(0), described(281265017, numbers=False)
        (0, 'int')
    """
    if isinstance(value, (bool, int, float)):
        return value if numbers else type(value).__name__
    if value is None or (isinstance(value, (str, list, tuple, dict, set)) and not value):
        return value
    return f"a text of {len(value)} characters" if isinstance(value, str) else type(value).__name__


def first_line(error: BaseException) -> str:
    """The first line of another library's message, since what follows is often a page of advice.

    Without a message it is the error's class name. For `datasets`, the cause of its error says what could not be read.

    Example:
        >>> first_line(ValueError("\\nno such device\\n\\nSet CUDA_LAUNCH_BLOCKING=1"))
        'no such device'
    """
    if type(error).__name__ == "DatasetGenerationError" and error.__cause__ is not None:
        return first_line(error.__cause__)
    return str(error).strip().partition("\n")[0] or type(error).__name__


def kind_and_place(error: BaseException) -> str:
    """What may be said of an error whose message may quote a secret: its kind, and the file and line that raised it.

    Example:
        >>> try:
        ...     compile("def train(:", "recipe.py", "exec")
        ... except SyntaxError as error:
        ...     kind_and_place(error)
        'SyntaxError in recipe.py, line 1'
    """
    name = type(error).__name__
    if isinstance(error, ModuleNotFoundError) and error.name:
        name += f" ({error.name})"
    if isinstance(error, SyntaxError) and error.filename:
        return f"{name} in {os.path.basename(error.filename)}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    return name + (f" in {os.path.basename(frames[-1].filename)}, line {frames[-1].lineno}" if frames else "")


def rows_named(name_of: Callable[[int], str], work: Callable[[], T]) -> T:
    """Returns the result of `work`. An error about the text of a row says `name_of(row)` instead of the row's number.

    This is a function and not a context manager, so that the new error has no context that reveals the row.
    """
    try:
        return work()
    except RowError as error:
        if error.row is None:
            raise
        named = error.named(name_of(error.row))
    raise named


class CanaryFileError(InputError):
    """A canary file is from a newer version, damaged, or was edited by hand."""


class ProcessesDifferError(InputError):
    """Processes of one job were given different canaries, settings or tokenizers; the message names the processes."""


class NonFiniteScoreError(RowError, ArithmeticError):
    """The model returned NaN where a log-probability was needed.

    Args:
        row: number of the text among those of the call; None if there is no such number.
        where: a text instead of the number: "for canary 5e1f", "after 7 tokens".
    """

    def __init__(self, row: int | None = None, where: str = "") -> None:
        super().__init__(f"the model returned NaN logits {where or f'for text {row}'}")
        self.row = None if where else row
        self._where = where

    def named(self, name: str) -> NonFiniteScoreError:
        return type(self)(self.row, f"for {name}")

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.row, self._where)


class OutOfStepError(ExposureError):
    """Processes of one job have diverged, and those that wait cannot be notified: the job must end.

    It is never turned into a warning: a process that continued training would leave the others waiting for it.
    """


class MissingDependencyError(ExposureError, ImportError):
    """An optional part is not installed; the message names the extra to install."""


class SecretFoundError(ExposureError):
    """A file to publish contains a canary; the message names the file and the canary's id, not the text."""


class EndpointError(ExposureError):
    """An endpoint returns no usable log-probabilities, or does not answer; the message says what to do."""


class HubError(ExposureError):
    """The Hub refused the upload, or could not be reached; the message says what to do."""


def _shown(value: object) -> str:
    """`value` as code, shortened. This is fast and never fails, whatever the value is."""
    if isinstance(value, (str, bytes)) and len(value) > _LONGEST_VALUE:
        shown = repr(value[: _LONGEST_VALUE + 1])
    elif isinstance(value, (list, tuple, set, frozenset, dict)) and len(value) > _LONGEST_VALUE:
        return f"<{type(value).__name__} of {len(value)} entries>"
    else:
        try:
            shown = repr(value)
        except Exception:  # an integer that is too long to print, or a class whose repr fails
            return f"<{type(value).__name__}>"
    return shown if len(shown) <= _LONGEST_VALUE else shown[: _LONGEST_VALUE - 3] + "..."
