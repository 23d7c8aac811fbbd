"""What a developer of applications or devices needs: the OpenAPI document and the page that shows it, at /v2/docs."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import markdown
from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import render
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.views.decorators.csrf import csrf_exempt

from servwatch_site.api_errors import error_answer
from servwatch_site.errors import Code, ServwatchError
from servwatch_site.openapi import document

METHODS = ("get", "post", "put", "delete")
ALLOW = {"Allow": "GET, HEAD, OPTIONS"}
SAMPLE_IDS = {
    "device_id": "web-1",
    "channel_id": "0",
    "token_id": "7",
    "command_id": "12",
    "event_id": "3",
    "alert_id": "41",
    "notifier_id": "5",
    "delivery_id": "90",
    "maintenance_id": "2",
}


@dataclass(frozen=True)
class Operation:
    """One operation, as the page shows it."""

    anchor: str
    method: str
    path: str
    summary: str
    description: SafeString
    parameters: list[dict[str, Any]]
    body: str
    body_example: str
    answers: list[tuple[str, str]]
    example: str
    errors: list[str]
    curl: str


@dataclass(frozen=True)
class Group:
    """The operations of one service."""

    name: str
    description: str
    operations: list[Operation]


def public(view: Callable[[HttpRequest], HttpResponseBase]) -> Callable[[HttpRequest], HttpResponseBase]:
    """A view below /v2 that needs no token and only reads; its 405 has the API's shape."""

    @csrf_exempt
    def reading(request: HttpRequest) -> HttpResponseBase:
        if request.method == "OPTIONS":
            return HttpResponse(status=204, headers=ALLOW)
        if request.method not in ("GET", "HEAD"):
            error = ServwatchError(
                Code.METHOD_NOT_ALLOWED,
                _("This address does not know the method; the header Allow lists those it does."),
                headers=ALLOW,
            )
            return error_answer(error)
        return view(request)

    return reading


@public
def openapi_json(request: HttpRequest) -> HttpResponseBase:
    """The OpenAPI 3.1 document."""
    return JsonResponse(document(), json_dumps_params={"ensure_ascii": False})


@public
def docs_page(request: HttpRequest) -> HttpResponseBase:
    """The same for people, with the release notes; one page without a request to anywhere else."""
    whole = document()
    context = {
        "about": _html(whole["info"]["description"]),
        "groups": groups(),
        "schemas": whole["components"]["schemas"],
        "error_schema": _json(whole["components"]["schemas"]["Error"]),
        "release_notes": release_notes(),
    }
    return render(request, "api/docs.html", context)


@cache
def groups() -> list[Group]:
    """The operations by service, in the order of the document's tags."""
    whole = document()
    found: dict[str, list[Operation]] = {tag["name"]: [] for tag in whole["tags"]}
    for path, operations in whole["paths"].items():
        for method in METHODS:
            if method in operations:
                found[operations[method]["tags"][0]].append(_operation(path, method, operations[method]))
    return [Group(tag["name"], tag["description"], found[tag["name"]]) for tag in whole["tags"]]


@cache
def release_notes() -> SafeString:
    """CHANGELOG.md as HTML, without its own title."""
    lines = (settings.BASE_DIR / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()
    return _html("\n".join(line.replace("## ", "### ", 1) for line in lines if not line.startswith("# ")))


def _operation(path: str, method: str, described: dict[str, Any]) -> Operation:
    content = described.get("requestBody", {}).get("content", {})
    body: dict[str, Any] = next(iter(content.values()), {})
    body_example = _example(body)
    answers = [
        (status, answer.get("description", ""))
        for status, answer in sorted(described["responses"].items())
        if status < "300"
    ]
    success = described["responses"].get(answers[0][0], {}).get("content", {}) if answers else {}
    return Operation(
        anchor=described["operationId"],
        method=method.upper(),
        path=path,
        summary=described["summary"],
        description=_html(described.get("description", "")),
        parameters=sorted(described.get("parameters", []), key=_by_place),
        body=_json(body["schema"]) if body else "",
        body_example=body_example if isinstance(body_example, str) else _json(body_example),
        answers=answers,
        example=_json(_example(success.get("application/json", {}))),
        errors=described.get("x-error-codes", []),
        curl=_curl(path, method, described, example=body_example),
    )


def _by_place(parameter: dict[str, Any]) -> tuple[int, str]:
    return (("path", "header", "query").index(parameter["in"]), parameter["name"])


def _example(content: dict[str, Any]) -> Any:
    """The first example of a body or answer; None without one."""
    if "example" in content:
        return content["example"]
    return next((example["value"] for example in content.get("examples", {}).values()), None)


def _curl(path: str, method: str, described: dict[str, Any], *, example: Any) -> str:
    """A command that can be pasted into a shell, once TOKEN is set."""
    connector = not path.startswith("/v2/")
    address = settings.BASE_URL + path.format(**SAMPLE_IDS)
    words = ["curl"]
    if method != "get":
        words.append(f"-X {method.upper()}")
    words.append(
        "-H \"X-DEVICETOKEN: $TOKEN\" -H 'X-DEVICEID: web-1'" if connector else '-H "X-APITOKEN: $TOKEN"'
    )
    words += [f"-H '{line}'" for line in _curl_headers(path, method)]
    if example is not None:
        data = example if isinstance(example, str) else json.dumps(example)
        words.append(f"-d '{data}'")
    return " ".join([*words, f"'{address}'"])


def _curl_headers(path: str, method: str) -> Iterator[str]:
    if path.startswith("/v2/stream/") and method == "get":
        yield "X-ENDTIME: last"
    if path.startswith("/v2/stream/") and method == "delete":
        yield "X-STARTTIME: 2026-11-01 00:00"
        yield "X-ENDTIME: 2026-11-02 00:00"


def _json(value: Any) -> str:
    return "" if value is None else json.dumps(value, indent=2, ensure_ascii=False)


def _html(text: str) -> SafeString:
    """Our own Markdown as HTML: docstrings and files of the product, never what users wrote."""
    return SafeString(markdown.markdown(text, extensions=["tables"]))
