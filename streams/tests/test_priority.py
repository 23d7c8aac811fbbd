"""Work in the background gives way: seen on the real server's process."""

import psutil
from django.test import TransactionTestCase

from streams.database import connect
from streams.priority import LOWER_BY, give_way


class GiveWayTest(TransactionTestCase):
    def test_the_servers_process_behind_a_connection_gets_a_lower_priority(self) -> None:
        with connect(name="test-background") as background, connect(name="test-other") as other:
            if background.info.host.startswith("/"):
                usual = psutil.Process(other.info.backend_pid).nice()
                assert give_way(background)
                assert psutil.Process(background.info.backend_pid).nice() == usual + LOWER_BY
                assert psutil.Process(other.info.backend_pid).nice() == usual
            else:
                assert give_way(background) in (True, False)  # a server elsewhere goes on as it does
            assert background.execute("SELECT 1").fetchone() == (1,)
