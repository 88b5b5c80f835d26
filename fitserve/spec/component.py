"""Keras classes in a spec: the four ways to write one, and the parser for them.

    Dense: {units: 128, activation: relu}     a mapping of arguments
    Dropout: 0.2                              the first argument alone
    Flatten                                   the bare name, all defaults
    {class_name: Dense, config: {...}}        Keras's own serialisation

A `Family` is the allow-list of one kind of class: every concrete subclass of its base. An unknown name is refused
with the closest known one. Writing (`model_dump`) gives `{Class: {every argument}}`, which reads back as the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Generic, Self, TypeVar, Unpack

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from fitserve.data_model import DataModel
from fitserve.errors import json_pointer
from fitserve.excerpts import excerpt
from fitserve.validation import InvalidValue, problems_from, unknown_name

_CONCRETE: list[type[Component]] = []  # every class that a spec can name, in order of definition


class Component(DataModel):
    """A Keras class and its arguments; the Python class has Keras's name.

    `class Optimizer(Component, abstract=True)` is a base that a spec cannot name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Other names that Keras accepts for the class.
    aliases: ClassVar[tuple[str, ...]] = ()
    # The argument that a shorthand sets; None is the first argument, "" means no shorthand.
    shorthand: ClassVar[str | None] = None
    # Keras arguments that a spec cannot set, each with the only value accepted from an imported configuration.
    omitted: ClassVar[Mapping[str, Any]] = {}

    def __init_subclass__(cls, *, abstract: bool = False, **config: Unpack[ConfigDict]) -> None:
        super().__init_subclass__(**config)
        if not abstract:
            _CONCRETE.append(cls)

    @model_serializer(mode="wrap")
    def _serialize(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {type(self).__name__: handler(self)}

    def arguments(self) -> dict[str, Any]:
        """Return the arguments as JSON values."""
        arguments: dict[str, Any] = self.model_dump(mode="json")[type(self).__name__]
        return arguments

    @classmethod
    def shorthand_argument(cls) -> str | None:
        """Return the name of the argument that a shorthand sets; None if there is no shorthand."""
        if cls.shorthand is not None:
            return cls.shorthand or None
        return next(iter(cls.model_fields), None)

    @classmethod
    def is_shorthand(cls, value: dict[str, Any]) -> bool:
        """Return whether a mapping is the shorthand's argument rather than the arguments."""
        return False

    @classmethod
    def from_arguments(cls, value: Any) -> Self:
        """Parse the value that follows the class's name. Raises InvalidValue with pointers relative to that value."""
        argument = cls.shorthand_argument()
        if value is None:
            return cls._validated({})
        if isinstance(value, dict) and not cls.is_shorthand(value):
            return cls._validated(value)
        if argument is None:
            raise InvalidValue(f"{cls.__name__} takes no arguments.", received=value, expected="{}")
        return cls._validated({argument: value})

    @classmethod
    def from_keras(cls, config: dict[str, Any]) -> Self:
        """Parse a Keras `get_config()`. Raises InvalidValue for anything that a spec cannot express."""
        arguments = {}
        for key, value in config.items():
            allowed = cls.omitted.get(key, _UNIVERSAL.get(key, _UNKNOWN))
            if key in cls.model_fields or allowed is _UNKNOWN:  # an unknown argument is refused below
                arguments[key] = value
            elif allowed is not ... and not _matches(value, allowed):
                detail = f"A spec's {cls.__name__} cannot have {key} other than {excerpt(allowed)}."
                raise InvalidValue(detail, pointer=f"/{key}", received=excerpt(value))
        whole = cls._validated(arguments)
        # Keras writes out every argument; one that has its default was not set by the author.
        usual = {name for name, field in cls.model_fields.items() if getattr(whole, name) == field.default}
        return cls._validated({name: value for name, value in arguments.items() if name not in usual})

    @classmethod
    def _validated(cls, arguments: dict[str, Any]) -> Self:
        try:
            return cls.model_validate(arguments)
        except ValidationError as error:
            raise InvalidValue(problems=problems_from(error.errors(include_url=False), cls, arguments)) from None


_UNKNOWN = object()
# Arguments in every Keras configuration; `...` accepts any value. `training.mixed_precision` sets the precision.
_UNIVERSAL: dict[str, Any] = {
    "name": ...,
    "dtype": ("float32", None),
    "trainable": True,
    "batch_input_shape": ...,
    "batch_shape": ...,
    "reduction": "sum_over_batch_size",
    "fn": ...,
}


def _matches(value: Any, allowed: Any) -> bool:
    if isinstance(value, dict) and value.get("class_name") == "DTypePolicy":
        value = value.get("config", {}).get("name")
    return value in allowed if isinstance(allowed, tuple) else bool(value == allowed)


C = TypeVar("C", bound=Component)


class Family(Generic[C]):
    """The concrete subclasses of `base`, by name, and a Pydantic annotation for a field that holds one.

    Create it after all subclasses are defined. `module` is the Keras module that a configuration may name.
    """

    def __init__(self, noun: str, module: str, base: type[C]) -> None:
        self.noun = noun
        self.module = module
        self.classes = {cls.__name__: cls for cls in _CONCRETE if issubclass(cls, base)}
        self._names = {_normalized(name): name for name in self.classes}
        for name, cls in self.classes.items():
            self._names |= {_normalized(alias): name for alias in cls.aliases}

    def knows(self, name: Any) -> bool:
        """Return whether this is the name of a member."""
        return isinstance(name, str) and _normalized(name) in self._names

    def class_named(self, name: Any, pointer: str = "") -> type[C]:
        """Return the class of this name, in CamelCase or snake_case. Raises InvalidValue with the closest names."""
        if self.knows(name):
            return self.classes[self._names[_normalized(name)]]
        detail = f"There is no {self.noun} {excerpt(name)} in a spec."
        raise InvalidValue(problems=[unknown_name(detail, name, self.classes, pointer)])

    def read(self, value: Any) -> C:
        """Parse any of the four ways of writing a member. Raises InvalidValue."""
        if isinstance(value, Component):
            if type(value) in self.classes.values():
                return value  # type: ignore[return-value]
            raise InvalidValue(f"Expected {self._a_noun()}.", received=type(value).__name__)
        if isinstance(value, str):
            return self.class_named(value).from_arguments(None)
        if not isinstance(value, dict):
            raise InvalidValue(f"Expected {self._a_noun()}.", received=excerpt(value), expected=self._examples())
        if "class_name" in value:
            return self._read_keras(value)
        if len(value) != 1:
            detail = f"Expected {self._a_noun()}: a mapping with one key, the class's name."
            raise InvalidValue(detail, received=excerpt(list(value)), expected=self._examples())
        ((name, arguments),) = value.items()
        cls = self.class_named(name, json_pointer([name]))
        try:
            return cls.from_arguments(arguments)
        except InvalidValue as invalid:
            raise invalid.under(name) from None

    def _read_keras(self, value: dict[str, Any]) -> C:
        strange = set(value) - {"class_name", "config", "module", "registered_name", "build_config", "compile_config"}
        module, registered = value.get("module"), value.get("registered_name")
        if strange or (module is not None and module not in (self.module, "builtins")) or registered is not None:
            raise InvalidValue(
                f"Only Keras's own classes can be {self._a_noun()}.",
                received=excerpt({key: value[key] for key in value if key not in ("config", "build_config")}),
                expected=f"module {self.module}, no registered_name",
            )
        cls = self.class_named(value["class_name"], "/class_name")
        config = value.get("config") or {}
        if not isinstance(config, dict):
            raise InvalidValue("A configuration is a mapping.", received=excerpt(config))
        try:
            return cls.from_keras(config)
        except InvalidValue as invalid:
            raise invalid.under("config") from None

    def _a_noun(self) -> str:
        return f"{'an' if self.noun[0] in 'aeiou' else 'a'} {self.noun}"

    def _examples(self) -> str:
        names = list(self.classes)
        return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self.read, serialization=core_schema.plain_serializer_function_ser_schema(dump_components, info_arg=True)
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return deferred_ref(definition_name(self.noun))


DEFERRED = "x-definition"


def deferred_ref(name: str) -> JsonSchemaValue:
    """Return a reference that Pydantic does not follow; `fitserve.spec.schema` replaces it with `$ref`."""
    return {DEFERRED: name}


def definition_name(noun: str) -> str:
    """Return a family's name in the JSON Schema: `learning-rate schedule` is `LearningRateSchedule`."""
    return "".join(part.capitalize() for part in re.split(r"[ -]", noun))


def dump_components(value: Any, info: SerializationInfo) -> Any:
    """Return a component, or lists and mappings of them, as JSON values."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_unset=info.exclude_unset, exclude_defaults=info.exclude_defaults)
    if isinstance(value, dict):
        return {key: dump_components(item, info) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [dump_components(item, info) for item in value]
    return value


def _normalized(name: str) -> str:
    return name.replace("_", "").lower()
