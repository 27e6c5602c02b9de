"""The API's messages, over real services."""

from __future__ import annotations

import base64
import random
from typing import Any

import pytest
import trio
from api_box import PDF, PNG, RICH, Box, small
from api_world import NOBODY, ApiWorld, open_api_world

from wd_trio.mail.content import prepare
from wd_trio.mail.model import FLAGGED, SEEN, NewMessage


@pytest.fixture
async def box(world: ApiWorld) -> Box:
    user, caller = await world.user("alice")
    return Box(world, user, caller, world.services.store.find_mailbox(user, "INBOX").id)


# -- lists


async def test_a_message_in_a_list(box: Box) -> None:
    await box.add(RICH, flags=FLAGGED)
    listing = await box.caller.get(box.url)
    assert (listing["total"], listing["page"], listing["specialUse"]) == (1, 1, None)
    assert (listing["previousCursor"], listing["nextCursor"]) == (False, False)
    (item,) = listing["results"]
    assert item.pop("intro").startswith("Grüße")
    assert item.pop("thread")
    assert item == {
        "id": 1,
        "mailbox": box.id,
        "from": {"name": "Jürgen", "address": "j@example.org"},
        "to": [
            {"name": "Alice, A.", "address": "alice@example.org"},
            {"name": "", "address": "bob@example.org"},
            {"name": "", "address": "carol@example.org"},
        ],
        "cc": [{"name": "", "address": ""}],
        "bcc": [],
        "messageId": "<rich@example.org>",
        "subject": "Grüße from here",
        "date": "2026-11-23T17:00:00.000Z",
        "idate": "2023-11-14T22:13:20.000Z",
        "attachments": True,
        "size": len(RICH),
        "seen": False,
        "deleted": False,
        "flagged": True,
        "draft": False,
        "answered": False,
        "forwarded": False,
        "flags": ["\\Flagged"],
        "contentType": {"value": "multipart/mixed", "params": {"boundary": "outer"}},
    }


async def test_what_a_message_lacks(box: Box) -> None:
    await box.add(b"\r\n", b"Subject: x\r\nDate: nonsense\r\nFrom:\r\n\r\n")
    for item in (await box.caller.get(box.url))["results"]:
        assert (item["from"], item["to"], item["messageId"], item["attachments"]) == (None, [], "", False)
        assert item["date"] == item["idate"] == "2023-11-14T22:13:20.000Z"


@pytest.mark.parametrize("order", ["desc", "asc"])
async def test_pages_forth_and_back(box: Box, order: str) -> None:
    await box.add(*(small(number) for number in range(1, 8)))
    wanted = list(range(1, 8)) if order == "asc" else list(range(7, 0, -1))
    forth: list[list[int]] = []
    query: dict[str, Any] = {}
    while True:
        page = await box.caller.get(box.url, order=order, limit=3, **query)
        assert (page["total"], page["page"]) == (7, len(forth) + 1)
        forth.append([each["id"] for each in page["results"]])
        if not page["nextCursor"]:
            break
        query = {"next": page["nextCursor"]}
    assert forth == [wanted[:3], wanted[3:6], wanted[6:]]
    back = []
    while page["previousCursor"]:
        page = await box.caller.get(box.url, order=order, limit=3, previous=page["previousCursor"])
        back.append((page["page"], [each["id"] for each in page["results"]]))
    assert back == [(2, wanted[3:6]), (1, wanted[:3])]


async def test_only_the_unread(box: Box) -> None:
    await box.add(small(1), small(2), flags=SEEN)
    await box.add(small(3), small(4))
    page = await box.caller.get(box.url, unseen="true", limit=1)
    assert (page["total"], [each["id"] for each in page["results"]]) == (2, [4])
    page = await box.caller.get(box.url, unseen="true", limit=1, next=page["nextCursor"])
    assert ([each["id"] for each in page["results"]], page["nextCursor"]) == ([3], False)


