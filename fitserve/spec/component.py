"""How a Keras class is written in a spec, and how that is read.

    Dense: {units: 128, activation: relu}     a mapping of arguments
    Dropout: 0.2                              the first argument alone
    Flatten                                   the bare name, all defaults
    {class_name: Dense, config: {...}}        Keras's own serialisation

A `Family` is the allow-list of one kind of class: a name that is not in it is refused, with the nearest that is.
Reading keeps what was written; writing (`model_dump`) gives `{Class: {every argument}}`, so that it is a fixed point.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Generic, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from fitserve.errors import Problem
from fitserve.validation import Refused, nearest, problems_of, shown


class Component(BaseModel):
    """A Keras class and its arguments; the Python class bears Keras's name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Other names that Keras knows the class by.
    aliases: ClassVar[tuple[str, ...]] = ()
    # The argument that a shorthand gives; left out: the first. Empty: there is no shorthand.
    shorthand: ClassVar[str | None] = None
    # Keras's arguments that a spec does not offer, with the one value that an imported configuration may have.
    omitted: ClassVar[Mapping[str, Any]] = {}

    @model_serializer(mode="wrap")
    def _written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {type(self).__name__: handler(self)}

    def arguments(self) -> dict[str, Any]:
        """The arguments as plain JSON values."""
        written: dict[str, Any] = self.model_dump(mode="json")[type(self).__name__]
        return written

    @classmethod
    def first_argument(cls) -> str | None:
        """The argument that a shorthand gives."""
        if cls.shorthand is not None:
            return cls.shorthand or None
        return next(iter(cls.model_fields), None)

    @classmethod
    def of(cls, value: Any) -> Self:
        """Read what stands behind the class's name. Raises Refused with pointers relative to it."""
        first = cls.first_argument()
        if value is None:
            arguments: dict[str, Any] = {}
        elif isinstance(value, dict) and not cls.is_shorthand(value):
            arguments = value
        elif first is None:
            raise Refused(f"{cls.__name__} takes no arguments.", received=value, expected="{}")
        else:
            arguments = {first: value}
        try:
            return cls.model_validate(arguments)
        except ValidationError as error:
            raise Refused(problems=problems_of(error, cls, arguments)) from None

    @classmethod
    def is_shorthand(cls, value: dict[str, Any]) -> bool:
        """Whether a mapping is the first argument itself rather than the arguments."""
        return False

    @classmethod
    def of_config(cls, config: dict[str, Any]) -> Self:
        """Read Keras's `get_config()`. Raises Refused where it says what a spec cannot."""
        arguments = {}
        for key, value in config.items():
            if key in cls.model_fields:
                arguments[key] = value
            elif key in cls.omitted or key in _UNIVERSAL:
                allowed = cls.omitted[key] if key in cls.omitted else _UNIVERSAL[key]
                if allowed is not ... and not _means(value, allowed):
                    detail = f"A spec's {cls.__name__} cannot have {key} other than {shown(allowed)}."
                    raise Refused(problems=[Problem(detail, pointer=f"/{key}", received=shown(value))])
            else:
                arguments[key] = value  # refused by name below
        try:
            return cls.model_validate(arguments)
        except ValidationError as error:
            raise Refused(problems=problems_of(error, cls, arguments)) from None


# In every Keras configuration; `...` is any value. Precision is `training.mixed_precision`'s.
_UNIVERSAL: dict[str, Any] = {
    "name": ...,
    "dtype": ("float32", None),
    "trainable": True,
    "batch_input_shape": ...,
    "batch_shape": ...,
    "reduction": "sum_over_batch_size",
    "fn": ...,
}


def _means(value: Any, allowed: Any) -> bool:
    if isinstance(value, dict) and value.get("class_name") == "DTypePolicy":
        value = value.get("config", {}).get("name")
    return value in allowed if isinstance(allowed, tuple) else bool(value == allowed)


C = TypeVar("C", bound=Component)


