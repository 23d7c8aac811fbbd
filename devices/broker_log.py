"""What the broker's log tells: who is connected, who listens for commands, and whom it refused.

The lines are no interface (Mosquitto 2.0, verified on 2.0.11), so what does not look like one of these is passed over:

    New connection from 192.0.2.7:45678 on port 1883.
    New client connected from 192.0.2.7:45678 as CID (p2, c1, k60, u'U000001').
    CID 1 TOKEN/DEVICE_ID/subscribe             (log_type subscribe: QoS before the topic)
    CID TOKEN/DEVICE_ID/subscribe               (log_type unsubscribe)
    Client CID disconnected.                    (and several other ends)
    Client CID already connected, closing old connection.
    Client <unknown> disconnected, not authorised.

Client ids and topics hold what their owner likes, spaces and quotes too, but no control characters: Mosquitto refuses
those. So a client named `Client` that unsubscribes from `web-1 disconnected.` makes a line like that of another's end.
Where the lines come with their type nothing is doubtful. Elsewhere such a line counts when it is about the account of
the client it may come from; else the beginning of a session is not believed, and its end is looked up (`settle`).
"""

import ipaddress
import re
import threading
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.conf import settings

from devices.sessions import COMMANDS_NOTIFY
from tokens.selectors import device_token_digest

REFUSED_KEPT = 1_000
WRITE_MOST = 2_000
# Mosquitto cuts its lines at 999 bytes. What is left may end in whatever the client chose to put there.
LINE_CUT_BYTES = 999
# A client whose own line was cut is unknown, and what it can imitate is longer than this.
LINE_SURE_BYTES = 900
TOPICS_MOST = 100
ACCEPTED_MOST = 10_000
DOUBT_S = 1.0  # the broker writes its line just before it closes the connection

SUBSCRIBE, UNSUBSCRIBE, OTHER = "subscribe", "unsubscribe", "other"

_STAMP = re.compile(r"[0-9T:+-]+: ")
_ACCEPTED = re.compile(r"New connection from (?P<address>\S+?)(?::(?P<port>\d+))? on port \d+\.")
_CONNECTED = re.compile(
    r"New client connected from (?P<address>\S+):(?P<port>\d+) as (?P<client>.*)"
    r" \(p(?P<protocol>\d), c(?P<clean>[01]), k(?P<keepalive>\d+)(?:, u'(?P<user>[^']*)')?\)\.",
    re.DOTALL,
)
_ENDED = re.compile(
    r"Client (?P<client>.*) (?P<how>disconnected\.|disconnected due to [A-Za-z -]+\.|disconnected: [^:]+\."
    r"|closed its connection\.|has exceeded timeout, disconnecting\.|already connected, closing old connection\.)",
    re.DOTALL,
)
_REFUSED = re.compile(r"Client (?P<client>.*) disconnected, (?P<reason>not authori[sz]ed.*?)\.?", re.DOTALL)
_COMMANDS = r"(?P<token>[^/\s]+)/(?P<device>[A-Za-z0-9._:-]{1,64})/subscribe"
_SUBSCRIBED = re.compile(rf"(?P<client>.*) [012] {_COMMANDS}", re.DOTALL)
_UNSUBSCRIBED = re.compile(rf"(?P<client>.*) {_COMMANDS}", re.DOTALL)
# Later versions name the address after the client.
_AFTER_ADDRESS = re.compile(r"(?P<client>.*) \[(?P<address>\S+):(?P<port>\d+)\]", re.DOTALL)
_TOKEN_LIKE = re.compile(r"(?:^| |\$share/[^/]*/)[A-Za-z0-9]{32}(?:/|$)")
_UNNAMED = "<unknown>"
_TAKEN_OVER = "already connected, closing old connection."
_CLOSED = "closed its connection."
_PROTOCOLS = {"1": 3, "2": 4, "5": 5}  # Mosquitto's numbers -> those of the CONNECT packet


def log_kind(topic: str) -> str:
    """The type of the lines on a topic below `$SYS/broker/log/`."""
    last = topic.rpartition("/")[2]
    return last if last in (SUBSCRIBE, UNSUBSCRIBE) else OTHER


