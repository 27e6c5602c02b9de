"""The accounts' mail before anything is measured, brought in by LMTP and IMAP so that every server gets the same.

Account 0 has an INBOX of the samples (half of it seen), Big (the INBOX copied until it is big enough), Fifty (100
seen messages of 50 KB) and some empty folders. The accounts that write have an INBOX of small messages: an eighth
of it delivered, then doubled by COPY.
"""

from __future__ import annotations

from scripts.bench import samples
from scripts.bench.rows import FOLDERS, Rows, deliver
from scripts.bench.target import READER, WRITERS, Sizes, Target
from scripts.bench.wire import Exchange, Line, Script, codes, drive, greeting, imap_do, play

DOUBLINGS = 3


def populate(target: Target, sizes: Sizes) -> None:
    """Deliver and arrange everything."""
    rows = Rows(target, sizes)
    writers = [target.recipient(WRITERS + number) for number in range(max(sizes.connections))]
    line = _lmtp(target)
    _deliver_all(line, [([target.recipient(READER)], message) for message in samples.inbox(sizes.messages)])
    small = [samples.message(number, 2_500) for number in range(sizes.messages >> DOUBLINGS)]
    _deliver_all(line, [(writers, message) for message in small])
    line.close()
    _arrange_reader(rows, target, sizes)
    for number in range(max(sizes.connections)):
        _arrange_writer(rows, number)


def _lmtp(target: Target) -> Line:
    line = Line(0, target.places["lmtp"])
    play(line, _greet())
    return line


def _greet() -> Script:
    yield Exchange(b"", greeting)
    yield Exchange(b"LHLO bench.example.com\r\n", codes(1))


def _deliver_all(line: Line, letters: list[tuple[list[bytes], bytes]]) -> None:
    left = iter(letters)
    drive([line], lambda _: deliver(*next(left)), seconds=float("inf"), most=len(letters))


def _arrange_reader(rows: Rows, target: Target, sizes: Sizes) -> None:
    line = Line(0)
    rows.log_in(line, READER)

    def do(*texts: bytes) -> None:
        for text in texts:
            play(line, imap_do(line, text))

    do(b"CREATE Big", b"CREATE Fifty", *(b"CREATE Folder%d" % number for number in range(FOLDERS)))
    do(b"SELECT INBOX", rb"STORE 1:%d +FLAGS.SILENT (\Seen)" % (sizes.messages // 2))
    do(*[b"COPY 1:* Big"] * (sizes.big // sizes.messages))
    for number in range(sizes.piece):
        message = samples.message(number, 50_000)
        do(rb"APPEND Fifty (\Seen) {%d+}" % len(message) + b"\r\n" + message)
    line.close()


def _arrange_writer(rows: Rows, number: int) -> None:
    line = Line(0)
    rows.log_in(line, WRITERS + number)
    texts = (b"CREATE Appended", b"CREATE Copies", b"CREATE Gone", b"SELECT INBOX")
    for text in texts + (b"COPY 1:* INBOX",) * DOUBLINGS:
        play(line, imap_do(line, text))
    line.close()
