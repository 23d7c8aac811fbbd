"""What the product's answers are compared with: the least a view of the same kind can do, and where it answers."""

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, URLResolver, path
from django.views.decorators.csrf import csrf_exempt
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from servwatch_site import urls

STORED = b'{"stored":true,"count":1}'


class BareView(APIView):
    """REST framework as it comes: no authentication, no permission, no throttle, a small fixed answer."""

    authentication_classes: tuple[Any, ...] = ()
    permission_classes: tuple[Any, ...] = ()
    throttle_classes: tuple[Any, ...] = ()
    renderer_classes = (JSONRenderer,)
    content_negotiation_class = DefaultContentNegotiation

    def get(self, request: Request) -> Response:
        return Response({"channel": 0, "channel_name": "Servers", "stream": [{"value": 1}]})


@csrf_exempt
async def bare_connector(request: HttpRequest) -> HttpResponse:
    """Reads the body and answers 200."""
    if not request.body:
        return HttpResponse(status=400)
    return HttpResponse(STORED, content_type="application/json")


urlpatterns: list[URLPattern | URLResolver] = [
    path("bare/api", BareView.as_view()),
    path("bare/connector", bare_connector),
    *urls.urlpatterns,
]
handler400 = urls.handler400
handler403 = urls.handler403
handler404 = urls.handler404
handler500 = urls.handler500
