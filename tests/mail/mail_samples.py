"""Messages to compare readers on: made at random from a seed, and made by hand."""

from __future__ import annotations

import base64
import random

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "in", "Bergen", "again"]
HEADERS = [
    "From: Alice <alice@example.com>",
    'To: bob@example.org,\n\t"Carol, D." <carol@example.net>',
    "Subject: =?utf-8?q?caf=C3=A9?= and more",
    "Date: Mon, 1 Jan 2024 10:00:00 +0000",
    "Message-ID: <1@example.com>",
    "MIME-Version: 1.0",
    "X-Folded: one\n two\n\tthree",
]
TEXT_TYPES = [
    "text/plain",
    "text/plain; charset=utf-8",
    'text/plain; charset="ISO-8859-1"; format=flowed',
    "TEXT/HTML; Charset=us-ascii",
    "text/calendar; method=REQUEST; charset=utf-8",
]
FILE_TYPES = [
    "application/pdf; name=report.pdf",
    'image/png; name="a b.png"',
    "application/octet-stream; name*=utf-8''na%C3%AFve%20file.bin",
    "application/x-thing;\n name*0*=utf-8''%C3%BCber;\n name*1*=%20lang;\n name*2=e.bin",
    'application/zip; name*0="part one "; name*1="part two.zip"',
]
MULTIPARTS = [
    "mixed",
    "alternative",
    'related; type="text/html"',
    'signed; protocol="a/b"; micalg=sha-1',
    "digest",
]


