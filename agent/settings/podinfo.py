"""Downward API files: one `key="quoted value"` a line, as the kubelet writes labels and annotations."""

ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", '"': '"'}
WIDTHS = {"x": 2, "u": 4, "U": 8}


def unquote(text: str) -> str:
    """Undo Go's strconv.Quote; raises ValueError for anything that it would not have written."""
    if len(text) < 2 or text[0] != '"' or text[-1] != '"':
        raise ValueError("value is not in double quotes")
    body = text[1:-1]
    if "\\" not in body:
        if '"' in body:
            raise ValueError("stray double quote")
        return body
    out = bytearray()
    i = 0
    while i < len(body):
        c = body[i]
        if c == '"':
            raise ValueError("stray double quote")
        if c != "\\":
            out += c.encode("utf-8", "surrogateescape")
            i += 1
            continue
        kind = body[i + 1 : i + 2]
        i += 2
        if kind in ESCAPES and kind:
            out += ESCAPES[kind].encode()
        elif kind in WIDTHS and kind:
            digits = body[i : i + WIDTHS[kind]]
            i += WIDTHS[kind]
            if len(digits) != WIDTHS[kind] or not all(d in "0123456789abcdefABCDEF" for d in digits):
                raise ValueError(f"bad escape \\{kind}{digits}")
            code = int(digits, 16)
            if kind == "x":
                out.append(code)
            elif code > 0x10FFFF or 0xD800 <= code < 0xE000:
                raise ValueError(f"bad escape \\{kind}{digits}")
            else:
                out += chr(code).encode()
        elif kind and kind in "01234567" and len(body[i - 1 : i + 2]) == 3:
            octal = body[i - 1 : i + 2]
            if not all(d in "01234567" for d in octal) or int(octal, 8) > 255:
                raise ValueError(f"bad escape \\{octal}")
            out.append(int(octal, 8))
            i += 2
        else:
            raise ValueError(f"bad escape \\{kind}")
    return out.decode("utf-8", "replace")


def parse(data: bytes) -> dict[str, str]:
    """Key → value of one file. Lines without `=` are skipped; bad quoting rejects the whole file (ValueError)."""
    out: dict[str, str] = {}
    for number, line in enumerate(data.decode("utf-8", "replace").split("\n"), 1):
        key, equals, value = line.partition("=")
        if not equals:
            continue
        try:
            out[key] = unquote(value)
        except ValueError as e:
            raise ValueError(f"line {number}: {e}") from None
    return out
