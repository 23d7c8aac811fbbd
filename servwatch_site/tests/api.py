"""Calls of the REST API as a client makes them."""

import json
from typing import Any

from servwatch_site.tests.cast import BaseTestCase

Answer = Any  # the test client's own answer: its type has no public name


class ApiTestCase(BaseTestCase):
    """The cast, and calls with the owner's token unless another is named."""

    def call(
        self, method: str, path: str, body: Any = None, *, token: str | None = None, **headers: str
    ) -> Answer:
        """One request. `body`: bytes as they are, anything else as JSON, None for no body."""
        token = self.api_token if token is None else token
        content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        sent = {name.replace("_", "-"): text for name, text in headers.items()}
        if token:
            sent["X-APITOKEN"] = token
        return self.client.generic(
            method, path, content, content_type="application/x-www-form-urlencoded", headers=sent
        )

    def get(self, path: str, *, token: str | None = None, **headers: str) -> Any:
        """The JSON of a GET that succeeds."""
        answer = self.call("GET", path, token=token, **headers)
        assert answer.status_code == 200, answer.content
        return json.loads(read(answer))

    def assert_error(
        self, answer: Answer, status: int, code: str, *, fields: set[str] | None = None
    ) -> dict[str, Any]:
        """The one shape, with this code; `fields` names those that must be explained."""
        assert answer["Content-Type"] == "application/json"
        body: dict[str, Any] = json.loads(answer.content)
        assert (answer.status_code, body["error"]) == (status, code), body
        assert set(body) <= {"error", "message", "fields"}
        assert isinstance(body["message"], str) and len(body["message"]) > 10
        if fields is not None:
            assert set(body.get("fields", {})) == fields, body
        return body


def read(answer: Answer) -> bytes:
    """The body of an answer, streamed or not."""
    return b"".join(answer.streaming_content) if answer.streaming else bytes(answer.content)
