"""The parsers of commands about mailboxes: LIST and its kin, SELECT, STATUS, CREATE and the rest, and quotas.

Options are data: each table below names what this server knows, and anything else is refused here, so that no
handler meets a word it cannot answer (RFC 4466 §2, RFC 5258 §3: an unknown option is BAD). What a name must
look like beyond its spelling is the service's rule, not the grammar's.
"""

from __future__ import annotations

from typing import Final

from wd_trio.mail.model import SEPARATOR
from wd_trio.mail.numset import EMPTY, UidSet
from wd_trio.proto.imap import commands, grammar
from wd_trio.proto.imap.parse import BadSyntax, Cursor

MAX_PATTERNS: Final = 100  # in one LIST: each is held against every name
MAX_LIMITS: Final = 100  # resources in one SETQUOTA

_SELECTION: Final = frozenset({"SUBSCRIBED", "REMOTE", "RECURSIVEMATCH", "SPECIAL-USE"})
_NEEDS_A_CRITERION: Final = frozenset(
    {"RECURSIVEMATCH", "REMOTE"}
)  # RFC 5258 §3.1: no criterion by themselves
_RETURNS: Final = frozenset({"SUBSCRIBED", "CHILDREN", "SPECIAL-USE", "STATUS"})
_STATUS_ITEMS: Final = frozenset(
    {"MESSAGES", "RECENT", "UIDNEXT", "UIDVALIDITY", "UNSEEN"}  # RFC 3501
    | {"HIGHESTMODSEQ", "SIZE", "APPENDLIMIT", "DELETED", "DELETED-STORAGE"}  # RFC 7162, 8438, 7889, 9208
)
_USES: Final = {
    use.lower(): use
    for use in ("\\All", "\\Archive", "\\Drafts", "\\Flagged", "\\Junk", "\\Sent", "\\Trash", "\\Important")
}


def parse_list(cursor: Cursor) -> commands.List:
    """RFC 3501 §6.3.8, extended by RFC 5258 §6, 5819 and 6154."""
    cursor.space()
    selection: frozenset[str] = frozenset()
    extended = cursor.at(b"(")
    if extended:
        selection = frozenset(cursor.listed(lambda: _option(cursor, _SELECTION), empty=True))
        if "RECURSIVEMATCH" in selection and selection <= _NEEDS_A_CRITERION:
            raise BadSyntax("RECURSIVEMATCH needs another selection option")
        cursor.space()
    reference = cursor.mailbox()
    cursor.space()
    if cursor.at(b"("):
        extended = True
        patterns = tuple(dict.fromkeys(cursor.listed(cursor.list_mailbox)))
        if len(patterns) > MAX_PATTERNS:
            raise BadSyntax("Too many patterns")
    else:
        patterns = (cursor.list_mailbox(),)
    returns: frozenset[str] = frozenset()
    status_items: list[str] = []
    if cursor.took(b" RETURN "):
        extended = True
        returns = frozenset(cursor.listed(lambda: _return_option(cursor, status_items), empty=True))
    cursor.end()
    return commands.List(
        reference, patterns, selection, returns, tuple(dict.fromkeys(status_items)), extended
    )


def parse_lsub(cursor: Cursor) -> commands.Lsub:
    cursor.space()
    reference = cursor.mailbox()
    cursor.space()
    pattern = cursor.list_mailbox()
    cursor.end()
    return commands.Lsub(reference, pattern)


def parse_namespace(cursor: Cursor) -> commands.Namespace:
    cursor.end()
    return commands.Namespace()


def parse_status(cursor: Cursor) -> commands.Status:
    cursor.space()
    mailbox = cursor.mailbox()
    cursor.space()
    items = _status_items(cursor)
    cursor.end()
    return commands.Status(mailbox, tuple(dict.fromkeys(items)))


def parse_select(cursor: Cursor) -> commands.Select:
    return _select(cursor, read_only=False)


def parse_examine(cursor: Cursor) -> commands.Select:
    return _select(cursor, read_only=True)


def parse_create(cursor: Cursor) -> commands.Create:
    """RFC 3501 §6.3.3, with RFC 6154's USE; uses known to RFC 6154 and 8457 in their own spelling."""
    cursor.space()
    # A separator at the end only says that children are to follow (RFC 3501 §6.3.3).
    mailbox = cursor.mailbox().removesuffix(SEPARATOR)
    uses: list[str] = []
    if cursor.at(b" ("):
        cursor.space()
        cursor.listed(lambda: _create_parameter(cursor, uses))
    cursor.end()
    return commands.Create(mailbox, tuple(dict.fromkeys(uses)))


def parse_delete(cursor: Cursor) -> commands.Delete:
    return commands.Delete(_only_mailbox(cursor))


