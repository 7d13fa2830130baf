-- What was spent under each tag that callers sent for charge-back
-- bar: cost_usd
-- span: 7
SELECT tag.key AS tag, tag.value AS value, count(*) AS requests, sum(cost_nano_usd) AS cost_nano_usd, sum(cost_nano_usd) * 0.000000001 AS cost_usd
FROM serving.endpoint_usage CROSS JOIN LATERAL jsonb_each_text(usage_context) AS tag
WHERE request_time >= :from AND request_time < :to AND (:group IS NULL OR :group IN (group_name, group_id))
GROUP BY 1, 2
ORDER BY sum(cost_nano_usd) DESC, 1, 2
LIMIT 200
