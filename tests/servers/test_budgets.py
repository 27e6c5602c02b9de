"""The budgets: what each command and route may cost its engines, measured by the counters of /metrics.

BUDGETS is the table of docs/architecture.md, and a test holds them to be equal. A cost of 0 is exact; any other is a
bound, since pages may become larger.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import lmtp_sessions
import pytest
import trio
from api_world import Answered
from budget_house import BudgetHouse, Cost, open_budget_house
from imap_world import ENGINES

from wd_trio.mail.content import prepare
from wd_trio.mail.model import NewMessage
from wd_trio.secret import Secret

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "architecture.md"
SMALL: Final = b"From: a@example.org\r\nSubject: small\r\n\r\nHello\r\n"
MANY: Final = 600
BUDGETS: Final = {
    "IMAP: the first log-in of a user": Cost(1, 2, 1, 0, 4, 1, 4),
    "IMAP: LOGIN, AUTHENTICATE": Cost(1, 2, 0, 0, 4, 1, 4),
    "IMAP: NOOP": Cost(),
    "IMAP: CAPABILITY, ID, NAMESPACE, ENABLE": Cost(),
    "IMAP: SELECT of 600 messages": Cost(1, 0, 0, 0, 1, 2),
    "IMAP: SELECT of a mailbox that is known": Cost(1, 0, 0, 0, 1, 1),
    "IMAP: SELECT with QRESYNC": Cost(2, 0, 0, 0, 2, 2),
    "IMAP: CHECK": Cost(),
    "IMAP: FETCH of 600 messages, flags": Cost(1, 0, 0, 0, 1, 2),
    "IMAP: FETCH of what changed or is gone since, flags": Cost(1, 0, 0, 0, 1, 1),
    "IMAP: FETCH of what changed since, envelopes": Cost(2, 0, 0, 0, 2, 2),
    "IMAP: FETCH of 600 messages, envelopes and structures": Cost(2, 0, 0, 0, 2, 2),
    "IMAP: FETCH of one message, its body": Cost(1, 0, 0, 0, 1, 1),
    "IMAP: FETCH of one message, its body, which sets \\Seen": Cost(2, 0, 0, 0, 2, 5),
    "IMAP: STORE on 600 messages": Cost(1, 0, 0, 0, 1, 5),
    "IMAP: STORE on 600 messages, silent": Cost(1, 0, 0, 0, 1, 5),
    "IMAP: SEARCH of 600 messages, flags": Cost(1, 0, 0, 0, 1, 1),
    "IMAP: SEARCH of 600 messages, headers": Cost(1, 0, 0, 0, 1, 4),
    "IMAP: SEARCH of 600 messages, texts": Cost(1, 0, 0, 0, 1, 20),
    "IMAP: CREATE": Cost(1, 0, 0, 0, 1, 8),
    "IMAP: LIST": Cost(1, 0, 0, 0, 1, 1),
    "IMAP: LSUB": Cost(1, 0, 0, 0, 1, 1),
    "IMAP: STATUS": Cost(1, 0, 0, 0, 1, 1),
    "IMAP: SUBSCRIBE, UNSUBSCRIBE": Cost(1, 0, 0, 0, 1, 5),
    "IMAP: COPY of 600 messages": Cost(1, 0, 0, 0, 1, 9),
    "IMAP: MOVE of 100 messages": Cost(1, 0, 0, 0, 1, 8),
    "IMAP: EXPUNGE of 100 messages": Cost(1, 0, 0, 0, 1, 8),
    "IMAP: GETQUOTA": Cost(1, 0, 0, 0, 1, 1),
    "IMAP: GETQUOTAROOT": Cost(2, 0, 0, 0, 2, 2),
    "IMAP: RENAME": Cost(1, 0, 0, 0, 1, 6),
    "IMAP: DELETE": Cost(1, 0, 0, 0, 1, 7),
    "IMAP: APPEND": Cost(2, 0, 0, 0, 2, 6),
    "IMAP: IDLE, what it tells of a delivery, and DONE, which unparks": Cost(1, 0, 0, 0, 1, 1),
    "IMAP: NOOP that tells of a delivery": Cost(),
    "IMAP: UNSELECT": Cost(),
    "IMAP: CLOSE": Cost(1, 0, 0, 0, 1, 2),
    "IMAP: the end of a session": Cost(0, 1, 0, 0, 1, 0, 2),
    "POP3: PASS": Cost(3, 3, 0, 0, 7, 4, 6),
    "POP3: NOOP, STAT": Cost(),
    "POP3: CAPA": Cost(),
    "POP3: LIST": Cost(),
    "POP3: UIDL": Cost(),
    "POP3: RETR": Cost(1, 0, 0, 0, 1, 1),
    "POP3: TOP": Cost(1, 0, 0, 0, 1, 1),
    "POP3: DELE, RSET, pipelined in one batch": Cost(0, 1, 0, 0, 1, 0, 1),
    "POP3: QUIT after DELE and RETR": Cost(2, 2, 0, 0, 4, 12, 4),
    "POP3: QUIT": Cost(0, 2, 0, 0, 2, 0, 4),
    "POP3: the end of a session without QUIT": Cost(0, 2, 0, 0, 2, 0, 4),
    "LMTP: LHLO, MAIL, NOOP, RSET": Cost(),
    "LMTP: RCPT": Cost(1, 0, 0, 0, 2, 2),
    "LMTP: RCPT of an address asked for a moment ago": Cost(),
    "LMTP: DATA to one recipient": Cost(1, 0, 0, 0, 1, 4),
    "LMTP: DATA to three recipients": Cost(3, 0, 0, 0, 3, 12),
    "LMTP: DATA of 1 MB to one recipient": Cost(3, 0, 0, 6, 3, 11),
    "LMTP: QUIT": Cost(),
    "API: POST /users": Cost(1, 0, 1, 0, 1, 12),
    "API: GET a user": Cost(1, 0, 0, 0, 2, 2),
    "API: GET /users": Cost(1, 0, 0, 0, 3, 4),
    "API: GET /users/resolve/…": Cost(1, 0, 0, 0, 1, 1),
    "API: PUT a user": Cost(1, 0, 0, 0, 1, 2),
    "API: POST /authenticate, the first of a user": Cost(2, 1, 1, 0, 4, 4, 2),
    "API: POST /authenticate, with a token": Cost(2, 1, 0, 0, 4, 4, 2),
    "API: a token's first call: GET a user": Cost(2, 0, 0, 0, 4, 4),
    "API: a token's next calls: GET a user": Cost(1, 0, 0, 0, 2, 2),
    "API: GET /authenticated": Cost(),
    "API: DELETE /authenticate": Cost(1, 0, 0, 0, 1, 1),
    "API: PUT …/logout": Cost(1, 1, 0, 0, 2, 1, 1),
    "API: POST an address": Cost(1, 0, 0, 0, 1, 7),
    "API: GET addresses": Cost(1, 0, 0, 0, 2, 2),
    "API: GET /addresses": Cost(1, 0, 0, 0, 1, 2),
    "API: DELETE an address": Cost(1, 0, 0, 0, 1, 8),
    "API: DELETE a user": Cost(2, 1, 0, 0, 3, 18, 1),
    "API: GET mailboxes": Cost(1, 0, 0, 0, 1, 1),
    "API: GET a mailbox": Cost(1, 0, 0, 0, 1, 1),
    "API: POST a mailbox": Cost(1, 0, 0, 0, 1, 9),
    "API: PUT a mailbox": Cost(1, 0, 0, 0, 1, 16),
    "API: GET messages, a page of 250": Cost(1, 0, 0, 0, 1, 1),
    "API: GET a message": Cost(1, 0, 0, 0, 1, 1),
    "API: GET a message's source": Cost(1, 0, 0, 0, 1, 1),
    "API: PUT a message": Cost(2, 0, 0, 0, 2, 6),
    "API: PUT messages, 300 of them": Cost(2, 0, 0, 0, 2, 6),
    "API: PUT messages, 100 to another mailbox": Cost(3, 0, 0, 0, 3, 9),
    "API: POST a message": Cost(3, 0, 0, 0, 3, 6),
    "API: DELETE a message": Cost(2, 0, 0, 0, 2, 8),
    "API: DELETE messages, 200 of them": Cost(3, 0, 0, 0, 3, 9),
    "API: DELETE a mailbox": Cost(1, 0, 0, 0, 1, 11),
}


@pytest.fixture(params=ENGINES)
async def house(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[BudgetHouse]:
    async with open_budget_house(request.param, tmp_path) as opened:
        yield opened


async def fill(house: BudgetHouse, user_id: str, count: int, path: str = "INBOX") -> None:
    """Put messages into a mailbox, off everybody's account."""
    prepared = prepare(SMALL)
    messages = [NewMessage(prepared.content(), 1_800_000_000) for _ in range(count)]
    store = house.services.store
    await house.services.gateway.run(store.append, user_id, path, messages, blobs=[], create=True)


