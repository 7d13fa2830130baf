-- What was spent on each endpoint and what answered for it
-- bar: cost_usd
-- grain: day
SELECT coalesce(endpoint_name, endpoint_id) AS endpoint, coalesce(served_entity_name, '(none)') AS served_entity,
       sum(requests)::bigint AS requests,
       sum(fresh_input_tokens + cache_read_tokens + cache_write_tokens)::bigint AS input_tokens,
       sum(output_tokens + reasoning_tokens)::bigint AS output_tokens,
       sum(cost_nano_usd) AS cost_nano_usd, sum(cost_nano_usd) * 0.000000001 AS cost_usd
FROM billing.daily_usage
WHERE period >= :from AND period < :to AND (:group IS NULL OR :group IN (group_name, group_id))
GROUP BY 1, 2
ORDER BY sum(cost_nano_usd) DESC, 1, 2
