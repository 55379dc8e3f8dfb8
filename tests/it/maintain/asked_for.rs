//! An attribute that queries ask for gets a column of its own, with the engine that answers them.

use tracehouse::{
    model::{
        attributes::{AttributeScope, AttributeType},
        batch::SpanBatch,
        builder::{Attribute, ResourceFields, ScopeFields, SpanBatchBuilder, Value},
        promotion,
        tenant::TenantId,
    },
    query::{QueryKind, QueryRequest, TraceQlQuery},
};

use super::{
    compact_all,
    house::{House, NOW, SECOND, trace_id},
};
use crate::support::spans::plain_span;

/// Spans of a flush, and those of them that have the key: far too few for a column that nobody reads.
const SPANS: u64 = 400;
const WITH_KEY: u64 = 8;

fn batch(flush: u64) -> SpanBatch {
    let mut builder = SpanBatchBuilder::new(&promotion::standard());
    let resource = builder.push_resource(&ResourceFields::default(), &[]).unwrap();
    let scope = builder.push_scope(&ScopeFields::default(), &[]).unwrap();
    for n in 0..SPANS {
        let number = flush * SPANS + n + 1;
        let fields = plain_span(trace_id(number), number, NOW - 600 * SECOND + number as i64, 1_000);
        let coupon = [Attribute { key: "coupon", value: Value::Str("SUMMER") }];
        let attributes = if n < WITH_KEY { &coupon[..] } else { &[] };
        builder.push_span((resource, scope), &fields, attributes, std::iter::empty(), std::iter::empty()).unwrap();
    }
    builder.finish().unwrap()
}

/// The queries that people put between two flushes; each finds the spans that have the key so far.
#[derive(Clone, Copy, Debug)]
enum Asked {
    Sql,
    TraceQl,
    OtherKeys,
}

async fn ask(house: &House, asked: Asked, flush: u64) {
    for _ in 0..8 {
        match asked {
            Asked::Sql => {
                let text = "SELECT count(*) FROM spans WHERE span_attributes['coupon'] = 'SUMMER'";
                assert_eq!(house.count(text).await, ((flush + 1) * WITH_KEY) as i64);
            }
            Asked::TraceQl => {
                let kind = QueryKind::TraceQl(TraceQlQuery::new(r#"{ span.coupon = "SUMMER" }"#));
                let request = QueryRequest { kind, ..QueryRequest::sql(TenantId::single(), "") };
                let (batches, _) = house.engine.execute(request).await.unwrap().collect().await.unwrap();
                assert!(batches.iter().any(|batch| batch.num_rows() > 0), "after {flush}");
            }
            Asked::OtherKeys => {
                assert_eq!(house.count("SELECT count(*) FROM spans WHERE span_attributes['voucher'] = 'x'").await, 0);
            }
        }
    }
}

async fn column(house: &House) -> Option<AttributeType> {
    let declared = house.table().await.snapshot().declared();
    declared.attributes.get(AttributeScope::Span, "coupon").map(|attribute| attribute.value_type)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rare_attribute_is_a_column_from_the_third_flush_on_if_queries_read_it() {
    for (asked, expected) in
        [(Asked::Sql, Some(AttributeType::Str)), (Asked::TraceQl, Some(AttributeType::Str)), (Asked::OtherKeys, None)]
    {
        let house = House::open().await;
        for flush in 0..3 {
            house.write(batch(flush)).await;
            ask(&house, asked, flush).await;
            assert_eq!(column(&house).await, None, "{asked:?} before flush {flush}");
            house.ingest.flush().await.unwrap();
        }
        assert_eq!(column(&house).await, expected, "{asked:?}");

        // The merged file has it for the spans of all flushes.
        let clock = house.shared_clock();
        assert_eq!(compact_all(&house.catalog, &clock).await.merges, 1);
        let columns = tracehouse::maintain::inspect::Inspector::new(
            std::sync::Arc::clone(&house.catalog),
            std::sync::Arc::clone(house.ingest.live()),
        );
        let columns = columns.columns(&TenantId::single()).await.unwrap();
        let shown = arrow::util::pretty::pretty_format_batches(&[columns]).unwrap().to_string();
        assert_eq!(shown.contains("span.coupon"), expected.is_some(), "{shown}");
        let text = "SELECT count(*) FROM spans WHERE span_attributes['coupon'] = 'SUMMER'";
        assert_eq!(house.count(text).await, 3 * WITH_KEY as i64);
    }
}