def broker_followed_until(cursor: Any) -> datetime | None:
    """Until when somebody read the log of a broker that we do not run."""
    cursor.execute("SELECT until FROM devices_brokerfollowed WHERE broker = %s", [settings.INSTALLATION])
    row = cursor.fetchone()
    return row[0] if row else None


def broker_followed(cursor: Any, until: datetime) -> None:
    """Remember that nothing is missing until then."""
    cursor.execute(_FOLLOWED_SQL, [settings.INSTALLATION, until])


class _Topic(NamedTuple):
    """A command topic, with the digest of the token in it."""

    token_digest: str
    device_id: str


@dataclass(frozen=True)
class _Session:
    """What is known of a client id. `first`: the command topic it subscribed to first, which tells its device."""

    username: str
    address: str
    port: int
    clean: bool
    protocol: int
    keepalive_s: int
    connected_at: datetime
    websocket: bool = False
    connected: bool = True
    topics: frozenset[_Topic] = frozenset()
    first: _Topic | None = None


@dataclass
class _Pending:
    """What the running transaction writes: the number of each client's change, and of the last refusal."""

    changes: dict[str, int] = field(default_factory=dict)
    refused: int = 0
    listening: dict[str, "_Listening"] = field(default_factory=dict)


class _Listening(NamedTuple):
    """The devices whose commands a connection takes, as the database has it."""

    since: datetime
    devices: frozenset[str]


class _Login(NamedTuple):
    account_key: int
    token_digest: str


