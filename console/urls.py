from django.urls import path

from console.views import account, channels, commands, devices, fleet, refused, sessions, sign_in, system

app_name = "console"
urlpatterns = [
    path("", fleet.fleet, name="fleet"),
    path("fleet/sparklines.json", fleet.fleet_sparklines, name="sparklines"),
    path("inbox/", fleet.inbox_decide, name="inbox"),
    path("add-a-server/", devices.add_server, name="add"),
    path("new-device/", devices.device_new, name="device-new"),
    path("devices/<str:device_id>/", devices.device, name="device"),
    path("devices/<str:device_id>/chart.json", devices.device_chart, name="device-chart"),
    path("devices/<str:device_id>/edit/", devices.device_edit, name="device-edit"),
    path("devices/<str:device_id>/delete/", devices.device_remove, name="device-delete"),
    path("devices/<str:device_id>/commands/", commands.command_new, name="command-new"),
    path("channels/", channels.channels, name="channels"),
    path("new-channel/", channels.channel_new, name="channel-new"),
    path("channels/<int:number>/", channels.channel, name="channel"),
    path("channels/<int:number>/chart.json", channels.channel_chart, name="channel-chart"),
    path("channels/<int:number>/edit/", channels.channel_edit, name="channel-edit"),
    path("channels/<int:number>/delete/", channels.channel_remove, name="channel-delete"),
    path("channels/<int:number>/tags/delete/", channels.tag_remove, name="tag-delete"),
    path("sessions/", sessions.sessions, name="sessions"),
    path("system/", system.system, name="system"),
    path("refused/", refused.refused, name="refused"),
    path("refused/decide/", refused.refused_decide, name="refused-decide"),
    path("account/", account.account, name="account"),
    path("account/device-token/", account.device_token, name="device-token"),
    path("account/api-tokens/", account.api_token_new, name="api-token-new"),
    path("account/api-tokens/<int:pk>/revoke/", account.api_token_end, name="api-token-end"),
    path("account/api-tokens/<int:pk>/rotate/", account.api_token_renew, name="api-token-rotate"),
    path("sign-in/once/<str:uid>/<str:token>/", sign_in.sign_in_once, name="sign-in-once"),
    path("agent/servwatch_agent.py", sign_in.agent_program, name="agent-program"),
    path("health", sign_in.health, name="health"),
]
