-- Requests, tokens and cost, hour by hour
-- bar: requests
-- grain: hour
-- span: 1
SELECT usage_start_time, sum(requests)::bigint AS requests,
       sum(fresh_input_tokens + cache_read_tokens + cache_write_tokens)::bigint AS input_tokens,
       sum(output_tokens + reasoning_tokens)::bigint AS output_tokens,
       sum(cost_nano_usd) AS cost_nano_usd, sum(cost_nano_usd) * 0.000000001 AS cost_usd
FROM billing.usage
WHERE usage_start_time >= :from AND usage_start_time < :to AND (:group IS NULL OR :group IN (group_name, group_id))
GROUP BY usage_start_time
ORDER BY usage_start_time
