-- The time of the record that comes after so many others. `narrow` and `direction` are texts of streams/selectors.py.
SELECT r.at
FROM streams_record r
WHERE r.channel_key = %(channel_key)s AND r.at >= %(low)s AND r.at < %(high)s {narrow}
ORDER BY r.at {direction}
OFFSET %(skip)s LIMIT 1
