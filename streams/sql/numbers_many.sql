-- Every number of the records with the number of its key path. `where` is a text of ours that says which.
-- For many paths: a record is taken apart at its top level, and only the paths below what it has are looked for.
-- OFFSET 0 keeps the planner from joining the paths anew for every record: there may be thousands.
SELECT part.at, part.digest, part.device_key, part.tag, p.number, found
FROM (
    SELECT r.at, r.digest, r.device_key, r.tag, top.key, top.value
    FROM streams_record r
    CROSS JOIN LATERAL jsonb_each(
        CASE jsonb_typeof(r.value) WHEN 'object' THEN r.value ELSE jsonb_build_object('value', r.value) END
    ) AS top
    WHERE {where}
    OFFSET 0
) AS part
JOIN unnest(%(paths)s::jsonpath[], %(tops)s::text[]) WITH ORDINALITY AS p (path, top, number) ON p.top = part.key
CROSS JOIN LATERAL jsonb_path_query(jsonb_build_object(part.key, part.value), p.path, silent => true) AS found
WHERE jsonb_typeof(found) = 'number'
