"""The addresses of the REST API, below /v2/. The trailing slash is optional on every one."""

from django.urls import URLPattern, re_path

from channels.api import ChannelListView
from devices.api import DeviceListView, DeviceView
from devices.api_commands import CommandView, PublishView
from devices.api_sessions import SessionListView
from events.api import EventListView, EventView
from events.api_alerts import AlertListView, AlertView
from events.api_deliveries import DeliveryListView, DeliveryResendView, DeliveryView
from events.api_maintenance import MaintenanceListView, MaintenanceView
from events.api_notifiers import NotifierListView, NotifierTestView, NotifierView, SigningSecretView
from events.api_stock import StockView
from servwatch_site.api_errors import api_not_found
from servwatch_site.docs import docs_page, openapi_json
from streams.api_backtest import BacktestView
from streams.api_write import ChannelWithRecordsView, RecordsView
from tokens.api import UserView
from tokens.api_tokens import DeviceTokenView, TokenListView, TokenView

urlpatterns: list[URLPattern] = [
    re_path(r"^user/?\Z", UserView.as_view()),
    re_path(r"^token/?\Z", TokenListView.as_view()),
    re_path(r"^token/device/?\Z", DeviceTokenView.as_view()),
    re_path(r"^token/(?P<token_id>[^/]+)/?\Z", TokenView.as_view()),
    re_path(r"^device/?\Z", DeviceListView.as_view()),
    re_path(r"^device/(?P<device_id>[^/]+)/?\Z", DeviceView.as_view()),
    re_path(r"^channel/?\Z", ChannelListView.as_view()),
    re_path(r"^channel/(?P<channel_id>[^/]+)/?\Z", ChannelWithRecordsView.as_view()),
    re_path(r"^event/?\Z", EventListView.as_view()),
    re_path(r"^event/backtest/?\Z", BacktestView.as_view()),
    re_path(r"^event/stock/?\Z", StockView.as_view()),
    re_path(r"^event/(?P<event_id>[^/]+)/?\Z", EventView.as_view()),
    re_path(r"^alert/?\Z", AlertListView.as_view()),
    re_path(r"^alert/(?P<alert_id>[^/]+)/?\Z", AlertView.as_view()),
    re_path(r"^notifier/?\Z", NotifierListView.as_view()),
    re_path(r"^notifier/secret/?\Z", SigningSecretView.as_view()),
    re_path(r"^notifier/(?P<notifier_id>[^/]+)/?\Z", NotifierView.as_view()),
    re_path(r"^notifier/(?P<notifier_id>[^/]+)/test/?\Z", NotifierTestView.as_view()),
    re_path(r"^delivery/?\Z", DeliveryListView.as_view()),
    re_path(r"^delivery/(?P<delivery_id>[^/]+)/?\Z", DeliveryView.as_view()),
    re_path(r"^delivery/(?P<delivery_id>[^/]+)/resend/?\Z", DeliveryResendView.as_view()),
    re_path(r"^maintenance/?\Z", MaintenanceListView.as_view()),
    re_path(r"^maintenance/(?P<maintenance_id>[^/]+)/?\Z", MaintenanceView.as_view()),
    re_path(r"^publish/(?P<device_id>[^/]+)/?\Z", PublishView.as_view()),
    re_path(r"^publish/(?P<device_id>[^/]+)/(?P<command_id>[^/]+)/?\Z", CommandView.as_view()),
    re_path(r"^session/?\Z", SessionListView.as_view()),
    re_path(r"^stream/(?P<channel_id>[^/]+)/?\Z", RecordsView.as_view()),
    re_path(r"^openapi\.json/?\Z", openapi_json),
    re_path(r"^docs/?\Z", docs_page, name="api-docs"),
    re_path(r"^", api_not_found),
]
