"""JSON Schema, as far as the OpenAPI document uses it. What is not understood here is an error, never a pass."""

import re
from collections.abc import Callable, Mapping
from typing import Any

Json = Any  # whatever JSON can hold

TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
FORMS = {
    "uuid": r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    "date-time": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z",
    "uri-reference": r"/\S+",
}
SAY_NOTHING = {"description", "default"}

# Words about one value: to which type they apply, and what they ask of it.
PLAIN: Mapping[str, tuple[type | tuple[type, ...], Callable[[Json, Json], bool]]] = {
    "type": (object, lambda value, said: any(_is(value, kind) for kind in ([said] if isinstance(said, str) else said))),
    "enum": (object, lambda value, said: value in said),
    "const": (object, lambda value, said: value == said),
    "format": (str, lambda value, said: re.fullmatch(FORMS[said], value) is not None),
    "pattern": (str, lambda value, said: re.search(said, value) is not None),
    "minLength": (str, lambda value, said: len(value) >= said),
    "maxLength": (str, lambda value, said: len(value) <= said),
    "minimum": ((int, float), lambda value, said: value >= said),
    "exclusiveMinimum": ((int, float), lambda value, said: value > said),
    "required": (dict, lambda value, said: set(said) <= set(value)),
    "maxProperties": (dict, lambda value, said: len(value) <= said),
}


class Schemas:
    """Checks values against the schemas of one document."""

    def __init__(self, document: Mapping[str, Json]) -> None:
        self._document = document

    def resolve(self, item: Json) -> Json:
        """What a reference stands for, or the item itself."""
        if "$ref" not in item:
            return item
        found: Json = self._document
        for name in item["$ref"].removeprefix("#/").split("/"):
            found = found[name]
        return found

    def check(self, value: Json, schema: Mapping[str, Json], place: str = "$") -> None:
        """Fail where `value` is not as `schema` says."""
        for word, said in schema.items():
            if word in PLAIN:
                applies_to, fits = PLAIN[word]
                assert not isinstance(value, applies_to) or fits(value, said), f"{place}: {value!r}: {word} {said!r}"
            elif word not in SAY_NOTHING:
                for part, of_part, at in self._parts(value, word, said, schema, place):
                    self.check(part, of_part, at)

    def _parts(
        self, value: Json, word: str, said: Json, schema: Mapping[str, Json], place: str
    ) -> list[tuple[Json, Mapping[str, Json], str]]:
        """The values that a word gives schemas of their own."""
        match word:
            case "$ref":
                return [(value, self.resolve(schema), place)]
            case "allOf":
                return [(value, option, place) for option in said]
            case "oneOf" | "anyOf":
                fitting = [option for option in said if self._fits(value, option)]
                assert len(fitting) == 1 or (fitting and word == "anyOf"), f"{place}: {value!r}: {word} {said!r}"
                return []
            case "items":
                items = value if isinstance(value, list) else []
                return [(item, said, f"{place}[{number}]") for number, item in enumerate(items)]
            case "properties" | "additionalProperties" | "propertyNames":
                members = _members(value, word, said, schema) if isinstance(value, dict) else {}
                return [(*part, f"{place}.{name}") for name, part in members.items()]
            case _:
                raise AssertionError(f"{place}: not understood: {word}")

    def _fits(self, value: Json, schema: Mapping[str, Json]) -> bool:
        try:
            self.check(value, schema)
        except AssertionError:
            return False
        return True


def _members(
    value: dict[str, Json], word: str, said: Json, schema: Mapping[str, Json]
) -> dict[str, tuple[Json, Mapping[str, Json]]]:
    if word == "properties":
        return {name: (value[name], said[name]) for name in said if name in value}
    if word == "propertyNames":
        return {name: (name, said) for name in value}
    allowed = {"enum": []} if said is False else said
    return {name: (value[name], allowed) for name in value if name not in schema.get("properties", {})}


def _is(value: Json, kind: str) -> bool:
    return isinstance(value, TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))