async def test_a_page_of_250_is_one_crossing(box: Box) -> None:
    store = box.world.services.store
    contents = [prepare(small(number)).content() for number in range(255)]
    store.append(box.user, "INBOX", [NewMessage(content, 1) for content in contents])
    await box.uids(limit=1)
    before = box.world.crossings()
    assert len(await box.uids(limit=250)) == 250
    assert box.world.crossings() == before + 1


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"limit": 251}, "limit"),
        ({"limit": 0}, "limit"),
        ({"order": "up"}, "order"),
        ({"next": "bm9uc2Vuc2U"}, "next"),
        ({"next": "WyJ4IiwxXQ"}, "next"),
        ({"next": "WyItNSIsMV0"}, "next"),
        ({"unknown": 1}, "unknown"),
        ({"unseen": "perhaps"}, "unseen"),
    ],
)
async def test_bad_lists(box: Box, query: dict[str, Any], field: str) -> None:
    answered = await box.caller.call("GET", box.url, query=query)
    assert (answered.status, set(answered.json["details"])) == (400, {field})


# -- one message


async def test_one_message(box: Box) -> None:
    await box.add(RICH)
    shown = await box.caller.get(f"{box.url}/1")
    assert shown["envelope"] == {
        "from": "bounce@example.org",
        "rcpt": [{"value": "alice@example.org", "formatted": "alice@example.org"}],
    }
    assert (shown["user"], shown["mailbox"], shown["size"]) == (box.user, box.id, len(RICH))
    assert shown["replyTo"] == [{"name": "", "address": "list@example.org"}]
    assert (shown["inReplyTo"], shown["references"]) == (
        "<two@example.org>",
        ["<one@example.org>", "<two@example.org>"],
    )
    assert shown["list"] == {"id": "Friends <friends.example.org>", "unsubscribe": ""}
    assert shown["html"] == ['<p>Grüße</p><img src="attachment:ATT00001"><img src="cid:other">']
    assert shown["text"] == "Grüße"
    assert [(each["id"], each["filename"], each["contentType"]) for each in shown["attachments"]] == [
        ("ATT00001", "logo.png", "image/png"),
        ("ATT00002", "über.pdf", "application/pdf"),
        ("ATT00003", "attachment-3.eml", "message/rfc822"),
    ]
    logo, pdf, inside = shown["attachments"]
    assert (logo["disposition"], logo["related"], logo["transferEncoding"], logo["sizeKb"]) == (
        "inline",
        True,
        "base64",
        1,
    )
    assert (pdf["disposition"], pdf["related"], inside["disposition"]) == ("attachment", False, "attachment")
    assert 293 <= pdf["sizeKb"] <= 305
    assert shown["seen"] is False
    assert (await box.caller.get(f"{box.url}/1", markAsSeen="yes"))["seen"] is True
    assert (await box.caller.get(f"{box.url}/1"))["flags"] == ["\\Seen"]


async def test_plain_text_is_shown_as_html_too(box: Box) -> None:
    await box.add(b"Subject: x\r\n\r\n1 < 2\r\nand\r\n\r\nmore & more\r\n")
    shown = await box.caller.get(f"{box.url}/1")
    assert shown["text"] == "1 < 2\r\nand\r\n\r\nmore & more\r\n"
    assert shown["html"] == ["<p>1 &lt; 2<br/>and</p><p>more &amp; more</p>"]


async def test_a_small_message_is_one_crossing(box: Box) -> None:
    await box.add(small(1))
    await box.uids()
    before = box.world.crossings()
    await box.caller.get(f"{box.url}/1")
    assert box.world.crossings() == before + 1


async def test_a_long_text_is_cut(box: Box) -> None:
    await box.add(b"Content-Type: text/plain; charset=utf-8\r\n\r\n" + "é".encode() * (3 << 20))
    text = (await box.caller.get(f"{box.url}/1"))["text"]
    assert text == "é" * (1 << 20)


