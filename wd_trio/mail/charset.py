"""Bytes to text by a charset that a stranger named.

Only codecs that Python lists as text encodings are looked up, by a table made once: asking `codecs` for
arbitrary names would search the file system and remember every miss for ever. Codecs whose work grows faster
than their input, or that run escapes, are left out. Decoding never fails: what the named charset cannot read
is tried as UTF-8, then read as Windows-1252 with replacements.
"""

from __future__ import annotations

from encodings.aliases import aliases
from typing import Final

_REFUSED: Final = frozenset(
    {"idna", "punycode", "unicode_escape", "raw_unicode_escape", "mbcs", "oem", "undefined"}
    | {"base64_codec", "bz2_codec", "hex_codec", "quopri_codec", "rot_13", "uu_codec", "zlib_codec"}
)
_UNALIASED: Final = {"koi8_u": "koi8_u", "koi8_t": "koi8_t", "cp874": "cp874", "utf_8_sig": "utf_8_sig"}
# Labels that mail uses for a superset: what calls itself by the left name is often the right one.
_WIDENED: Final = {
    "ascii": "utf_8",
    "latin_1": "cp1252",
    "iso8859_9": "cp1254",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
}
_FALLBACK: Final = "cp1252"
_MAX_CUT_BYTES: Final = 4  # the longest rest of one character that a cut may leave


def _table() -> dict[str, str]:
    names = {**{codec: codec for codec in aliases.values()}, **aliases, **_UNALIASED}
    return {name: _WIDENED.get(codec, codec) for name, codec in names.items() if codec not in _REFUSED}


_CODECS: Final = _table()


def codec(charset: str) -> str | None:
    """The Python codec that reads `charset` (any case, "-" or "_"), None when there is none."""
    return _CODECS.get(charset.strip().lower().replace("-", "_").replace(".", "_").replace(" ", "_"))


def decode(data: bytes, charset: str = "", *, cut: bool = False) -> str:
    """`data` as text; never raises. With `cut`, an incomplete character at the very end is dropped."""
    for name in (codec(charset) or "utf_8", "utf_8"):
        try:
            return _sound(data.decode(name))
        except UnicodeDecodeError as error:
            if not cut or error.start < len(data) - _MAX_CUT_BYTES:
                continue
            start = error.start
        try:
            return _sound(data[:start].decode(name))
        except UnicodeDecodeError:  # a stateful codec that only read so far because of what came after
            continue
    return data.decode(_FALLBACK, "replace")


def _sound(text: str) -> str:
    """Without the lone surrogates that UTF-7 can spell: no store or wire could carry them."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text
