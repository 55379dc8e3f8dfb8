-- How is latency distributed, and when did that change? Requests by minute and by power of two of their duration.
SELECT
    time_bucket('1m', start_time) AS minute,
    duration_text(CAST(power(2, ceil(log2(greatest(duration_nano, 1)))) AS BIGINT)) AS up_to,
    count(*) AS requests
FROM spans
WHERE kind = 'server' AND start_time >= now() - INTERVAL '1 hour'
GROUP BY minute, ceil(log2(greatest(duration_nano, 1)))
ORDER BY minute, ceil(log2(greatest(duration_nano, 1)))
