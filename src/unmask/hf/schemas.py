"""JSON schemas: which ones a pattern can describe, what outlines-core gets of them, and a check of what was written.

outlines-core ignores many keywords, and reads others only where no second one stands beside them. What it would ignore
is refused here by name, so that each text it describes fits the schema. The converse is not promised: the properties of
an object come in the order of the schema, and an object has no other ones. `jsonschema` checks the schema, and a
finished text.
"""

__all__ = ["plain_schema", "verifier"]

import importlib
import json
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

from unmask.disk.json import NotJson, parse_json
from unmask.errors import RequestError, RunError
from unmask.hf.patterns import body_of, table_of

_NOTES = {
    *("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"),
    *("$comment", "$schema", "$id", "$defs", "definitions"),
}
_SCALARS = {"boolean", "null", "integer", "number"}
_FORMATS = {"date", "time", "date-time", "uuid"}
_TYPES = ("null", "boolean", "number", "string", "array", "object")
_DEPTH, _PARTS = 64, 2_000  # parts after each reference is replaced by what it names

_Schema = dict[str, Any]


def plain_schema(text: str) -> str:
    """A JSON schema -> the same without annotations, as JSON for `patterns.regex_of_schema`.

    Raises RequestError for what is no schema, a keyword that would be ignored, and a reference into itself.
    """
    if find_spec("jsonschema") is None:
        raise RequestError("A JSON schema needs jsonschema: pip install 'unmask[constrain]'.")
    try:
        schema = parse_json(text, dict[str, Any])
    except NotJson as error:
        raise RequestError(f"The JSON schema is no JSON object: it {error.reason}.") from None
    library: Any = importlib.import_module("jsonschema")
    try:
        library.validators.validator_for(schema, default=library.Draft202012Validator).check_schema(schema)
    except library.exceptions.SchemaError as error:
        place = error.json_path
        raise RequestError(f"The JSON schema is wrong at {place}: {str(error.message)[:200]}.") from None
    return json.dumps(_Reader(schema).plain(schema, "$", ()), ensure_ascii=False)


def verifier(text: str) -> Callable[[str], None]:
    """A JSON schema that `plain_schema` took -> a function that raises RunError for a text that does not fit it."""
    library: Any = importlib.import_module("jsonschema")
    schema = parse_json(text, dict[str, Any])
    validator = library.validators.validator_for(schema, default=library.Draft202012Validator)(schema)

    def verify(written: str) -> None:
        try:
            error = next(validator.iter_errors(json.loads(written)), None)
            reason = "" if error is None else f"{error.json_path}: {error.message}"
        except ValueError as wrong:
            reason = f"it is no JSON ({wrong})"
        if reason:
            raise RunError(f"What was written does not fit the JSON schema, a fault of this library: {reason[:200]}.")

    return verify


