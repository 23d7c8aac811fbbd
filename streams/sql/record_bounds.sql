-- The first and the last time of the records. `narrow` is a text of streams/selectors.py.
SELECT (SELECT r.at FROM streams_record r
        WHERE r.channel_key = %(channel_key)s AND r.at >= %(low)s AND r.at < %(high)s {narrow}
        ORDER BY r.at LIMIT 1),
       (SELECT r.at FROM streams_record r
        WHERE r.channel_key = %(channel_key)s AND r.at >= %(low)s AND r.at < %(high)s {narrow}
        ORDER BY r.at DESC LIMIT 1)
