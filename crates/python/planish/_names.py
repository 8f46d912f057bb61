"""Names that callers may get wrong: an unknown one is refused, and the nearest known one is named."""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any, TypeVar

Callee = TypeVar("Callee", bound=Callable[..., Any])

LEVELS = {"off": False, "critical": False, "error": False, "warn": False, "warning": False, "info": True, "debug": True}


def check(where: str, given: Iterable[str], known: Iterable[str], meant: Mapping[str, str]) -> None:
    """Raises a TypeError for the first unknown name; `meant` says what other programs' names are called here."""
    known = list(known)
    for name in given:
        if name in known:
            continue
        near = [meant[name]] if name in meant else difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
        raise TypeError(f"{where}: there is no {name!r}; {hint}")


def refusing(meant: Mapping[str, str]) -> Callable[[Callee], Callee]:
    """Decorates a function (or a method) so that a keyword it does not know is refused with a hint."""

    def decorate(function: Callee) -> Callee:
        known = [name for name in inspect.signature(function).parameters if name != "self"]

        @wraps(function)
        def checked(*args: Any, **kwargs: Any) -> Any:
            check(function.__name__, kwargs, known, meant)
            return function(*args, **kwargs)

        return checked  # type: ignore[return-value]

    return decorate


def talks(level: str) -> bool:
    """Whether a log level shows notes and progress."""
    if not isinstance(level, str):
        raise TypeError(f"log_level: expected a text, found {level!r}")
    if level.lower() not in LEVELS:
        raise ValueError(f"log_level: expected one of {', '.join(LEVELS)}, found {level!r}")
    return LEVELS[level.lower()]
