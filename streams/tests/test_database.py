from servwatch_site.tests.street import CommittedTestCase
from streams.database import connect


class ConnectTest(CommittedTestCase):
    def test_neither_end_waits_for_hours_on_the_other(self) -> None:
        with connect(name="test") as connection:
            assert connection.info.get_parameters()["tcp_user_timeout"] == "20000"
            assert connection.execute("SHOW idle_in_transaction_session_timeout").fetchone() == ("30s",)
            assert connection.execute("SHOW application_name").fetchone() == ("servwatch-test",)