class Maker:
    """Random messages; lines end in "\n" here, `render` chooses the real ends."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.boundaries = 0

    def message(self) -> bytes:
        lines = self._headers() + self._entity(0)
        return self._ends("\n".join(lines))

    def _ends(self, text: str) -> bytes:
        style = self.random.choice(["\r\n", "\r\n", "\n", "mixed"])
        data = text.encode("utf-8", "surrogateescape")
        if style != "mixed":
            return data.replace(b"\n", style.encode())
        pieces = data.split(b"\n")
        out = b""
        for piece in pieces[:-1]:
            out += piece + self.random.choice([b"\n", b"\r\n"])
        return out + pieces[-1]

    def _headers(self) -> list[str]:
        picked = [header for header in HEADERS if self.random.random() < 0.8]
        return [line for header in picked for line in header.split("\n")]

    def _entity(self, depth: int) -> list[str]:
        kind = self.random.random()
        if depth < 4 and kind < (0.75 if depth == 0 else 0.3):
            return self._multipart(depth)
        if depth < 4 and kind < 0.4 and depth:
            return ["Content-Type: message/rfc822", "", *self._headers(), *self._entity(depth + 1)]
        return self._text() if kind < 0.75 else self._file()

    def _text(self) -> list[str]:
        lines = []
        if self.random.random() < 0.8:
            lines += f"Content-Type: {self.random.choice(TEXT_TYPES)}".split("\n")
        if self.random.random() < 0.4:
            lines.append("Content-Transfer-Encoding: 8bit")
        if self.random.random() < 0.2:
            lines += ["Content-Disposition: inline; filename=x.txt", "Content-Language: en, de"]
        lines.append("")
        for _ in range(self.random.choice([0, 0, 1, 2, 5, 30])):
            lines.append(self._line())
        return lines

    def _line(self) -> str:
        kind = self.random.random()
        if kind < 0.1:
            return self.random.choice(["--", "-- ", "--=", "----", "--b0xx", "", "From here", "--b", " --b0"])
        if kind < 0.2:
            return "\udcff\udc80 ünïcode"
        return " ".join(self.random.choices(WORDS, k=self.random.randint(1, 12)))

    def _file(self) -> list[str]:
        lines = f"Content-Type: {self.random.choice(FILE_TYPES)}".split("\n")
        lines += [
            "Content-Transfer-Encoding: base64",
            'Content-Disposition: attachment; filename="x (1).bin"',
        ]
        if self.random.random() < 0.3:
            lines += ["Content-ID: <part@example.com>", "Content-Description: a thing"]
        data = self.random.randbytes(self.random.choice([0, 10, 500, 20_000]))
        return [*lines, "", *base64.encodebytes(data).decode().splitlines()]

    def _multipart(self, depth: int) -> list[str]:
        boundary = f"b{self.boundaries}" + self.random.choice(["", "x", "=_y", " z", "--w"])
        self.boundaries += 1
        written = (
            f'"{boundary}"' if " " in boundary or "=" in boundary or self.random.random() < 0.5 else boundary
        )
        kind = self.random.choice(MULTIPARTS)
        lines = [f"Content-Type: multipart/{kind};", f"\tboundary={written}", ""]
        lines += self.random.choice([[], [], ["This is a preamble", "--not a boundary"]])
        fault = self.random.random()
        for _ in range(self.random.choice([1, 2, 2, 3])):
            if fault > 0.05:
                lines.append(f"--{boundary}" + self.random.choice(["", "", "", "  ", "\t"]))
            if kind == "digest":
                lines += ["", *self._headers(), "X: y"]  # the default type there is a message
            lines += self._entity(depth + 1)
        if fault > 0.15:
            lines.append(f"--{boundary}--")
        return lines + self.random.choice([[], [""], ["An epilogue", "", "of lines"]])


def generated(count: int) -> list[bytes]:
    return [Maker(seed).message() for seed in range(count)]


BY_HAND: dict[str, bytes] = {
    "empty": b"",
    "no header": b"\r\nbody\r\n",
    "no header, LF": b"\nbody\n",
    "no body": b"Subject: x\r\n\r\n",
    "no blank line": b"Subject: x\r\nTo: y@z\r\n",
    "empty values": b"Subject:\r\nContent-Type:\r\n\r\nx",
    "type without slash": b"Content-Type: text\r\n\r\nx\r\n",
    "type of three": b"Content-Type: a/b/c; x=y\r\n\r\nx\r\n",
    "empty boundary": b'Content-Type: multipart/mixed; boundary=""\r\n\r\n--\r\n\r\nx\r\n----\r\n',
    "no boundary": b"Content-Type: multipart/mixed\r\n\r\n--a\r\n\r\nx\r\n--a--\r\n",
    "boundary never": b"Content-Type: multipart/mixed; boundary=a\r\n\r\ntext only\r\n",
    "close only": b"Content-Type: multipart/mixed; boundary=a\r\n\r\npre\r\n--a--\r\npost\r\n",
    "no end": b"Content-Type: multipart/mixed; boundary=a\r\n\r\n--a\r\n\r\none\r\n--a\r\n\r\ntwo\r\n",
    "part of nothing": b"Content-Type: multipart/mixed; boundary=a\r\n\r\n--a\r\n\r\n--a\r\n\r\n\r\n--a--\r\n",
    "part without blank": (
        b"Content-Type: multipart/mixed; boundary=a\n\n--a\nContent-Type: text/html\n--a\n\nx\n--a--\n"
    ),
    "close at once": b"Content-Type: multipart/mixed; boundary=a\n\n--a\nContent-Type: text/html\n--a--",
    "outer ends inner": (
        b"Content-Type: multipart/mixed; boundary=a\n\n--a\nContent-Type: multipart/mixed; boundary=b\n\n"
        b"--b\n\none\n--a\n\ntwo\n--a--\n"
    ),
    "outer closes inner": (
        b"Content-Type: multipart/mixed; boundary=a\r\n\r\n--a\r\nContent-Type: multipart/mixed; boundary=b\r\n"
        b"\r\n--b\r\n\r\none\r\n--a--\r\nend"
    ),
    "prefix boundaries": (
        b"Content-Type: multipart/mixed; boundary=ab\n\n--ab\nContent-Type: multipart/mixed; boundary=abc\n\n"
        b"--abc\n\none\n--abc--\n--ab\n\ntwo\n--ab--\n"
    ),
    "boundary with blanks after": b'Content-Type: multipart/mixed; boundary="a "\n\n--a  \n\nx\n--a-- \t\n',
    "text after boundary": b"Content-Type: multipart/mixed; boundary=a\n\n--a\n\nx\n--a trailing\ny\n--a--\n",
    "digest": (
        b"Content-Type: multipart/digest; boundary=a\n\n--a\n\nSubject: one\n\nbody\n--a\nContent-Type: text/plain\n"
        b"\nnot a message\n--a--\n"
    ),
    "message in message": (
        b"Content-Type: message/rfc822\n\nSubject: a\nContent-Type: message/rfc822\n\nSubject: b\n\nbody\n"
    ),
    "message holds multipart": (
        b"Content-Type: multipart/mixed; boundary=a\r\n\r\n--a\r\nContent-Type: message/rfc822\r\n\r\n"
        b"Content-Type: multipart/alternative; boundary=b\r\nSubject: in\r\n\r\n--b\r\n\r\np\r\n--b\r\n"
        b"Content-Type: text/html\r\n\r\n<p>\r\n--b--\r\n\r\n--a--\r\n"
    ),
    "message cut in header": (
        b"Content-Type: multipart/mixed; boundary=a\n\n--a\nContent-Type: message/rfc822\n\nSubject: in\n--a--\n"
    ),
    "empty message": b"Content-Type: multipart/mixed; boundary=a\n\n--a\nContent-Type: message/rfc822\n\n--a--\n",
    "8-bit header": 'Subject: grüße\r\nContent-Type: text/plain; charset=utf-8; name="ü.txt"\r\n\r\nü'.encode(),
    "boundary after dashes": b"Content-Type: multipart/mixed; boundary=--a\n\n----a\n\nx\n----a--\n",
    "boundary ends in dashes": b"Content-Type: multipart/mixed; boundary=a--\n\n--a--\n\nx\n--a----\n",
    "2231 boundary": b"Content-Type: multipart/mixed; boundary*0=a; boundary*1=b\n\n--ab\n\nx\n--ab--\n",
    "quoted specials": b'Content-Type: text/plain; name="a;b\\"c=d"; charset=utf-8\n\nx\n',
    "NUL in body": b"Subject: x\r\n\r\na\0b\r\n\0\r\n",
    "same boundary twice": (
        b"Content-Type: multipart/mixed; boundary=a\n\n--a\nContent-Type: multipart/alternative; boundary=a\n\n"
        b"--a\n\none\n--a--\n"
    ),
    "blank line is no end": b"Subject: x\n \t\n y\nTo: z@y\n\nbody\n",
}
