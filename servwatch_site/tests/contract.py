"""Requests generated from the OpenAPI document, sent to a running service; what its answers break is a problem."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from servwatch_site.openapi import document

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
# What exists when an operation is tried, so that half of the valid requests meet something.
EXISTING = {
    "device_id": "web-1",
    "channel_id": 0,
    "event_id": 1,
    "alert_id": 1,
    "notifier_id": 1,
    "delivery_id": 1,
    "maintenance_id": 1,
}


@dataclass
class Report:
    """What came of the requests. `problems`: one line for each answer that is not as documented."""

    operations: int = 0
    cases: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def text(self) -> str:
        counts = ", ".join(f"{status}: {count}" for status, count in sorted(self.statuses.items()))
        server_errors = sum(count for status, count in self.statuses.items() if status == 500)
        return (
            f"{self.operations} operations, {self.cases} cases, {server_errors} answers with 500, "
            f"{len(self.problems)} not as documented; answers by status: {counts}"
        )


def contract_report(
    url: str, *, api_token: str, device_token: Callable[[], str], prepare: Callable[[], None], cases: int
) -> Report:
    """Send `cases` requests of each of three kinds to every operation of the service at `url`.

    Valid ones about what exists, valid ones about anything, and ones that break the document. `prepare` is called
    before each operation; `device_token` tells the one that counts now.
    """
    schema = schemathesis.openapi.from_dict(document())
    schema.config.update(base_url=url)
    report = Report()
    for result in schema.get_all_operations():
        operation: Any = result.ok()  # type: ignore[union-attr]  # an invalid document raises
        report.operations += 1
        prepare()
        own = {name: value for name, value in EXISTING.items() if "{" + name + "}" in operation.path}
        kinds = [(GenerationMode.POSITIVE, own), (GenerationMode.POSITIVE, {}), (GenerationMode.NEGATIVE, {})]
        for mode, path_parameters in kinds:
            connector = not operation.path.startswith("/v2/")
            headers = {"X-DEVICETOKEN": device_token()} if connector else {"X-APITOKEN": api_token}
            strategy = operation.as_strategy(
                generation_mode=mode, **({"path_parameters": path_parameters} if path_parameters else {})
            )
            _send(operation, strategy, report, headers=headers, cases=cases)
    return report


def _send(operation: Any, strategy: Any, report: Report, *, headers: Mapping[str, str], cases: int) -> None:
    @seed(2026)
    @settings(
        max_examples=cases,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=strategy)
    def send(case: Any) -> None:
        answer = case.call(headers=dict(headers), timeout=30)
        report.cases += 1
        report.statuses[answer.status_code] += 1
        try:
            case.validate_response(answer, checks=CHECKS)
        except (Failure, FailureGroup) as failure:
            report.problems.append(f"{_name(operation)}: {_brief(failure)} {answer.text[:300]}")
        if answer.status_code >= 400:
            _in_shape(operation, answer, report)

    try:
        send()
    except schemathesis.errors.InvalidSchema as error:
        report.problems.append(f"{_name(operation)}: {error}")
    except Exception as error:
        if "Unsatisfiable" not in type(error).__name__:
            raise  # an operation without parameters cannot be asked wrongly


def _in_shape(operation: Any, answer: Any, report: Report) -> None:
    try:
        body = json.loads(answer.content)
        right = set(body) <= {"error", "message", "fields"} and {"error", "message"} <= set(body)
    except (ValueError, TypeError):
        right = False
    allowed = operation.definition.raw.get("x-error-codes", [])
    if not right:
        report.problems.append(f"{_name(operation)}: not in shape: {answer.text[:200]}")
    elif body["error"] not in allowed:
        report.problems.append(f"{_name(operation)}: {body['error']} is not documented: {answer.text[:200]}")


def _name(operation: Any) -> str:
    return f"{operation.method.upper()} {operation.path}"


def _brief(failure: BaseException) -> str:
    found = getattr(failure, "exceptions", [failure])
    return "; ".join(f"{type(one).__name__}: {str(one)[:300]}" for one in found)