class BrokerLog:
    """Holds the present state and writes what changed in batches.

    `load` first, then `note` lines in their order, from any thread; when `waiting`, `write` in a transaction and call
    `committed` after it. Without that call the same is written again, so an outage of the database only delays.
    Memory is bounded by the clients that the broker itself knows.

    MQTT 5 tells in the log whether a client began clean, not how long its session lasts; one that did not begin clean
    is taken for durable. Client ids longer than about 800 bytes do not fit into the broker's line and are left out.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sessions: dict[str, _Session] = {}
        self._stored: dict[str, _Listening] = {}
        self._changes: dict[str, int] = {}
        self._number = 0
        self._accepted: dict[str, None] = {}
        self._echoes: dict[str, int] = {}
        self._doubtful: dict[str, datetime] = {}
        self._last_address = ""
        self._refused: deque[tuple[int, tuple[str, str, str, datetime]]] = deque(maxlen=REFUSED_KEPT)
        self._pending = _Pending()

    @property
    def waiting(self) -> bool:
        return bool(self._changes or self._refused)

    # --- lines ---

    def note(self, line: bytes, *, at: datetime, kind: str = "") -> bool:
        """Take one line; answers whether people may read it. `kind` "": the type is not known, as in a pipe.

        Lines of subscriptions hold device tokens, and so does what cannot be told from them: that is False.
        """
        raw = line.rstrip(b"\r\n")
        if len(raw) >= LINE_CUT_BYTES:
            return False
        text = raw.decode("utf-8", "replace").replace("\0", "\ufffd")
        stamp = _STAMP.match(text)
        text = text[stamp.end() :] if stamp else text
        with self._lock:
            if kind in (SUBSCRIBE, UNSUBSCRIBE):
                self._note_topic(text, kind)
                return False
            speakers = [] if kind else list(self._speakers(text))
            return self._note_other(text, at=at, speakers=speakers, sure=len(raw) < LINE_SURE_BYTES)

    def _speakers(self, text: str) -> Iterator[_Session]:
        """Connected clients of whose subscriptions this line may tell: it begins with their id."""
        space = text.find(" ", 1)
        while space > 0:
            session = self._sessions.get(text[:space])
            if session is not None and session.connected:
                yield session
            space = text.find(" ", space + 1)

    def _note_other(self, text: str, *, at: datetime, speakers: list[_Session], sure: bool) -> bool:
        if found := _ACCEPTED.fullmatch(text):
            if not speakers:
                self._accept(found["address"], found["port"])
            return not speakers
        if found := _CONNECTED.fullmatch(text):
            believed = all(speaker.username == found["user"] for speaker in speakers)
            if believed:
                self._begin(found, at=at, sure=sure)
            return believed
        if found := _ENDED.fullmatch(text):
            return self._note_end(found["client"], found["how"], at=at, speakers=speakers)
        if found := _REFUSED.fullmatch(text):
            if not speakers:
                self._refuse(found["client"], found["reason"], at=at)
            return not speakers
        if speakers:
            self._note_topic(text, "")
        return not speakers and _TOKEN_LIKE.search(text) is None

    def _accept(self, address: str, port: str | None) -> None:
        self._last_address = address
        self._accepted[f"{address}:{port}"] = None
        if len(self._accepted) > ACCEPTED_MOST:
            del self._accepted[next(iter(self._accepted))]

    def _refuse(self, client: str, reason: str, *, at: datetime) -> None:
        # The line with the address comes just before; another connection may have come between.
        known = "" if client == _UNNAMED else client
        self._number += 1
        self._refused.append((self._number, (known[:256], self._last_address[:64], reason[:128], at)))

    def _begin(self, found: re.Match[str], *, at: datetime, sure: bool) -> None:
        client, address = found["client"], found["address"]
        before = self._sessions.get(client)
        now = _Session(
            username=(found["user"] or "") if sure else "",
            address=_plain_address(address),
            port=int(found["port"]),
            clean=found["clean"] == "1",
            protocol=_PROTOCOLS.get(found["protocol"], int(found["protocol"])),
            keepalive_s=int(found["keepalive"]),
            connected_at=at,
            # Mosquitto announces connections of MQTT, not those of WebSocket.
            websocket=self._accepted.pop(f"{address}:{found['port']}", self) is self,
        )
        # What a durable session had subscribed to it still has.
        if before is not None and not before.clean and not now.clean and before.username == now.username:
            now = replace(now, topics=before.topics, first=before.first)
        self._doubtful.pop(client, None)
        self._keep(client, now)

    def _note_end(self, client: str, how: str, *, at: datetime, speakers: list[_Session]) -> bool:
        session = self._sessions.get(client)
        if session is None and (named := _AFTER_ADDRESS.fullmatch(client)):
            client = named["client"]
            session = self._sessions.get(client)
            if session is not None and (session.address, str(session.port)) != (
                _plain_address(named["address"]),
                named["port"],
            ):
                session = None
        if session is None or not session.connected:
            return not speakers
        if any(speaker.username != session.username for speaker in speakers):
            self._doubtful.setdefault(client, at)
            return False
        # A WebSocket that was taken over says so once more, when its successor is there already.
        if how == _CLOSED and self._echoes.get(client):
            self._echoes[client] -= 1
            if not self._echoes[client]:
                del self._echoes[client]
            return True
        if how == _TAKEN_OVER and session.websocket:
            self._echoes[client] = self._echoes.get(client, 0) + 1
        self._end(client, session)
        return True

    def _note_topic(self, text: str, kind: str) -> None:
        """A subscription to commands, or its end; others tell nothing we need."""
        found = _SUBSCRIBED.fullmatch(text) if kind != UNSUBSCRIBE else None
        gone = False
        if found is None or found["client"] not in self._sessions:
            found = _UNSUBSCRIBED.fullmatch(text) if kind != SUBSCRIBE else None
            gone = True
        session = self._sessions.get(found["client"]) if found else None
        if found is None or session is None:
            return
        topic = _Topic(device_token_digest(found["token"]), found["device"])
        if gone:
            session = replace(session, topics=session.topics - {topic})
        elif len(session.topics) < TOPICS_MOST:
            session = replace(session, topics=session.topics | {topic}, first=session.first or topic)
        self._keep(found["client"], session)

    # --- state ---

    def _keep(self, client: str, session: _Session) -> None:
        self._sessions[client] = session
        self._mark(client)

    def _end(self, client: str, session: _Session) -> None:
        """Of a durable session it stays known to which commands it is subscribed."""
        self._doubtful.pop(client, None)
        if session.clean or not session.topics or not session.username:
            del self._sessions[client]
        else:
            self._sessions[client] = replace(session, connected=False)
        self._mark(client)

    def _mark(self, client: str) -> None:
        """To be written; not when it came and went between two writes, so that an outage piles nothing up."""
        self._number += 1
        if client in self._sessions or client in self._stored:
            self._changes[client] = self._number
        else:
            self._changes.pop(client, None)

    def clear(self, *, before: datetime | None = None) -> None:
        """The broker has ended or begun, or lines were missed: nobody is connected that was so `before`."""
        with self._lock:
            for client, session in list(self._sessions.items()):
                if session.connected and (before is None or session.connected_at < before):
                    self._end(client, session)
            if before is None:
                self._accepted.clear()
                self._echoes.clear()

    def doubtful(self, *, now: datetime) -> list[str]:
        """Clients whose end the log may or may not have told, a moment ago."""
        with self._lock:
            return [client for client, at in self._doubtful.items() if now - at >= timedelta(seconds=DOUBT_S)]

    def settle(self, clients: Collection[str], *, connections: Collection[tuple[str, int]]) -> None:
        """Judge them by the connections that the broker has: address and port of the other end."""
        with self._lock:
            for client in clients:
                session = self._sessions.get(client)
                if self._doubtful.pop(client, None) is None or session is None or not session.connected:
                    continue
                if (session.address, session.port) not in connections:
                    self._end(client, session)

    # --- the database ---

    def load(self, cursor: Any) -> None:
        """Begin with what the database has, forgetting everything noted."""
        cursor.execute(_LOAD_SQL, [settings.INSTALLATION])
        rows = cursor.fetchall()
        with self._lock:
            self._sessions.clear()
            self._stored.clear()
            self._changes.clear()
            self._doubtful.clear()
            for row in rows:
                self._load_row(*row)

    def _load_row(
        self,
        client: str,
        username: str,
        address: str,
        clean: bool,
        protocol: int,
        keepalive_s: int,
        connected_at: datetime,
        connected: bool,
        device_id: str,
        commands_for: list[str],
        token_digest: str,
    ) -> None:
        self._sessions[client] = _Session(
            username=username,
            address=address,
            port=0,
            clean=clean,
            protocol=protocol,
            keepalive_s=keepalive_s,
            connected_at=connected_at,
            connected=connected,
            topics=frozenset(_Topic(token_digest, device) for device in commands_for),
            first=_Topic(token_digest, device_id) if device_id else None,
        )
        self._stored[client] = _Listening(connected_at, frozenset(commands_for if connected else ()))

    def write(self, cursor: Any) -> None:
        """Write what changed, in the caller's transaction; `committed` must follow it."""
        with self._lock:
            changes = dict(sorted(self._changes.items())[:WRITE_MOST])
            sessions = {client: self._sessions.get(client) for client in changes}
            refused = list(self._refused)
            pending = _Pending(changes, refused[-1][0] if refused else 0)
            for client in changes:  # from here on its row may exist
                self._stored.setdefault(client, _NOT_STORED)
            self._pending = pending
        if changes:
            self._write_sessions(cursor, sessions, pending)
        if refused:
            cursor.executemany(_REFUSED_SQL, [row for _number, row in refused])
            cursor.execute(_TRIM_SQL, [REFUSED_KEPT])

    def _write_sessions(self, cursor: Any, sessions: dict[str, _Session | None], pending: _Pending) -> None:
        logins = _logins(cursor, {session.username for session in sessions.values() if session})
        rows = []
        wake = False
        for client, session in sessions.items():
            login = logins.get(session.username) if session else None
            if session is None or login is None:
                continue
            listening = _listening(session, login)
            if not session.connected and not listening.devices:
                continue
            rows.append(_row(client, session, login, listening))
            if not session.connected:
                listening = _Listening(session.connected_at, frozenset())
            pending.listening[client] = listening
            known = self._stored.get(client, _NOT_STORED)
            news = listening.devices - known.devices if known.since == listening.since else listening.devices
            wake = wake or bool(news)
        gone = [client for client in sessions if client not in pending.listening]
        if gone:
            cursor.execute(_DELETE_SQL, [settings.INSTALLATION, gone])
        if rows:
            cursor.executemany(_STORE_SQL, rows)
        if wake:
            cursor.execute(f"NOTIFY {COMMANDS_NOTIFY}")

    def committed(self) -> None:
        """What `write` wrote is safe; what has changed since then is still waiting."""
        with self._lock:
            pending, self._pending = self._pending, _Pending()
            for client, number in pending.changes.items():
                if client in pending.listening:
                    self._stored[client] = pending.listening[client]
                else:
                    self._stored.pop(client, None)
                if self._changes.get(client) == number:
                    del self._changes[client]
                elif client not in self._stored and client not in self._sessions:
                    self._changes.pop(client, None)
            while self._refused and self._refused[0][0] <= pending.refused:
                self._refused.popleft()


