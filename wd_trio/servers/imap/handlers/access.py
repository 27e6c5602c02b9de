"""CAPABILITY, NOOP, LOGOUT, ID, LOGIN and AUTHENTICATE (RFC 3501 §6.1 and §6.2, RFC 2971, RFC 4959, RFC 5530)."""

from __future__ import annotations

from wd_trio.errors import Denied, Invalid
from wd_trio.proto import sasl
from wd_trio.proto.imap import commands as c
from wd_trio.proto.imap import encode
from wd_trio.proto.imap.events import Fatal, Reply, SaslResponse
from wd_trio.secret import Secret
from wd_trio.servers.imap.options import PROTOCOL
from wd_trio.servers.imap.session import ImapSession


async def handle_capability(session: ImapSession, tag: str, _command: c.Capability) -> None:
    session.write(encode.capability(session.capabilities()))
    session.ok(tag, "CAPABILITY completed")


async def handle_noop(session: ImapSession, tag: str, _command: c.Noop) -> None:
    await session.sync(may_expunge=True)
    session.ok(tag, "NOOP completed")


async def handle_logout(session: ImapSession, tag: str, _command: c.Logout) -> None:
    session.write(encode.bye("Logging out"))
    session.ok(tag, "LOGOUT completed")
    session.engine.logged_out()


async def handle_id(session: ImapSession, tag: str, command: c.Id) -> None:
    about = {key.lower(): value for key, value in command.fields if value}
    session.user_agent = " ".join(about[key] for key in ("name", "version") if key in about)
    if session.record is not None:
        session.record.note(user_agent=session.user_agent)
    session.write(encode.id_line([("name", "wd-trio"), ("version", session.options.version)]))
    session.ok(tag, "ID completed")


async def handle_login(session: ImapSession, tag: str, command: c.Login) -> None:
    await _log_in(session, tag, command.username, command.password)


async def handle_authenticate(session: ImapSession, tag: str, command: c.Authenticate) -> None:
    if command.mechanism != "PLAIN":
        session.no(tag, "Unsupported mechanism", "CANNOT")
        return
    if not session.options.may_log_in(session.connection.peer):
        session.no(tag, "TLS is required before passwords are sent", "PRIVACYREQUIRED")
        return
    response = command.initial
    if response is None:
        session.write(session.engine.challenge(b""))
        answer = await session.pull(within=True)
        if isinstance(answer, Reply):
            session.write(answer.data)
            return
        if isinstance(answer, Fatal):
            await session.break_off(answer.data)
        assert isinstance(answer, SaslResponse)  # nothing else comes within an exchange
        response = answer.data
        session.settle_within()
    if response is None:
        session.bad(tag, "Authentication cancelled")
        return
    try:
        plain = sasl.parse_plain(response)
    except Invalid:
        session.bad(tag, "Malformed PLAIN response")
        return
    if plain.authzid and plain.authzid != plain.authcid:
        session.no(tag, "Acting for other users is not offered", "AUTHORIZATIONFAILED")
        return
    await _log_in(session, tag, plain.authcid, plain.password)


async def _log_in(session: ImapSession, tag: str, username: str, password: Secret) -> None:
    peer = session.connection.peer
    if not session.options.may_log_in(peer):
        session.no(tag, "TLS is required before passwords are sent", "PRIVACYREQUIRED")
        return
    try:
        login = await session.services.auth.login(
            username=username, password=password, peer_ip=peer.ip, protocol=PROTOCOL
        )
    except Denied:
        session.failed_logins += 1
        session.no(tag, "Wrong user name or password", "AUTHENTICATIONFAILED")
        if session.failed_logins >= session.options.failed_logins:
            session.write(encode.bye("Too many wrong passwords"))
            session.engine.logged_out()
        return
    session.login = login
    try:
        session.record = await session.services.sessions.begin(
            login,
            protocol=PROTOCOL,
            peer=peer,
            kick=session.connection.kick,
            capabilities=session.capabilities(),
            user_agent=session.user_agent,
        )
    except BaseException:
        session.login = None
        raise
    session.record.describe = session.describe
    session.engine.authenticated()
    session.ok(tag, "Logged in", "CAPABILITY " + " ".join(session.capabilities()))


async def handle_enable(session: ImapSession, tag: str, command: c.Enable) -> None:
    """RFC 5161: what is known is enabled and named; the rest is passed over."""
    enabled: list[str] = []
    if "CONDSTORE" in command.names:
        session.enable_condstore()
        enabled.append("CONDSTORE")
    if "QRESYNC" in command.names:
        session.enable_qresync()
        enabled.append("QRESYNC")
    if "UTF8=ACCEPT" in command.names:
        session.engine.utf8 = True
        enabled.append("UTF8=ACCEPT")
    session.write(encode.enabled(enabled))
    session.ok(tag, "ENABLE completed")
