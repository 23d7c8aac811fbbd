-- One page of a channel's records by time. {narrow} and {direction} are texts of streams/selectors.py, never
-- a client's. The order is total, so that the last row of a page says where the next one begins. The time comes
-- as microseconds since 1970: making a datetime of each took longer than all the rest.
SELECT (extract(epoch FROM r.at) * 1000000)::bigint, r.digest, r.device_key, d.device_id, r.tag, r.form,
       r.value::text
FROM streams_record r
LEFT JOIN devices_device d ON d.id = r.device_key
WHERE r.channel_key = %(channel_key)s AND r.at >= %(low)s AND r.at < %(high)s {narrow}
ORDER BY r.at {direction}, r.device_key {direction}, r.digest {direction}
LIMIT %(limit)s
