"""What each command does: one plain coroutine per command, found by the command's type.

A handler writes untagged replies and its own tagged one; it raises errors.WdError where the session's table of
codes says the right thing. It is called only in the states that proto/imap/states.py allows for the command.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from wd_trio.proto.imap import commands as c
from wd_trio.servers.imap.handlers import (
    access,
    append,
    copy,
    fetch,
    idle,
    listing,
    mailbox,
    search,
    starttls,
    store,
)
from wd_trio.servers.imap.session import ImapSession

HANDLERS: Final[dict[type, Callable[[ImapSession, str, Any], Awaitable[None]]]] = {
    c.Capability: access.handle_capability,
    c.Noop: access.handle_noop,
    c.Logout: access.handle_logout,
    c.Id: access.handle_id,
    c.StartTls: starttls.handle_starttls,
    c.Login: access.handle_login,
    c.Authenticate: access.handle_authenticate,
    c.Enable: access.handle_enable,
    c.List: listing.handle_list,
    c.Lsub: listing.handle_lsub,
    c.Create: mailbox.handle_create,
    c.Delete: mailbox.handle_delete,
    c.Rename: mailbox.handle_rename,
    c.Subscribe: mailbox.handle_subscribe,
    c.GetQuota: mailbox.handle_get_quota,
    c.GetQuotaRoot: mailbox.handle_get_quota_root,
    c.SetQuota: mailbox.handle_set_quota,
    c.Check: mailbox.handle_check,
    c.Search: search.handle_search,
    c.Copy: copy.handle_copy,
    c.Namespace: mailbox.handle_namespace,
    c.Status: mailbox.handle_status,
    c.Select: mailbox.handle_select,
    c.Unselect: mailbox.handle_unselect,
    c.Close: mailbox.handle_close,
    c.Fetch: fetch.handle_fetch,
    c.Store: store.handle_store,
    c.Expunge: store.handle_expunge,
    c.Idle: idle.handle_idle,
}

__all__ = ["HANDLERS", "append"]
