"""Settings: TOML file, then environment, then flags, into one frozen dataclass a part. Unknown keys are refused by place.

Environment names are MARRAM_<SECTION>_<KEY>. Nothing else in the project reads the environment for settings.
"""

import dataclasses
import tomllib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from marram.core.errors import Invalid

T = TypeVar("T")


class BadSetting(Invalid):
    """A key or value in a settings file or variable that Marram does not know."""

    code = "MRM-1008"


def read_toml(path: Path) -> dict[str, dict[str, object]]:
    """Sections of a settings file; a missing file is empty. Raises BadSetting with the line."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return {}
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise BadSetting(f"{path}: {exc}") from exc
    for name, section in data.items():
        if not isinstance(section, dict):
            raise BadSetting(f"{path} line {_line(text, name)}: key {name!r} must be inside a [section]")
    return data


def load(
    cls: type[T],
    section: str,
    *,
    path: Path | None = None,
    environ: Mapping[str, str] | None = None,
    base: T | None = None,
    **flags: object,
) -> T:
    """One settings dataclass. What is not given is as in `base`, or the class's default; a flag that is None counts as not
    given. Raises BadSetting with file, line and key.
    """
    assert dataclasses.is_dataclass(cls)
    hints = typing.get_type_hints(cls)
    values: dict[str, object] = {}
    if path is not None:
        text = path.read_text() if path.exists() else ""
        for key, value in read_toml(path).get(section, {}).items():
            if key not in hints:
                raise BadSetting(
                    f"{path} line {_line(text, key)}: [{section}] has no key {key!r}; it has {', '.join(sorted(hints))}"
                )
            values[key] = _typed(value, hints[key], f"{path} line {_line(text, key)}: [{section}] {key}")
    prefix = f"MARRAM_{section.upper()}_"
    for name, raw in (environ or {}).items():
        key = name.removeprefix(prefix).lower()
        if name.startswith(prefix) and key in hints:
            values[key] = _parsed(raw, hints[key], name)
    values.update({key: value for key, value in flags.items() if value is not None})
    return cls(**values) if base is None else dataclasses.replace(base, **values)  # type: ignore[type-var]  # asserted above


def known_sections(path: Path, sections: Mapping[str, type]) -> None:
    """Raises BadSetting when the file has a section that no part reads."""
    text = path.read_text() if path.exists() else ""
    for name in read_toml(path):
        if name not in sections:
            raise BadSetting(
                f"{path} line {_line(text, name)}: no section [{name}]; there are {', '.join(sorted(sections))}"
            )


def _line(text: str, key: str) -> int:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip().lstrip("[").startswith(key):
            return number
    return 0


def _typed(value: object, hint: object, where: str) -> object:
    if typing.get_origin(hint) is typing.Literal:
        words = typing.get_args(hint)
        if value not in words:
            raise BadSetting(f"{where} must be one of {', '.join(map(str, words))}, not {value!r}")
        return value
    wanted = hint if isinstance(hint, type) else object
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if wanted is Path and isinstance(value, str):
        return Path(value)
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        raise BadSetting(f"{where} must be {wanted.__name__}, not {value!r}")
    return value


def _parsed(raw: str, hint: object, where: str) -> object:
    if hint is bool:
        if raw.lower() not in {"true", "false", "1", "0"}:
            raise BadSetting(f"{where} must be true or false, not {raw!r}")
        return raw.lower() in {"true", "1"}
    if hint is int or hint is float:
        try:
            return int(raw) if hint is int else float(raw)
        except ValueError as exc:
            raise BadSetting(f"{where} must be a number, not {raw!r}") from exc
    return _typed(raw, hint, where)
