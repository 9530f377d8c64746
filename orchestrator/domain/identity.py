"""Who a memory bank belongs to: recipe, role, ROI and model key, their limits and their storage names.

Contract: inspection A2 (limits) and A6 (layout). Knows names only; reads and writes nothing.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass

from orchestrator.errors import InvalidIdentifier, InvalidInput

DEFAULT_RECIPE = "default"
RESERVED_RECIPE = "last"
MAX_CHARACTERS = 64
MAX_BYTES = 84
"""Two identifiers in base64, a suffix and a staging name must fit one 255-byte file name."""

_RECIPE = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}", re.ASCII)
_PLAIN_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", re.ASCII)


class InvalidRecipe(InvalidInput):
    """The recipe id is reserved or breaks the pattern."""

    code = "invalid_recipe_id"


def normalise_recipe(*candidates: str | None) -> str:
    """Take the first candidate with text, trimmed and lower-cased; `default` where none has any.

    Raises InvalidRecipe where it is reserved or outside `^[a-z0-9][a-z0-9_-]{0,63}$`.
    """
    recipe = next((c.strip().lower() for c in candidates if c and c.strip()), DEFAULT_RECIPE)
    if recipe == RESERVED_RECIPE:
        raise InvalidRecipe(f"recipe_id: '{RESERVED_RECIPE}' is reserved; choose another recipe name.")
    if not _RECIPE.fullmatch(recipe):
        raise InvalidRecipe(
            f"recipe_id: {recipe[:80]!r} is not valid. Allowed: a letter or digit, "
            "then up to 63 of a-z, 0-9, '_' and '-'."
        )
    return recipe


def check_identifier(value: str, field: str) -> str:
    """Return the identifier unchanged.

    Raises InvalidIdentifier where it is empty, over 64 characters or 84 bytes, or not encodable as UTF-8.
    """
    if not value:
        raise InvalidIdentifier(f"{field}: must not be empty; send 1 to {MAX_CHARACTERS} characters.")
    try:
        size = len(value.encode())
    except UnicodeEncodeError as error:
        raise InvalidIdentifier(f"{field}: holds characters that are not valid Unicode text.") from error
    if len(value) > MAX_CHARACTERS or size > MAX_BYTES:
        raise InvalidIdentifier(
            f"{field}: has {len(value)} characters and {size} bytes; at most {MAX_CHARACTERS} characters "
            f"and {MAX_BYTES} bytes of UTF-8 are allowed."
        )
    return value


def encode_identifier(value: str) -> str:
    """Encode as unpadded urlsafe base64 of UTF-8."""
    return base64.urlsafe_b64encode(value.encode()).decode().rstrip("=")


def decode_identifier(encoded: str) -> str:
    """Undo `encode_identifier`.

    Raises InvalidIdentifier where the text is not such an encoding.
    """
    try:
        return base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError) as error:
        raise InvalidIdentifier(f"{encoded!r} is not an encoded identifier") from error


def split_pair(name: str) -> tuple[str, str] | None:
    """Decode `<b64role>__<b64roi>`; None where it is no such name.

    An encoded identifier may itself hold `_`, so every place for the separator is tried.
    """
    for cut in range(1, len(name) - 2):
        if name.startswith("__", cut):
            ids = read_identifier(name[:cut]), read_identifier(name[cut + 2 :])
            if ids[0] is not None and ids[1] is not None:
                return ids[0], ids[1]
    return None


def read_identifier(encoded: str) -> str | None:
    """Decode an identifier of printable text; None where the text is no such encoding."""
    try:
        text = decode_identifier(encoded)
    except InvalidIdentifier:
        return None
    return text if text.isprintable() and encode_identifier(text) == encoded else None


def model_folder(model_key: str) -> str:
    """Name a model key's folder: the raw text where it is plain, else `~` + base64 (no climbing, no collision)."""
    return model_key if _PLAIN_KEY.fullmatch(model_key) else "~" + encode_identifier(model_key)


@dataclass(frozen=True, slots=True)
class Part:
    """A role's ROI within a recipe: what samples belong to."""

    recipe_id: str
    role_id: str
    roi_id: str

    @classmethod
    def of(cls, recipe_id: str, role_id: str, roi_id: str) -> Part:
        """Build from wire values.

        Raises InvalidIdentifier.
        """
        return cls(recipe_id, check_identifier(role_id, "role_id"), check_identifier(roi_id, "roi_id"))

    @property
    def pair(self) -> str:
        """`<b64role>__<b64roi>`."""
        return f"{encode_identifier(self.role_id)}__{encode_identifier(self.roi_id)}"

    @property
    def dataset_prefix(self) -> str:
        """The folder key of this part's samples."""
        return f"datasets/{self.recipe_id}/{self.pair}"

    @property
    def label(self) -> str:
        """`role/roi`, for people."""
        return f"{self.role_id}/{self.roi_id}"


@dataclass(frozen=True, slots=True)
class Target:
    """A part and the model key that its memory bank is kept under."""

    part: Part
    model_key: str

    @classmethod
    def of(cls, recipe_id: str, role_id: str, roi_id: str, model_key: str | None = None) -> Target:
        """Build from wire values; the model key is the ROI where none is given.

        Raises InvalidIdentifier.
        """
        part = Part.of(recipe_id, role_id, roi_id)
        return cls(part, check_identifier(model_key, "model_key") if model_key else roi_id)

    @property
    def stem(self) -> str:
        """The key of everything stored for this target, without its suffix."""
        return f"recipes/{self.part.recipe_id}/{model_folder(self.model_key)}/{self.part.pair}"