class Family(Generic[C]):
    """The allow-list of one kind of Keras class, and a Pydantic annotation for a field that holds one."""

    def __init__(self, noun: str, module: str, classes: Iterable[type[C]]) -> None:
        self.noun = noun
        self.module = module  # Keras's, for configurations that name it
        self.classes = {cls.__name__: cls for cls in classes}
        self._names = {_plain(name): name for name in self.classes}
        for name, cls in self.classes.items():
            self._names |= {_plain(alias): name for alias in cls.aliases}

    def knows(self, name: Any) -> bool:
        """Whether this is the name of one of the family."""
        return isinstance(name, str) and _plain(name) in self._names

    def named(self, name: Any, pointer: str = "") -> type[C]:
        """The class of this name, in CamelCase or snake_case. Raises Refused with the nearest names."""
        if self.knows(name):
            return self.classes[self._names[_plain(name)]]
        near = nearest(name, self.classes)
        raise Refused(
            problems=[
                Problem(
                    f"There is no {self.noun} {shown(name)} in a spec.",
                    pointer=pointer,
                    received=shown(name),
                    expected=f"one of {', '.join(self.classes)}",
                    fix=f"Did you mean {' or '.join(near)}?" if near else None,
                )
            ]
        )

    def read(self, value: Any) -> C:
        """One of the family from any of the four ways to write it. Raises Refused."""
        if isinstance(value, Component):
            if type(value) in self.classes.values():
                return value  # type: ignore[return-value]
            raise Refused(f"Expected {self.article()}.", received=type(value).__name__)
        if isinstance(value, str):
            return self.named(value).of(None)
        if not isinstance(value, dict):
            raise Refused(f"Expected {self.article()}.", received=shown(value), expected=self._expected())
        if "class_name" in value:
            return self._read_keras(value)
        if len(value) != 1:
            raise Refused(
                f"Expected {self.article()}: a mapping with one key, the class's name.",
                received=shown(list(value)),
                expected=self._expected(),
            )
        ((name, arguments),) = value.items()
        cls = self.named(name, "/" + _escaped(name))
        try:
            return cls.of(arguments)
        except Refused as refused:
            raise refused.under(name) from None

    def _read_keras(self, value: dict[str, Any]) -> C:
        strange = set(value) - {"class_name", "config", "module", "registered_name", "build_config", "compile_config"}
        module, registered = value.get("module"), value.get("registered_name")
        if strange or (module is not None and module not in (self.module, "builtins")) or registered is not None:
            raise Refused(
                f"Only Keras's own classes can be {self.article()}.",
                received=shown({key: value[key] for key in value if key not in ("config", "build_config")}),
                expected=f"module {self.module}, no registered_name",
            )
        cls = self.named(value["class_name"], "/class_name")
        config = value.get("config") or {}
        if not isinstance(config, dict):
            raise Refused("A configuration is a mapping.", received=shown(config))
        try:
            return cls.of_config(config)
        except Refused as refused:
            raise refused.under("config") from None

    def article(self) -> str:
        """The noun with its article."""
        return f"{'an' if self.noun[0] in 'aeiou' else 'a'} {self.noun}"

    def _expected(self) -> str:
        some = list(self.classes)
        return f"{', '.join(some[:6])}, ..." if len(some) > 6 else ", ".join(some)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self.read,
            serialization=core_schema.plain_serializer_function_ser_schema(_dumped),
            metadata={"family": self.noun},
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return later(definition_name(self.noun))


LATER = "x-definition"


def later(name: str) -> JsonSchemaValue:
    """A reference that Pydantic does not follow; `fitserve.spec.schema` puts `$ref` in its place."""
    return {LATER: name}


def definition_name(noun: str) -> str:
    """What the JSON Schema calls a family: `learning-rate schedule` is `LearningRateSchedule`."""
    return "".join(part.capitalize() for part in re.split(r"[ -]", noun))


def _dumped(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


def _escaped(key: Any) -> str:
    return str(key).replace("~", "~0").replace("/", "~1")