class _Reader:
    """Walks through a schema; the places in its sentences are those of the schema, such as $.properties.age."""

    def __init__(self, root: _Schema) -> None:
        self.root, self.parts = root, 0

    def plain(self, schema: object, place: str, names: tuple[str, ...]) -> _Schema:
        """A schema, or a part of it -> the same without annotations and references.

        `names` are the references that led here.
        """
        self.parts += 1
        if self.parts > _PARTS:
            raise RequestError(f"The JSON schema has more than {_PARTS:,} parts; make it smaller.")
        if schema is True:
            schema = {}
        if not isinstance(schema, dict):
            raise RequestError(f"The JSON schema at {place} allows nothing; leave that part out.")
        if place.count(".") > _DEPTH:
            raise RequestError(
                f"The JSON schema is nested more than {_DEPTH} deep, which is too much; make it flatter."
            )
        own: _Schema = {key: value for key, value in schema.items() if key not in _NOTES}
        if "$ref" in own:
            self._only(own, {"$ref"}, place, "'$ref'")
            return self._referred(own["$ref"], place, names)
        if "enum" in own or "const" in own:
            return self._values(own, place)
        for word in ("anyOf", "oneOf"):
            if word in own:
                self._only(own, {word}, place, f"'{word}'")
                parts = [self.plain(part, f"{place}.{word}[{at}]", names) for at, part in enumerate(own[word])]
                if word == "oneOf" and not _apart(parts):
                    raise RequestError(
                        f"The JSON schema has the keyword 'oneOf' at {place}, with parts that overlap; write 'anyOf'."
                    )
                return {"anyOf": parts}
        return self._typed(own, place, names)

    def _typed(self, own: _Schema, place: str, names: tuple[str, ...]) -> _Schema:
        """A schema by its type."""
        kinds = own.get("type", "object" if "properties" in own else None)
        if isinstance(kinds, list):
            self._only(own, {"type"}, place, "a list of types")
            return {"anyOf": [self.plain({"type": each}, place, names) for each in kinds]}
        if kinds is None:
            self._only(own, set(), place)
            return {"anyOf": [{"type": each} for each in _TYPES]}
        if kinds in _SCALARS:
            self._only(own, {"type"}, place)
            return own
        if kinds == "string":
            return self._string(own, place)
        return self._array(own, place, names) if kinds == "array" else self._object(own, place, names)

    def _string(self, own: _Schema, place: str) -> _Schema:
        first = next((word for word in ("pattern", "format") if word in own), None)
        known = {"type", first} if first else {"type", "minLength", "maxLength"}
        self._only(own, known, place, f"'{first}'" if first else "")
        if first == "format" and own["format"] not in _FORMATS:
            raise RequestError(
                f"The JSON schema has the format '{own['format']}' at {place}; "
                f"possible are {', '.join(sorted(_FORMATS))}."
            )
        if first == "pattern":
            every = [bytes([value]) for value in range(256)]
            escaped = {*range(0x20), 0x22, 0x5C}
            table = table_of(own["pattern"], every, name=f"'pattern' at {place}")
            if escaped & set(table.edges[:, 1].tolist()):
                raise RequestError(
                    f"The 'pattern' at {place} allows a quotation mark, a backslash or a control character, which JSON "
                    'writes in another form; exclude them, such as by [^"\\\\\\x00-\\x1f] for a dot.'
                )
            return own | {"pattern": f"^(?:{body_of(own['pattern'])})$"}
        if own.get("minLength", 0) > own.get("maxLength", own.get("minLength", 0)):
            raise RequestError(f"The JSON schema has minLength above maxLength at {place}; swap them.")
        return own

    def _array(self, own: _Schema, place: str, names: tuple[str, ...]) -> _Schema:
        if "prefixItems" in own:
            self._only(own, {"type", "prefixItems"}, place, "'prefixItems'")
            parts = enumerate(own["prefixItems"])
            return own | {"prefixItems": [self.plain(part, f"{place}.prefixItems[{at}]", names) for at, part in parts]}
        self._only(own, {"type", "items", "minItems", "maxItems"}, place)
        if own.get("minItems", 0) > own.get("maxItems", own.get("minItems", 0)):
            raise RequestError(f"The JSON schema has minItems above maxItems at {place}; swap them.")
        if own.get("items", True) is True:
            return {key: value for key, value in own.items() if key != "items"}
        return own | {"items": self.plain(own["items"], f"{place}.items", names)}

    def _object(self, own: _Schema, place: str, names: tuple[str, ...]) -> _Schema:
        self._only(own, {"type", "properties", "required", "additionalProperties"}, place)
        properties: _Schema = own.get("properties", {})
        for name in properties:
            if json.dumps(name, ensure_ascii=False) != f'"{name}"':
                raise RequestError(
                    f"The JSON schema has the property {name!r} at {place}, which JSON writes in another form; "
                    "rename it."
                )
        if unknown := sorted(set(own.get("required", ())) - set(properties)):
            raise RequestError(
                f"The JSON schema has the keyword 'required' at {place} with '{unknown[0]}', which is no property; "
                "add it, or leave it out."
            )
        more = own.get("additionalProperties", True)
        if not properties:
            if more is False:
                return {"const": {}}
            if more is True:
                return {"type": "object"}
            return {"type": "object", "additionalProperties": self.plain(more, f"{place}.additionalProperties", names)}
        parts = {name: self.plain(part, f"{place}.properties.{name}", names) for name, part in properties.items()}
        return {"type": "object", "properties": parts, "required": own.get("required", [])}

    def _values(self, own: _Schema, place: str) -> _Schema:
        """Named values, which have to fit the type beside them."""
        word = "const" if "const" in own else "enum"
        self._only(own, {word, "type"}, place, f"'{word}'")
        values = [own["const"]] if word == "const" else own["enum"]
        library: Any = importlib.import_module("jsonschema")
        checks = library.Draft202012Validator({key: value for key, value in own.items() if key == "type"})
        fitting = [value for value in values if checks.is_valid(value)]
        if not fitting:
            raise RequestError(f"The JSON schema has no value for the keyword '{word}' at {place} that fits its type.")
        return {"enum": fitting}

    def _referred(self, name: str, place: str, names: tuple[str, ...]) -> _Schema:
        """A reference -> what it names. Raises RequestError for one that leads to itself, or out of the schema."""
        if name in names or name == "#":
            raise RequestError(f"The JSON schema has the recursive '$ref' {name} at {place}; unroll it.")
        target: Any = self.root
        for part in name.removeprefix("#/").split("/") if name.startswith("#/") else [""]:
            key = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(target, dict) or key not in target:
                raise RequestError(
                    f"The JSON schema has the '$ref' {name} at {place}, which is not in it; write #/$defs/NAME."
                )
            target = target[key]
        return self.plain(target, name, (*names, name))

    def _only(self, own: Mapping[str, Any], known: set[str], place: str, beside: str = "") -> None:
        """Raise RequestError for a keyword that is not among the `known` ones."""
        if others := sorted(set(own) - known):
            raise RequestError(
                f"The JSON schema has the keyword '{others[0]}' at {place}, which would be ignored"
                f"{beside and f' beside {beside}'}; leave it out."
            )


def _apart(parts: list[_Schema]) -> bool:
    """Whether no text fits two schemas: they have different plain types, or a constant property of different values."""
    kinds = [part.get("type") for part in parts]
    kinds = ["number" if each == "integer" else each for each in kinds]
    if None not in kinds and len(set(kinds)) == len(kinds):
        return True
    shared = set[str].intersection(*(set(part.get("required", ())) for part in parts)) if parts else set[str]()
    for name in shared:
        values = [json.dumps(value) for part in parts for value in part["properties"][name].get("enum", (None, None))]
        if len(set(values)) == len(values):
            return True
    return False