async def test_imap(house: BudgetHouse) -> None:
    alice = await house.user("alice")
    await fill(house, alice, MANY)
    client = house.imap()
    async with house.costs("IMAP: the first log-in of a user"):
        await client.log_in("alice")
    other = house.imap()
    async with house.costs("IMAP: LOGIN, AUTHENTICATE"):
        await other.log_in("alice")

    async def command(what: str, *texts: str) -> None:
        async with house.costs(f"IMAP: {what}"):
            for text in texts:
                lines = await client.command("a", text)
                assert lines[-1].startswith("a OK"), lines

    await command("NOOP", "NOOP")
    await command("CAPABILITY, ID, NAMESPACE, ENABLE", "CAPABILITY", "ID NIL", "NAMESPACE", "ENABLE QRESYNC")
    await command("SELECT of 600 messages", "SELECT INBOX")
    await client.command("a", "UNSELECT")
    await command("SELECT of a mailbox that is known", "SELECT INBOX")
    await command("CHECK", "CHECK")
    await command("FETCH of 600 messages, flags", "FETCH 1:* (UID FLAGS)")
    await command("FETCH of 600 messages, envelopes and structures", "FETCH 1:* (ENVELOPE BODYSTRUCTURE)")
    await command("FETCH of one message, its body", "FETCH 1 BODY.PEEK[]")
    await command("FETCH of one message, its body, which sets \\Seen", "FETCH 1 BODY[]")
    await command("STORE on 600 messages", "STORE 1:* +FLAGS (\\Flagged)")
    await command("STORE on 600 messages, silent", "STORE 1:* -FLAGS.SILENT (\\Flagged)")
    await command("SEARCH of 600 messages, flags", "SEARCH UNSEEN")
    await command("SEARCH of 600 messages, headers", "SEARCH FROM nobody")
    await command("SEARCH of 600 messages, texts", "SEARCH TEXT nothing")
    await command("CREATE", "CREATE Work")
    await command("LIST", 'LIST "" *')
    await command("LSUB", 'LSUB "" *')
    await command("STATUS", "STATUS Work (MESSAGES UIDNEXT UNSEEN)")
    await command("SUBSCRIBE, UNSUBSCRIBE", "UNSUBSCRIBE Work")
    await command("COPY of 600 messages", "COPY 1:* Work")
    await command("MOVE of 100 messages", "MOVE 1:100 Work")
    await client.command("a", "STORE 1:100 +FLAGS.SILENT (\\Deleted)")
    await command("EXPUNGE of 100 messages", "EXPUNGE")
    await command("GETQUOTA", 'GETQUOTA ""')
    await command("GETQUOTAROOT", "GETQUOTAROOT INBOX")
    await command("RENAME", "RENAME Work Play")
    await command("DELETE", "DELETE Play")
    async with house.costs("IMAP: APPEND"):
        await client.send(b"a APPEND INBOX {%d+}\r\n%b\r\n" % (len(SMALL), SMALL))
        while not (line := await client.read_line()).startswith("a OK"):
            assert line.startswith("*"), line
    await client.send(b"a IDLE\r\n")
    while not (await client.read_line()).startswith("+"):
        pass
    async with house.costs("IMAP: IDLE, what it tells of a delivery, and DONE, which unparks"):
        await send(house.lmtp(), "alice")
        assert "EXISTS" in await client.read_line()
        await client.send(b"DONE\r\n")
        assert (await client.read_line()).startswith("a OK")
    await send(house.lmtp(), "alice")
    await command("NOOP that tells of a delivery", "NOOP")
    await command("UNSELECT", "UNSELECT")
    selected = " ".join(await client.command("a", "SELECT INBOX"))
    validity, modseq = (re.search(rf"{word} (\d+)", selected)[1] for word in ("UIDVALIDITY", "HIGHESTMODSEQ"))
    since = int(modseq) - 4
    await command(
        "FETCH of what changed or is gone since, flags",
        f"UID FETCH 1:* FLAGS (CHANGEDSINCE {since} VANISHED)",
    )
    await command("FETCH of what changed since, envelopes", f"UID FETCH 1:* ENVELOPE (CHANGEDSINCE {since})")
    await client.command("a", "UNSELECT")
    await command("SELECT with QRESYNC", f"SELECT INBOX (QRESYNC ({validity} {since}))")
    await command("CLOSE", "CLOSE")
    await other.aclose()
    while len(house.hosts["imap"]) > 1:
        await trio.lowlevel.checkpoint()
    async with house.costs("IMAP: the end of a session"):
        await client.command("a", "LOGOUT")
        await house.wait_ended()
    check(house, "IMAP")


