-- How much each counter grew, by bucket; streams/aggregates.py says what a rate is. The text `numbers` is
-- numbers_few.sql or numbers_many.sql, `bucket` one of ours. Each row: the increase, and the sum over all series of the
-- increase divided by the series' own seconds.
WITH steps AS (
    SELECT {bucket} AS bucket, number, device_key, tag, at, found::numeric AS v,
           lag(found::numeric) OVER (PARTITION BY number, device_key, tag ORDER BY at, digest) AS before
    FROM ({numbers}) AS n
), series AS (
    SELECT bucket, number,
           sum(CASE WHEN v >= before THEN v - before WHEN before IS NOT NULL THEN greatest(v, 0) END) AS increase,
           extract(epoch FROM max(at) - min(at)) AS seconds
    FROM steps
    GROUP BY bucket, number, device_key, tag
)
SELECT bucket, number, sum(increase), sum(increase / nullif(seconds, 0))
FROM series
WHERE increase IS NOT NULL
GROUP BY bucket, number
ORDER BY bucket, number
LIMIT %(most)s
