"""Every error that medvl raises on purpose, and the exit code each one ends a job with.

    MedvlError                         70  a fault of medvl itself
    ├── SettingsError (ValueError)     64  the command line or the settings are wrong
    ├── DataError (ValueError)         65  the input was read and is bad
    ├── MissingInputError              66  an input does not exist (file, bucket, upstream stage)
    │     (FileNotFoundError)
    ├── GaveUpError                    69  the coordinator tried a stage as often as it may; vLLM does not start
    ├── TryAgainError (ConnectionError)75  nothing is wrong for ever: store, server or network did not answer
    ├── AccessDeniedError              77  the store, or a server, refused the credentials
    │     (PermissionError)
    ├── SchemaMismatchError            78  an input was made by, or for, something incompatible; retrying cannot help
    │     (ValueError)
    └── PreemptedError                143  stopped by SIGTERM; what is finished, or checkpointed, is kept

The numbers are those of ``sysexits.h`` so that a pod failure policy can name them: 64, 65, 66, 69, 77 and 78 are
permanent, 75 and 143 are worth another attempt. 70 is for what nobody foresaw.

Each error says *what* happened, *where*, and *what to do*; each is also the stdlib type that a caller would catch.
"""

from __future__ import annotations


class MedvlError(Exception):
    """Base of all errors that end a job with a documented exit code."""

    exit_code = 70
    permanent = False
    """Whether another attempt would end the same way."""

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        """``what`` happened, ``where`` (a file, key or row), and the ``remedy`` a person can apply."""
        self.what, self.where, self.remedy = what, where, remedy
        super().__init__(what)

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where:  {self.where}")
        if self.remedy:
            lines.append(f"  remedy: {self.remedy}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, str | int]:
        """The one JSON object that the termination log gets."""
        return {
            "error": type(self).__name__,
            "exit_code": self.exit_code,
            "reason": self.what,
            "where": self.where,
            "remedy": self.remedy,
        }


class SettingsError(MedvlError, ValueError):
    """A setting or command-line word is unknown, impossible, or contradicts another."""

    exit_code = 64
    permanent = True


class DataError(MedvlError, ValueError):
    """The input exists and was read, but it cannot be used."""

    exit_code = 65
    permanent = True


class MissingInputError(MedvlError, FileNotFoundError):
    """A file, bucket, dataset, adapter or upstream stage does not exist."""

    exit_code = 66
    permanent = True


class GaveUpError(MedvlError):
    """A stage failed in ways that another attempt might have cured, and none is left; or what it starts only ends."""

    exit_code = 69
    permanent = True


class TryAgainError(MedvlError, ConnectionError):
    """The store, a server or the network failed in a way that another attempt may cure."""

    exit_code = 75


class AccessDeniedError(MedvlError, PermissionError):
    """The store, or a server, knows the place but refuses these credentials."""

    exit_code = 77
    permanent = True


class SchemaMismatchError(MedvlError, ValueError):
    """An input was made by another schema, base model or library generation; permanent."""

    exit_code = 78
    permanent = True


class PreemptedError(MedvlError, InterruptedError):
    """SIGTERM arrived, the work so far is saved, and the next start resumes it."""

    exit_code = 143


def error_class(exit_code: int) -> type[MedvlError]:
    """The error that ends a job with this code; `MedvlError` for a code that is none of ours."""
    return {kind.exit_code: kind for kind in MedvlError.__subclasses__()}.get(exit_code, MedvlError)


PERMANENT = frozenset(kind.exit_code for kind in MedvlError.__subclasses__() if kind.permanent)
"""Exit codes after which another attempt is of no use."""