async def test_pop3(house: BudgetHouse) -> None:
    alice = await house.user("alice")
    await fill(house, alice, 10)
    await house.services.auth.login(
        username="alice", password=Secret("secret of alice"), peer_ip="127.0.0.1", protocol="pop3"
    )
    client = house.pop3()
    async with house.costs("POP3: PASS"):
        await client.log_in("alice")

    async def command(what: str, *texts: str, body: bool = False) -> None:
        async with house.costs(f"POP3: {what}"):
            await client.send("".join(f"{text}\r\n" for text in texts).encode())
            for _ in texts:
                assert (await client.read_line()).startswith("+OK")
            if body:
                await client.body()

    await command("NOOP, STAT", "NOOP", "STAT")
    await command("CAPA", "CAPA", body=True)
    await command("LIST", "LIST", body=True)
    await command("UIDL", "UIDL", body=True)
    await command("RETR", "RETR 1", body=True)
    await command("TOP", "TOP 1 0", body=True)
    await command("DELE, RSET, pipelined in one batch", "DELE 1", "DELE 2", "RSET", "DELE 3", "DELE 4")
    async with house.costs("POP3: QUIT after DELE and RETR"):
        assert (await client.say("QUIT")).startswith("+OK")
        await house.wait_ended()
    client = house.pop3()
    await client.log_in("alice")
    async with house.costs("POP3: QUIT"):
        assert (await client.say("QUIT")).startswith("+OK")
        await house.wait_ended()
    client = house.pop3()
    await client.log_in("alice")
    async with house.costs("POP3: the end of a session without QUIT"):
        await client.aclose()
        await house.wait_ended()
    check(house, "POP3")


