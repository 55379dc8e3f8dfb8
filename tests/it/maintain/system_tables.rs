//! The tables of the schema `system` say what the catalogue and the files say.

use std::sync::Arc;

use super::{
    compact_all,
    house::{House, NOW, SECOND, random, seeded},
};

#[tokio::test(flavor = "multi_thread")]
async fn system_files_lists_the_live_files_and_nothing_else() {
    let house = House::open().await;
    let count = "SELECT count(*) FROM system.files";
    assert_eq!(house.count(count).await, 0);
    let mut seed = seeded(21);
    for part in 0..3 {
        house.store(random(&mut seed, 100, 10, NOW + part * SECOND)).await;
    }
    house.write(random(&mut seed, 100, 10, NOW)).await;
    assert_eq!(house.count(count).await, 3);
    assert_eq!(house.count("SELECT sum(spans) FROM system.files").await, 300, "what is buffered is in no file");
    let snapshot = house.table().await.snapshot();
    let bytes = "SELECT sum(bytes) FROM tracehouse.system.files WHERE state = 'stored' AND date = DATE '2026-11-21'";
    assert_eq!(house.count(bytes).await, snapshot.size_bytes() as i64);
    let agrees = "SELECT count(*) FROM (SELECT min(first_start) AS a, max(last_start) AS z FROM system.files) AS f \
        WHERE a = (SELECT min(start_time) FROM spans) AND f.z >= f.a";
    house.ingest.flush().await.unwrap();
    assert_eq!(house.count(agrees).await, 1);

    compact_all(&house.catalog, &house.shared_clock()).await;
    let file = Arc::clone(house.table().await.snapshot().files().next().unwrap());
    let merged = format!("{count} WHERE path = '{}' AND spans = 400 AND trace_filter_bytes > 0", file.path);
    assert_eq!((house.count(count).await, house.count(&merged).await), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn system_columns_tells_what_is_promoted_and_what_it_takes() {
    let house = House::open().await;
    let mut seed = seeded(22);
    for _ in 0..2 {
        house.store(random(&mut seed, 200, 10, NOW)).await;
    }
    let columns = house
        .sql(
            "SELECT name, type, is_promoted, scope, key, files FROM system.columns WHERE name IN \
             ('trace_id', 'span.http.route', 'service_name', 'span_attributes', 'span.http.response.status_code') ORDER BY 1",
        )
        .await;
    insta::assert_snapshot!(columns, @r"
    +--------------------------------+--------+-------------+----------+---------------------------+-------+
    | name                           | type   | is_promoted | scope    | key                       | files |
    +--------------------------------+--------+-------------+----------+---------------------------+-------+
    | service_name                   | string | true        | resource | service.name              | 2     |
    | span.http.response.status_code | long   | true        | span     | http.response.status_code | 2     |
    | span.http.route                | string | true        | span     | http.route                | 2     |
    | span_attributes                | map    | false       |          |                           | 2     |
    | trace_id                       | binary | false       |          |                           | 2     |
    +--------------------------------+--------+-------------+----------+---------------------------+-------+
    ");
    // A promoted column has as many values as spans have the attribute with its type.
    let routes = house.count("SELECT count(attr_int(span_attributes, 'http.response.status_code')) FROM spans").await;
    let values = "SELECT values FROM system.columns WHERE name = 'span.http.response.status_code'";
    assert!(routes > 0);
    assert_eq!(house.count(values).await, routes);
    let share = "SELECT count(*) FROM (SELECT sum(bytes) AS b FROM system.columns) WHERE b > 0 AND b < \
        (SELECT sum(bytes) FROM system.files)";
    assert_eq!(house.count(share).await, 1, "columns are most of the files, footers are the rest");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_system_table_is_refused_with_the_nearest_name() {
    use tracehouse::{model::tenant::TenantId, query::QueryRequest};
    let house = House::open().await;
    let request = QueryRequest::sql(TenantId::single(), "SELECT * FROM system.fils");
    let error = house.engine.execute(request).await.unwrap_err();
    assert!(error.message().contains("did you mean files?"), "{error}");
}