async def test_messages_that_are_not_there(box: Box) -> None:
    await box.add(small(1))
    for path in ("/2", "/2/message.eml", "/2/attachments/ATT00001"):
        assert await box.caller.refused("GET", box.url + path) == (404, "MessageNotFound")
    assert await box.caller.refused("GET", f"{box.url}/1/attachments/ATT00001") == (404, "FileNotFound")
    for path in ("/0", "/4294967296", "/x", "/1/attachments/../x"):
        status, _ = await box.caller.refused("GET", box.url + path)
        assert status in (400, 404)
    elsewhere = f"/users/{box.user}/mailboxes/{NOBODY}/messages/1"
    assert await box.caller.refused("GET", elsewhere) == (404, "NoSuchMailbox")


# -- streams


async def test_the_source_is_the_message(box: Box) -> None:
    await box.add(RICH)
    answered = await box.caller.call("GET", f"{box.url}/1/message.eml")
    assert (answered.status, answered.body) == (200, RICH)
    assert answered.headers["Content-Type"] == "message/rfc822"
    assert answered.headers["Content-Length"] == str(len(RICH))


async def test_attachments_are_decoded(box: Box) -> None:
    await box.add(RICH)
    wanted = {
        "ATT00001": PNG,
        "ATT00002": PDF,
        "ATT00003": b"From: x@example.org\r\nSubject: inside\r\n\r\nHi",
    }
    for name, data in wanted.items():
        answered = await box.caller.call("GET", f"{box.url}/1/attachments/{name}")
        assert (answered.status, answered.body) == (200, data)
        assert answered.headers["X-Content-Type-Options"] == "nosniff"
        assert answered.headers["Content-Disposition"].startswith("attachment; filename*=UTF-8''")
    pdf = await box.caller.call("GET", f"{box.url}/1/attachments/ATT00002")
    assert pdf.headers["Content-Type"] == "application/pdf"
    assert pdf.headers["Content-Disposition"].endswith("''%C3%BCber.pdf")


async def test_an_unknown_encoding_is_given_as_it_is(box: Box) -> None:
    await box.add(b"Content-Type: image/gif\r\nContent-Transfer-Encoding: x-uuencode\r\n\r\nbegin 644 x\r\n")
    answered = await box.caller.call("GET", f"{box.url}/1/attachments/ATT00001")
    assert answered.body == b"begin 644 x\r\n"


