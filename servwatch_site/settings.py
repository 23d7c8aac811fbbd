"""Settings, all from the environment; the README lists them. A fresh checkout runs without any."""

import secrets
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext_lazy as _

from servwatch_site.embedded.mosquitto import memory_bytes, queue_bytes_for
from servwatch_site.embedded.postgres import database_url
from servwatch_site.env import database_from_url, env_bool, env_int, env_list, env_networks, env_text

BASE_DIR = Path(__file__).resolve().parent.parent
DATA_DIR = Path(env_text("SERVWATCH_DATA_DIR") or BASE_DIR / "var").absolute()
DEBUG = env_bool("SERVWATCH_DEBUG", False)


def secret_key() -> str:
    """The key behind sessions, token digests and the encrypted device token: given, or made once and kept."""
    given = env_text("SERVWATCH_SECRET_KEY")
    if given:
        if len(given) < 32:
            raise ImproperlyConfigured("SERVWATCH_SECRET_KEY must be at least 32 characters long.")
        return given
    if env_text("DATABASE_URL"):
        raise ImproperlyConfigured(
            "SERVWATCH_SECRET_KEY is missing. With your own database, set it to a long random text and keep it safe: "
            "device tokens cannot be read without it."
        )
    file = DATA_DIR / "secret.key"
    if not file.exists():
        DATA_DIR.mkdir(parents=True, exist_ok=True)
        draft = file.with_suffix(f".{secrets.token_hex(4)}")
        draft.touch(mode=0o600)
        draft.write_text(secrets.token_urlsafe(48))
        try:
            file.hardlink_to(draft)  # never replaces a key another process has just made
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return file.read_text().strip()


def reachable(host: str) -> str:
    """A host to connect to where a server listens on this one; "every address" is reached by loopback."""
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(host, host)  # noqa: S104 - read, not bound


try:
    SECRET_KEY = secret_key()
except OSError as error:
    raise ImproperlyConfigured(
        f"The data folder {DATA_DIR} cannot be used: {error.strerror}. Choose another one with SERVWATCH_DATA_DIR."
    ) from None
HTTP_HOST = env_text("SERVWATCH_HTTP_HOST", "127.0.0.1")
HTTP_PORT = env_int("SERVWATCH_HTTP_PORT", 8000, low=1, high=65535)
MQTT_HOST = env_text("SERVWATCH_MQTT_HOST", "127.0.0.1")
MQTT_PORT = env_int("SERVWATCH_MQTT_PORT", 1883, low=1, high=65535)
MQTT_WS_PORT = env_int("SERVWATCH_MQTT_WS_PORT", 0, low=0, high=65535)
BROKER_IS_NAMED = bool(env_text("MQTT_URL"))
MQTT_URL = env_text("MQTT_URL") or f"mqtt://{reachable(MQTT_HOST)}:{MQTT_PORT}"
MQTT_PROTOCOL = env_int("SERVWATCH_MQTT_PROTOCOL", 4, low=4, high=5)
# Commands are sent over MQTT 5, whose answers tell whether anybody heard; 4 is for brokers without it.
MQTT_COMMANDS_PROTOCOL = env_int("SERVWATCH_MQTT_COMMANDS_PROTOCOL", 5, low=4, high=5)
# Tells installations apart that share a broker or a secret key.
INSTALLATION = env_text("SERVWATCH_INSTALLATION", "servwatch")
LISTENERS = env_int("SERVWATCH_LISTENERS", 1, low=1, high=16)
LISTENER_SLOTS = env_int("SERVWATCH_LISTENER_SLOTS", LISTENERS, low=1, high=16)
# Payload bytes that the broker keeps for one session before it drops messages; of a broker of one's own only as told.
BROKER_QUEUE_BYTES: int | None = env_int("SERVWATCH_BROKER_QUEUE_BYTES", 0, low=0, high=2**31 - 1) or (
    None if BROKER_IS_NAMED else queue_bytes_for(memory_bytes())
)
# Whoever asks for /metrics from elsewhere than this machine must show it.
METRICS_TOKEN = env_text("SERVWATCH_METRICS_TOKEN")
STORAGE = env_text("SERVWATCH_STORAGE", "auto")
if STORAGE not in ("auto", "timescaledb", "partitions"):
    raise ImproperlyConfigured("SERVWATCH_STORAGE must be auto, timescaledb or partitions.")
# How long after its end a day goes into TimescaleDB's columnstore: rows that come later cost more there.
COLUMNSTORE_AFTER_DAYS = env_int("SERVWATCH_COLUMNSTORE_AFTER_DAYS", 3, low=1, high=3650)

ALLOWED_HOSTS = env_list("SERVWATCH_ALLOWED_HOSTS", ["localhost", "127.0.0.1", "[::1]", HTTP_HOST])
BASE_URL = env_text("SERVWATCH_BASE_URL") or f"http://{reachable(HTTP_HOST)}:{HTTP_PORT}"
SECURE = BASE_URL.startswith("https://")
CSRF_TRUSTED_ORIGINS = [BASE_URL]
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE
SECURE_REFERRER_POLICY = "same-origin"
BEHIND_PROXY = env_bool("SERVWATCH_BEHIND_PROXY", False)
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if BEHIND_PROXY else None
X_FRAME_OPTIONS = "DENY"

