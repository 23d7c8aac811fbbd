"""gmqtt as it comes, acknowledging by hand and doing nothing else: the reference of bench/steady.py.

    python -m bench.bare_receiver subscribe
    python -m bench.bare_receiver drain COUNT

Signs in with the client id of slot 0, whose listener must be away. `subscribe` makes a session in which the broker
keeps messages; `drain` takes so many out of it, prints how many came a second, and ends the session.
"""

import asyncio
import sys
import time
from typing import Any

import django
from gmqtt import Client


async def _connected(*, clean: bool) -> Any:
    from django.conf import settings

    from devices.broker import listener_login
    from devices.broker_address import BrokerAddress

    login, address = listener_login(0), BrokerAddress.from_url(settings.MQTT_URL)
    client: Any = Client(login.client_id, clean_session=clean, optimistic_acknowledgement=False)
    client.set_auth_credentials(login.username, login.password)
    return client, address


async def subscribe() -> None:
    client, address = await _connected(clean=False)
    subscribed = asyncio.Event()
    client.on_subscribe = lambda *_arguments: subscribed.set()
    await client.connect(address.host, address.port, version=4)
    client.subscribe("+/json/#", qos=1)
    await subscribed.wait()
    await client.disconnect()


async def drain(count: int) -> float:
    client, address = await _connected(clean=False)
    times: list[float] = []
    over = asyncio.Event()

    async def on_message(_client: Any, _topic: str, _payload: bytes, _qos: int, _properties: Any) -> int:
        times.append(time.monotonic())
        if len(times) == count:
            over.set()
        return 0

    client.on_message = on_message
    await client.connect(address.host, address.port, version=4)
    async with asyncio.timeout(300):
        await over.wait()
    await client.disconnect()
    client, address = await _connected(clean=True)
    await client.connect(address.host, address.port, version=4)
    await client.disconnect()
    skip = count // 10
    return (count - skip) / (times[-1] - times[skip - 1])


def main() -> int:
    django.setup()
    if sys.argv[1] == "subscribe":
        asyncio.run(subscribe())
    else:
        print(f"{asyncio.run(drain(int(sys.argv[2]))):.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