_NOT_STORED = _Listening(datetime.min, frozenset())
_LOAD_SQL = """
SELECT s.client_id, a.user_id, s.ipaddress, s.clean_sess, s.proto_ver, s.keepalive, s.connected_at, s.connected,
       s.device_id, s.commands_for, s.token_digest
FROM devices_session s JOIN tokens_account a ON a.id = s.account_id
WHERE s.broker = %s
"""
_LOGINS_SQL = """
SELECT a.user_id, a.id, coalesce(t.digest, '')
FROM tokens_account a LEFT JOIN tokens_devicetoken t ON t.account_id = a.id AND t.revoked_at IS NULL
WHERE a.user_id = ANY(%s)
"""
_DELETE_SQL = "DELETE FROM devices_session WHERE broker = %s AND client_id = ANY(%s)"
_STORE_SQL = """
INSERT INTO devices_session
    (broker, client_id, account_id, device_id, named_device, ipaddress, clean_sess, proto_ver, keepalive, connected_at,
     connected, takes_commands, commands_for, token_digest)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s::text[], %s)
ON CONFLICT (broker, client_id) DO UPDATE
SET account_id = excluded.account_id, device_id = excluded.device_id, named_device = excluded.named_device,
    ipaddress = excluded.ipaddress, clean_sess = excluded.clean_sess, proto_ver = excluded.proto_ver,
    keepalive = excluded.keepalive, connected_at = excluded.connected_at, connected = excluded.connected,
    takes_commands = excluded.takes_commands, commands_for = excluded.commands_for,
    token_digest = excluded.token_digest
"""
_FOLLOWED_SQL = """
INSERT INTO devices_brokerfollowed (broker, until) VALUES (%s, %s)
ON CONFLICT (broker) DO UPDATE SET until = excluded.until
"""
_REFUSED_SQL = "INSERT INTO devices_refusedsignin (client_id, address, reason, at) VALUES (%s, %s, %s, %s)"
_TRIM_SQL = "DELETE FROM devices_refusedsignin WHERE id <= (SELECT max(id) FROM devices_refusedsignin) - %s"