INSTALLED_APPS = [
    "servwatch_site",
    "tokens",
    "channels",
    "devices",
    "events",
    "streams",
    "console",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "servestatic.runserver_nostatic",
    "django.contrib.staticfiles",
    "allauth",
    "allauth.account",
    "rest_framework",
    "drf_spectacular",
    "procrastinate.contrib.django",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "servestatic.middleware.ServeStaticMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "console.middleware.AccountZoneMiddleware",
]
ROOT_URLCONF = "servwatch_site.urls"
ASGI_APPLICATION = "servwatch_site.asgi.application"
APPEND_SLASH = False

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "console.context.console",
            ]
        },
    }
]

DATABASES = {"default": database_from_url(env_text("DATABASE_URL") or database_url(DATA_DIR))}
if env_bool("SERVWATCH_DB_POOL", False):  # web processes: servwatch_site/asgi.py asks for it
    DATABASES["default"]["CONN_HEALTH_CHECKS"] = True  # a restarted database costs no request its answer
    DATABASES["default"]["OPTIONS"] = {
        **DATABASES["default"]["OPTIONS"],
        "pool": {"min_size": 1, "max_size": 12, "timeout": 10},
    }
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTH_USER_MODEL = "tokens.User"
AUTHENTICATION_BACKENDS = ["allauth.account.auth_backends.AuthenticationBackend"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
PASSWORD_RESET_TIMEOUT = 24 * 3600
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "console:fleet"
ACCOUNT_LOGIN_METHODS = {"email"}
ACCOUNT_SIGNUP_FIELDS = ["email*", "password1*"]
ACCOUNT_USER_MODEL_USERNAME_FIELD = None
ACCOUNT_EMAIL_VERIFICATION = "none"
ACCOUNT_ADAPTER = "console.sign_in.ConsoleAdapter"
ACCOUNT_SESSION_REMEMBER = True
# Counters of failed sign-ins need a cache that all web processes share.
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.db.DatabaseCache",
        "LOCATION": "servwatch_cache",
    },
    "counters": {"BACKEND": "tokens.counters.CounterCache"},
}
RATELIMIT_USE_CACHE = "counters"
# It knows only caches by name; tokens/tests/test_counters.py shows that this one counts atomically.
SILENCED_SYSTEM_CHECKS = ["django_ratelimit.W001"]
# Requests a second that one address may make without a valid token; 0 is no limit.
ADDRESS_LIMIT = env_int("SERVWATCH_ADDRESS_LIMIT", 20, low=0, high=1_000_000)
EMAIL_BACKEND = (
    "django.core.mail.backends.smtp.EmailBackend"
    if env_text("SERVWATCH_SMTP_HOST")
    else "django.core.mail.backends.console.EmailBackend"
)
EMAIL_HOST = env_text("SERVWATCH_SMTP_HOST")
EMAIL_PORT = env_int("SERVWATCH_SMTP_PORT", 587, low=1, high=65535)
EMAIL_HOST_USER = env_text("SERVWATCH_SMTP_USER")
EMAIL_HOST_PASSWORD = env_text("SERVWATCH_SMTP_PASSWORD")
EMAIL_USE_TLS = env_bool("SERVWATCH_SMTP_TLS", True)
DEFAULT_FROM_EMAIL = env_text("SERVWATCH_MAIL_FROM", "servwatch@localhost")
# Networks that notifications may go to although they are not public; see docs/notifications.md.
WEBHOOK_ALLOW = env_networks("SERVWATCH_WEBHOOK_ALLOW")

LANGUAGE_CODE = "en"
LANGUAGES = [("en", _("English")), ("ja", _("Japanese"))]
LOCALE_PATHS = [BASE_DIR / "locale"]
USE_I18N = True
USE_TZ = True
TIME_ZONE = "UTC"

STATIC_URL = "/static/"
STATIC_ROOT = DATA_DIR / "static"  # filled by collectstatic, which `manage.py run` calls
STATICFILES_DIRS = [BASE_DIR / "static"]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "servestatic.storage.CompressedManifestStaticFilesStorage"},
}

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["tokens.api_auth.ApiTokenAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["tokens.api_auth.HasScope"],
    "DEFAULT_PARSER_CLASSES": ["servwatch_site.api_parsing.AnyJsonParser"],
    "DEFAULT_RENDERER_CLASSES": ["servwatch_site.api_parsing.JsonRenderer"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "servwatch_site.api_parsing.AlwaysJson",
    "DEFAULT_THROTTLE_CLASSES": ["tokens.api_throttle.ApiTokenThrottle"],
    "EXCEPTION_HANDLER": "servwatch_site.api_errors.exception_handler",
    "UNAUTHENTICATED_USER": None,
    "DEFAULT_SCHEMA_CLASS": "servwatch_site.openapi_schema.Schema",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Servwatch",
    "VERSION": "2",
    "OAS_VERSION": "3.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "PREPROCESSING_HOOKS": ["servwatch_site.openapi.plain_paths"],
    "POSTPROCESSING_HOOKS": ["servwatch_site.openapi.complete"],
}

# The live bus between processes is PostgreSQL's LISTEN/NOTIFY (streams/live.py); inside one web
# process the layer only fans out to its own sockets.
CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}

CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'self'"],
        "script-src": ["'self'"],
        "style-src": ["'self'"],
        "img-src": ["'self'", "data:"],
        "connect-src": ["'self'"],
        "frame-ancestors": ["'none'"],
        "form-action": ["'self'"],
        "base-uri": ["'none'"],
        "object-src": ["'none'"],
    }
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": "INFO" if DEBUG else "WARNING"},
    "loggers": {
        name: {"level": "INFO"}
        for name in ("servwatch_site", "tokens", "channels.live", "devices", "events", "streams", "console")
    }
    | {"django.request": {"level": "ERROR"}},  # a client's mistake is told to the client
}
