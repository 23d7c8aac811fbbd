"""Where every address leads. The API answers its own errors in its own shape (servwatch_site/api_errors.py)."""

from django.urls import URLPattern, URLResolver, include, path, re_path

from servwatch_site.api_errors import in_shape
from servwatch_site.metrics import metrics
from streams.connectors import http
from streams.topics import Kind

connector = in_shape(http.connector)

urlpatterns: list[URLPattern | URLResolver] = [
    path("v2/", include("servwatch_site.urls_v2")),
    re_path(r"^post_v2/?\Z", connector, {"kind": Kind.JSON}),
    re_path(r"^post_v1/?\Z", connector, {"kind": Kind.FORM}),
    re_path(r"^post/?\Z", connector, {"kind": Kind.FORM}),
    path("metrics", metrics),
    path("", include("console.urls")),
    path("accounts/", include("allauth.account.urls")),
    path("i18n/", include("django.conf.urls.i18n")),
]

handler400 = "servwatch_site.api_errors.handler400"
handler403 = "servwatch_site.api_errors.handler403"
handler404 = "servwatch_site.api_errors.handler404"
handler500 = "servwatch_site.api_errors.handler500"
