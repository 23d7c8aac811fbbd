"""The OpenAPI document and the running service say the same, both ways."""

import json
import re
from collections import Counter
from datetime import timedelta
from typing import Any
from unittest.mock import patch

import schemathesis
from django.db import connection
from django.urls import URLPattern, URLResolver, get_resolver
from django.utils import timezone

from channels.models import Channel
from channels.services import channel_create
from devices.broker import broker_accounts
from devices.models import Device
from devices.services import device_create
from events.models import Alert, Delivery, Maintenance, Notifier, Rule
from events.tests.alerts import alert_add
from servwatch_site import urls_v2
from servwatch_site.docs import groups
from servwatch_site.errors import HTTP_STATUS, Code
from servwatch_site.openapi import document
from servwatch_site.tests.api import ApiTestCase
from servwatch_site.tests.broker import RunningBroker
from servwatch_site.tests.browser import WebProcess
from servwatch_site.tests.contract import contract_report
from servwatch_site.tests.street import CommittedTestCase
from tokens.crypto import encrypt
from tokens.selectors import device_token_reveal
from tokens.services import api_token_issue

METHODS = {"get", "post", "put", "delete"}
CASES = 12  # of each kind and operation; bench/contract.py sends more


def operations() -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, method, described)
        for path, methods in document()["paths"].items()
        for method, described in methods.items()
    ]


class DocumentTest(ApiTestCase):
    def test_it_is_openapi_3_1_and_valid(self) -> None:
        assert document()["openapi"] == "3.1.0"
        schemathesis.openapi.from_dict(document()).validate()

    def test_every_route_of_the_api_is_documented_with_each_of_its_methods(self) -> None:
        documented = {path: set(methods) for path, methods in document()["paths"].items()}
        for route in urls_v2.urlpatterns:
            text = str(route.pattern).removeprefix("^").removesuffix(r"/?\Z")
            path = "/v2/" + re.sub(r"\(\?P<(\w+)>[^)]*\)", r"{\1}", text)
            if path in ("/v2/", "/v2/docs", r"/v2/openapi\.json"):
                continue
            cls: Any = route.callback.cls  # type: ignore[attr-defined]  # REST framework's views have it
            methods = {method for method in METHODS if hasattr(cls, method)}
            assert documented.pop(path) == methods, path
        assert set(documented) == {"/post", "/post_v1", "/post_v2"}
        for path in documented:
            assert any(_matches(route, path) for route in get_resolver().url_patterns), path

    def test_every_operation_has_words_an_example_or_a_sample_and_its_errors(self) -> None:
        names = Counter(described["operationId"] for _path, _method, described in operations())
        assert set(names.values()) == {1}
        for path, method, described in operations():
            assert described["summary"] and described["tags"], (path, method)
            codes = [Code(code) for code in described["x-error-codes"]]
            assert {str(HTTP_STATUS[code]) for code in codes} <= set(described["responses"]), (path, method)
        for group in groups():
            for operation in group.operations:
                assert operation.curl.startswith("curl "), operation

    def test_the_document_and_the_page_need_no_token(self) -> None:
        for path in ("/v2/openapi.json", "/v2/openapi.json/"):
            answer = self.call("GET", path, token="")
            assert json.loads(answer.content)["info"]["title"] == "Servwatch"
        page = self.call("GET", "/v2/docs", token="")
        text = page.content.decode()
        assert page.status_code == 200
        for path, _method, described in operations():
            assert f'id="{described["operationId"]}"' in text and path in text
        assert "Release notes" in text and "make run" in text
        assert not re.search(r"""(?:src|href)=["'](?:https?:)?//""", text)  # nothing from elsewhere
        assert "<script>" not in text and "style=" not in text

    def test_they_only_read(self) -> None:
        for path in ("/v2/openapi.json", "/v2/docs"):
            answer = self.call("POST", path, {}, token="")
            self.assert_error(answer, 405, "METHOD_NOT_ALLOWED")
            assert answer["Allow"] == "GET, HEAD, OPTIONS"
            assert self.call("OPTIONS", path, token="").status_code == 204


class GeneratedTest(CommittedTestCase):
    """Many requests that the document allows, and many that it does not."""

    def test_every_answer_is_as_documented_and_never_a_500(self) -> None:
        with connection.cursor() as cursor:  # no request may name the token that the others need
            cursor.execute("SELECT setval(pg_get_serial_sequence('tokens_apitoken', 'id'), 1000000000000000)")
            for table in (
                "events_rule",
                "events_alert",
                "events_notifier",
                "events_delivery",
                "events_maintenance",
            ):  # the first keys are those of `prepare`
                cursor.execute("SELECT setval(pg_get_serial_sequence(%s, 'id'), 1000)", [table])
        token = api_token_issue(self.owner, name="contract", scopes=["admin"])[1]
        broker = self.enterContext(RunningBroker(broker_accounts))
        own = {"MQTT_URL": f"mqtt://127.0.0.1:{broker.port}", "SERVWATCH_ADDRESS_LIMIT": "0"}
        self.enterContext(patch.dict("os.environ", own))
        web = self.enterContext(WebProcess())
        report = contract_report(
            web.url,
            api_token=token,
            device_token=lambda: device_token_reveal(self.owner),
            prepare=self.prepare,
            cases=CASES,
        )
        print(report.text())
        assert report.problems == []
        assert report.operations == len(operations())
        assert report.cases >= 20 * report.operations
        assert report.statuses[200] + report.statuses[201] > report.cases / 5
        assert not report.statuses[401]

    def prepare(self) -> None:
        """What the operation before may have deleted or changed is there again."""
        if not Channel.objects.filter(account=self.owner, number=0, deleted_at=None).exists():
            channel_create(self.owner, 0)
        if not Device.objects.filter(account=self.owner, device_id="web-1", deleted_at=None).exists():
            device_create(self.owner, "web-1", now=timezone.now(), changes={"enabled": True})
        rule, _ = Rule.objects.update_or_create(pk=1, defaults={"account": self.owner, "deleted_at": None})
        if not Alert.objects.filter(pk=1).exists():
            alert_add(self.owner, self.servers, self.web1, rule=rule, pk=1)
        if not Notifier.objects.filter(pk=1, deleted_at=None).exists():
            Notifier.objects.filter(pk=1).delete()
            self.notifier_add()
        if not Maintenance.objects.filter(pk=1).exists():
            now = timezone.now()
            Maintenance.objects.create(
                pk=1, account=self.owner, starts_at=now, ends_at=now + timedelta(hours=1)
            )

    def notifier_add(self) -> None:
        """The notifier 1, and the delivery 1 to it."""
        fields = {"kind": "webhook", "ciphertext": encrypt(json.dumps({"url": "https://x.example.org/"}))}
        hook = Notifier.objects.create(pk=1, account=self.owner, **fields)
        Delivery.objects.create(pk=1, account=self.owner, notifier=hook, expires_at=timezone.now())


def _matches(route: URLPattern | URLResolver, path: str) -> bool:
    return isinstance(route, URLPattern) and route.pattern.match(path.lstrip("/")) is not None
