"""Tests whose data must be committed, because the writer and the listener use connections of their own."""

from django.db import connection
from django.test import TransactionTestCase

from servwatch_site.tests.cast import Cast
from streams.pipeline import Clock, Street
from streams.plan import Incoming, Outcome
from streams.writer import Writer


class CommittedTestCase(Cast, TransactionTestCase):
    """The cast of BaseTestCase, committed; everything is emptied afterwards, records included."""

    def setUp(self) -> None:
        super().setUp()
        self._empty()
        self.make_cast()

    def tearDown(self) -> None:
        self._empty()
        super().tearDown()

    def _fixture_teardown(self) -> None:
        super()._fixture_teardown()  # type: ignore[misc]
        self._empty()

    def _empty(self) -> None:
        """What Django's own emptying leaves or takes too much of."""
        with connection.cursor() as cursor:
            cursor.execute("TRUNCATE streams_record, streams_rollupminute, streams_rolluphour")
            cursor.execute(
                "INSERT INTO tokens_configversion (id, version) VALUES (1, 0) ON CONFLICT DO NOTHING"
            )


class StreetTestCase(CommittedTestCase):
    """With a write street, as the listener has one."""

    def setUp(self) -> None:
        super().setUp()
        self.writer = Writer(name="test", slot=0)
        self.addCleanup(self.writer.close)
        self.street = Street(self.writer)
        self.clock = Clock()

    def incoming(self, topic: str, payload: bytes | str, *, token: str | None = None) -> Incoming:
        """A message under the owner's device token: topic `json/web-1` stands for `TOKEN/json/web-1`."""
        body = payload if isinstance(payload, bytes) else payload.encode()
        return Incoming(f"{token or self.device_token}/{topic}", body, self.clock.stamp())

    def send(self, topic: str, payload: bytes | str, *, token: str | None = None) -> Outcome:
        """One message down the street; its only outcome."""
        ((outcome,),) = self.street.process([self.incoming(topic, payload, token=token)])
        return outcome
