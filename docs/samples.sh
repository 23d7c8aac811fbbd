#!/usr/bin/env bash
# Runs curl samples against a running `make run` and prints each with its answer: docs/samples.sh [data folder]
# The samples send no Content-Type, as the published ones do.
set -euo pipefail
folder="${1:-$(dirname "$0")/../var}"
read_field() { python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$folder/first-run.json" "$1"; }
BASE=$(read_field base_url)
API_TOKEN=$(read_field api_token)
DEVICE_TOKEN=$(read_field device_token)
export BASE API_TOKEN DEVICE_TOKEN

sample() {
    printf '\n```\n$ %s\n' "$1"
    bash -c "$1 -s -w '\n(%{http_code})\n'" | cut -c1-700 | sed "s/$API_TOKEN/…/g; s/$DEVICE_TOKEN/…/g"
    printf '```\n'
    sleep 1.1 # the limit: one message a second for a device, three requests for a token
}

printf '# Samples\n\nMade by `docs/samples.sh` against `make run`. Long answers are cut, tokens are left out.\n'
printf '\n## Device\n'
sample 'curl -X POST -H "X-APITOKEN: $API_TOKEN" $BASE/v2/device/sample-1'
sample 'curl -X POST -H "X-APITOKEN: $API_TOKEN" $BASE/v2/device/sample-1/'
sample 'curl -X POST -H "X-APITOKEN: $API_TOKEN" $BASE/v2/device/0'
sample "curl -X PUT -H \"X-APITOKEN: \$API_TOKEN\" -d '{\"description\":\"front\",\"enable\":\"true\",\"mapped_ch\":0}' \$BASE/v2/device/sample-1"
sample 'curl -X GET -H "X-APITOKEN: $API_TOKEN" $BASE/v2/device/'
sample 'curl -X GET -H "X-APITOKEN: $API_TOKEN" $BASE/v2/device/sample-1/'
printf '\n## Channel\n'
sample "curl -X POST -H \"X-APITOKEN: \$API_TOKEN\" -d '{\"channel_name\":\"Samples\"}' \$BASE/v2/channel/77"
sample 'curl -X POST -H "X-APITOKEN: $API_TOKEN" -H "X-TAGNAME: rack" $BASE/v2/channel/78'
sample 'curl -X GET -H "X-APITOKEN: $API_TOKEN" -H "X-WITHTAG: true" $BASE/v2/channel/78'
sample "curl -X PUT -H \"X-APITOKEN: \$API_TOKEN\" -d '{\"channel_name\":\"Spare\"}' \$BASE/v2/channel/78/"
sample 'curl -X DELETE -H "X-APITOKEN: $API_TOKEN" $BASE/v2/channel/78/'
printf '\n## HTTP connector\n'
sample "curl -X POST -H \"X-DEVICETOKEN: \$DEVICE_TOKEN\" -H \"X-DEVICEID: sample-1\" -d '{\"cpu\":{\"idle\":93.1}}' \$BASE/post_v2/"
sample 'curl -X POST -H "X-DEVICETOKEN: $DEVICE_TOKEN" -H "X-DEVICEID: sample-1" -d "v=11.1&v2=47.9" $BASE/post_v1/'
sample 'curl -X POST -H "X-DEVICETOKEN: $DEVICE_TOKEN" -H "X-DEVICEID: sample-1" -d "v=11.2&v2=48.0" $BASE/post/'
sample "curl -X POST -H \"X-DEVICETOKEN: \$DEVICE_TOKEN\" -H \"X-DEVICEID: sample-2\" -d '{\"load1\":0.4}' \$BASE/post_v2/"
sample 'curl -X POST -H "X-DEVICETOKEN: $DEVICE_TOKEN" -H "X-DEVICEID: sample-1" -d "{" $BASE/post_v2/'
sample "curl -X POST -H \"X-DEVICETOKEN: wrong\" -H \"X-DEVICEID: sample-1\" -d '{}' \$BASE/post_v2/"
printf '\n## Stream\n'
sample 'curl -X GET -H "X-APITOKEN: $API_TOKEN" -H "X-ENDTIME: last" $BASE/v2/stream/0'
sample 'curl -X GET -H "X-APITOKEN: $API_TOKEN" -H "X-ENDTIME: last" -H "X-PAGELIMIT: 2" -H "X-PAGESORT: desc" "$BASE/v2/stream/0?device=sample-1"'
sample 'curl -X GET -H "X-APITOKEN: $API_TOKEN" -H "X-STARTTIME: 2026-01-01 00:00" -H "X-ENDTIME: 2030-01-01 00:00" -H "X-AGGREGATE: avg" "$BASE/v2/stream/0?device=sample-1"'
sample 'curl -X GET -H "X-APITOKEN: $API_TOKEN" "$BASE/v2/stream/0?start=2026-01-01+00:00&end=2030-01-01+00:00&device=sample-1&format=csv"'
sample "curl -X POST -H \"X-APITOKEN: \$API_TOKEN\" -d '[{\"value\":{\"n\":1}},{\"value\":{\"n\":2}}]' \$BASE/v2/stream/77"
sample 'curl -X DELETE -H "X-APITOKEN: $API_TOKEN" -H "X-STARTTIME: 2026-01-01 00:00" -H "X-ENDTIME: 2030-01-01 00:00" $BASE/v2/stream/77'
sample 'curl -X GET -H "X-APITOKEN: $API_TOKEN" $BASE/v2/stream/0'
printf '\n## User, Token, Publish, Session\n'
sample 'curl -X GET -H "X-APITOKEN: $API_TOKEN" $BASE/v2/user'
sample "curl -X PUT -H \"X-APITOKEN: \$API_TOKEN\" -d '{\"user_alias\":\"ops\"}' \$BASE/v2/user/"
sample 'curl -X GET -H "Authorization: Bearer $API_TOKEN" $BASE/v2/token'
sample "curl -X POST -H \"X-APITOKEN: \$API_TOKEN\" -d '{\"qos\":1,\"payload\":\"reboot\"}' \$BASE/v2/publish/sample-1"
sample "curl -X POST -H \"X-APITOKEN: \$API_TOKEN\" -d '{\"qos\":1,\"payload\":\"reboot\",\"keep_s\":60}' \$BASE/v2/publish/sample-1"
sample 'curl -X GET -H "X-APITOKEN: $API_TOKEN" $BASE/v2/session'
printf '\n## Errors and cleaning up\n'
sample 'curl -X GET $BASE/v2/device'
sample 'curl -X GET -H "X-APITOKEN: $API_TOKEN" $BASE/v2/device/none'
sample 'curl -X PATCH -H "X-APITOKEN: $API_TOKEN" $BASE/v2/device/sample-1'
sample 'curl -X DELETE -H "X-APITOKEN: $API_TOKEN" "$BASE/v2/device/sample-1?records=delete"'
sample 'curl -X DELETE -H "X-APITOKEN: $API_TOKEN" $BASE/v2/device/sample-2'
sample 'curl -X DELETE -H "X-APITOKEN: $API_TOKEN" $BASE/v2/channel/77'
