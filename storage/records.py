"""The base of every record: what was written down of a version, a build, a run or a checkpoint, for later code to read.

A record outlives the code that wrote it, so each carries the number of its format, and that number is read. Older
formats are converted, a newer one is refused in one sentence, and fields that this code does not know are kept. A model
demands only the fields that its readers need. Not here: settings, which refuse unknown fields (`storage.config`).

    class Note(StoredRecord):
        text: str

    Note.read(Path("note.json")).text
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from storage.errors import FormatError, IntegrityError, NotFoundError
from storage.local import here


class Part(BaseModel):
    """Part of a record: frozen, and open to fields that this code does not know."""

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)

    def as_json(self) -> dict[str, Any]:
        """The fields that were given or read, those that this code does not know among them."""
        return self.model_dump(exclude_unset=True)


class StoredRecord(Part):
    """A record with a format; a file without one has format 1."""

    FORMAT: ClassVar[int] = 1
    """The format that this code writes, and the newest that it reads."""

    format: int = 1

    @classmethod
    def new(cls, **fields: Any) -> Self:
        """A record of today's format."""
        return cls.model_validate({"format": cls.FORMAT, **fields})

    @classmethod
    def read(cls, path: Path) -> Self:
        """The record in a JSON file; NotFoundError where there is no file, else as `of_bytes`."""
        try:
            if here(path).exists() and not path.is_file():
                raise IntegrityError(f"{path} cannot be read: it is no file")
            data = path.read_bytes()
        except FileNotFoundError:
            raise NotFoundError(f"{path} is not there") from None
        except OSError as error:
            raise IntegrityError(f"{path} cannot be read: {error.strerror}") from error
        return cls.of_bytes(data, path)

    @classmethod
    def of_bytes(cls, data: bytes, name: object) -> Self:
        """The record that JSON says; IntegrityError where it is damaged, FormatError where its format is newer.

        `name` is what the errors call it.
        """
        return cls.of_value(json_object(data, name), name)

    @classmethod
    def of_value(cls, value: dict[str, Any], name: object) -> Self:
        """As `of_bytes`, of what the JSON holds."""
        check_format(value.get("format", 1), cls.FORMAT, name)
        try:
            if value.get("format", 1) < cls.FORMAT:
                value = cls._converted(value)
            return cls.model_validate(value)
        except ValidationError as error:
            raise IntegrityError(f"{name} is damaged: {problem_of(error)}") from error

    @classmethod
    def _converted(cls, value: dict[str, Any]) -> dict[str, Any]:
        """What an older format says, as today's does."""
        return {**value, "format": cls.FORMAT}

    def as_bytes(self) -> bytes:
        """The record as it is stored."""
        return (json.dumps(self.as_json(), indent=2) + "\n").encode()

    def shown(self) -> dict[str, Any]:
        """As `as_json`, for whoever asked for the facts and not for the file."""
        return self.model_dump(exclude_unset=True, exclude={"format"})


def check_format(found: Any, newest: int, name: object) -> None:
    """FormatError where `found` is above `newest`, IntegrityError where it is no format at all."""
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise IntegrityError(f"{name} is damaged: its format is {found!r}, and formats are 1, 2 and so on")
    if found > newest:
        raise FormatError(
            f"{name} has format {found}, and this version of likeness reads up to {newest}: use a newer one"
        )


def json_object(data: bytes, name: object) -> dict[str, Any]:
    """The JSON object that `data` is; IntegrityError where it is none."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{name} is damaged: it cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise IntegrityError(f"{name} is damaged: it is no JSON object")
    return value


def problem_of(error: ValidationError) -> str:
    """What is wrong, in a few words: all that is missing, or the first field that is not as it must be."""
    problems = error.errors(include_url=False, include_input=False)
    fields = {id(problem): ".".join(map(str, problem["loc"])) for problem in problems}
    if missing := [fields[id(problem)] for problem in problems if problem["type"] == "missing"]:
        return f"it lacks {', '.join(missing)}"
    first = problems[0]
    where = f"{fields[id(first)]}: " if first["loc"] else ""
    return where + first["msg"].removeprefix("Value error, ")


def _inside(name: str) -> str:
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name:
        raise ValueError(f"{name!r} leads outside of its folder")
    return name


Inside = Annotated[str, AfterValidator(_inside)]
"""The name of a file or folder below the one that a record is about."""
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
"""The name of a file or folder beside the record, or in the folder that it is about."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Version = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
"""The name of a dataset's version."""
