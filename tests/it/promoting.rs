//! Attributes get columns by themselves: the tables that flushes leave behind.

use tracehouse::model::attributes::{AttributeScope, AttributeType};

use crate::ingest::{House, quiet};

#[tokio::test]
async fn an_attribute_that_pays_is_a_column_from_the_third_flush_on() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::open(folder.path(), quiet()).await;
    for flush in 0..4_u64 {
        house.write(1_000 * flush + 1..1_000 * (flush + 1) + 1, flush.into()).await.unwrap();
        let view = house.view().await;
        let buffered = view.buffered().next().unwrap().keys();
        let order = buffered.scope(AttributeScope::Span).keys["order"];
        assert_eq!((order.promoted, order.types().contains(AttributeType::Int)), (None, true));
        house.ingest.flush().await.unwrap();
        let view = house.view().await;
        let declared = view.snapshot().declared();
        let column = declared.attributes.get(AttributeScope::Span, "order").map(|attribute| attribute.value_type);
        assert_eq!(column, (flush >= 2).then_some(AttributeType::Int), "after flush {flush}");
        assert_eq!(view.snapshot().rows(), 1_000 * (flush + 1));
    }
    house.ingest.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_denied_attribute_never_gets_a_column_and_an_allowed_one_gets_it_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = quiet();
    settings.promotion.allow = vec!["span.order".to_owned()];
    settings.promotion.deny = vec!["service_name".to_owned()];
    let house = House::open(folder.path(), settings).await;
    house.write(1..3, 1).await.unwrap();
    house.ingest.flush().await.unwrap();
    let view = house.view().await;
    let declared = view.snapshot().declared().attributes;
    assert!(declared.get(AttributeScope::Span, "order").is_some());
    assert!(declared.get(AttributeScope::Resource, "service.name").is_none());
    house.ingest.shutdown().await.unwrap();
}
