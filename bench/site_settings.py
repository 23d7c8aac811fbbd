"""The product's settings with bench/bare.py's addresses; BENCH_MIDDLEWARE=none leaves the middleware out."""

import os

from servwatch_site.settings import *  # noqa: F403
from servwatch_site.settings import MIDDLEWARE as ALL

ROOT_URLCONF = "bench.bare"
# allauth insists on its own, which costs a coroutine and no thread.
MIDDLEWARE = (
    ALL
    if os.environ.get("BENCH_MIDDLEWARE", "all") == "all"
    else ["allauth.account.middleware.AccountMiddleware"]
)
