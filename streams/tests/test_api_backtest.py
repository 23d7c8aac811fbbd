from datetime import timedelta
from typing import Any

from django.utils import timezone

from channels.models import Stream
from events.models import Alert, Rule
from servwatch_site.tests.api import ApiTestCase
from streams.tests.records import record_add

WHOLE: dict[str, Any] = {"mapped_ch": 0, "source": "cpu", "operator": ">", "threshold": "90"}


class BacktestApiTest(ApiTestCase):
    def test_it_says_when_it_would_have_fired_and_stores_nothing(self) -> None:
        Stream.objects.create(channel=self.servers, key="cpu", type="number")
        begin = timezone.now().replace(microsecond=0) - timedelta(hours=3)
        for number, value in enumerate([10, 95, 99, 50, 91]):
            record_add(self.web1, self.servers, begin + number * timedelta(minutes=10), {"cpu": value})
        answer = self.call(
            "POST", "/v2/event/backtest", {**WHOLE, "days": 1, "patience_s": 10}, token=self.read_token
        )
        assert answer.status_code == 200, answer.content
        found = answer.json()
        first, second = found.pop("firings")
        assert (first["device_id"], first["key"], first["cause"], first["peak"]) == (
            "web-1",
            "cpu",
            "value",
            99,
        )
        assert first["since"] == first["at"] < first["until"] < second["at"] and second["until"] is None
        assert first["exact"] and first["tag"] is None
        assert {
            name: found[name]
            for name in ("resolution", "complete", "count", "devices", "devices_looked", "keys", "notes")
        } == {
            "resolution": "raw",
            "complete": True,
            "count": 2,
            "devices": 1,
            "devices_looked": 1,
            "keys": 1,
            "notes": [],
        }
        assert not Rule.objects.exists() and not Alert.objects.exists()

    def test_it_refuses_what_does_not_fit(self) -> None:
        def error(body: Any, *arguments: Any, token: str | None = None, **more: Any) -> None:
            self.assert_error(self.call("POST", "/v2/event/backtest", body, token=token), *arguments, **more)

        error({}, 400, "INVALID_VALUE", fields={"mapped_ch", "source", "operator", "threshold"})
        error({**WHOLE, "days": 0}, 400, "INVALID_VALUE", fields={"days"})
        for patience_s in (0, 11):
            error({**WHOLE, "patience_s": patience_s}, 400, "INVALID_VALUE", fields={"patience_s"})
        error({**WHOLE, "days": 91}, 400, "INVALID_VALUE", fields={"days"})
        error({**WHOLE, "clear_threshold": "95"}, 400, "INVALID_VALUE", fields={"clear_threshold"})
        error({**WHOLE, "mapped_ch": 99}, 404, "NO_CHANNEL")
        error(WHOLE, 401, "AUTH_REQUIRED", token="")
        error(WHOLE, 404, "NO_CHANNEL", token=self.strange_token)
