"""Every error the package raises on purpose. Errors on input subclass `ValueError`."""

from __future__ import annotations

__all__ = [
    "CanaryFileError",
    "ExposureError",
    "HubError",
    "InputError",
    "MissingDependencyError",
    "NonFiniteScoreError",
    "OutOfStepError",
    "SecretFoundError",
]

_LONGEST_VALUE = 120


class ExposureError(Exception):
    """The root of the hierarchy: `except ExposureError` catches whatever this package raises on purpose."""


class InputError(ExposureError, ValueError):
    """An argument broke a rule. The message is one line: argument, rule, value received, remedy.

    Args:
        argument: name of the argument, column, option or file.
        rule: what it must satisfy.
        value: what was received; shown shortened.
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


class CanaryFileError(InputError):
    """A canary file is from a newer version, damaged, or was edited by hand."""


class NonFiniteScoreError(ExposureError, ArithmeticError):
    """The model returned NaN where a log-probability was needed; the message names the text."""


class OutOfStepError(ExposureError):
    """Processes of one job went different ways, and those that wait cannot be told: the job must end.

    Never turned into a warning: a process that trained on would leave the others waiting for it.
    """


class MissingDependencyError(ExposureError, ImportError):
    """An optional part is not installed; the message says which extra brings it."""


class SecretFoundError(ExposureError):
    """What was about to be published holds a canary; the message names the file and the canary's id, not the text."""


class HubError(ExposureError):
    """The Hub did not take what was published, or could not be reached; the message says what to do."""


def _shown(value: object) -> str:
    """`value` as code, shortened. Whatever it is, showing it neither fails nor takes long."""
    if isinstance(value, (str, bytes)) and len(value) > _LONGEST_VALUE:
        shown = repr(value[: _LONGEST_VALUE + 1])
    elif isinstance(value, (list, tuple, set, frozenset, dict)) and len(value) > _LONGEST_VALUE:
        return f"<{type(value).__name__} of {len(value)} entries>"
    else:
        try:
            shown = repr(value)
        except Exception:  # an integer too long to print, a class whose repr fails
            return f"<{type(value).__name__}>"
    return shown if len(shown) <= _LONGEST_VALUE else shown[: _LONGEST_VALUE - 3] + "..."
