"""Users: /users and what is under one of them, its addresses and mail apart."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Annotated

from msgspec import Meta

from wd_trio.api.auth import OWN, ROOT, Caller
from wd_trio.api.errors import NotPermitted
from wd_trio.api.fields import Bytes, EmailAddress, Id, Name, Password, Text, Username
from wd_trio.api.routing import Routes
from wd_trio.api.schema import Answer, Created, Done, Faults, Item, Listing, Paging, Request
from wd_trio.api.paging import Shown, cursors_of, asked_page
from wd_trio.api.services import ApiServices
from wd_trio.secret import Secret
from wd_trio.service.directory import Profile
from wd_trio.service.users import UserChange

routes = Routes("Users")
