-- Aggregates of the numbers at each key path, by bucket. The text `numbers` is numbers_few.sql or
-- numbers_many.sql; `bucket` and `folds` are texts of streams/aggregates.py.
SELECT bucket, number, {folds}
FROM (SELECT {bucket} AS bucket, number, found::numeric AS v FROM ({numbers}) AS n) AS numbers
GROUP BY bucket, number
ORDER BY bucket, number
LIMIT %(most)s
