-- The price list: dollars per 1,000,000 tokens, with when each price held
SELECT sku_name, price_start_time, price_end_time, (pricing ->> 'input')::numeric AS input_usd,
       (pricing ->> 'cache_read')::numeric AS cache_read_usd, (pricing ->> 'output')::numeric AS output_usd,
       (pricing ->> 'per_request')::numeric AS per_request_usd, note
FROM billing.list_prices
WHERE price_start_time < :to AND (price_end_time IS NULL OR price_end_time > :from)
ORDER BY sku_name, price_start_time
