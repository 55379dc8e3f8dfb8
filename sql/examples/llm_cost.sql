-- Tokens and money by model and user, at prices in dollars per million tokens.
WITH prices (model, input_price, output_price) AS (VALUES ('gpt-4o', 2.5, 10.0), ('gpt-4o-mini', 0.15, 0.6)),
calls AS (
    SELECT
        span_attributes['gen_ai.request.model'] AS model,
        span_attributes['user.id'] AS user_id,
        attr_int(span_attributes, 'gen_ai.usage.input_tokens') AS input_tokens,
        attr_int(span_attributes, 'gen_ai.usage.output_tokens') AS output_tokens
    FROM spans
    WHERE attr_exists(span_attributes, 'gen_ai.request.model') AND start_time >= now() - INTERVAL '1 day'
)
SELECT
    calls.model,
    user_id,
    count(*) AS calls,
    sum(input_tokens) AS input_tokens,
    sum(output_tokens) AS output_tokens,
    sum(input_tokens * input_price + output_tokens * output_price) / 1e6 AS dollars
FROM calls
LEFT JOIN prices ON calls.model = prices.model
GROUP BY calls.model, user_id
ORDER BY dollars DESC NULLS LAST, calls DESC
LIMIT 50
