-- What each charged group cost, month by month
-- bar: cost_usd
-- grain: day
-- span: 31
SELECT date_trunc('month', period)::date AS month, coalesce(group_name, group_id, '(no group)') AS charged_group,
       sum(requests)::bigint AS requests, sum(input_tokens + output_tokens)::bigint AS tokens,
       sum(cost_nano_usd) AS cost_nano_usd, sum(cost_usd) AS cost_usd, sum(credits_usd) AS credits_usd, sum(net_usd) AS net_usd
FROM billing.daily_group_usage
WHERE period >= :from AND period < :to AND (:group IS NULL OR :group IN (group_name, group_id))
GROUP BY 1, 2
ORDER BY 1, sum(cost_nano_usd) DESC, 2
