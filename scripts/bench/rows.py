"""The rows of the table: how each opens its connections, and what one operation of it is.

Every row says what a connection looks like before the clock starts (`ready`) and the operation that is then repeated
(`operation`). One IMAP command is in flight on a connection at a time, unless `pipeline` says more; APPEND uses
non-synchronising literals, LMTP sends MAIL, RCPT and DATA in one piece. Connections that read share account 0;
those that write have an account each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from scripts.bench import samples
from scripts.bench.target import READER, SINKS, WRITERS, Sizes, Target, get
from scripts.bench.wire import (
    Exchange,
    Line,
    Script,
    codes,
    command,
    expect,
    greeting,
    http,
    imap,
    imap_do,
    play,
    pop3_lines,
)

FOLDERS = 10
RETR_WARM = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """`each`: commands in one operation; `most`: operations of a connection at most; `warm`: unmeasured ones."""

    name: str
    protocol: str
    ready: Callable[[Line], None]
    operation: Callable[[Line], Script]
    each: int = 1
    most: int | None = None
    warm: int = 2
    there: Callable[[], bool] = lambda: True


class Rows:
    """The rows on one target, in the order in which they are run."""

    def __init__(self, target: Target, sizes: Sizes, *, pipeline: int = 1) -> None:
        self._target = target
        self._sizes = sizes
        self._pipeline = pipeline
        self._stamp = 0
        self._lmtp = {size: samples.message(1, size) for size in (2_000, 50_000, 1_000_000)}
        self._append = samples.message(2, 10_000)

    def all(self) -> list[Row]:
        return [*self._lmtp_rows(), *self._login_rows(), *self._reading(), *self._writing(), *self._others()]

    # -- connections

    def log_in(self, line: Line, account: int) -> None:
        """Connect and log in."""
        line.connect(self._target.places["imap"])
        play(line, _greeted())
        play(line, imap_do(line, self._target.login(account)))

    def _reader(self, line: Line) -> None:
        self.log_in(line, READER)

    def _selected(self, name: bytes) -> Callable[[Line], None]:
        def ready(line: Line) -> None:
            self.log_in(line, READER)
            play(line, imap_do(line, b"SELECT " + name))

        return ready

    def _writer(self, *first: bytes) -> Callable[[Line], None]:
        def ready(line: Line) -> None:
            self.log_in(line, WRITERS + line.number)
            for text in first:
                play(line, imap_do(line, text))

        return ready

    # -- operations

    def _same(self, *texts: bytes) -> Callable[[Line], Script]:
        sent = texts * self._pipeline
        return lambda line: imap_do(line, *sent)

    def _imap(self, name: str, ready: Callable[[Line], None], *texts: bytes) -> Row:
        return Row(
            name=name,
            protocol="imap",
            ready=ready,
            operation=self._same(*texts),
            each=self._pipeline * len(texts),
        )

    def _lmtp_rows(self) -> list[Row]:
        names = {2_000: "LMTP 2 KB", 50_000: "LMTP 50 KB", 1_000_000: "LMTP 1 MB"}
        return [
            Row(
                name=name, protocol="lmtp", ready=self._greet_lmtp, operation=self._delivery(self._lmtp[size])
            )
            for size, name in names.items()
        ]

    def _greet_lmtp(self, line: Line) -> None:
        line.connect(self._target.places["lmtp"])
        play(line, _greeted(codes(1)))
        play(line, _sent(b"LHLO bench.example.com\r\n", codes(1)))

    def _delivery(self, template: bytes) -> Callable[[Line], Script]:
        def operation(line: Line) -> Script:
            self._stamp += 1
            recipient = self._target.recipient(SINKS + line.number)
            yield from deliver([recipient], samples.distinct(template, self._stamp))

        return operation

    def _login_rows(self) -> list[Row]:
        def once(line: Line) -> Script:
            return self._visit(line, next(self._target.once))

        def again(line: Line) -> Script:
            return self._visit(line, WRITERS + line.number)

        return [
            Row(
                name="login and logout, first time (argon2)",
                protocol="imap",
                ready=_nothing,
                operation=once,
                most=2,
                warm=0,
                there=lambda: self._target.hashes,
            ),
            Row(
                name="login and logout, password known",
                protocol="imap",
                ready=_nothing,
                operation=again,
                warm=4,
            ),
        ]

    def _visit(self, line: Line, account: int) -> Script:
        yield Exchange(b"", greeting, self._target.places["imap"])
        yield from imap(line, self._target.login(account))
        yield from imap(line, b"LOGOUT")

    def _reading(self) -> list[Row]:
        inbox = self._selected(b"INBOX")

        def body(line: Line) -> Script:
            first = (line.number * 7 + line.at * self._pipeline) % self._sizes.piece
            numbers = ((first + more) % self._sizes.piece + 1 for more in range(self._pipeline))
            return imap_do(line, *(b"FETCH %d (BODY[])" % number for number in numbers))

        everything = b"FETCH 1:* (UID FLAGS ENVELOPE BODYSTRUCTURE)"
        return [
            self._imap("SELECT, 1,000 messages", self._reader, b"SELECT INBOX"),
            self._imap("SELECT, 10,000 messages", self._reader, b"SELECT Big"),
            self._imap("FETCH 1:* (FLAGS)", inbox, b"FETCH 1:* (FLAGS)"),
            self._imap("FETCH 1:* (UID FLAGS ENVELOPE BODYSTRUCTURE)", inbox, everything),
            Row(
                name="FETCH BODY[] 50 KB",
                protocol="imap",
                ready=self._selected(b"Fifty"),
                operation=body,
                each=self._pipeline,
            ),
            self._imap("SEARCH TEXT", inbox, b"SEARCH TEXT " + samples.NEEDLE.encode()),
            self._imap("SEARCH FROM", inbox, b"SEARCH FROM " + samples.SENDER.encode()),
            self._imap("SEARCH UNSEEN", inbox, b"SEARCH UNSEEN"),
            self._imap("NOOP", inbox, b"NOOP"),
            Row(
                name="NOOP, 10 pipelined",
                protocol="imap",
                ready=inbox,
                operation=lambda line: imap_do(line, *[b"NOOP"] * 10),
                each=10,
            ),
            self._imap("LIST", self._reader, b'LIST "" *'),
            self._imap("STATUS", self._reader, b"STATUS Big (MESSAGES UNSEEN UIDNEXT UIDVALIDITY)"),
        ]

    def _writing(self) -> list[Row]:
        count = self._sizes.messages
        unflagged = (b"SELECT INBOX", rb"STORE 1:* -FLAGS.SILENT (\Flagged)")

        def store_one(line: Line) -> Script:
            texts = []
            for more in range(self._pipeline):
                turn, number = divmod(line.at * self._pipeline + more, count)
                texts.append(rb"STORE %d %cFLAGS (\Flagged)" % (number + 1, b"-+"[turn % 2 == 0]))
            return imap_do(line, *texts)

        def store_all(line: Line) -> Script:
            return imap_do(line, rb"STORE 1:* %cFLAGS (\Flagged)" % b"-+"[line.at % 2 == 0])

        def append(line: Line) -> Script:
            texts = []
            for _ in range(self._pipeline):
                self._stamp += 1
                message = samples.distinct(self._append, self._stamp)
                texts.append(rb"APPEND Appended (\Seen) {%d+}" % len(message) + b"\r\n" + message)
            return imap_do(line, *texts)

        def copy(line: Line) -> Script:
            first = line.at * self._sizes.piece % (count - self._sizes.piece + 1) + 1
            return imap_do(line, b"COPY %d:%d Copies" % (first, first + self._sizes.piece - 1))

        def expunge(line: Line) -> Script:
            first = line.at * self._sizes.piece
            uids = line.facts["uids"][first : first + self._sizes.piece]
            return imap_do(line, b"UID EXPUNGE %d:%d" % (uids[0], uids[-1]))

        selected = self._writer(*unflagged)
        one = Row(name="STORE one", protocol="imap", ready=selected, operation=store_one, each=self._pipeline)
        added = Row(
            name="APPEND 10 KB",
            protocol="imap",
            ready=self._writer(),
            operation=append,
            each=self._pipeline,
        )
        return [
            one,
            Row(name="STORE 1:*", protocol="imap", ready=selected, operation=store_all),
            added,
            Row(name="COPY 100", protocol="imap", ready=selected, operation=copy),
            Row(
                name="EXPUNGE 100",
                protocol="imap",
                ready=self._doomed,
                operation=expunge,
                most=2 * count // self._sizes.piece,
                warm=0,
            ),
        ]

    def _doomed(self, line: Line) -> None:
        """A mailbox of deleted messages, whose uids are line.facts["uids"]."""
        self._writer(b"SELECT INBOX")(line)
        for text in (
            b"COPY 1:* Gone",
            b"COPY 1:* Gone",
            b"SELECT Gone",
            rb"STORE 1:* +FLAGS.SILENT (\Deleted)",
        ):
            play(line, imap_do(line, text))
        line.start(command(line, b"UID SEARCH ALL"))
        while (reply := line.read()) is None:
            pass
        found = next(row for row in reply.split(b"\r\n") if row.startswith(b"* SEARCH"))
        line.facts["uids"] = [int(word) for word in found.split()[2:]]

    def _others(self) -> list[Row]:
        count = self._sizes.messages

        def retr(line: Line) -> Script:
            reply = yield Exchange(b"RETR %d\r\n" % (line.at % count + 1), pop3_lines)
            expect(reply, b"+OK")

        routes = {
            "API: a user": "/users/{user}",
            "API: list of 20": "/users/{user}/mailboxes/{mailbox}/messages?limit=20",
            "API: list of 250": "/users/{user}/mailboxes/{mailbox}/messages?limit=250",
            "API: one message": "/users/{user}/mailboxes/{mailbox}/messages/{message}",
        }
        return [
            Row(name="POP3 RETR 2 KB", protocol="pop3", ready=self._pop3, operation=retr),
            *(self._api_row(name, path) for name, path in routes.items()),
        ]

    def _pop3(self, line: Line) -> None:
        target = self._target
        line.connect(target.places["pop3"])
        play(line, _greeted())
        for text in (f"USER {target.user.format(n=WRITERS + line.number)}", f"PASS {target.password}"):
            play(line, _sent(text.encode() + b"\r\n", greeting, b"+OK"))

    # -- the API

    def _api_row(self, name: str, path: str) -> Row:
        filled: list[str] = []

        def there() -> bool:
            """Does the route exist? Fills in the ids that its path names."""
            made = path
            if "{user}" in made:
                status, body = get(self._target, "/users/resolve/" + self._target.user.format(n=READER))
                made = made.replace("{user}", str(body.get("id"))) if status == 200 else ""
            if "{mailbox}" in made:
                status, body = get(self._target, made.split("/{mailbox}")[0] + "/resolve?path=INBOX")
                made = made.replace("{mailbox}", str(body.get("id"))) if status == 200 else ""
            filled[:] = [made.replace("{message}", "1")]
            return bool(made) and get(self._target, filled[0])[0] == 200

        def operation(line: Line) -> Script:
            api = self._target.places["api"]
            request = f"GET {filled[0]} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {self._target.token}\r\n\r\n"
            # A server may end a connection after some number of requests, as long as it says so.
            closed = line.facts.pop("closed", None)
            reply = yield Exchange(request.encode(), http, api if closed else None)
            expect(reply, b"HTTP/1.1 200")
            if b"connection: close" in reply[: reply.find(b"\r\n\r\n")].lower():
                line.facts["closed"] = [1]

        def ready(line: Line) -> None:
            line.connect(self._target.places["api"])

        return Row(name=name, protocol="api", ready=ready, operation=operation, there=there)


def deliver(recipients: list[bytes], content: bytes) -> Script:
    """One LMTP transaction; `content` has no line that begins with a dot."""
    envelope = b"MAIL FROM:<sender@example.net>\r\n"
    envelope += b"".join(b"RCPT TO:<" + recipient + b">\r\n" for recipient in recipients)
    reply = yield Exchange(envelope + b"DATA\r\n", codes(len(recipients) + 2))
    expect(reply, b"354")
    reply = yield Exchange(content + b".\r\n", codes(len(recipients)))
    expect(reply, b"250")


def _greeted(over: Callable[[bytearray], bool] = greeting) -> Script:
    yield Exchange(b"", over)


def _sent(text: bytes, over: Callable[[bytearray], bool], *expected: bytes) -> Script:
    expect((yield Exchange(text, over)), *expected)


def _nothing(line: Line) -> None:
    """The operation connects by itself."""