@pytest.mark.parametrize("part", ["message.eml", "attachments/ATT00001"])
async def test_streams_take_constant_memory(box: Box, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read from the store and not yet taken by the client is a few pieces: one being read, one being
    sent, and the ten that the test client's own channel holds."""
    data = random.Random(2).randbytes(9 << 20)
    head = b"Content-Type: application/zip\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    raw = head + base64.encodebytes(data).replace(b"\n", b"\r\n")
    await box.add(raw)
    store = box.world.services.store
    read = taken = most = 0
    plain = store.read_blob

    def counting(digest: bytes, start: int, stop: int) -> bytes:
        nonlocal read
        read += stop - start
        return plain(digest, start, stop)

    monkeypatch.setattr(store, "read_blob", counting)
    monkeypatch.setattr(counting, "__wd_lane__", "store.read", raising=False)
    async with box.world.app.test_client().request(
        f"{box.url}/1/{part}", headers={"Authorization": f"Bearer {box.caller.token}"}
    ) as connection:
        await connection.send_complete()
        body = b""
        while len(body) < (len(raw) if part == "message.eml" else len(data)):
            await trio.testing.wait_all_tasks_blocked(0.001)
            piece = await connection.receive()
            body += piece
            most = max(most, read - taken)
            taken += len(piece) if part == "message.eml" else len(piece) * 78 // 57
    assert body == (raw if part == "message.eml" else data)
    assert read >= len(raw) - len(head)
    assert most <= 12 * (256 << 10)


# -- changes


async def test_flags_of_some(box: Box) -> None:
    await box.add(*(small(number) for number in range(1, 6)))
    assert (await box.caller.put(box.url, message="2:4", seen=True, flagged="yes"))["updated"] == 3
    assert (await box.caller.put(box.url, message="1,4", seen=False, draft=True))["updated"] == 2
    assert (await box.caller.put(box.url, message="5:*", flags=["\\Answered", "work"]))["updated"] == 1
    flags = {each["id"]: each["flags"] for each in (await box.caller.get(box.url))["results"]}
    assert flags == {
        1: ["\\Draft"],
        2: ["\\Flagged", "\\Seen"],
        3: ["\\Flagged", "\\Seen"],
        4: ["\\Flagged", "\\Draft"],
        5: ["\\Answered", "work"],
    }
    assert (await box.caller.put(f"{box.url}/3", flags=[], seen=True))["updated"] == 1
    assert (await box.caller.get(f"{box.url}/3"))["flags"] == ["\\Seen"]
    assert (await box.caller.put(box.url, message="77,78", seen=True))["updated"] == 0


async def test_moving(box: Box) -> None:
    await box.add(*(small(number) for number in range(1, 5)))
    trash = await box.other("Trash")
    moved = await box.caller.put(box.url, message="2:3", moveTo=trash, seen=True)
    assert moved == {"success": True, "updated": 2, "id": [[2, 1], [3, 2]], "mailbox": trash}
    assert await box.uids() == [4, 1]
    there = await box.caller.get(f"/users/{box.user}/mailboxes/{trash}/messages")
    assert [(each["id"], each["subject"], each["seen"]) for each in there["results"]] == [
        (2, "s3", True),
        (1, "s2", True),
    ]
    assert there["specialUse"] == "\\Trash"
    assert await box.caller.refused("PUT", box.url, {"message": "1", "moveTo": NOBODY}) == (
        404,
        "NoSuchMailbox",
    )


async def test_deleting_one_and_all(box: Box) -> None:
    await box.add(*(small(number) for number in range(1, 6)))
    await box.caller.delete(f"{box.url}/3")
    assert await box.caller.refused("DELETE", f"{box.url}/3") == (404, "MessageNotFound")
    assert await box.uids() == [5, 4, 2, 1]
    assert await box.caller.delete(box.url) == {"success": True, "deleted": 4, "errors": 0}
    assert await box.uids() == []
    assert await box.caller.delete(box.url) == {"success": True, "deleted": 0, "errors": 0}


async def test_a_mailbox_is_emptied_in_slices(box: Box) -> None:
    store = box.world.services.store
    content = prepare(small(1)).content()
    for _ in range(3):
        store.append(box.user, "INBOX", [NewMessage(content, 1)] * 500)
    await box.uids()
    before = box.world.crossings()
    assert (await box.caller.delete(box.url))["deleted"] == 1500
    assert box.world.crossings() - before <= 2 + 2 * 2
    assert store.usage(box.user).messages == 0


@pytest.mark.parametrize(
    ("json", "field"),
    [
        ({"seen": True}, "message"),
        ({"message": "1"}, "message"),
        ({"message": "1;2", "seen": True}, "message"),
        ({"message": "0", "seen": True}, "message"),
        ({"message": "1:0", "seen": True}, "message"),
        ({"message": "9999999999", "seen": True}, "message"),
        ({"message": "1", "seen": "perhaps"}, "seen"),
        ({"message": "1", "flags": ["\\Recent"]}, "flags"),
        ({"message": "1", "flags": ["a b"]}, "flags"),
        ({"message": "1", "moveTo": "x"}, "moveTo"),
        ({"message": "1", "expires": "2030-01-01"}, "expires"),
    ],
)
async def test_bad_changes(box: Box, json: dict[str, Any], field: str) -> None:
    await box.add(small(1))
    answered = await box.caller.call("PUT", box.url, json)
    assert (answered.status, set(answered.json["details"])) == (400, {field})


async def test_one_that_is_not_there_cannot_change(box: Box) -> None:
    assert await box.caller.refused("PUT", f"{box.url}/9", {"seen": True}) == (404, "MessageNotFound")


# -- uploads


async def upload(box: Box, raw: bytes, **query: Any) -> Any:
    return await box.caller.call(
        "POST", box.url, data=raw, query=query or None, headers={"Content-Type": "message/rfc822"}
    )


async def test_uploading_the_message_itself(box: Box) -> None:
    answered = await upload(box, RICH, unseen="true", flagged="1", date="2020-02-02T02:02:02Z")
    assert answered.json == {
        "success": True,
        "message": {"id": 1, "mailbox": box.id, "size": len(RICH)},
    }
    shown = await box.caller.get(f"{box.url}/1")
    assert (shown["flags"], shown["idate"]) == (["\\Flagged"], "2020-02-02T02:02:02.000Z")
    assert (await box.caller.call("GET", f"{box.url}/1/message.eml")).body == RICH


async def test_uploading_in_json(box: Box) -> None:
    raw = base64.b64encode(small(1)).decode()
    made = await box.caller.post(box.url, raw=raw, draft=True, flags=["work"])
    assert made["message"]["size"] == len(small(1))
    shown = await box.caller.get(f"{box.url}/1")
    assert shown["flags"] == ["\\Seen", "\\Draft", "work"]
    rows = box.world.services.store.list_mailboxes(box.user)
    assert (rows[0].messages, rows[0].unseen) == (1, 0)


async def test_uploads_are_bounded(box: Box) -> None:
    user = box.user
    await box.world.services.users.set_quota(user, 1000)
    answered = await upload(box, small(1) + b"x" * 2000)
    assert (answered.status, answered.json["code"]) == (403, "OverQuotaError")
    for json in ({}, {"raw": ""}, {"raw": "%%%"}):
        assert await box.caller.refused("POST", box.url, json) == (400, "InputValidationError")
    assert (await upload(box, b"")).status == 400
    assert await box.uids() == []


async def test_a_message_that_is_too_large(tmp_path: Any) -> None:
    async with open_api_world(tmp_path, options_message_bytes=1000) as world:
        user, caller = await world.user("alice")
        box = Box(world, user, caller, world.services.store.find_mailbox(user, "INBOX").id)
        assert (await upload(box, small(1) + b"x" * 2000)).status == 413
        assert (await upload(box, small(1))).status == 200
        assert await box.uids() == [1]


async def test_to_a_mailbox_that_is_not_there(box: Box) -> None:
    url = f"/users/{box.user}/mailboxes/{NOBODY}/messages"
    raw = base64.b64encode(small(1)).decode()
    assert await box.caller.refused("POST", url, {"raw": raw}) == (404, "NoSuchMailbox")


# -- whose


async def test_nobody_reaches_anothers_messages(box: Box) -> None:
    await box.add(RICH)
    mallory, thief = await box.world.user("mallory")
    raw = base64.b64encode(small(1)).decode()
    own = f"/users/{mallory}/mailboxes/{box.id}/messages"
    trash = box.world.services.store.find_mailbox(mallory, "Trash").id
    calls: list[tuple[str, str, Any]] = [
        ("GET", "", None),
        ("POST", "", {"raw": raw}),
        ("PUT", "", {"message": "1", "seen": True}),
        ("PUT", "", {"message": "1", "moveTo": trash}),
        ("DELETE", "", None),
        ("GET", "/1", None),
        ("PUT", "/1", {"seen": True}),
        ("DELETE", "/1", None),
        ("GET", "/1/message.eml", None),
        ("GET", "/1/attachments/ATT00001", None),
    ]
    for method, path, json in calls:
        assert await thief.refused(method, box.url + path, json) == (403, "MissingPrivileges")
        assert await box.world.caller(None).refused(method, box.url + path, json) == (403, "InvalidToken")
        assert await thief.refused(method, own + path, json) == (404, "NoSuchMailbox")
    # Nor can anything be put where it belongs to somebody else.
    assert await box.caller.refused("PUT", box.url, {"message": "1", "moveTo": trash}) == (
        404,
        "NoSuchMailbox",
    )
    (item,) = (await box.caller.get(box.url))["results"]
    assert (item["id"], item["flags"]) == (1, [])
