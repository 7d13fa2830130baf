-- Who spent most
-- bar: cost_usd
-- grain: day
SELECT coalesce(principal_name, principal_id) AS principal, sum(requests)::bigint AS requests, sum(tokens)::bigint AS tokens,
       sum(cost_nano_usd) AS cost_nano_usd, sum(cost_nano_usd) * 0.000000001 AS cost_usd,
       sum(credits_usd) AS credits_usd, sum(net_usd) AS net_usd
FROM billing.spend
WHERE period >= :from AND period < :to AND (:group IS NULL OR :group IN (group_name, group_id))
GROUP BY 1
ORDER BY sum(cost_nano_usd) DESC, 1
LIMIT 100
