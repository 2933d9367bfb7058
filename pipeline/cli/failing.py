"""Failing: which exit code an error becomes, and which option of a command it is about.

Both are decided here and nowhere else. Codes that say how much of the work was done (3: some whole
file was refused) are the commands' own.
"""

from __future__ import annotations

from pipeline.errors import (
    ConfigurationError,
    Conflict,
    InvalidArgument,
    NotFound,
    PipelineError,
    Terminal,
)

FAILED, WRONG_USAGE = 1, 2

# A person has to ask for something else, or set something else: the same again fails again.
_WRONG_USAGE = (NotFound, Conflict, InvalidArgument, ConfigurationError)


def exit_code(error: PipelineError) -> int:
    """Return what the process ends with, as the documentation promises."""
    return WRONG_USAGE if isinstance(error, _WRONG_USAGE) else FAILED


def complaint(error: PipelineError) -> str:
    """Return what to say of an error: its message, and the option that it is about."""
    text = str(error)
    argument = error.argument if isinstance(error, Terminal) else None
    if argument is None:
        return text
    option = f"--{argument.replace('_', '-')}"
    if text.startswith(f"{argument}: "):
        return option + text.removeprefix(argument)
    return f"{text} ({option})"
