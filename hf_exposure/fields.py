"""The types of a record's fields: their values in Python, and how they are written in JSON.

To a type checker they are plain `float`, `int` and `str`. pydantic reads their annotations: for instance, `Figure`
defines for all records that an undefined figure is NaN in Python and null in JSON.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AllowInfNan, Field, GetPydanticSchema, PlainSerializer, Strict
from pydantic_core import core_schema

from hf_exposure.limits import LARGEST_FIGURE


def plain(value: Any) -> Any:
    """Converts free-form values for JSON: numbers of numpy and torch become Python's, tuples become lists, and figures
    that are not finite become null.

    Example:
        >>> import numpy as np
        >>> plain({"a": (np.int64(3), math.inf)})
        {'a': [3, None]}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return plain(value.tolist()) if hasattr(value, "tolist") else value


def _null_is_nan(source: Any, handler: Any) -> core_schema.CoreSchema:
    return core_schema.no_info_after_validator_function(
        lambda value: math.nan if value is None else value,
        core_schema.nullable_schema(handler(source)),
        serialization=core_schema.plain_serializer_function_ser_schema(plain),
    )


def _whole(value: Any) -> Any:
    # JSON has only one kind of number: 3.0 is the integer 3.
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _whole_number(source: Any, handler: Any) -> core_schema.CoreSchema:
    return core_schema.no_info_before_validator_function(
        _whole, handler(source), serialization=core_schema.plain_serializer_function_ser_schema(int)
    )


_Real = Annotated[float, Strict(), AllowInfNan(False)]
_Limited = Field(ge=-LARGEST_FIGURE, le=LARGEST_FIGURE)
WHOLE = GetPydanticSchema(_whole_number)
_NULL_IS_NAN = GetPydanticSchema(_null_is_nan)
_MOST = 10**12

Real = Annotated[_Real, _Limited, PlainSerializer(plain)]
"""A finite number."""
Figure = Annotated[_Real, _Limited, _NULL_IS_NAN]
"""A number; NaN if it is undefined. NaN and infinite values are null in JSON."""
Share = Annotated[_Real, Field(ge=0, le=1), _NULL_IS_NAN]
"""A figure from 0 to 1."""
Amount = Annotated[_Real, Field(ge=0, le=LARGEST_FIGURE), _NULL_IS_NAN]
"""A figure of at least 0."""
Rank = Annotated[int, Strict(), Field(ge=1), WHOLE]
"""A whole number of at least 1, however large: a rank, or the size of a space."""
Count = Annotated[int, Strict(), Field(ge=0, le=_MOST), WHOLE]
"""A count, at least 0."""
Positive = Annotated[int, Strict(), Field(ge=1, le=_MOST), WHOLE]
"""A count of at least 1."""
Seed = Annotated[int, Strict(), Field(ge=0), WHOLE]
"""The seed of a random choice."""
Flag = Annotated[bool, Strict()]
"""True or False."""
Values = Annotated[Mapping[str, Any], PlainSerializer(plain)]
"""Free-form values by name."""
