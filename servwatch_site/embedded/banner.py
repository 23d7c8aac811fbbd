"""What a newcomer reads when everything runs. Pure."""

import shlex
from pathlib import Path
from typing import Protocol


class Run(Protocol):
    """What the first run made (servwatch_site/first_run.py)."""

    @property
    def base_url(self) -> str: ...
    @property
    def mqtt_host(self) -> str: ...
    @property
    def mqtt_port(self) -> int: ...
    @property
    def user_id(self) -> str: ...
    @property
    def device_token(self) -> str: ...
    @property
    def api_token(self) -> str: ...
    @property
    def sign_in_url(self) -> str: ...


def banner(run: Run, *, data_dir: Path, publisher: str) -> str:
    """The text; `publisher` is how `mosquitto_pub` is started here."""
    publish = (
        f"{publisher} -h {run.mqtt_host} -p {run.mqtt_port} -u {run.user_id} -P {run.device_token} -q 1 "
        f"-t {run.device_token}/json/web-1 -m {shlex.quote(json_example())}"
    )
    read = f"curl -H 'X-APITOKEN: {run.api_token}' -H 'X-ENDTIME: last' {run.base_url}/v2/stream/0"
    return f"""
Servwatch runs.

  Console      {run.base_url}
  Sign in      {run.sign_in_url}
               (works once; `manage.py sign_in_link` prints another)
  MQTT         {run.mqtt_host}:{run.mqtt_port}, user {run.user_id}

Send a value of your own:

  {publish}

and read it back:

  {read}

Data and logs are in {data_dir}. These credentials are also in {data_dir / "first-run.json"}.
Ctrl-C stops everything.
"""


def json_example() -> str:
    return '{"cpu":{"idle":93.1}}'