def parse_rename(cursor: Cursor) -> commands.Rename:
    cursor.space()
    source = cursor.mailbox()
    cursor.space()
    target = cursor.mailbox()
    cursor.end()
    return commands.Rename(source, target)


def parse_subscribe(cursor: Cursor) -> commands.Subscribe:
    return commands.Subscribe(_only_mailbox(cursor), True)


def parse_unsubscribe(cursor: Cursor) -> commands.Subscribe:
    return commands.Subscribe(_only_mailbox(cursor), False)


def parse_getquota(cursor: Cursor) -> commands.GetQuota:
    """RFC 9208 §4.1.1."""
    cursor.space()
    root = cursor.text()
    cursor.end()
    return commands.GetQuota(root)


def parse_getquotaroot(cursor: Cursor) -> commands.GetQuotaRoot:
    """RFC 9208 §4.1.2."""
    return commands.GetQuotaRoot(_only_mailbox(cursor))


def parse_setquota(cursor: Cursor) -> commands.SetQuota:
    """RFC 9208 §4.1.3; resource names in capitals."""
    cursor.space()
    root = cursor.text()
    cursor.space()
    limits = cursor.listed(lambda: _quota_limit(cursor), empty=True)
    cursor.end()
    if len(limits) > MAX_LIMITS:
        raise BadSyntax("Too many quota resources")
    return commands.SetQuota(root, tuple(limits))


def _only_mailbox(cursor: Cursor) -> str:
    cursor.space()
    mailbox = cursor.mailbox()
    cursor.end()
    return mailbox


def _select(cursor: Cursor, *, read_only: bool) -> commands.Select:
    cursor.space()
    mailbox = cursor.mailbox()
    parameters: dict[str, commands.Resync | None] = {}
    if cursor.at(b" ("):
        cursor.space()
        parameters = dict(cursor.listed(lambda: _select_parameter(cursor)))
    cursor.end()
    return commands.Select(mailbox, read_only, "CONDSTORE" in parameters, parameters.get("QRESYNC"))


def _select_parameter(cursor: Cursor) -> tuple[str, commands.Resync | None]:
    """CONDSTORE, or QRESYNC with what it brings (RFC 7162 §7)."""
    parameter = cursor.word("Expected a SELECT parameter")
    if parameter == "QRESYNC":
        cursor.space()
        return parameter, _resync(cursor)
    if parameter != "CONDSTORE":
        raise BadSyntax("Unknown SELECT parameter")
    return parameter, None


def _resync(cursor: Cursor) -> commands.Resync:
    cursor.open_list()
    uid_validity = cursor.number64()
    if not 1 <= uid_validity <= grammar.MAX_NUMBER:
        raise BadSyntax("Invalid UIDVALIDITY")
    cursor.space()
    modseq = cursor.modseq()
    known, match = None, (EMPTY, EMPTY)
    if cursor.at(b" ") and not cursor.at(b" ("):
        cursor.space()
        known = cursor.known_set(ascending=False)
    if cursor.at(b" "):
        cursor.space()
        match = _sequence_match(cursor)
    cursor.close_list()
    return commands.Resync(uid_validity, modseq, known, match)


def _sequence_match(cursor: Cursor) -> tuple[UidSet, UidSet]:
    cursor.open_list()
    numbers = cursor.known_set(ascending=True)
    cursor.space()
    uids = cursor.known_set(ascending=True)
    cursor.close_list()
    if len(numbers) != len(uids):
        raise BadSyntax("Message numbers and uids do not pair")
    return numbers, uids


def _option(cursor: Cursor, known: frozenset[str]) -> str:
    option = cursor.word("Expected a LIST option")
    if option not in known:
        raise BadSyntax("Unknown LIST option")
    return option


def _return_option(cursor: Cursor, status_items: list[str]) -> str:
    option = _option(cursor, _RETURNS)
    if option == "STATUS":
        cursor.space()
        status_items += _status_items(cursor)
    return option


def _status_items(cursor: Cursor) -> list[str]:
    return cursor.listed(lambda: _status_item(cursor))


def _status_item(cursor: Cursor) -> str:
    item = cursor.word("Expected a STATUS item")
    if item not in _STATUS_ITEMS:
        raise BadSyntax("Unknown STATUS item")
    return item


def _create_parameter(cursor: Cursor, uses: list[str]) -> None:
    if cursor.word("Expected a CREATE parameter") != "USE":
        raise BadSyntax("Unknown CREATE parameter")
    cursor.space()
    uses += cursor.listed(lambda: _use(cursor), empty=True)


def _use(cursor: Cursor) -> str:
    use = cursor.match(grammar.USE, "Expected a special use")[0].decode("ascii")
    return _USES.get(use.lower(), use)


def _quota_limit(cursor: Cursor) -> tuple[str, int]:
    resource = cursor.word("Expected a quota resource")
    cursor.space()
    return resource, cursor.number64()