async def test_lmtp(house: BudgetHouse) -> None:
    for name in ("alice", "bob", "carol"):
        await house.user(name)
    client = house.lmtp()
    async with house.costs("LMTP: LHLO, MAIL, NOOP, RSET"):
        await client.replies(1)
        await client.say(b"LHLO mx.example\r\nMAIL FROM:<s@x.example>\r\nNOOP\r\nRSET\r\n", 4)
    await client.say(b"MAIL FROM:<s@x.example>\r\n")
    async with house.costs("LMTP: RCPT"):
        assert (await client.say(b"RCPT TO:<alice@example.org>\r\n"))[0].startswith(b"250")
    await client.say(b"RSET\r\nMAIL FROM:<s@x.example>\r\n", 2)
    async with house.costs("LMTP: RCPT of an address asked for a moment ago"):
        assert (await client.say(b"RCPT TO:<alice@example.org>\r\n"))[0].startswith(b"250")

    async def message(what: str, data: bytes, recipients: int) -> None:
        async with house.costs(f"LMTP: {what}"):
            assert (await client.say(b"DATA\r\n"))[0].startswith(b"354")
            replies = await client.say(data + b".\r\n", recipients)
            assert all(reply.startswith(b"250") for reply in replies)

    await message("DATA to one recipient", SMALL, 1)
    batch = b"".join(b"RCPT TO:<%s@example.org>\r\n" % name for name in (b"alice", b"bob", b"carol"))
    await client.say(b"MAIL FROM:<s@x.example>\r\n" + batch, 4)
    await message("DATA to three recipients", SMALL, 3)
    await client.say(b"MAIL FROM:<s@x.example>\r\nRCPT TO:<bob@example.org>\r\n", 2)
    await message("DATA of 1 MB to one recipient", SMALL + (b"x" * 68 + b"\r\n") * 15_000, 1)
    async with house.costs("LMTP: QUIT"):
        await client.say(b"QUIT\r\n")
        await house.wait_ended()
    check(house, "LMTP")


