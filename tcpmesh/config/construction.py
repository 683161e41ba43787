"""
Makes an instance of a settings class, and finds the field that its validators or converters object to.

Ring 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs

__all__ = ["Objection", "construct"]


@attrs.frozen
class Objection:
    """What a class said against its values; ``argument`` is the one it means, None for their combination."""

    argument: str | None
    message: str


def construct(settings: type, arguments: Mapping[str, Any]) -> tuple[Any, tuple[Objection, ...]]:
    """
    Call the class.

    An exception does not say which field it is about, so after one each field is converted and validated alone.

    :return: the instance and nothing, or None and what is wrong.
    """
    try:
        return settings(**arguments), ()
    except Exception as error:  # noqa: BLE001 - a plugin author's code; whatever it raises is shown at the key
        objections = tuple(_objections(settings, arguments))
        return None, objections or (Objection(None, _words(error)),)


def _objections(settings: type, arguments: Mapping[str, Any]) -> Iterator[Objection]:
    instance: Any = object.__new__(settings)
    converted = []
    for field in attrs.fields(settings):
        argument = field.alias or field.name
        try:
            value = _converted(
                field, arguments[argument] if argument in arguments else _default(field, instance), instance
            )
            object.__setattr__(instance, field.name, value)
        except Exception as error:  # noqa: BLE001 - as above
            yield Objection(argument, _words(error))
        else:
            converted.append((field, argument, value))
    for field, argument, value in converted:
        if field.validator is not None:
            try:
                field.validator(instance, field, value)
            except Exception as error:  # noqa: BLE001 - as above
                yield Objection(argument, _words(error))


def _default(field: attrs.Attribute[Any], instance: Any) -> Any:
    default: Any = field.default
    if not hasattr(default, "factory"):
        return default
    return default.factory(instance) if default.takes_self else default.factory()


def _converted(field: attrs.Attribute[Any], value: Any, instance: Any) -> Any:
    converter: Any = field.converter
    if converter is None:
        return value
    if hasattr(converter, "takes_field"):  # an attrs.Converter, which attrs has since 24.1
        extra = [instance] if converter.takes_self else []
        extra += [field] if converter.takes_field else []
        return converter.converter(value, *extra)
    return converter(value)


def _words(error: Exception) -> str:
    """The message; attrs' own validators put it first and further arguments for programs behind it."""
    message = str(error.args[0]) if error.args else ""
    if isinstance(error, (ValueError, TypeError)) and message:
        return message
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
