"""Where every address leads. The API answers its own errors in its own shape (servwatch_site/api_errors.py)."""

from django.urls import URLPattern, URLResolver, include, path

urlpatterns: list[URLPattern | URLResolver] = [
    path("v2/", include("servwatch_site.urls_v2")),
    path("", include("console.urls")),
    path("accounts/", include("allauth.account.urls")),
    path("i18n/", include("django.conf.urls.i18n")),
]

handler400 = "servwatch_site.api_errors.handler400"
handler403 = "servwatch_site.api_errors.handler403"
handler404 = "servwatch_site.api_errors.handler404"
handler500 = "servwatch_site.api_errors.handler500"