def _logins(cursor: Any, usernames: Collection[str]) -> dict[str, _Login]:
    cursor.execute(_LOGINS_SQL, [list(usernames)])
    return {user_id: _Login(key, digest) for user_id, key, digest in cursor.fetchall()}


def _listening(session: _Session, login: _Login) -> _Listening:
    """Only topics below the account's present token count: others deliver nothing."""
    devices = {topic.device_id for topic in session.topics if topic.token_digest == login.token_digest}
    return _Listening(session.connected_at, frozenset(devices))


def _row(client: str, session: _Session, login: _Login, listening: _Listening) -> tuple[Any, ...]:
    first = session.first
    device_id = first.device_id if first and first.token_digest == login.token_digest else ""
    return (
        settings.INSTALLATION,
        client,
        login.account_key,
        device_id,
        _named_device(client, session.username),
        session.address,
        session.clean,
        session.protocol,
        session.keepalive_s,
        session.connected_at,
        session.connected,
        bool(listening.devices),
        sorted(listening.devices),
        login.token_digest,
    )


def _named_device(client: str, user_id: str) -> str:
    """The part of a client id behind the account's: `U000001-web-1` -> `web-1`."""
    start = len(user_id)
    return (
        client[start + 1 :]
        if client.startswith(user_id) and client[start : start + 1] in tuple("-:/")
        else ""
    )


def _plain_address(text: str) -> str:
    """`::ffff:192.0.2.7` is what a socket for both families calls 192.0.2.7."""
    try:
        address = ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return text[:64]
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)