async def test_api(house: BudgetHouse) -> None:
    alice = await house.user("alice")
    await fill(house, alice, 300)
    mailbox = (
        f"/users/{alice}/mailboxes/" + (await house.api.get(f"/users/{alice}/mailboxes"))["results"][0]["id"]
    )

    async def call(
        what: str, method: str, path: str, json: dict[str, Any] | None = None, **given: Any
    ) -> Answered:
        async with house.costs(f"API: {what}"):
            answered = await (given.pop("caller", None) or house.api).call(method, path, json, **given)
            assert answered.status == 200, answered
        return answered

    bob = {"username": "bob", "password": "secret of bob", "address": "bob@example.org"}
    created = await call("POST /users", "POST", "/users", bob)
    who = f"/users/{created.json['id']}"
    await call("GET a user", "GET", who)
    await call("GET /users", "GET", "/users")
    await call("GET /users/resolve/…", "GET", "/users/resolve/bob")
    await call("PUT a user", "PUT", who, {"name": "Bob"})
    asked = {"username": "bob", "password": "secret of bob", "token": True}
    await call("POST /authenticate, the first of a user", "POST", "/authenticate", asked)
    told = await call("POST /authenticate, with a token", "POST", "/authenticate", asked)
    bobs = house.api_with(told.json["token"])
    await call("a token's first call: GET a user", "GET", who, caller=bobs)
    await call("a token's next calls: GET a user", "GET", who, caller=bobs)
    await call("GET /authenticated", "GET", "/authenticated", caller=bobs)
    await call("DELETE /authenticate", "DELETE", "/authenticate", caller=bobs)
    await call("PUT …/logout", "PUT", f"{who}/logout", {"reason": "test"})
    made = await call("POST an address", "POST", f"{who}/addresses", {"address": "b@example.org"})
    await call("GET addresses", "GET", f"{who}/addresses")
    await call("GET /addresses", "GET", "/addresses")
    await call("DELETE an address", "DELETE", f"{who}/addresses/{made.json['id']}")
    await call("DELETE a user", "DELETE", who)
    await call("GET mailboxes", "GET", f"/users/{alice}/mailboxes")
    await call("GET a mailbox", "GET", mailbox)
    other = await call("POST a mailbox", "POST", f"/users/{alice}/mailboxes", {"path": "Work"})
    work = f"/users/{alice}/mailboxes/{other.json['id']}"
    await call("PUT a mailbox", "PUT", work, {"path": "Play"})
    await call("GET messages, a page of 250", "GET", f"{mailbox}/messages", query={"limit": 250})
    await call("GET a message", "GET", f"{mailbox}/messages/1")
    await call("GET a message's source", "GET", f"{mailbox}/messages/1/message.eml")
    await call("PUT a message", "PUT", f"{mailbox}/messages/1", {"seen": True})
    await call(
        "PUT messages, 300 of them", "PUT", f"{mailbox}/messages", {"message": "1:300", "flagged": True}
    )
    moved = {"message": "2:101", "moveTo": other.json["id"]}
    await call("PUT messages, 100 to another mailbox", "PUT", f"{mailbox}/messages", moved)
    uploaded = {"Content-Type": "message/rfc822"}
    await call("POST a message", "POST", f"{mailbox}/messages", data=SMALL, headers=uploaded)
    await call("DELETE a message", "DELETE", f"{mailbox}/messages/1")
    await call("DELETE messages, 200 of them", "DELETE", f"{mailbox}/messages")
    await call("DELETE a mailbox", "DELETE", work)
    check(house, "API")


async def send(client: lmtp_sessions.Client, name: str) -> None:
    """Deliver a message and end the session."""
    await client.replies(1)
    to = f"RCPT TO:<{name}@example.org>\r\n".encode()
    await client.say(b"LHLO mx.example\r\nMAIL FROM:<s@x.example>\r\n" + to + b"DATA\r\n", 4)
    assert (await client.say(SMALL + b".\r\n"))[0].startswith(b"250")
    await client.say(b"QUIT\r\n")


def check(house: BudgetHouse, protocol: str) -> None:
    """Hold what was measured against the table."""
    budgets = {what: cost for what, cost in BUDGETS.items() if what.startswith(f"{protocol}: ")}
    assert house.measured.keys() == budgets.keys()
    beyond = {
        what: (cost, budgets[what]) for what, cost in house.measured.items() if not cost.within(budgets[what])
    }
    assert not beyond, "measured, and its budget"
    untold = {what: cost for what, cost in house.measured.items() if cost.trips < cost.store + cost.state}
    assert not untold, "crossings to an engine that made no round trip"


def test_the_documented_table_is_this_one() -> None:
    section = DOCUMENT.read_text().partition("## Budgets\n")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if "|" in line]
    (what, *columns), _, *documented = rows
    assert (what, columns) == ("what", ["store", "state", "hash", "work", "SQLite", "MongoDB", "Redis"])
    assert {name: Cost(*map(int, costs)) for name, *costs in documented} == BUDGETS
    assert len(documented) == len(BUDGETS)
