"""The three feeds: the same octets whole, byte by byte, and with a command behind them must give the same events."""

from __future__ import annotations

from collections.abc import Iterable

from wd_trio.proto.imap import commands as c
from wd_trio.proto.imap import events as e
from wd_trio.proto.imap.machine import EngineOptions, ImapEngine, State

TRAILER = b"Z9 NOOP\r\n"
TRAILER_EVENT = e.CommandEvent("Z9", "NOOP", c.Noop())


def engine_in(state: State, options: EngineOptions | None = None) -> ImapEngine:
    engine = ImapEngine(options or EngineOptions())
    if state is not State.NOT_AUTHENTICATED:
        engine.authenticated()
    if state is State.SELECTED:
        engine.selected()
    return engine


def pull(engine: ImapEngine, *, accept: bool = True) -> list[e.Event]:
    """Every event there is, doing what a server does about each."""
    found: list[e.Event] = []
    while (event := engine.next_event()) is not e.NEED_DATA:
        found.append(event)
        match event:
            case e.AppendEvent():
                engine.accept_message() if accept else engine.refuse_message()
            case e.CommandEvent(command=c.Authenticate(initial=None)):
                engine.challenge(b"")
            case e.CommandEvent(command=c.Idle()):
                engine.begin_idle()
    return found


def join_pieces(found: Iterable[e.Event]) -> list[e.Event]:
    """A message's pieces as one, and none of a message that turned out bad: where they are cut is the peer's
    affair."""
    joined: list[e.Event] = []
    for event in found:
        previous = joined[-1] if joined else None
        if not isinstance(previous, e.MessageData) or previous.last:
            joined.append(event)
        elif isinstance(event, e.MessageData):
            joined[-1] = e.MessageData(previous.data + event.data, event.last)
        else:
            joined[-1] = event
    return joined


def feed(engine: ImapEngine, pieces: Iterable[bytes], *, accept: bool = True) -> list[e.Event]:
    found: list[e.Event] = []
    for piece in pieces:
        engine.receive(piece)
        found += pull(engine, accept=accept)
    return join_pieces(found)


def three_feeds(
    data: bytes,
    state: State = State.SELECTED,
    *,
    accept: bool = True,
    options: EngineOptions | None = None,
    utf8: bool = False,
) -> list[e.Event]:
    """The events of `data`, once all three feeds agree on them."""

    def fresh() -> ImapEngine:
        engine = engine_in(state, options)
        engine.utf8 = utf8
        return engine

    whole = feed(fresh(), [data], accept=accept)
    single = feed(fresh(), (data[i : i + 1] for i in range(len(data))), accept=accept)
    assert single == whole
    if not any(isinstance(event, e.Fatal) for event in whole):
        assert feed(fresh(), [data + TRAILER], accept=accept) == [*whole, TRAILER_EVENT]
    return whole


def bad(text: str, tag: str = "A1") -> e.Reply:
    return e.Reply(f"{tag} BAD {text}\r\n".encode(), bad=True)


GO_AHEAD = e.Reply(b"+ OK\r\n", bad=False)
