-- Every number of the records with the number of its key path. `where` is a text of ours that says which.
-- Each path is looked for in each record, which is the fastest way for a few dozens of paths.
SELECT r.at, r.digest, r.device_key, r.tag, p.number, found
FROM streams_record r
CROSS JOIN unnest(%(paths)s::jsonpath[]) WITH ORDINALITY AS p (path, number)
CROSS JOIN LATERAL jsonb_path_query(
    CASE jsonb_typeof(r.value) WHEN 'object' THEN r.value ELSE jsonb_build_object('value', r.value) END,
    p.path, silent => true
) AS found
WHERE {where}
  AND jsonb_typeof(found) = 'number'
